"""What recording costs: capture and torch's FlopCounterMode against the bare meta forward.

    python benchmarks/capture.py

Capture records shapes, dtypes, bytes, modules and storage lifetimes; all three run the same model
in one process, in turn. A ratio below 1 means that recording is faster than not recording: capture
does not repeat a meta kernel for a call that looks like an earlier one of the same pass (what earlier
passes left is cleared here).
"""

from __future__ import annotations

import torch
from common import interleaved, median, save
from torch.utils.flop_counter import FlopCounterMode

from inspector.models import Subject, resolve
from inspector.tracing.capture import capture, memo

MODELS = ("resnet50", "vit_h_14", "swin_t", "maxvit_t", "efficientnet_v2_l")
REPEATS = 11


def main() -> None:
    rows = {}
    for name in MODELS:
        subject = Subject.make(resolve(name), "meta")
        model, args = subject.model.eval(), subject.args

        def bare(model=model, args=args) -> None:
            with torch.no_grad():
                model(*args)

        def counter(model=model, args=args) -> None:
            with torch.no_grad(), FlopCounterMode(display=False):
                model(*args)

        def ours(model=model, args=args) -> None:
            memo._REMEMBERED.clear()  # as in a process of its own
            capture(model, args)

        seconds = interleaved({"bare": bare, "flop_counter": counter, "capture": ours}, REPEATS)
        base = median(seconds["bare"])
        ratios = {key: round(median(values) / base, 3) for key, values in seconds.items()}
        rows[name] = {"ratio_to_bare": ratios, "seconds": seconds}
        print(f"{name:20} {ratios}")
    save("capture", {"models": rows})


if __name__ == "__main__":
    main()
