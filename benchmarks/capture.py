"""What recording costs: capture and torch's FlopCounterMode against the bare meta forward.

    python benchmarks/capture.py
    python benchmarks/capture.py --against FOLDER      the capture of another checkout, in turn with this one

Capture records shapes, dtypes, bytes, modules and storage lifetimes; all three run the same model
in one process, in turn. A ratio below 1 means that recording is faster than not recording: capture
does not repeat a meta kernel for a call that looks like an earlier one of the same pass (what earlier
passes left is cleared here).
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, interleaved, median, save
from torch.utils.flop_counter import FlopCounterMode

from inspector.models import Subject, resolve
from inspector.tracing.capture import capture, memo

MODELS = ("resnet50", "vit_h_14", "swin_t", "maxvit_t", "efficientnet_v2_l")
REPEATS = 11
TURNS = 60
HERE = Path(__file__).resolve().parent.parent


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
    kept = _kept("against")
    save("capture", {"models": rows, **({"against": kept} if kept else {})})


def against(folder: Path) -> None:
    """CPU seconds of `capture` here and in another checkout, in one process, pass by pass in turn."""
    both = {"here": _Checkout(HERE), "there": _Checkout(folder)}
    torch.set_num_threads(1)
    rows = {}
    for name in MODELS:
        model = both["here"].model(name)
        inputs = (torch.empty(1, 3, 224, 224, device="meta"),)
        seconds: dict[str, list[float]] = {key: [] for key in both}
        for turn in range(TURNS + 2):
            for key in list(both) if turn % 2 else reversed(list(both)):
                spent = both[key].seconds(model, inputs)
                if turn >= 2:
                    seconds[key].append(spent)
        pairs = [here / there for here, there in zip(seconds["here"], seconds["there"])]
        rows[name] = {
            "median_of_pairs": round(median(pairs), 3),
            "fastest": round(min(seconds["here"]) / min(seconds["there"]), 3),
            "seconds": {key: [round(value, 5) for value in values] for key, values in seconds.items()},
        }
        print(f"{name:20} {rows[name]['median_of_pairs']} {rows[name]['fastest']}")
    save("capture", {"models": _kept("models"), "against": rows})


def _kept(key: str) -> Any:
    file = RESULTS / "capture.json"
    return json.loads(file.read_text()).get(key, {}) if file.exists() else {}


class _Checkout:
    """The package of one checkout; another's takes its place among the loaded modules meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.modules: dict[str, Any] = {}
        sys.path.insert(0, str(folder))
        _take_out()
        try:
            package = importlib.import_module("inspector")
            assert Path(package.__file__ or "").is_relative_to(folder), f"{folder} has no package of its own"
            self.capture = importlib.import_module("inspector.tracing.capture").capture
            self.memo = importlib.import_module("inspector.tracing.capture.memo")
        finally:
            self.modules = _take_out()
            sys.path.remove(str(folder))

    @staticmethod
    def model(name: str) -> torch.nn.Module:
        from torchvision.models import get_model

        with torch.device("meta"):
            return get_model(name).eval()

    def seconds(self, model: torch.nn.Module, inputs: tuple[Any, ...]) -> float:
        sys.modules.update(self.modules)
        self.memo._REMEMBERED.clear()
        gc.collect()
        start = time.process_time()
        self.capture(model, inputs)
        spent = time.process_time() - start
        self.modules = _take_out()
        return spent


def _take_out() -> dict[str, Any]:
    names = [name for name in sys.modules if name.partition(".")[0] == "inspector"]
    return {name: sys.modules.pop(name) for name in names}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--against"]:
        against(Path(sys.argv[2]).resolve())
    else:
        main()
