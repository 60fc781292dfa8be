"""A name that stands twice is an error that says which."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inspector.core.errors import InspectError
from inspector.regress.content import side
from inspector.regress.sweep.row import Entry
from inspector.regress.sweep.table import table as count
from inspector.reporting.report import from_json
from tests.regress.hand import metric, row, single, table

pytestmark = pytest.mark.once


def layer(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "type": "Linear", "shape": "2x2", "calls": 1, "params": 4, "macs": 4, **more}


def test_two_rows_of_one_name_are_refused_by_the_comparison_and_by_the_reader() -> None:
    content = table([row("left"), row("right"), row("left")])
    for read in (side, lambda content, place: from_json(json.dumps(content), place)):
        with pytest.raises(InspectError, match=r"base.json .*two rows are called 'left'"):
            read(content, "base.json")


@pytest.mark.parametrize("name", ["layers", "ops"])
@pytest.mark.parametrize("command", ["profile", "table"])
def test_what_explains_a_change_stands_once_for_each_model(command: str, name: str) -> None:
    of = {"model": "m"} if command == "table" else {}
    lines = [layer("body", **of), layer("head", **of)] if name == "layers" else [
        {"op": "mm", "calls": 1, **of}, {"op": "add", "calls": 1, **of},
    ]  # fmt: skip
    content = table([row("m")]) if command == "table" else single("profile", {"macs": metric(5)})
    content["tables"][name] = lines
    side(content, "base.json")
    content["tables"][name] = [*lines, lines[0]]
    with pytest.raises(InspectError, match=r"two rows are called '(body|mm)'"):
        side(content, "base.json")


def test_two_models_may_have_the_same_layers() -> None:
    content = table([row("a"), row("b")])
    content["tables"]["layers"] = [layer("body", model="a"), layer("body", model="b")]
    rows = side(content, "base.json").rows
    assert [one.layers[0].path for one in rows.values()] == ["body", "body"]


def test_a_key_that_stands_twice_in_a_file_is_named() -> None:
    text = json.dumps(single("profile", {"macs": metric(5)}))
    twice = text.replace('"macs":', '"macs": null, "macs":', 1)
    with pytest.raises(InspectError, match="'macs' stands twice in it"):
        from_json(twice, "base.json")


def test_a_deeply_nested_file_is_no_complete_json() -> None:
    for text in ("[" * 200_000, '{"a":' * 200_000):
        with pytest.raises(InspectError, match=r"base\.json is not a complete JSON file") as caught:
            from_json(text, "base.json")
        assert caught.value.hint


def test_two_different_entries_of_one_name_are_refused_from_python_too() -> None:
    with pytest.raises(InspectError, match="two different rows would be called 'x'"):
        count([Entry("x", "resnet18"), Entry("x", "resnet34")])
