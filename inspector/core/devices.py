"""What devices can do at most: dense peaks and memory bandwidth, each from its maker's own document.

Peaks bound what torch can reach: tensor cores without sparsity, float16 and bfloat16 summed in float32. For
a device that is not listed no fraction of a peak is reported. FP8 on consumer cards is the peak with sums in
float16, their highest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.values import yaml_file


@dataclass(frozen=True)
class Device:
    """`peaks` in TFLOP/s (int8: TOP/s) by precision (fp64, fp32, tf32, fp16, bf16, fp8, int8), `bandwidth` in
    GB/s; `match` is what torch.cuda.get_device_name() must be, a regular expression; `major` the first figure
    of its compute capability (NVIDIA, CUDA GPU compute capability), `memory` in GiB, as its name says it,
    None where that varies."""

    name: str
    match: str
    peaks: Mapping[str, float]
    bandwidth: float
    source: str
    major: int | None = None
    memory: float | None = None


PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8")


def _peaks(
    fp64: float,
    fp32: float,
    tf32: float = 0.0,
    fp16: float = 0.0,
    bf16: float = 0.0,
    fp8: float = 0.0,
    int8: float = 0.0,
) -> dict[str, float]:
    peaks = zip(PRECISIONS, (fp64, fp32, tf32, fp16, bf16, fp8, int8))
    return {name: value for name, value in peaks if value}


_HOPPER = _peaks(67.0, 67.0, 494.7, 989.4, 989.4, 1978.9, 1978.9)
_AMPERE = _peaks(19.5, 19.5, 156.0, 312.0, 312.0, int8=624.0)
_H100 = "NVIDIA H100 Tensor Core GPU Architecture white paper, table 2"
_A100 = "NVIDIA A100 Tensor Core GPU datasheet"

DEVICES = (
    Device("H200 SXM", r"NVIDIA H200", _HOPPER, 4800, "NVIDIA H200 Tensor Core GPU datasheet", 9, 141),
    Device("H100 SXM", r"NVIDIA H100 80GB HBM3", _HOPPER, 3350, _H100, 9, 80),
    Device("H100 PCIe", r"NVIDIA H100 PCIe", _peaks(51.2, 51.2, 378.0, 756.5, 756.5, 1513.0, 1513.0), 2000,
           _H100, 9, 80),
    Device("A100 SXM 80GB", r"NVIDIA A100-SXM\d?-80GB", _AMPERE, 2039, _A100, 8, 80),
    Device("A100 PCIe 80GB", r"NVIDIA A100 80GB PCIe", _AMPERE, 1935, _A100, 8, 80),
    Device("A100 40GB", r"(NVIDIA )?A100-(SXM\d?|PCIE)-40GB", _AMPERE, 1555, _A100, 8, 40),
    Device("V100 SXM2", r"Tesla V100-SXM2-\d+GB.*", _peaks(7.8, 15.7, fp16=125.0), 900,
           "NVIDIA Tesla V100 GPU architecture white paper", 7),
    Device("T4", r"(Tesla|NVIDIA) T4", _peaks(0.253, 8.1, fp16=65.0, int8=130.0), 320,
           "NVIDIA T4 Tensor Core GPU datasheet", 7, 16),
    Device("L4", r"NVIDIA L4", _peaks(0.49, 30.3, 60.0, 121.0, 121.0, 242.5, 242.5), 300,
           "NVIDIA L4 Tensor Core GPU datasheet (its figures are with sparsity: halved)", 8, 24),
    Device("RTX 4090", r"NVIDIA GeForce RTX 4090", _peaks(1.29, 82.6, 82.6, 165.2, 165.2, 660.6, 660.6), 1008,
           "NVIDIA Ada GPU Architecture white paper, appendix A", 8, 24),
    Device("RTX 3090", r"NVIDIA GeForce RTX 3090", _peaks(0.556, 35.6, 35.6, 71.2, 71.2, int8=284.7), 936,
           "NVIDIA Ampere GA102 GPU Architecture white paper, appendix A", 8, 24),
    Device("CPU (EPYC 7763)", r"AMD EPYC 7763.*", _peaks(2.51, 5.02), 204.8,
           "AMD EPYC 7763 product page: 64 cores at 2.45 GHz, 8 channels of DDR4-3200; Zen 3 runs two"
           " 256-bit multiply-adds a cycle (AMD Software Optimization Guide, family 19h)"),
)  # fmt: skip


def short_names(beginning: str = "") -> list[str]:
    """What may be typed for each device, of those that begin so: h100sxm, t4."""
    return [name for name in map(_letters, (device.name for device in DEVICES)) if name.startswith(beginning)]


def named(text: str, devices: tuple[Device, ...] = DEVICES) -> Device:
    """The first device whose name begins with `text`, by letters and digits alone: h100, a100pcie,
    rtx4090. Raises InspectError with all names."""
    wanted = _letters(text)
    for device in devices:
        if wanted and _letters(device.name).startswith(wanted):
            return device
    names = ", ".join(device.name for device in devices)
    raise InspectError(f"no device is called {text!r}", f"there are: {names}")


def read(file: str | Path) -> tuple[Device, ...]:
    """Devices from a YAML file: one mapping, or a list of them, of name, peaks (TFLOP/s by precision),
    bandwidth (GB/s) and, if wanted, memory (GiB) and source. Raises InspectError that says what is wrong."""
    hint = "write name: my card, bandwidth: 1000 and peaks: {fp32: 30, bf16: 120}"
    content = yaml_file(file, hint)
    entries = content if isinstance(content, list) else [content]
    if not entries:
        raise InspectError(f"{file} holds no device", hint)
    return tuple(_device(entry, str(file), hint) for entry in entries)


def _device(entry: Any, file: str, hint: str) -> Device:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InspectError(f"{file}: a device is a mapping with a name", hint)
    peaks, name = entry.get("peaks"), entry["name"]
    unknown = set(entry) - {"name", "peaks", "bandwidth", "memory", "source"}
    if unknown:
        raise InspectError(f"{file}: {name} has the unknown key {min(map(str, unknown))!r}", hint)
    if not isinstance(peaks, dict) or not peaks or not set(peaks) <= set(PRECISIONS):
        raise InspectError(f"{file}: {name} needs peaks by precision", f"of {', '.join(PRECISIONS)}")
    memory = entry.get("memory")
    numbers = [*peaks.values(), entry.get("bandwidth"), *([memory] if memory is not None else [])]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and 0 < n < 1e9 for n in numbers):
        raise InspectError(f"{file}: peaks, bandwidth and memory of {name} are positive numbers", hint)
    return Device(
        name, re.escape(name), peaks, float(entry["bandwidth"]), str(entry.get("source", file)),
        memory=float(memory) if memory is not None else None,
    )  # fmt: skip


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def find(device_name: str) -> Device | None:
    """The device with this name in torch; None for an unlisted one, and for a slice of one (MIG)."""
    return next((device for device in DEVICES if re.fullmatch(device.match, device_name.strip())), None)
