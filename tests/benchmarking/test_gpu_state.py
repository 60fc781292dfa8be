"""What NVML says, from a library made by hand; and the table of devices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inspector.benchmarking import gpu
from inspector.core import devices


class Nvml:
    """A card that uses 100 W; each reading of its energy comes half a second later."""

    def __init__(self, mig: bool = False, energy: bool = True) -> None:
        self.mig, self.energy, self.spent, self.open = mig, energy, 1_000_000, 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: Any) -> str:
        if uuid != "GPU-1234":
            raise RuntimeError("not found")
        return "handle"

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 100_000

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 45

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"570.1"

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return 0x1 | 0x4 | 0x40

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:
        return int(self.mig), int(self.mig)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if not self.energy:
            raise RuntimeError("not supported")
        self.spent += 50_000
        return self.spent


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1234"))


@pytest.mark.usefixtures("card")
def test_state_is_read_and_the_library_closed() -> None:
    nvml = Nvml()
    state = gpu.state(0, nvml)
    assert state is not None
    assert (state.sm_clock_mhz, state.memory_clock_mhz, state.temperature_c) == (1980, 3201, 45)
    assert (state.power_w, state.driver) == (100.0, "570.1")
    assert state.throttle == ("power cap", "thermal (hardware)")  # idle is no reason
    assert nvml.open == 0


@pytest.mark.usefixtures("card")
def test_joules_are_the_difference_of_two_readings() -> None:
    calls = []
    cuda = SimpleNamespace(synchronize=lambda index: None)
    found = gpu.joules(lambda: calls.append(1), 0.0, 0, Nvml(), cuda)
    assert found is None or found[0] == 50.0
    found = gpu.joules(lambda: calls.append(1), 0.01, 0, Nvml(), cuda)
    assert found is not None
    assert found == (50.0, len(calls))


@pytest.mark.usefixtures("card")
def test_a_slice_or_a_silent_driver_gives_no_joules() -> None:
    cuda = SimpleNamespace(synchronize=lambda index: None)
    assert gpu.joules(lambda: None, 0.01, 0, Nvml(mig=True), cuda) is None
    assert gpu.joules(lambda: None, 0.01, 0, Nvml(energy=False), cuda) is None
    state = gpu.state(0, Nvml(energy=False))
    assert state is not None
    assert state.energy_mj is None


def test_no_driver_is_no_error() -> None:
    if not torch.cuda.is_available():
        assert gpu.state(0) is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("NVIDIA A10", None),
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_device_is_found_by_its_own_name_only(name: str, found: str | None) -> None:
    device = devices.find(name)
    assert (device.name if device else None) == found


def test_tensor_cores_keep_their_ratios() -> None:
    """Dense peaks: half precision is twice TF32 on data-centre cards; float32 never above half."""
    for device in devices.DEVICES:
        peaks = device.peaks
        assert device.source
        if "bf16" in peaks:
            assert peaks["bf16"] == peaks["fp16"]
            assert peaks["fp16"] == pytest.approx(2 * peaks["tf32"], rel=0.02)
        if "fp16" in peaks:
            assert peaks["fp16"] >= 1.9 * peaks["fp32"]
