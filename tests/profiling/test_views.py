"""Views are sums of a trace; the sums here are done by hand on the trace of conftest.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inspector.profiling.views.modules import ancestors, modules_frame, tree, types_frame
from inspector.profiling.views.ops import ops_frame, unknown_frame
from inspector.profiling.views.state import kinds_frame, ledger_frame
from inspector.profiling.views.totals import totals
from inspector.reporting.tables import Table
from inspector.tracing.record import Trace


def row(table: Table, column: str, value: Any) -> dict[str, Any]:
    return next(record for record in table.records() if record[column] == value)


def test_totals_add_up_and_count_the_unknown(trace: Trace) -> None:
    sums = totals(trace)
    assert sums["macs"] == 400
    assert sums["pointwise_flops"] == 26
    assert sums["flops"] == 2 * 400 + 26
    assert (sums["ops"], sums["unknown_ops"]) == (4, 1)
    assert (sums["params"], sums["trainable_params"], sums["buffers"]) == (27, 20, 1)
    assert (sums["param_bytes"], sums["buffer_bytes"]) == (108, 8)
    assert sums["activations"] == 12
    assert sums["bytes_moved"] == 4 * 48


def test_a_training_trace_has_both_directions(trace: Trace) -> None:
    backward = replace(trace.ops[0], phase="backward", macs=150)
    sums = totals(replace(trace, phase="train", ops=(*trace.ops, backward)))
    assert (sums["forward_macs"], sums["backward_macs"], sums["macs"]) == (400, 150, 550)


def test_a_module_sums_everything_inside(trace: Trace) -> None:
    frame = modules_frame(trace)
    assert frame["path"] == ["", "body", "body.first", "body.second"]
    body = row(frame, "path", "body")
    assert (body["macs"], body["flops"], body["unknown_ops"]) == (400, 826, 1)
    second = row(frame, "path", "body.second")
    assert (second["macs"], second["calls"], second["depth"]) == (300, 2, 2)
    assert second["share"] == 0.75


def test_a_tied_parameter_counts_once_in_each_module_that_names_it(trace: Trace) -> None:
    frame = modules_frame(trace)
    assert row(frame, "path", "")["params"] == 27
    assert row(frame, "path", "body.first")["params"] == 20
    assert row(frame, "path", "body.second")["params"] == 27


def test_types_do_not_count_children_twice(trace: Trace) -> None:
    frame = types_frame(trace)
    assert sum(frame["macs"]) == 400
    linear = row(frame, "type", "Linear")
    assert (linear["modules"], linear["calls"], linear["macs"], linear["params"]) == (2, 3, 400, 27)


def test_the_tree_indents_to_its_depth_and_names_the_model(trace: Trace) -> None:
    frame = modules_frame(trace)
    assert tree(frame, "toy", 1)["module"] == ["toy", "  body"]
    assert tree(frame, "toy", 9, top=1)["module"] == ["body.second"]


def test_an_unknown_operator_has_no_macs_rather_than_zero(trace: Trace) -> None:
    frame = ops_frame(trace)
    assert frame["op"][0] == "aten.addmm"
    mystery = row(frame, "op", "my.mystery")
    assert mystery["macs"] is None
    assert mystery["flops"] is None
    assert row(frame, "op", "aten.relu")["macs"] == 0
    assert unknown_frame(trace).records() == [{"op": "my.mystery", "calls": 1, "module": "body.second"}]


def test_a_module_of_unknown_operators_has_no_macs_rather_than_zero(trace: Trace) -> None:
    only = replace(trace, ops=(replace(trace.ops[3], module="body.first"), trace.ops[2]))
    first = row(modules_frame(only), "path", "body.first")
    assert first["macs"] is None
    assert first["flops"] is None
    assert row(modules_frame(only), "path", "")["macs"] == 300
    assert tree(modules_frame(only), "toy", 2, top=1)["module"] == ["body.second"]


def test_an_empty_trace_makes_empty_views(trace: Trace) -> None:
    empty = replace(trace, ops=(), modules=(), state=())
    assert totals(empty)["macs"] == 0
    for frame in (modules_frame(empty), types_frame(empty), ops_frame(empty), unknown_frame(empty)):
        assert len(frame) == 0


def test_the_ledger_shows_ties_and_kinds(trace: Trace) -> None:
    ledger = ledger_frame(trace.state)
    assert ledger["shape"] == ["5x4", "7", "scalar"]
    assert ledger["tied"] == ["body.second.weight", "", ""]
    kinds = kinds_frame(trace.state)
    assert kinds["kind"] == ["parameter", "parameter (frozen)", "buffer (not persistent)"]
    assert kinds["bytes"] == [80, 28, 8]


def test_ancestors_end_at_the_model() -> None:
    assert list(ancestors("a.b.c")) == ["a.b.c", "a.b", "a", ""]
    assert list(ancestors("")) == [""]
