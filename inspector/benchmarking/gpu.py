"""Clocks, temperature, power and energy of an NVIDIA GPU, where its driver and nvidia-ml-py report them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

ENERGY_SECONDS = 2.0
"""How long a step runs while its energy is counted: the driver counts in steps of some 0.1 s."""
REASONS = {
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h, nvmlClocksEventReasons)."""


@dataclass(frozen=True)
class GpuState:
    """One moment: MHz, degrees Celsius, watts, why clocks are held down, millijoules since the driver was
    loaded. None is what the driver does not report."""

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    throttle: tuple[str, ...]
    driver: str
    energy_mj: int | None


def state(index: int, nvml: Any = None) -> GpuState | None:
    """The state of CUDA device `index`; None without nvidia-ml-py or a driver that answers."""
    with _handle(index, nvml) as device:
        if device is None:
            return None
        library, handle = device
        power = _ask(library.nvmlDeviceGetPowerUsage, handle)
        return GpuState(
            _ask(library.nvmlDeviceGetClockInfo, handle, 1),  # NVML_CLOCK_SM
            _ask(library.nvmlDeviceGetClockInfo, handle, 2),  # NVML_CLOCK_MEM
            _ask(library.nvmlDeviceGetTemperature, handle, 0),  # NVML_TEMPERATURE_GPU
            power / 1e3 if power is not None else None,
            _throttle(library, handle),
            _text(_ask(library.nvmlSystemGetDriverVersion) or ""),
            _ask(library.nvmlDeviceGetTotalEnergyConsumption, handle),
        )


def joules(
    step: Callable[[], Any],
    seconds: float = ENERGY_SECONDS,
    index: int = 0,
    nvml: Any = None,
    cuda: Any = torch.cuda,
) -> tuple[float, int] | None:
    """Run the step for about `seconds`: (joules of the whole card meanwhile, calls). None where the driver
    does not count them, and on a slice of a card (MIG), whose neighbours would be counted too."""
    with _handle(index, nvml) as device:
        if device is None:
            return None
        library, handle = device
        if _mig(library, handle) or _ask(library.nvmlDeviceGetTotalEnergyConsumption, handle) is None:
            return None
        cuda.synchronize(index)
        before = _ask(library.nvmlDeviceGetTotalEnergyConsumption, handle)
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            step()
            calls += 1
            if calls % 16 == 0:
                cuda.synchronize(index)  # the queue must not run far ahead of the clock
        cuda.synchronize(index)
        after = _ask(library.nvmlDeviceGetTotalEnergyConsumption, handle)
        if before is None or after is None or after <= before:
            return None
        return (after - before) / 1e3, calls


@contextmanager
def _handle(index: int, nvml: Any) -> Iterator[tuple[Any, Any] | None]:
    library = nvml if nvml is not None else _library()
    if library is None or _failed(library.nvmlInit):
        yield None
        return
    try:
        handle = _find(library, index)
        yield None if handle is None else (library, handle)
    finally:
        _failed(library.nvmlShutdown)


def _library() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _find(library: Any, index: int) -> Any:
    """CUDA numbers devices its own way (CUDA_VISIBLE_DEVICES): they are matched by UUID."""
    try:
        uuid = str(torch.cuda.get_device_properties(index).uuid)
    except (AttributeError, AssertionError, RuntimeError):
        return None
    for text in (uuid, f"GPU-{uuid}", f"MIG-{uuid}"):
        for spelling in (text, text.encode()):
            handle = _ask(library.nvmlDeviceGetHandleByUUID, spelling)
            if handle is not None:
                return handle
    return None


def _throttle(library: Any, handle: Any) -> tuple[str, ...]:
    ask = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None) or getattr(
        library, "nvmlDeviceGetCurrentClocksThrottleReasons", None
    )
    bits = _ask(ask, handle) if ask else None
    return tuple(name for bit, name in REASONS.items() if bits and bits & bit)


def _mig(library: Any, handle: Any) -> bool:
    inside = getattr(library, "nvmlDeviceIsMigDeviceHandle", None)
    if inside is not None and _ask(inside, handle):
        return True
    mode = getattr(library, "nvmlDeviceGetMigMode", None)
    modes = _ask(mode, handle) if mode else None  # the current mode, and the pending one
    return bool(modes and modes[0])


def _ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None: every driver and card lacks some queries."""
    try:
        return function(*arguments)
    except Exception:  # NVMLError and its kin, whose classes the library makes at run time
        return None


def _failed(function: Callable[[], Any]) -> bool:
    try:
        function()
    except Exception:
        return True
    return False


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
