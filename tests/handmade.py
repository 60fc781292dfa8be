"""A trace made by hand: two layers of a model, forward and backward, one unknown operator."""

from __future__ import annotations

import pytest

from inspector.tracing.record import Module, Op, StateEntry, Storage, TensorSpec, Trace


def op(name: str, module: str, macs: int | None, pointwise: int | None, phase: str = "forward") -> Op:
    spec = TensorSpec((2, 3), "float32", 0)
    return Op(
        name=name,
        group=name.removeprefix("aten."),
        module=module,
        phase=phase,
        inputs=(spec,),
        outputs=(spec,),
        macs=macs,
        pointwise_flops=pointwise,
        activations=6 if macs else 0,
        bytes_read=24,
        bytes_written=24,
    )


def parameter(name: str, shape: tuple[int, ...], *aliases: str, trainable: bool = True) -> StateEntry:
    numel = 1
    for size in shape:
        numel *= size
    return StateEntry(name, "parameter", shape, "float32", numel, 4 * numel, trainable, True, tuple(aliases))


@pytest.fixture
def trace() -> Trace:
    return Trace(
        model="toy",
        source="python",
        phase="forward",
        device="meta",
        inputs=("float32[2,3]",),
        ops=(
            op("aten.addmm", "body.first", 100, 10),
            op("aten.relu", "body", 0, 6),
            op("aten.addmm", "body.second", 300, 10),
            op("my.mystery", "body.second", None, None),
        ),
        storages=(Storage(24, "meta", "input", None, None),),
        modules=(
            Module("", "Toy", 1),
            Module("body", "Body", 1),
            Module("body.first", "Linear", 1),
            Module("body.second", "Linear", 2),
        ),
        state=(
            parameter("body.first.weight", (5, 4), "body.second.weight"),
            parameter("body.second.bias", (7,), trainable=False),
            StateEntry("body.count", "buffer", (), "int64", 1, 8, False, False),
        ),
    )
