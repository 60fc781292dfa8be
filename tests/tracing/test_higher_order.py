"""Operators that take functions: what runs inside is counted, given to its module, forward and backward.

Each value is derived beside it. A product of (m, k) and (k, n) takes m * k * n MACs; its backward takes as
many for the weight, and as many again for the input where that wants a gradient.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.profiling.views.totals import totals
from inspector.tracing.record import Trace

hop = pytest.importorskip("torch._higher_order_ops")
BOTH = pytest.mark.parametrize("device", ["meta", "cpu"])


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


class Model(nn.Module):
    """A function of the model and its input, with `layers` by name."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Tensor) -> Any:
        return self.function(self, *args)


def macs_by_module(trace: Trace, phase: str | None = None) -> dict[str, int]:
    sums: dict[str, int] = {}
    for op in trace.ops:
        assert op.macs is not None, op.name
        if op.macs and phase in (None, op.phase):
            sums[op.module] = sums.get(op.module, 0) + op.macs
    return sums


def unread(trace: Trace) -> list[str]:
    return [f.message for f in inspector.profile(trace).findings if f.check == "unused"]


# cond.


def either(model: Any, x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda x: model.b(model.a(x)), lambda x: model.c(x), (x,))


def branches() -> Model:
    return Model(either, a=linear(8, 16), b=linear(16, 8), c=linear(8, 8))


def test_the_branch_that_a_real_value_chooses_is_counted() -> None:
    # True: 4 * 8 * 16 for a and for b. False: 4 * 8 * 8 for c.
    assert macs_by_module(inspector.trace(branches(), torch.ones(4, 8), device="cpu")) == {"a": 512, "b": 512}
    assert macs_by_module(inspector.trace(branches(), -torch.ones(4, 8), device="cpu")) == {"c": 256}


def test_on_meta_the_larger_branch_is_counted_and_both_are_named() -> None:
    trace = inspector.trace(branches(), torch.ones(4, 8))
    assert trace.device == "meta"
    assert macs_by_module(trace) == {"a": 512, "b": 512}
    (note,) = trace.notes
    assert "true 1024 MACs" in note
    assert "false 256 MACs" in note


@BOTH
def test_the_backward_of_a_branch_belongs_to_its_modules(device: str) -> None:
    # Weight gradients of a and b, 512 each; b's input gradient 512; a's input is the model's: none.
    trace = inspector.trace(branches(), torch.ones(4, 8), phase="train", device=device)
    assert macs_by_module(trace, "backward") == {"a": 512, "b": 1024}


def test_both_devices_count_the_same_operators_of_a_branch() -> None:
    meta, cpu = (inspector.trace(branches(), torch.ones(4, 8), device=device) for device in ("meta", "cpu"))
    assert [op.name for op in meta.ops] == [op.name for op in cpu.ops]
    assert totals(meta) == totals(cpu)


def test_a_module_of_the_branch_not_counted_is_not_called() -> None:
    trace = inspector.trace(branches(), torch.ones(4, 8))
    assert {module.path: module.calls for module in trace.modules} == {"": 1, "a": 1, "b": 1, "c": 0}


def test_a_branch_within_a_branch() -> None:
    def nested(model: Any, x: Tensor) -> Any:
        inner = lambda x: torch.cond(x.max() > 0, model.a, lambda x: model.b(model.a(x)), (x,))  # noqa: E731
        return torch.cond(x.sum() > 0, inner, model.b, (x,))

    model = Model(nested, a=linear(8, 8), b=linear(8, 8))
    assert macs_by_module(inspector.trace(model, torch.ones(4, 8), device="cpu")) == {"a": 256}
    assert macs_by_module(inspector.trace(model, torch.ones(4, 8))) == {"a": 256, "b": 256}


def test_switch_counts_its_branch() -> None:
    pytest.importorskip("torch._higher_order_ops.switch")
    switch = torch.ops.higher_order.switch

    def chosen(model: Any, x: Tensor) -> Any:
        return switch(torch.tensor(1, device=x.device), (model.a, lambda x: model.a(model.b(x))), (x,))

    model = Model(chosen, a=linear(8, 8), b=linear(8, 8))
    assert macs_by_module(inspector.trace(model, torch.ones(4, 8), device="cpu")) == {"a": 256, "b": 256}
    assert macs_by_module(inspector.trace(model, torch.ones(4, 8))) == {"a": 256, "b": 256}


# Loops.


def repeated(device: str | None = None) -> Model:
    from torch._higher_order_ops.while_loop import while_loop

    def loop(model: Any, x: Tensor) -> Any:
        start = torch.zeros((), dtype=torch.int64, device=device or x.device)
        return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, model.a(x)), (start, x))

    return Model(loop, a=linear(8, 8))


@pytest.mark.parametrize(("phase", "macs"), [("forward", 768), ("train", 2048)])
def test_a_while_loop_counts_each_turn(phase: str, macs: int) -> None:
    # 3 turns of 4 * 8 * 8 = 256. Backward: 3 weight gradients, and the input's in the last 2 turns.
    trace = inspector.trace(repeated(), torch.ones(4, 8), phase=phase)
    assert macs_by_module(trace) == {"a": macs}
    assert trace.device == "cpu"
    assert any("trip count of while_loop" in note for note in trace.notes)
    assert not unread(trace)


def test_a_counter_that_has_values_needs_no_fallback() -> None:
    trace = inspector.trace(repeated("cpu"), torch.ones(4, 8))
    assert (trace.device, macs_by_module(trace)) == ("meta", {"a": 768})


@BOTH
@pytest.mark.parametrize(("phase", "macs"), [("forward", 1280), ("train", 2560)])
def test_a_scan_counts_each_step(phase: str, macs: int, device: str) -> None:
    # 5 steps of 4 * 8 * 8 = 256. Backward: the weight's gradient in each; the carry starts at zeros and the
    # rows are the input: neither reaches a's input with a gradient.
    from torch._higher_order_ops.scan import scan

    def steps(model: Any, x: Tensor) -> Any:
        return scan(lambda carry, row: (carry + model.a(row), carry * 2), torch.zeros_like(x[0]), x)

    trace = inspector.trace(Model(steps, a=linear(8, 8)), torch.ones(5, 4, 8), phase=phase, device=device)
    assert macs_by_module(trace) == {"a": macs}
    assert not unread(trace)


@BOTH
@pytest.mark.parametrize(("phase", "macs"), [("forward", 1280), ("train", 2560)])
def test_a_map_counts_each_row(phase: str, macs: int, device: str) -> None:
    from torch._higher_order_ops.map import map as mapped

    model = Model(lambda model, x: mapped(lambda row: model.a(row), x), a=linear(8, 8))
    trace = inspector.trace(nn.Sequential(model), torch.ones(5, 4, 8), phase=phase, device=device)
    assert macs_by_module(trace) == {"0.a": macs}
    assert not unread(trace)


@BOTH
@pytest.mark.parametrize("mode", ["generic", "pointwise"])
def test_an_associative_scan_combines_in_pairs(mode: str, device: str) -> None:
    # 5 entries of 32: 2 pairs; of those 2 results 1 pair; then entries 3 and 5 join: 5 combinations.
    from torch._higher_order_ops.associative_scan import associative_scan

    def sums(model: Any, x: Tensor) -> Any:
        return associative_scan(lambda a, b: a * b, x, 0, combine_mode=mode)

    if mode == "pointwise" and torch.__version__ < "2.9":
        pytest.skip("this torch scans pointwise on a GPU alone")
    trace = inspector.trace(Model(sums), torch.ones(5, 4, 8), device=device)
    assert totals(trace)["pointwise_flops"] == 5 * 32


def test_a_branch_within_a_loop() -> None:
    # Rows of ones take a alone, 5 * 256; on meta the larger branch, a and b.
    from torch._higher_order_ops.scan import scan

    def steps(model: Any, x: Tensor) -> Any:
        def step(carry: Tensor, row: Tensor) -> Any:
            chosen = torch.cond(row.sum() > 0, model.a, lambda c: model.b(model.a(c)), (carry,))
            return chosen, row * 1

        return scan(step, x[0], x)

    model = Model(steps, a=linear(8, 8), b=linear(8, 8))
    assert macs_by_module(inspector.trace(model, torch.ones(5, 4, 8), device="cpu")) == {"a": 1280}
    assert macs_by_module(inspector.trace(model, torch.ones(5, 4, 8))) == {"a": 1280, "b": 1280}


# Others.


@BOTH
def test_out_dtype_is_the_operator_with_a_dtype_of_its_own(device: str) -> None:
    # 8 * 8 * 8 MACs; two int8 operands of 64 bytes read, 64 int32 written.
    from torch._higher_order_ops.out_dtype import out_dtype

    def product(model: Any, x: Tensor) -> Any:
        return out_dtype(torch.ops.aten.mm.default, torch.int32, x, x)

    (op,) = inspector.trace(Model(product), torch.ones(8, 8, dtype=torch.int8), device=device).ops
    assert (op.name, op.macs, op.bytes_written) == ("aten.mm", 512, 256)
    assert [spec.dtype for spec in op.outputs] == ["int32"]


@pytest.mark.parametrize(("reentrant", "macs"), [(False, 1536), (True, 2048)])
@BOTH
def test_checkpointing_counts_what_is_computed_again(reentrant: bool, macs: int, device: str) -> None:
    # Two layers of 256, forward 512. Backward: two weight gradients and the second layer's input gradient,
    # 768; computed again: the first layer (256), after which torch has all it needs. With reentrance the
    # input wants a gradient (256), and both layers run again.
    from torch.utils.checkpoint import checkpoint

    def run(model: Any, x: Tensor) -> Any:
        return checkpoint(model.a, x, use_reentrant=reentrant)

    model = Model(run, a=nn.Sequential(linear(8, 8), nn.ReLU(), linear(8, 8)))
    x = torch.ones(4, 8, requires_grad=reentrant)
    assert totals(inspector.trace(model, x, phase="train", device=device))["macs"] == macs


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        # A layer of 5 * 8 * 8 = 320.
        (lambda model, x: torch.vmap(model.a)(x), 320),
        # Forward, and the gradient of the input.
        (lambda model, x: torch.func.grad(lambda x: model.a(x).sum())(x), 640),
        (lambda model, x: torch.func.vjp(model.a, x)[1](torch.ones_like(x))[0], 640),
        # Each of 8 outputs pulls 8 values back: 8 * 8 * 8 beside the forward's 8 * 8.
        (lambda model, x: torch.func.jacrev(model.a)(x[0]), 64 + 512),
    ],
)
@BOTH
def test_transforms_of_functions(function: Callable[..., Any], macs: int, device: str) -> None:
    assert (
        totals(inspector.trace(Model(function, a=linear(8, 8)), torch.ones(5, 8), device=device))["macs"]
        == macs
    )


@BOTH
def test_vmap_trains_on_both_devices(device: str) -> None:
    model = Model(lambda model, x: torch.vmap(model.a)(x), a=linear(8, 8))
    trace = inspector.trace(model, torch.ones(5, 8), phase="train", device=device)
    assert totals(trace)["macs"] == 2 * 320  # and the weight's gradient


def test_no_transform_leaves_an_operator_unknown() -> None:
    def second(model: Any, x: Tensor) -> Any:
        return torch.func.hessian(lambda x: model.a(x).pow(2).sum())(x)

    def forward_mode(model: Any, x: Tensor) -> Any:
        return torch.func.jvp(model.a, (x,), (x,))[1]

    for function in (second, forward_mode):
        trace = inspector.trace(Model(function, a=linear(8, 8)), torch.ones(8))
        assert totals(trace)["unknown_ops"] == 0


def test_operators_of_an_import_within_the_forward_are_not_the_models() -> None:
    """torch 2.8 runs about 70 operators when it first imports its compiler, which `cond` does."""
    code = (
        "import sys, torch, inspector\n"
        "class Branch(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x * 3, (x,))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "print([op.name for op in inspector.trace(Branch(), torch.ones(4), device='cpu').ops])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['aten.sum', 'aten.gt', 'aten.mul']"


def test_in_place_views_run_each_time_on_meta() -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                assert x.clone().unsqueeze_(0).shape == (1, 5, 8)
                assert x.clone().t_().shape == (8, 5)
                assert x.clone().add_(1).shape == (5, 8)
            return x

    inspector.trace(Views(), torch.ones(5, 8), device="meta")


@pytest.mark.parametrize("inside", [False, True])
@BOTH
def test_a_function_that_is_compiled_whole_runs_as_it_was_written(inside: bool, device: str) -> None:
    def run(model: Any, x: Tensor) -> Any:
        return (torch.compile(model.a, fullgraph=True) if inside else model.compiled)(x)

    model = Model(run, a=linear(8, 8))
    model.compiled = torch.compile(lambda x: model.a(x), fullgraph=True)  # type: ignore[assignment]
    original = torch.compile
    assert macs_by_module(inspector.trace(model, torch.ones(4, 8), device=device)) == {"a": 256}
    assert torch.compile is original


def test_choosing_a_branch_does_not_spend_the_weights_that_autocast_keeps() -> None:
    # Under autocast a and b are read once, when they are cast; c, of the other branch, never.
    report = inspector.profile(branches(), torch.ones(4, 8), roofline="h100", amp=True)
    assert [f.message for f in report.findings if f.check == "unused"] == [
        "1 parameter tensors were not read by any operator in this pass"
    ]
