"""What a comparison does not need is not parsed; what it needs is the same as when all is read at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inspector.core.errors import InspectError
from inspector.regress.compare import compare
from inspector.regress.content import side
from inspector.regress.later import Later, content_of
from inspector.regress.outcome import report
from inspector.regress.source import read
from inspector.reporting.schema import as_text, plain_content
from tests.regress.hand import Content, layer, row, table

pytestmark = pytest.mark.once


def zoo(width: int) -> Content:
    """Two models, the second of which is `width` wide."""
    return table(
        [row("a", params=6, macs=60, ops=1), row("b", params=3 * width, macs=30 * width, ops=2)],
        layers=[
            layer("a", "fc", "Linear", "3x2", 6, 60),
            layer("b", "body.fc", "Linear", f"{width}x3", 3 * width, 30 * width),
        ],
        ops=[{"model": "a", "op": "mm", "calls": 1}, {"model": "b", "op": "mm", "calls": 2}],
        stages=[{"model": "b", "index": None, "modules": "body", "params": 3 * width, "macs": 30 * width}],
    )


def written(content: Content, file: Path) -> str:
    file.write_text(as_text(content) + "\n")
    return str(file)


def test_equal_tables_are_compared_without_their_layers(tmp_path: Path) -> None:
    base, head = (read(written(zoo(4), tmp_path / name)) for name in ("base.json", "head.json"))
    assert {change.state for change in compare(base, head).changes} == {"ok"}
    layers = base.content["tables"]["layers"]
    assert isinstance(layers, Later)
    assert "_rows" not in vars(layers)


def test_a_change_is_explained_as_if_all_had_been_read(tmp_path: Path) -> None:
    base, head = zoo(4), zoo(5)
    now = report(compare(side(base, "base.json"), side(head, "head.json")))
    places = [written(content, tmp_path / name) for content, name in ((base, "b.json"), (head, "h.json"))]
    later = report(compare(*map(read, places)))
    assert later.tables == now.tables
    assert later.tables["where"]["module"] == ["body.fc"]
    assert later.tables["where"]["macs"] == [30]


def test_the_rows_are_those_of_the_file(tmp_path: Path) -> None:
    text = as_text(zoo(4))
    content = content_of(text, "zoo.json")
    assert {name: list(rows) for name, rows in content["tables"].items()} == zoo(4)["tables"]
    assert as_text(content) == text == as_text(plain_content(text, "zoo.json"))
    assert len(content["tables"]["ops"]) == 2
    assert content["tables"]["ops"][1]["calls"] == 2


def test_a_broken_layer_is_refused_when_it_is_needed(tmp_path: Path) -> None:
    lines = as_text(zoo(5)).replace('"macs": 150}', '"macs": "?"}')
    (tmp_path / "h.json").write_text(lines)
    head, base = read(str(tmp_path / "h.json")), read(written(zoo(4), tmp_path / "b.json"))
    with pytest.raises(InspectError, match=r"h\.json says inspector\.report/2 but does not follow it"):
        compare(base, head)
    torn = as_text(zoo(5)).replace('"path": "body.fc", ', '"path": "body.fc" ')
    (tmp_path / "h.json").write_text(torn)
    with pytest.raises(InspectError, match=r"h\.json is not a complete JSON file"):
        compare(base, read(str(tmp_path / "h.json")))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(zoo(4)),
        json.dumps(zoo(4), indent=2),
        as_text(zoo(4)).replace("report/2", "report/1"),
        as_text({**zoo(4), "added": [zoo(4)]}).replace('"layers"', '"other"'),
    ],
)
def test_a_file_of_another_layout_is_read_at_once(text: str) -> None:
    content = content_of(text, "zoo.json")
    assert content == plain_content(text, "zoo.json") or "other" in text
    assert not isinstance(content["tables"].get("layers"), Later)


def test_a_table_that_stands_twice_is_refused() -> None:
    lines = as_text(zoo(4)).splitlines()
    start = lines.index('    "ops": [')
    twice = "\n".join([*lines[:start], *lines[start : start + 4], *lines[start:]])
    with pytest.raises(InspectError, match="'ops' stands twice"):
        content_of(twice, "zoo.json")
