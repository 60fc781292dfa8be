"""What is quicker than torch's own mode for fake tensors gives what that gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from inspector.scaling.parallelize import _Chunks
from inspector.tracing._torch import FakeTensor, FakeTensorMode
from inspector.tracing.capture.fake import FakeMemo, Unrecorded
from inspector.tracing.capture.masks import share_left
from inspector.tracing.capture.pricing import Operator
from inspector.tracing.capture.recorder import Recorder

aten = torch.ops.aten
MODE = FakeTensorMode(allow_non_fake_inputs=True)
MEMO = FakeMemo(MODE)

VIEWS = [
    (aten.view.default, [6, 4]),
    (aten._unsafe_view.default, [24]),
    (aten.t.default,),
    (aten.detach.default,),
    (aten.alias.default,),
    (aten.as_strided.default, [2, 2], [1, 3], 5),
    (aten.slice.Tensor, 1, 1, 3),
    (aten.select.int, 0, 2),
    (aten.transpose.int, 0, 1),
    (aten.permute.default, [1, 0]),
    (aten.unsqueeze.default, 1),
    (aten.expand.default, [3, 4, 6]),
    (aten.squeeze.dim, 0),
    (aten.view.dtype, torch.int32),
    (aten.diagonal.default,),
]


def fake(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    with MODE:
        return torch.empty(shape, dtype=dtype)


def form(value: Any) -> list[Any]:
    return [
        (type(t), t.shape, t.stride(), t.storage_offset(), t.dtype, t.device, t.untyped_storage().nbytes())
        if isinstance(t, Tensor)
        else t
        for t in tree_leaves(value)
    ]


@pytest.mark.parametrize("call", VIEWS, ids=lambda call: str(call[0]))
@pytest.mark.parametrize("base", ["whole", "part"])
def test_a_view_is_the_one_that_torch_gives(call: tuple[Any, ...], base: str) -> None:
    func, *args = call
    with MODE:
        tensor: Any = torch.empty(4, 6) if base == "whole" else torch.empty(6, 6)[2:]
        operator = Operator(func, {})
        assert operator.view
        refused = lambda *args, **kwargs: pytest.fail("the ordinary way")  # noqa: E731
        quick, ordinary = MEMO.run(refused, func, operator, (tensor, *args), {}), func(tensor, *args)
    assert form(quick) == form(ordinary)
    assert quick.untyped_storage()._cdata == tensor.untyped_storage()._cdata


@pytest.mark.parametrize(
    "func",
    [aten.clone.default, aten.mul.Tensor, aten.add_.Tensor, aten.split.Tensor,
     aten.zeros_like.default, aten.copy_.default, aten.unbind.int],
    ids=str,
)  # fmt: skip
def test_what_is_no_single_view_is_none(func: Any) -> None:
    assert not Operator(func, {}).view


def test_a_tensor_whose_value_is_known_keeps_it() -> None:
    with MODE:
        step: Any = torch.tensor(3.0)
        operator = Operator(aten.detach.default, {})
        detached = MEMO.run(aten.detach.default, aten.detach.default, operator, (step,), {})
        counted = MEMO.run_list(aten._foreach_add.Scalar, ([step, torch.tensor(7.0)], 1), {})
    assert step.constant is not None
    assert detached.item() == 3.0
    assert [value.item() for value in counted] == [4.0, 8.0]


TENSORS = [
    fake(2, 3),
    fake(5),
    fake(2, 3),
    fake(2, 3, dtype=torch.bfloat16),
    fake(3, 2).t(),
    fake(5),
    fake(0),
]
OTHERS = [fake(2, 3), fake(5), fake(3), fake(2, 3), fake(2, 3), fake(5), fake(0)]


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten._foreach_sqrt.default, (TENSORS,)),
        (aten._foreach_add.List, (TENSORS, OTHERS)),
        (aten._foreach_mul.Scalar, (TENSORS, 2.0)),
        (aten._foreach_div.ScalarList, (TENSORS, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])),
        (aten._foreach_addcmul.Scalar, (TENSORS, OTHERS, OTHERS, 0.5)),
        (aten._foreach_lerp.Scalar, (TENSORS[:2], OTHERS[:2], 0.1)),
        (aten._foreach_norm.Scalar, (TENSORS, 2)),
        (aten._foreach_add_.List, (TENSORS, TENSORS)),
        (aten._foreach_copy_.default, (TENSORS, TENSORS)),
    ],
    ids=lambda value: str(value) if hasattr(value, "overloadpacket") else "",
)
def test_an_operator_on_lists_runs_on_one_of_each_kind(func: Any, args: Any) -> None:
    runs = []

    def run(*args: Any, **kwargs: Any) -> Any:
        runs.append(len(args[0]))
        return func(*args, **kwargs)

    with MODE:
        quick, ordinary = MEMO.run_list(run, args, {}), func(*args)
    assert form(quick) == form(ordinary)
    assert len(runs) == 1
    assert runs[0] < len(args[0]) or len(args[0]) == 2
    if quick is not None:
        storages = {tensor.untyped_storage()._cdata for tensor in quick}
        assert len(storages) == len(quick)  # each in memory of its own


def test_lists_of_what_is_no_fake_tensor_run_as_ever() -> None:
    real = [torch.rand(2), torch.rand(2)]
    assert torch.equal(MEMO.run_list(aten._foreach_mul.Scalar, (real, 2.0), {})[1], real[1] * 2)


@pytest.mark.parametrize("func", [aten.empty_like.default, aten.zeros_like.default], ids=str)
@pytest.mark.parametrize(
    "kwargs", [{}, {"dtype": torch.float16}, {"device": "cpu"}, {"device": "meta"}], ids=str
)
@pytest.mark.parametrize("kind", ["contiguous", "turned", "spread", "expanded", "meta", "channels last"])
def test_a_tensor_like_another_is_the_one_that_torch_gives(func: Any, kwargs: Any, kind: str) -> None:
    tensor: Any = {
        "contiguous": lambda: fake(2, 3),
        "turned": lambda: fake(3, 2).t(),
        "spread": lambda: fake(4, 6)[:, ::2],
        "expanded": lambda: fake(1, 3).expand(2, 3),
        "meta": lambda: torch.empty(3, 2, device="meta").t(),
        "channels last": lambda: fake(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }[kind]()
    with MODE:
        ordinary = func(tensor, **kwargs)
        with Unrecorded(MEMO):
            for _ in range(2):  # learned, then remembered
                assert form(func(tensor, **kwargs)) == form(ordinary)


@pytest.mark.parametrize("size", [0, 1, 5, 8, 9, 16])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 8, 20])
@pytest.mark.parametrize("dim", [0, 1])
def test_chunks_are_those_of_torch(size: int, count: int, dim: int) -> None:
    tensor = torch.arange(3 * size).reshape((size, 3) if dim == 0 else (3, size))
    if size == 0:
        pytest.skip("torch's own function cuts those")
    whole = list(torch.chunk(tensor, count, dim=dim))
    whole += [tensor.new_empty(0)] * (count - len(whole))
    for index, part in enumerate(whole):
        chunk = _Chunks(tensor, count, dim)[index]
        assert torch.equal(chunk, part)
        assert chunk.shape == part.shape


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (4, 4), (3, 7), (7, 3), (0, 4), (5, 1)])
def test_a_causal_mask_leaves_what_counting_says(queries: int, keys: int) -> None:
    args = torch.empty(1, 2, queries, 8), torch.empty(1, 2, keys, 8), torch.empty(1, 2, keys, 8)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril()
    expected = mask.float().mean().item() if mask.numel() else 1.0
    assert share_left(Recorder({}, "cpu"), args, {"is_causal": True}) == pytest.approx(expected)


def test_a_fake_tensor_that_is_its_own_view_stays_itself() -> None:
    tensor = fake(2)
    with MODE:
        operator = Operator(aten.lift_fresh.default, {})
        lifted = MEMO.run(aten.lift_fresh.default, aten.lift_fresh.default, operator, (tensor,), {})
    assert type(lifted) is FakeTensor
