"""Lower bounds of time by hand, on a device of 1 GFLOP/s (TF32 and half precision: 4) and 1 GB/s."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inspector.profiling.views.bounds import Roof, bound, modules_frame, operators_frame, whole
from inspector.tracing.record import Op, TensorSpec, Trace

ROOF = Roof({"fp32": 1e9, "tf32": 4e9, "bf16": 4e9}, 1e9)


def op(
    macs: int | None, pointwise: int | None, nbytes: int, dtype: str = "float32", density: float = 1.0
) -> Op:
    spec = TensorSpec((2, 3), dtype, 0)
    return Op("aten.mm", "mm", "", "forward", (spec,), (spec,), macs, pointwise, 0, nbytes, 0, density)


def test_a_large_product_is_bound_by_compute() -> None:
    found = bound(op(1_000_000, 0, 1_000), ROOF)  # 2e6 FLOPs / 1e9, 1e3 bytes / 1e9
    assert (found.kind, found.seconds) == ("compute", 2e-3)


def test_a_copy_is_bound_by_memory() -> None:
    found = bound(op(0, 100, 1_000_000), ROOF)
    assert (found.kind, found.seconds) == ("memory", 1e-3)


def test_products_and_other_arithmetic_may_overlap() -> None:
    assert bound(op(1_000, 3_000, 8), ROOF).seconds == pytest.approx(3e-6)  # not 2e-6 + 3e-6


def test_half_precision_has_its_own_peak_for_products_only() -> None:
    assert bound(op(1_000, 0, 0, "bfloat16"), ROOF).seconds == pytest.approx(2_000 / 4e9)
    assert bound(op(0, 1_000, 0, "bfloat16"), ROOF).seconds == pytest.approx(1_000 / 1e9)


def test_tf32_is_taken_where_it_is_asked_for() -> None:
    assert bound(op(1_000, 0, 0), replace(ROOF, tf32=True)).seconds == pytest.approx(2_000 / 4e9)


def test_a_causal_mask_lowers_the_bound() -> None:
    assert bound(op(1_000, 0, 0, density=0.625), ROOF).seconds == pytest.approx(1_250 / 1e9)


def test_what_is_not_known_is_bound_by_its_bytes_and_counted() -> None:
    unknown, no_peak = op(None, None, 1_000), op(1_000, 0, 500, "float16")
    assert bound(unknown, ROOF).compute is None
    assert bound(no_peak, ROOF).compute is None
    trace = Trace("m", "python", "forward", "meta", (), (unknown, no_peak), (), (), ())
    assert whole(trace, ROOF)["unknown"] == 2
    assert whole(trace, ROOF)["seconds"] == pytest.approx(1.5e-6)


def test_tables_sum_over_operators_and_modules(trace: Trace) -> None:
    # The trace of conftest.py: each operator moves 48 bytes, 48 ns. Compute: 2 x 100 MACs are 200 ns, 6
    # FLOPs 6 ns, 2 x 300 are 600 ns, the unknown one nothing: 200 + 48 + 600 + 48.
    operators = operators_frame(trace, ROOF).to_frame().set_index("op")
    assert operators["seconds"].to_dict() == pytest.approx(
        {"aten.addmm": 800e-9, "aten.relu": 48e-9, "my.mystery": 48e-9}
    )
    assert operators.loc["aten.addmm", "bound"] == "compute"
    assert operators.loc["my.mystery", "unknown"] == 1
    assert operators["share"].sum() == pytest.approx(1)
    modules = modules_frame(trace, ROOF).to_frame().set_index("path")
    assert modules.loc["", "seconds"] == pytest.approx(896e-9)
    assert modules.loc["body.second", "seconds"] == pytest.approx(648e-9)
    assert modules.loc["body.second", "share"] == pytest.approx(648 / 896)
    sums = whole(trace, ROOF)
    assert sums["memory_bound"] == pytest.approx(96 / 896)
    assert sums["ridge"] == 4


def test_an_operator_that_moves_nothing_has_no_row(trace: Trace) -> None:
    view = replace(trace.ops[1], name="aten.view", macs=0, pointwise_flops=0, bytes_read=0, bytes_written=0)
    frame = operators_frame(replace(trace, ops=(view,)), ROOF)
    assert len(frame) == 0
