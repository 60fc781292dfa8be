"""The tree of what changed: areas, words and colours of two lists of layers, by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from torch import nn

import inspector
from inspector.regress.content import Layer
from inspector.regress.growth import growth, growth_frame

pytestmark = pytest.mark.once

BASE = [
    Layer("stem", "Conv2d", "8x3x3x3", 1, 216, 1000),
    Layer("body.a", "Linear", "10x10", 1, 100, 100),
    Layer("body.b", "Linear", "20x10", 1, 200, 200),
    Layer("head", "Linear", "5x20", 1, 100, 100),
]
HEAD = [
    Layer("stem", "Conv2d", "8x3x3x3", 1, 216, 1000),
    Layer("body.a", "Linear", "15x10", 1, 150, 150),
    Layer("body.b", "Linear", "20x15", 1, 210, 210),
    Layer("extra", "Linear", "7x5", 1, 35, 35),
]


def test_an_area_is_the_larger_of_two_sides_and_a_sum() -> None:
    rows = {row["path"]: row for row in growth_frame(BASE, HEAD).records()}
    assert list(rows) == ["", "stem", "body", "body.a", "body.b", "extra", "head"]
    assert [rows[path]["parent"] for path in ("", "body", "body.a")] == [None, "", "body"]
    # 1000, 150 and 210 are now, 35 is new, 100 are gone: 1495.
    assert {path: row["MACs"] for path, row in rows.items()} == {
        "": 1495, "stem": 1000, "body": 360, "body.a": 150, "body.b": 210, "extra": 35, "head": 100,
    }  # fmt: skip
    # 1000 + 100 + 200 + 100, against 1000 + 150 + 210 + 35
    assert rows[""]["MACs, base to head"] == "1.400 k to 1.395 k"
    assert rows["body"]["MACs, base to head"] == "300 to 360"
    assert {path: row["growth of MACs"] for path, row in rows.items()} == {
        "": "a little smaller", "stem": "the same", "body": "larger", "body.a": "larger",
        "body.b": "a little larger", "extra": "new", "head": "gone",
    }  # fmt: skip
    assert rows["body"]["type"] == ""
    assert rows["head"]["type"] == "Linear"


def test_a_renamed_module_is_compared_with_what_it_was() -> None:
    renamed = [layer._replace(path=f"net.{layer.path}") for layer in BASE]
    rows = growth_frame(BASE, renamed).records()
    assert {row["growth of parameters"] for row in rows} == {"the same"}
    assert rows[0]["parameters"] == 616


@pytest.mark.parametrize(
    ("base", "head", "word"),
    [
        (100, 109, "a little larger"), (100, 110, "larger"), (100, 91, "a little smaller"),
        (100, 90, "smaller"), (0, 0, "the same"), (0, 1, "new"), (1, 0, "gone"),
    ],
)  # fmt: skip
def test_a_change_has_a_word(base: int, head: int, word: str) -> None:
    assert growth(base, head) == word


def profile(path: Path, width: int) -> Path:
    net = nn.Sequential(nn.Linear(4, width, bias=False), nn.ReLU(), nn.Linear(width, 2, bias=False))
    return inspector.profile(net, "3x4").save(path)


def test_the_page_of_a_comparison_has_the_tree_and_other_formats_do_not(tmp_path: Path) -> None:
    base, head = profile(tmp_path / "a.json", 5), profile(tmp_path / "b.json", 6)
    compared = inspector.diff(base, head)
    page = compared.save(tmp_path / "diff.html").read_text()
    (data,) = re.findall(r'<script type="application/json" class="values">(.*?)</script>', page)
    values = json.loads(data)
    # 3 rows of 4x5 and 5x2, then of 4x6 and 6x2
    assert dict(zip(values["path"], values["values"]["MACs"])) == {"": 3 * 36, "0": 3 * 24, "2": 3 * 12}
    assert values["texts"]["MACs, base to head"][0] == "90 to 108"
    assert values["color"]["MACs"] == ["k-larger"] * 3
    assert "MACs: 90 to 108" in page
    assert "what changed" not in compared.written("markdown")


def test_equal_sides_have_no_tree(tmp_path: Path) -> None:
    base = profile(tmp_path / "a.json", 5)
    assert 'class="boxes"' not in inspector.diff(base, base).written("html")
