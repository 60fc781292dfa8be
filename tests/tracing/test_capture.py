"""What one pass records: modules, groups, lifetimes, failures; the same on every device."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import inspector
from inspector.models import Recipe, resolve
from inspector.profiling.views.totals import totals
from inspector.tracing.capture import ForwardError, capture
from inspector.tracing.capture.memo import MetaMemo
from inspector.tracing.record import Trace


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def names(trace: Trace) -> list[str]:
    return [op.name for op in trace.ops]


def test_operators_carry_module_group_shapes_and_dtypes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    trace = inspector.trace(model, "2x3x8x8")
    conv, relu = trace.ops
    assert (conv.name, conv.module, conv.group, conv.phase) == (
        "aten.convolution", "0", "conv2d", "forward",
    )  # fmt: skip
    assert [(spec.shape, spec.dtype) for spec in conv.inputs] == [
        ((2, 3, 8, 8), "float32"), ((4, 3, 3, 3), "float32"), ((4,), "float32"),
    ]  # fmt: skip
    assert conv.outputs[0].shape == (2, 4, 6, 6)
    assert (relu.module, relu.group) == ("1", "relu")


def test_attention_inside_multihead_attention_has_its_own_group() -> None:
    trace = inspector.trace(nn.TransformerEncoderLayer(8, 2, 16), "5x1x8")
    groups = {op.group for op in trace.ops if op.name == "aten.bmm"}
    assert groups == {"scaled_dot_product_attention"}


def test_a_module_called_three_times_counts_three_times() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                x = self.layer(x)
            return x

    trace = inspector.trace(Loop(), "1x4")
    assert totals(trace)["macs"] == 3 * 16
    assert next(m.calls for m in trace.modules if m.path == "layer") == 3
    assert totals(trace)["params"] == 16 + 4


def test_tied_embeddings_count_once_and_show_both_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    trace = inspector.trace(Tied(), "int64[1,6]")
    (entry,) = trace.state
    assert (entry.name, entry.aliases, entry.numel) == ("embed.weight", ("head.weight",), 40)
    assert totals(trace)["macs"] == 6 * 4 * 10


def test_weights_used_without_a_call_belong_to_the_module_that_runs() -> None:
    trace = inspector.trace(Holder(nn.MultiheadAttention(8, 2)), "5x1x8")
    assert {op.module for op in trace.ops if op.macs} == {"attention"}


class Holder(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def test_inference_mode_inside_the_model_is_counted_the_same() -> None:
    class Inference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        @torch.inference_mode()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.softmax(self.layer(x.reshape(2, 4)), -1)

    trace = inspector.trace(Inference(), "1x2x4")
    # 2 x 4 x 3 products; a bias of 2 x 3; softmax 5 x 6.
    assert totals(trace)["macs"] == 24
    assert totals(trace)["pointwise_flops"] == 6 + 30


# Lifetimes.


def test_a_storage_is_born_and_dies_where_python_says() -> None:
    def work(x: torch.Tensor) -> torch.Tensor:
        a = x + 1  # 0
        b = a * 2  # 1
        view = a.view(-1)  # 2
        del a
        c = b + 1  # 3
        del view
        return c.sum()  # 4

    trace = capture(Function(work), (torch.empty(4, 4, device="meta"),))
    made = {s.birth: s for s in trace.storages if s.birth is not None}
    assert made[0].death == 3  # the view keeps it until after c
    assert made[1].death is None or made[1].death == 4  # alive to the end of the function
    assert (made[3].nbytes, made[3].role) == (64, "intermediate")
    assert {s.role for s in trace.storages if s.birth is None} == {"input"}


def test_parameters_and_buffers_outlive_the_pass() -> None:
    trace = inspector.trace(nn.BatchNorm1d(3), "4x3")
    held = [s for s in trace.storages if s.role in ("parameter", "buffer")]
    assert len(held) == 5
    assert all(s.birth is None and s.death is None for s in held if s.nbytes)


def test_saved_activations_live_until_the_backward() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 4, bias=False))
    trace = inspector.trace(model, "2x4", phase="train")
    first_backward = next(i for i, op in enumerate(trace.ops) if op.phase == "backward")
    sigmoid = next(i for i, op in enumerate(trace.ops) if op.name == "aten.sigmoid")
    storage = trace.storages[trace.ops[sigmoid].outputs[0].storage]
    assert storage.birth == sigmoid
    assert storage.death is None or storage.death >= first_backward


# Devices.


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("phase", ["forward", "train"])
@pytest.mark.parametrize(
    "spec", ["resnet18", "swin_t", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5", "raft_small"]
)
def test_meta_and_cpu_count_the_same(spec: str, phase: str) -> None:
    small = ["1x3x128x128", "1x3x128x128"] if spec == "raft_small" else "2x3x64x64"
    meta = totals(inspector.trace(spec, small, phase=phase, device="meta"))
    cpu = totals(inspector.trace(spec, small, phase=phase, device="cpu"))
    for metric in ("macs", "pointwise_flops", "activations", "params", "unknown_ops"):
        assert meta[metric] == cpu[metric], metric


@pytest.mark.gpu
@pytest.mark.parametrize("phase", ["forward", "train"])
@pytest.mark.parametrize("spec", ["resnet18", "swin_t", "vit_b_32", "mobilenet_v3_small", "densenet121"])
def test_meta_and_cuda_count_the_same(spec: str, phase: str) -> None:
    meta = totals(inspector.trace(spec, phase=phase, device="meta"))
    cuda = totals(inspector.trace(spec, phase=phase, device="cuda"))
    for metric in ("macs", "pointwise_flops", "activations", "params", "unknown_ops"):
        assert meta[metric] == cuda[metric], metric


@pytest.mark.gpu
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_count_the_same_on_cuda(cell: Any) -> None:
    model = cell(8, 16, num_layers=2, bidirectional=True)
    meta = totals(inspector.trace(model, "5x3x8", device="meta"))
    cuda = totals(inspector.trace(model, "5x3x8", device="cuda"))
    assert meta["macs"] == cuda["macs"]
    assert meta["pointwise_flops"] == cuda["pointwise_flops"]


@cache
def built_once(spec: str) -> Recipe:
    """Its passes run on one model on meta, and leave it as it was."""
    recipe = resolve(spec)
    model = recipe.build("meta")
    return replace(recipe, construct=lambda: model, rebuilds=False)


@pytest.mark.parametrize("phase", ["forward", "train"])
@pytest.mark.parametrize("spec", ["resnet50", "swin_t", "maxvit_t", "efficientnet_b0", "densenet121"])
def test_remembering_meta_results_changes_nothing(
    spec: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = built_once(spec)
    quick = inspector.trace(recipe, phase=phase)
    monkeypatch.setattr(MetaMemo, "recall", lambda *_: NotImplemented)
    plain = inspector.trace(recipe, phase=phase)
    assert quick.ops == plain.ops
    assert quick.storages == plain.storages


def test_values_on_the_cpu_are_not_remembered() -> None:
    def work(x: torch.Tensor) -> torch.Tensor:
        steps = torch.zeros(1)
        for _ in range(3):
            steps.add_(1)
        return x[: int(steps.item())]

    trace = capture(Function(work), (torch.empty(8, device="meta"),))
    assert trace.failure is None
    assert trace.ops[-1].outputs[0].shape == (3,)


def test_a_tensor_that_stays_on_the_cpu_joins_the_others_on_meta() -> None:
    trace = inspector.trace(Function(lambda x: x * torch.arange(4.0)), "2x4")
    assert (trace.device, trace.notes) == ("meta", ())
    assert totals(trace)["pointwise_flops"] == 8


def test_a_model_that_needs_values_falls_back_to_the_cpu_and_says_why() -> None:
    def work(x: torch.Tensor) -> torch.Tensor:
        return x[x > 0].sum()

    trace = inspector.trace(Function(work), "100")
    assert trace.device == "cpu"
    assert "meta cannot run it" in trace.notes[0]
    assert "another seed may give other numbers" in trace.notes[1]


# Failures.


def test_a_forward_that_raises_keeps_what_ran_and_names_the_module() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(9, 2)))
    with pytest.raises(ForwardError) as raised:
        inspector.trace(model, "3x4")
    trace, error = raised.value.trace, raised.value
    assert totals(trace)["macs"] == 3 * 4 * 8
    assert trace.failure is not None
    assert (trace.failure.module, trace.failure.inputs) == ("1.0", ("float32[3,8]",))
    assert "'1.0' (Linear)" in error.message
    assert "float32[3,8]" in error.message


def test_an_unknown_operator_is_unknown_and_never_zero() -> None:
    trace = inspector.trace(Function(lambda x: torch.histogram(x, 4)[0]), "3x3", device="cpu")
    unknown = [op for op in trace.ops if not op.known]
    assert [op.name for op in unknown] == ["aten.histogram"]
    assert unknown[0].macs is None
    assert unknown[0].pointwise_flops is None
    report = inspector.profile(trace, strict=True)
    assert report.verdict == "fail"
    assert report.metrics["macs"].lower_bound
    assert report.to_frame("unknown").to_dict("records") == [
        {"op": "aten.histogram", "calls": 1, "module": ""}
    ]


def test_lazy_layers_learn_their_shape_on_a_copy() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    trace = inspector.trace(model, "2x5")
    assert totals(trace)["params"] == 5 * 3 + 3
    assert isinstance(model[0].weight, nn.parameter.UninitializedParameter)


def test_an_unknown_phase_or_device_is_refused() -> None:
    with pytest.raises(inspector.InspectError, match="unknown phase"):
        inspector.trace(nn.Linear(1, 1), "1x1", phase="sideways")
    with pytest.raises(inspector.InspectError, match="no device 'abacus'"):
        inspector.trace(nn.Linear(1, 1), "1x1", device="abacus")
