"""Tensors kept as others: what they stand for is counted, what they hold is weighed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import inspector
from inspector.models.replica import change, raw, replica
from inspector.reporting.report import Report
from inspector.tracing.subclass import parts, wraps

MACS = 4 * 256 * 128 + 4 * 128 * 64
"""Four rows through 256 to 128 to 64: 163,840."""
PARAMS = 256 * 128 + 128 + 128 * 64 + 64
"""41,152."""


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64))


def rows() -> torch.Tensor:
    return torch.ones(4, 256)


class Int8(torch.Tensor):
    """A float32 matrix kept as int8 with a scale for each row."""

    codes: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls: Any, codes: torch.Tensor, scale: torch.Tensor) -> Any:
        kept: Any = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, codes.shape, strides=codes.stride(), dtype=torch.float32, device=codes.device
        )
        kept.codes, kept.scale = codes, scale
        return kept

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:
        return "Int8"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], context: None, size: Any, stride: Any) -> Any:
        return Int8(inner["codes"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.t, torch.ops.aten.detach, torch.ops.aten.clone):
            return cls(func(args[0].codes), func(args[0].scale))
        plain = [a.codes.float() * a.scale if isinstance(a, cls) else a for a in args]
        return func(*plain, **(kwargs or {}))


def packed() -> nn.Sequential:
    model = net().eval()
    for layer in (model[0], model[2]):
        weight = layer.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 127
        layer.weight = nn.Parameter(Int8((weight / scale).round().to(torch.int8), scale), requires_grad=False)
    return model


def values(report: Report) -> dict[str, Any]:
    return {name: metric.value for name, metric in report.metrics.items()}


PACKED_BYTES = 32_768 + 4 * 128 + 8_192 + 4 * 64
"""Codes of one byte and a float32 scale for each of the rows: 41,728."""


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_packed_weight_counts_what_it_stands_for_and_weighs_what_it_holds(device: str) -> None:
    counted = values(inspector.profile(packed(), (rows(),), device=device))
    assert counted["params"] == PARAMS
    assert counted["trainable_params"] == 128 + 64
    assert counted["param_bytes"] == PACKED_BYTES + 4 * (128 + 64)
    assert counted["macs"] == MACS
    assert counted["unknown_ops"] == 0
    # Bytes: bias + x + codes + scales read and y written, of both layers; the ReLU reads and writes 4 x 128.
    first = 512 + 4096 + 32_768 + 512 + 2048
    second = 256 + 2048 + 8_192 + 256 + 1024
    assert counted["bytes_moved"] == first + 2 * 2048 + second


def test_training_with_a_packed_weight_gives_it_no_gradient() -> None:
    # The weights are frozen: the backward multiplies for the input of the second layer only.
    counted = values(inspector.profile(packed(), (rows(),), phase="train"))
    assert counted["forward_macs"] == MACS
    assert counted["backward_macs"] == 4 * 128 * 64


def test_the_ledger_shows_both_shapes() -> None:
    report = inspector.params(packed())
    state = report.to_frame("state").set_index("name")
    weight = state.loc["0.weight"]
    assert (weight["shape"], weight["numel"]) == ("128x256", 32_768)
    assert (weight["dtype"], weight["bytes"]) == ("int8", 32_768 + 512)
    assert weight["stored"] == "float32 as int8[128,256] + float32[128,1]"
    assert state.loc["0.bias", "stored"] == ""
    (stored,) = [finding for finding in report.findings if finding.check == "stored"]
    assert "40,960 elements take 41,728 bytes" in stored.message
    assert report.verdict == "none"


def test_an_ordinary_model_has_no_such_column_and_no_such_finding() -> None:
    report = inspector.params(net())
    assert "stored" not in report.to_frame("state")
    assert not [finding for finding in report.findings if finding.check == "stored"]


def test_memory_holds_the_parts() -> None:
    # Each block is rounded up to 512 bytes: codes, scales (512, 256), biases (512, 256).
    found = values(inspector.memory(packed(), (rows(),)))
    assert found["peak_parameters"] == 32_768 + 512 + 8_192 + 512 + 512 + 512
    roles = {(s.role, s.nbytes) for s in inspector.trace(packed(), (rows(),)).storages}
    assert {("parameter", 32_768), ("packing", 512)} <= roles


def test_a_page_shows_the_parts_with_the_parameters() -> None:
    timeline = inspector.page(packed(), (rows(),)).to_frame("timeline")
    assert timeline["parameter"].unique().tolist() == [PACKED_BYTES + 768]


def test_the_pass_leaves_the_packed_tensors_alone() -> None:
    model = packed()
    weight = model[0].weight
    before = raw(weight).clone()
    inspector.profile(model, (rows(),), device="cpu", phase="train")
    assert model[0].weight is weight
    assert isinstance(weight, Int8)
    assert torch.equal(raw(weight), before)


def test_tied_packed_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = packed()[2], nn.Linear(128, 64, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x)

    counted = values(inspector.profile(Tied(), (torch.ones(2, 128),)))
    assert counted["params"] == 128 * 64 + 64
    assert counted["macs"] == 2 * 2 * 128 * 64


def test_a_replica_has_parts_of_its_own_and_a_change_of_them_is_seen() -> None:
    model = packed()
    copy = replica(model)
    ours, theirs = model[0].weight, copy[0].weight
    assert wraps(theirs)
    assert parts(theirs)[0].data_ptr() != parts(ours)[0].data_ptr()
    assert change(ours, theirs) is None
    parts(theirs)[0][0, 0] += 1
    assert change(ours, theirs) is not None


def test_initialising_a_packed_weight_is_refused() -> None:
    with pytest.raises(inspector.InspectError, match=r"0\.weight is int8"):
        inspector.init(packed(), inputs=(rows(),))


class Marked(nn.Parameter):
    """A parameter of a user's own class, with an attribute that the forward reads."""

    factor: float


def test_a_stand_in_keeps_the_class_and_the_attributes() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = Marked(torch.ones(8, 4))
            self.weight.factor = 2.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert type(self.weight) is Marked
            return x @ (self.weight * self.weight.factor)

    for device in ("meta", "cpu"):
        assert inspector.trace(Scaled(), (torch.ones(2, 8),), device=device).failure is None


# Sparse: indices of 8 bytes and values of 4.


def test_a_sparse_tensor_weighs_its_indices_and_values() -> None:
    dense = torch.zeros(64, 32)
    dense[0, :5] = 1
    module = nn.Module()
    module.register_buffer("coo", dense.to_sparse())
    module.register_buffer("csr", dense.to_sparse_csr())
    state = inspector.params(module).to_frame("state").set_index("name")
    assert state["numel"].tolist() == [2048, 2048]
    assert state["dtype"].tolist() == ["float32", "float32"]
    assert state.loc["coo", "bytes"] == 2 * 5 * 8 + 5 * 4  # two coordinates each
    assert state.loc["csr", "bytes"] == 65 * 8 + 5 * 8 + 5 * 4  # row pointers, columns, values


# Complex: torch counts elements; the real numbers stand beside them.


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(8, 8, dtype=torch.complex64))
        self.b = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(torch.complex64) @ self.w).real + self.b


def test_complex_parameters_show_the_real_numbers_beside_torchs_count() -> None:
    for found in (inspector.profile(Complex(), (torch.ones(2, 8),)), inspector.params(Complex())):
        counted = values(found)
        assert counted["params"] == 64 + 8
        assert counted["real_params"] == 2 * 64 + 8
        assert counted["param_bytes"] == 64 * 8 + 8 * 4
    assert "real_params" not in inspector.params(net()).metrics


# Spread over processes: "fake" is torch's group of several in one process, whose communication does nothing.


@pytest.fixture(params=[1, 4])
def processes(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[int]:
    count: int = request.param
    if count == 1:
        store: Any = torch.distributed.FileStore(str(tmp_path / "store"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    else:
        fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
        torch.distributed.init_process_group("fake", store=fake.FakeStore(), rank=1, world_size=count)
    yield count
    torch.distributed.destroy_process_group()


def sharded(processes: int) -> nn.Sequential:
    model, mesh = net(), init_device_mesh("cpu", (processes,))
    for module in (model[0], model[2], model):
        fully_shard(module, mesh=mesh)
    return model


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_fsdp_counts_the_whole_model_and_weighs_the_shard(processes: int, ran: bool, phase: str) -> None:
    model = sharded(processes)
    if ran:
        model(rows())
    plain = values(inspector.profile(net(), (rows(),), phase=phase))
    report = inspector.profile(model, (rows(),), phase=phase)
    counted = values(report)
    # All rows (128 and 64) divide by 4: each process holds an equal share.
    assert counted.pop("param_bytes") == 4 * PARAMS // processes
    plain.pop("param_bytes")
    assert counted == plain
    assert counted["macs"] >= MACS
    assert any("without communication" in finding.message for finding in report.findings)
    assert not any("were not read" in finding.message for finding in report.findings)


def test_fsdp_is_as_it_was_after_a_pass(processes: int) -> None:
    model = sharded(processes)
    hooks = [dict(module._forward_pre_hooks) for module in model.modules()]
    weight = model[0].weight
    inspector.profile(model, (rows(),), phase="train")
    assert [dict(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert model[0].weight is weight
    assert isinstance(weight, DTensor)
    model(rows())  # its first forward initialises FSDP: the pass has not


def test_shards_of_other_processes_cannot_run_here(processes: int) -> None:
    model = sharded(processes)
    if processes == 1:
        assert values(inspector.profile(model, (rows(),), device="cpu"))["macs"] == MACS
    else:
        with pytest.raises(inspector.InspectError, match="holds a part of the parameters"):
            inspector.profile(model, (rows(),), device="cpu")


def test_tensor_parallel_layers_count_whole_and_weigh_the_part(processes: int) -> None:
    mesh = init_device_mesh("cpu", (processes,))
    model = parallelize_module(net(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    report = inspector.profile(model, (rows(),))
    counted = values(report)
    assert counted["params"] == PARAMS
    assert counted["macs"] == MACS
    assert counted["unknown_ops"] == 0
    # Rows of the first layer and columns of the second are shared out; the second bias is whole everywhere.
    assert counted["param_bytes"] == 4 * ((32_768 + 128 + 8_192) // processes + 64)
    shares = any("counted whole" in finding.message for finding in report.findings)
    assert shares is (processes > 1)
    state = inspector.params(model).to_frame("state").set_index("name")
    assert state["shape"].tolist() == ["128x256", "128", "64x128", "64"]
    if processes > 1:
        assert state.loc["2.weight", "stored"] == "float32 as float32[64,32]"
