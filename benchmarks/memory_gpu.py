"""Predicted peaks against torch's counters on a GPU. Never run so far: no GPU was at hand.

    python benchmarks/memory_gpu.py [OUT.json]

For each model: inference, and training with SGD; float32 and autocast to bfloat16; batches 1, 16 and 128.
What must hold: predicted peak allocated within 3% of torch.cuda.max_memory_allocated. cuDNN's workspaces are
in the measured number and not in the prediction: `with_workspace` is the prediction with the most that is
expected of them. A case that does not fit the device is left out, with its reason.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from common import save
from memory_cpu import UNet, gpt2

import inspector
from inspector.core.errors import InspectError

MODELS = ("resnet50", "vit_b_16", "convnext_tiny", "mobilenet_v3_large", "densenet121", "swin_t")
BATCHES = (1, 16, 128)
LIMIT = 0.03


def case(model: Any, inputs: Any, phase: str, amp: bool, batch: int) -> dict[str, Any]:
    row: dict[str, Any] = {"phase": phase, "amp": amp, "batch": batch}
    torch.cuda.empty_cache()
    try:
        report = inspector.memory(
            model, inputs, batch=batch, phase=phase, optimizer="sgd" if phase == "train" else None,
            amp=amp, measure=True,
        )  # fmt: skip
    except InspectError as error:  # out of memory, or batch norm on one sample
        return {**row, "left_out": error.message}
    for found in report.to_frame("measured").to_dict("records"):
        row[found["quantity"].replace(" ", "_")] = {
            "predicted": int(found["predicted"]),
            "measured": int(found["measured"]),
            "error": round(found["ratio"] - 1, 5),
        }
    extra = report.metrics["convolution_workspace"].value
    row["with_workspace"] = row["peak_allocated"]["predicted"] + extra
    return row


def main(words: list[str]) -> None:
    if not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device here\nhint: benchmarks/memory_cpu.py needs none")
    subjects: dict[str, tuple[Any, Any]] = {name: (name, None) for name in MODELS}
    subjects |= {"unet": (UNet(), "1x3x256x256"), "gpt2": (gpt2(), None)}
    rows = {
        name: [
            case(model, inputs, phase, amp, batch)
            for phase in ("forward", "train")
            for amp in (False, True)
            for batch in BATCHES
        ]
        for name, (model, inputs) in subjects.items()
    }
    errors = [
        abs(row["peak_allocated"]["error"])
        for entries in rows.values()
        for row in entries
        if "peak_allocated" in row
    ]
    result = {
        "device": torch.cuda.get_device_name(),
        "cases": len(errors),
        "within_3_percent": sum(error < LIMIT for error in errors),
        "largest_error": max(errors, default=None),
        "models": rows,
    }
    if words:
        Path(words[0]).write_text(json.dumps(result, indent=1) + "\n")
    else:
        save("memory_gpu", result)
    print(json.dumps({key: value for key, value in result.items() if key != "models"}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
