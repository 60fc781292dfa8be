"""The rows of the benchmark: which precisions there are, and which of them a device can run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch

from inspector.benchmarking import fp8
from inspector.core.errors import InspectError
from inspector.core.naming import nearest


@dataclass(frozen=True)
class Precision:
    """One way to compute: dtype of the weights, dtype of autocast (None: off), and what float32 matrix
    products and convolutions may round their inputs to ("ieee": nothing, "tf32"). `peak` names the
    column of the device table that bounds it (none does where only some layers run in FP8); `scaler`:
    training scales the loss with GradScaler. `fp8`: Linear layers work in FP8. `switches` are those of
    SWITCHES that are on."""

    name: str
    label: str
    weights: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    flags: str = "ieee"
    peak: str = "fp32"
    scaler: bool = False
    fp8: bool = False
    switches: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The name without its switches."""
        return self.name.partition("+")[0]

    @property
    def computation(self) -> tuple[str, ...]:
        """What decides about its values: a CUDA graph replays the same kernels."""
        return self.kind, *(switch for switch in self.switches if switch != "cuda_graph")


SWITCHES = {
    "channels_last": ("channels-last", "channels last"),
    "compile": ("compile", "compiled"),
    "cuda_graph": ("cuda-graph", "CUDA graph"),
}
"""Ways to run a precision: the word in a row's name, and in its label."""

PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", "FP32 (IEEE)"),
        Precision("tf32", "TF32", flags="tf32", peak="tf32"),
        Precision("amp-fp16", "FP16 autocast", autocast=torch.float16, peak="fp16", scaler=True),
        Precision("fp16", "FP16 .half()", torch.float16, peak="fp16"),
        Precision("amp-bf16", "BF16 autocast", autocast=torch.bfloat16, peak="bf16"),
        Precision("bf16", "BF16 cast", torch.bfloat16, peak="bf16"),
        Precision("fp8", "FP8 Linear, BF16 autocast", autocast=torch.bfloat16, peak="fp8", fp8=True),
    )
}
AMP = ("fp32", "tf32", "amp-fp16", "amp-bf16", "fp8")
ON_CPU = ("fp32", "amp-bf16")


def choose(names: Sequence[str] | None, amp: bool, device: str) -> list[Precision]:
    """The requested rows, in the order of the table; without names, those that make sense on the device
    (`amp`: only float32, autocast and FP8). Raises InspectError for an unknown name."""
    if names:
        for name in names:
            if name not in PRECISIONS:
                hint = nearest(name, list(PRECISIONS), f"use some of: {', '.join(PRECISIONS)}")
                raise InspectError(f"no precision is called {name!r}", hint)
        wanted: Sequence[str] = names
    elif device == "cpu":
        wanted = ON_CPU
    else:
        wanted = AMP if amp else tuple(PRECISIONS)
    return [precision for name, precision in PRECISIONS.items() if name in wanted]


def combined(precisions: Sequence[Precision], switches: Sequence[str]) -> Iterator[Precision]:
    """Each precision with none of the switches, with each, and with each combination of them."""
    for precision in precisions:
        for count in range(len(switches) + 1):
            for chosen in combinations(switches, count):
                words, labels = zip(*(SWITCHES[name] for name in chosen)) if chosen else ((), ())
                name, label = "+".join((precision.name, *words)), ", ".join((precision.label, *labels))
                yield replace(precision, name=name, label=label, switches=chosen)


def unavailable(precision: Precision, device: str) -> str:
    """Why the device cannot run it, or "" when it can."""
    if precision.fp8:
        return fp8.missing(device)
    if not device.startswith("cuda"):
        return "TF32 is a format of CUDA's tensor cores" if precision.flags == "tf32" else ""
    if torch.version.hip is not None:
        return "TF32 is a format of NVIDIA's tensor cores" if precision.flags == "tf32" else ""
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8 and (precision.flags == "tf32" or precision.peak == "bf16"):
        kind = "TF32" if precision.flags == "tf32" else "BF16"
        return f"{kind} needs compute capability 8.0; this device has {major}.{minor}"
    return ""
