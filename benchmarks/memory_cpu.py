"""Predicted bytes against torch's own memory events, on a CPU.

    python benchmarks/memory_cpu.py [MODEL...]

For each model: inference, and a training step with each of SGD and AdamW; float32, and autocast to bfloat16;
batches 1, 2 and 4. The prediction runs on meta with the CPU's choice of kernels (`Kernels("cpu")`) and
without rounding. Two columns are measured: `tensors` leaves out blocks that a kernel takes and gives back
inside one operator, `whole` has them. oneDNN's reordered weights and its conversions of bfloat16 are such
blocks; CUDA's kernels take others (cuDNN's workspaces), so the prediction holds tensors only.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from common import save
from torch import nn

from inspector.footprint import simulate
from inspector.footprint.measured import Loop, peak_on_cpu
from inspector.footprint.question import Question
from inspector.footprint.step import CUBLAS_WORKSPACE
from inspector.models.huggingface import from_config
from inspector.tracing.capture.kernels import Kernels

SIZES = {"vit_b_16": 224, "swin_t": 96}
"""Heights and widths of images; 64 elsewhere, because small images show the same blocks."""
BATCHES = (1, 2, 4)


class UNet(nn.Module):
    """A U-Net as users write it: skip connections, concatenation, transposed convolutions."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(double(a, b) for a, b in zip((3, *widths), widths))
        pairs = list(zip(widths[::-1], widths[-2::-1]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.join = nn.ModuleList(double(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x):
        skips = []
        for block in self.down:
            x = block(self.pool(x) if skips else x)
            skips.append(x)
        skips.pop()
        for up, join in zip(self.up, self.join):
            x = join(torch.cat([up(x), skips.pop()], 1))
        return self.head(x)


def double(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True),
    )  # fmt: skip


def gpt2() -> Any:
    from transformers import GPT2Config

    config = GPT2Config(n_layer=4, n_embd=256, n_head=8, vocab_size=8000, n_positions=128)
    config.use_cache = False
    return from_config(config, "gpt2 (4 layers of 256)")


def subjects() -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for name in ("resnet50", "vit_b_16", "convnext_tiny", "mobilenet_v3_large", "densenet121", "swin_t"):
        size = SIZES.get(name, 64)
        found[name] = name, f"1x3x{size}x{size}"
    return {**found, "unet": (UNet(), "1x3x64x64"), "gpt2": (gpt2(), None)}


def row(model: Any, inputs: Any, phase: str, optimizer: str, amp: bool, batch: int) -> dict[str, Any]:
    kernels = Kernels("cpu", "fused", "bfloat16" if amp else None)
    question = Question.of(
        model, inputs, phase, None, 0, kernels, None, (), optimizer, False, CUBLAS_WORKSPACE
    )
    trace = question.trace(batch)
    predicted = simulate(trace, replace(question.plan(trace), exact=True)).allocated
    loop = Loop.make(question, batch, question.setting, "cpu")
    loop()
    peak = peak_on_cpu(loop, {op.name for op in trace.ops})
    return {
        "phase": phase,
        "optimizer": optimizer if phase == "train" else None,
        "precision": "autocast bfloat16" if amp else "float32",
        "batch": batch,
        "predicted": predicted,
        "tensors": peak.tensors,
        "whole": peak.whole,
        "error": round(predicted / peak.tensors - 1, 6),
        "error_whole": round(predicted / peak.whole - 1, 6),
    }


def main(words: list[str]) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, (model, inputs) in subjects().items():
        if words and name not in words:
            continue
        rows[name] = []
        for phase, optimizer in (("forward", "sgd"), ("train", "sgd"), ("train", "adamw")):
            for amp in (False, True):
                for batch in BATCHES:
                    rows[name].append(row(model, inputs, phase, optimizer, amp, batch))
                    print(name, rows[name][-1], flush=True)
    errors = [abs(entry["error"]) for entries in rows.values() for entry in entries]
    result = {
        "cases": len(errors),
        "largest_error": max(errors),
        "within_1_percent": sum(e < 0.01 for e in errors),
    }
    print(result)
    if not words:
        save("memory_cpu", {**result, "models": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
