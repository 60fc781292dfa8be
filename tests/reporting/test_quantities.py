"""The registry: every entry can be written, and every number that commands report is in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import inspector
from inspector.models.catalogue import models
from inspector.reporting.numbers import written
from inspector.reporting.registry import (
    DIRECTIONS,
    FAMILIES,
    KINDS,
    OF_TABLE,
    QUANTITIES,
    TEXT,
    Form,
    Quantity,
    Unit,
    column,
    is_missing,
    is_number,
    quantity,
)
from inspector.reporting.report import Report, metric

ENTRIES = [
    *QUANTITIES.items(),
    *FAMILIES.items(),
    *((f"{table}/{name}", held) for table, columns in OF_TABLE.items() for name, held in columns.items()),
]


@pytest.mark.parametrize(("name", "held"), ENTRIES)
def test_an_entry_is_sound_and_can_be_written(name: str, held: Quantity) -> None:
    assert isinstance(held.unit, Unit)
    assert held.kind in KINDS
    assert held.direction in DIRECTIONS
    assert written(1, held.form)
    assert "0" in written(0, held.form)
    assert written(None, held.form) in ("", "unknown")
    assert written("as it is", held.form) == "as it is"


@pytest.mark.parametrize("form", Form)
def test_every_form_writes_what_is_no_plain_number(form: Form) -> None:
    assert [written(value, form) for value in (float("inf"), True, [1])] == ["inf", "yes", "[1]"]


def test_a_unit_is_its_text() -> None:
    assert (f"{Unit.BYTE}", str(Unit.MAC), Unit.COUNT) == ("byte", "MAC", "count")
    assert {Unit.BYTE: 1}["byte"] == 1  # type: ignore[index]


def test_a_metric_takes_the_rest_from_its_name() -> None:
    assert metric("macs", 5, lower_bound=True) == metric("macs", 5, lower_bound=True)
    made = metric("frozen_params", 7)
    assert (made.unit, made.kind, made.direction, made.label) == (
        "count",
        "exact",
        "none",
        "frozen parameters",
    )
    row = metric("train/8/fp32/peak_allocated", 7)
    assert (row.unit, row.kind, row.shown, row.label) == ("byte", "toleranced", False, "")
    family = metric("peak_optimizer_state", 7)
    assert (family.unit, family.shown) == ("byte", False)
    assert metric("macs", 7, label="our MACs").label == "our MACs"


NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
X = torch.zeros(2, 3, 8, 8)
REPORTS: dict[str, Callable[[], Report]] = {
    "profile": lambda: inspector.profile(NET, X, phase="train", roofline="h100"),
    "params": lambda: inspector.params(NET),
    "stages": lambda: inspector.stages("resnet18"),
    "memory": lambda: inspector.memory("resnet18", phase="train", world_size=2, max_batch="1GiB"),
    "freeze": lambda: inspector.freeze("resnet18", 2).report(),
    "init": lambda: inspector.init(NET),
    "bench": lambda: inspector.bench(
        NET, X, precisions=["fp32", "bf16"], modes=["infer"], device="cpu", seconds=0.1
    ),
    "page": lambda: inspector.page(NET, X),
    "table": lambda: inspector.table(["squeezenet1_1"], measure=["latency", "memory"], rounds=2),
    "models": lambda: models("resnet18"),
    "env": lambda: inspector.env(),
}


@pytest.mark.parametrize("name", REPORTS)
def test_every_number_of_a_command_is_registered(name: str) -> None:
    report = REPORTS[name]()
    for key, value in report.metrics.items():
        assert quantity(key) is not TEXT, key
        assert quantity(key).unit == value.unit
    for table, frame in report.tables.items():
        for key in frame:
            held = column(table, str(key))
            values = [value for value in frame[key] if not is_missing(value)]
            if any(map(is_number, values)):
                assert held is not TEXT, f"{table}.{key}"
            if held.unit != Unit.NONE:
                assert all(map(is_number, values)), f"{table}.{key}"
