"""The views that a page draws: calls, live bytes, areas. Expected values are sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from inspector.pages.timeline import peak, timeline_frame
from inspector.profiling.views.calls import calls_frame
from inspector.profiling.views.icicle import icicle_frame
from inspector.tracing.record import Op, Storage, TensorSpec, Trace


def test_each_call_is_a_row_with_its_intensity(trace: Trace) -> None:
    frame = calls_frame(trace)
    first = frame.records()[0]
    assert frame["op"] == ["aten.addmm", "aten.relu", "aten.addmm", "my.mystery"]
    assert (first["module"], first["inputs"], first["outputs"]) == ("body.first", "2x3", "2x3")
    # 2 x 100 MACs + 10 pointwise FLOPs; 24 bytes read and 24 written
    assert (first["flops"], first["bytes"], first["intensity"]) == (210, 48, 210 / 48)


def test_an_unknown_call_has_no_work_and_a_view_no_intensity(trace: Trace) -> None:
    view = replace(trace.ops[1], name="aten.view", pointwise_flops=0, bytes_read=0, bytes_written=0)
    frame = calls_frame(replace(trace, ops=(trace.ops[3], view)))
    assert [frame[name][0] for name in ("macs", "flops", "intensity")] == [None] * 3
    assert frame["flops"][1] == 0
    assert frame["intensity"][1] is None


def _ran(trace: Trace, count: int, *storages: Storage) -> Trace:
    spec = TensorSpec((1,), "float32", 0)
    op = Op("aten.relu", "", "body", "forward", (spec,), (spec,), 0, 1, 0, 4, 4)
    return replace(trace, ops=(op,) * count, storages=storages)


def test_live_bytes_follow_birth_and_death(trace: Trace) -> None:
    ran = _ran(
        trace,
        4,
        Storage(1000, "meta", "parameter", None, None),
        Storage(50, "meta", "input", None, 1),  # let go after operator 1 had run
        Storage(7, "meta", "intermediate", 1, 2),
        Storage(300, "meta", "intermediate", 2, None),
    )
    frame = timeline_frame(ran)
    assert frame["parameter"] == [1000] * 4
    assert frame["input"] == [50, 50, 0, 0]
    assert frame["intermediate"] == [0, 7, 307, 300]
    assert frame["buffer"] == [0] * 4
    assert frame["total"] == [1050, 1057, 1307, 1300]
    assert peak(frame) == {
        "index": 2, "parameter": 1000, "buffer": 0, "input": 0, "constant": 0, "gradient": 0,
        "intermediate": 307,
        "total": 1307,
    }  # fmt: skip


def test_what_died_before_any_operator_ran_never_lives(trace: Trace) -> None:
    inside = Storage(7, "meta", "intermediate", 1, 0)  # made and dropped while operator 1 ran
    frame = timeline_frame(_ran(trace, 2, Storage(50, "meta", "input", None, -1), inside))
    assert frame["total"] == [0, 0]


def test_a_pass_without_operators_has_no_peak(trace: Trace) -> None:
    assert peak(timeline_frame(_ran(trace, 0, Storage(50, "meta", "input", None, None)))) is None


def test_areas_add_up_and_a_tied_parameter_is_drawn_once(trace: Trace) -> None:
    frame = icicle_frame(trace).to_frame().set_index("path")
    # body.first.weight: 5 x 4, tied to body.second.weight; body.second.bias: 7
    assert frame["params"].to_dict() == {"": 27, "body": 27, "body.first": 20, "body.second": 7}
    assert frame["macs"].to_dict() == {"": 400, "body": 400, "body.first": 100, "body.second": 300}
    assert frame["bytes"].to_dict() == {"": 192, "body": 192, "body.first": 48, "body.second": 96}
    assert frame["unknown_ops"].to_dict() == {"": 1, "body": 1, "body.first": 0, "body.second": 1}
    assert frame["parent"].tolist()[1:] == ["", "body", "body"]
    assert pd.isna(frame.loc["", "parent"])


def test_the_time_of_a_module_is_its_own_and_that_of_its_children(trace: Trace) -> None:
    frame = icicle_frame(trace, {"": 1.0, "body": 2.0, "body.second": 4.0}).to_frame().set_index("path")
    assert frame["seconds"].to_dict() == {"": 7.0, "body": 6.0, "body.first": 0.0, "body.second": 4.0}
