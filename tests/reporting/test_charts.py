"""Charts of the HTML page: whole without a network, the same each time, nothing left out in silence."""

from __future__ import annotations

import html as text_of
import json
import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from inspector.reporting.formats import renderer
from inspector.reporting.formats.html import fragment
from inspector.reporting.formats.html.charts import area, axes, colors, html
from inspector.reporting.formats.html.charts.graph import LANES
from inspector.reporting.report import Chart, Metric, Report
from inspector.reporting.tables import Table

pytestmark = pytest.mark.once

FRAME = pd.DataFrame(
    {
        "precision": ["fp32", "fp16", "<script>alert(1)</script>"],
        "rate": [10.0, None, 30.0],
        "low": [9.0, None, 29.0],
        "high": [11.0, None, 40.0],
        "where": ["a", "a", "b"],
    }
)
BAR = Chart("bar", "rate <b>", "precision", "rate", FRAME, group="where", low="low", high="high")
LIVE = Table(
    {"operator": [0, 1, 2], "parameters": [2048] * 3, "inputs": [0, 1024, 512], "running": ["a", "b", "c"]}
)
AREA = Chart(
    "area", "live", "operator", "bytes", LIVE, choices=("parameters", "inputs"), label="running",
    optional="parameters",
)  # fmt: skip
TREE = Table(
    {
        "path": ["", "a", "b"], "parent": [None, "", ""], "label": ["toy", "a", "b"],
        "type": ["Toy", "Conv2d", "X"], "kind": ["container", "convolution", "other"], "MACs": [10, 7, 3],
        "parameters": [5, 5, 0],
    }
)  # fmt: skip
ICICLE = Chart(
    "icicle", "where", "path", "MACs", TREE, group="parent", label="label", color="kind",
    choices=("MACs", "parameters"), hover=("type",),
)  # fmt: skip


def values(text: str) -> Any:
    (data,) = re.findall(r'<script type="application/json" class="values">(.*?)</script>', text)
    return json.loads(data)


def test_a_page_needs_no_network_and_has_each_script_once(report: Report) -> None:
    page = renderer("html")(replace(report, charts=[BAR, AREA, AREA, ICICLE, ICICLE]))
    assert 'src="' not in page
    assert 'href="http' not in page
    for name in ("area.js", "icicle.js"):
        first = area.__file__.replace("area.py", name)
        with open(first, encoding="utf-8") as file:
            assert page.count(file.readlines()[1]) == 1, name


def test_without_charts_there_is_no_script_of_theirs(report: Report) -> None:
    assert page_scripts(renderer("html")(report)) == 1  # that of the tables
    assert page_scripts(renderer("html")(replace(report, charts=[BAR]))) == 2
    assert page_scripts(renderer("html")(replace(report, charts=[ICICLE]))) == 3
    assert "<script" not in fragment(replace(report, charts=[BAR]))


def page_scripts(page: str) -> int:
    return page.count("<script>")


@pytest.mark.parametrize("chart", [BAR, AREA, ICICLE], ids=lambda chart: chart.kind)
def test_the_same_charts_give_the_same_bytes(chart: Chart) -> None:
    assert html(chart, "a") == html(chart, "a")


def test_names_are_text() -> None:
    assert "<script>alert" not in html(BAR, "a")
    assert "&lt;script&gt;alert(1)" in html(BAR, "a")
    evil = replace(ICICLE, frame=TREE.assign(label=["</script><b>", "a", "b"]))
    assert "</script><b>" not in html(evil, "a")
    assert values(html(evil, "a"))["label"][0] == "</script><b>"


def test_rows_that_were_not_measured_are_named() -> None:
    assert "Not shown, because not measured: a, fp16" in html(BAR, "a")
    nothing = replace(BAR, frame=FRAME.assign(rate=None))
    assert 'class="bars"' not in html(nothing, "a")
    assert "Not shown" in html(nothing, "a")


def test_bars_are_as_long_as_their_numbers() -> None:
    # The longest end is the upper bound 40: 10 is 25%, 30 is 75%; from 29 to 40 is 72.5% and 27.5%.
    bars = re.findall(r'<i data-v="(\d+)" style="width:([\d.]+)%"', html(BAR, "a"))
    assert bars == [("10", "25.00"), ("30", "75.00")]
    assert "left:72.50%;width:27.50%" in html(BAR, "a")


def test_points_lie_where_their_numbers_say() -> None:
    frame = Table({"x": [1.0, 10.0, 1000.0, 0.0], "y": [0.0, 5.0, 10.0, 1.0], "name": ["a", "b", "c", "d"]})
    chart = Chart("scatter", "t", "x", "y", frame, label="name", log_x=True)
    # x in decades from 1 to 1000: 0, a third, all; a zero has no place on it. y from 0 to 10, upside down.
    points = re.findall(r'<circle cx="([\d.]+)%" cy="([\d.]+)%"', html(chart, "a"))
    assert points == [("0.00", "100.00"), ("33.33", "50.00"), ("100.00", "0.00")]
    assert 'data-tip="name: b\nx: 10' in html(chart, "a")


def test_names_that_would_lie_on_each_other_are_left_to_pointing() -> None:
    frame = Table(
        {"x": [1.0, 1.0, 1.0, 9.0], "y": [2.0, 2.0, 2.0, 8.0], "name": ["one", "two", "three", "far"]}
    )
    text = html(Chart("scatter", "t", "x", "y", frame, label="name"), "a")
    # One at its right, one at its left, and for the third no side is left.
    assert re.findall(r">([a-z]+)</text></g>", text) == ["one", "two", "far"]
    assert text.count("data-tip") == 4


def test_a_line_goes_through_its_points() -> None:
    frame = Table({"step": [0, 1, 2], "loss": [4.0, 2.0, 0.0]})
    text = html(Chart("line", "t", "step", "loss", frame), "a")
    # Both axes from 0 to the last number, in thousandths from the left and from the top.
    assert 'd="M0.00 0.00L500.00 500.00L1000.00 1000.00"' in text


def test_areas_lie_on_each_other_and_their_peak_is_marked() -> None:
    text = html(AREA, "a")
    assert values(text)["parts"] == {"parameters": [2048] * 3, "inputs": [0, 1024, 512]}
    views = re.findall(r'<div class="view"( hidden)? data-peak="(\d+)" data-high="(\d+)">', text)
    # 2048 + 1024 at the second of three operators; without the parameters 1024.
    assert views == [("", "3072", "3072"), (" hidden", "1024", "1024")]
    assert "peak: 3.000 KiB at operator 1, in b" in text
    assert '<circle cx="50.00%" cy="0.00%" r="5"/>' in text
    # The upper area ends at 3072 of 3072 over the middle third, and at 2048, a third below, before it.
    assert "M0.00 333.33L333.33 333.33L333.33 0.00L666.67 0.00" in text
    upper = re.findall(r'<path class="s-1" d="(.*?)"', text)[0]
    assert upper.endswith("L333.33 333.33L333.33 333.33L0.00 333.33Z")  # it stands on the lower one
    assert "show parameters" in text


def test_what_is_alone_has_no_switch() -> None:
    alone = replace(AREA, choices=("parameters",))
    assert "checkbox" not in html(alone, "a")
    assert html(replace(AREA, frame=LIVE.assign(parameters=[0] * 3, inputs=[0] * 3)), "a") == ""


def test_many_steps_are_thinned_and_the_highest_stays() -> None:
    count = 10 * area.MOST
    heights = [1] * count
    heights[1234] = 7
    thin = area.thinned(Table({"operator": range(count), "bytes": heights}), ("bytes",))
    assert len(thin) == area.MOST
    assert (max(thin["bytes"]), thin["operator"][thin["bytes"].index(7)]) == (7, 1234)


def test_the_tree_holds_the_numbers_and_a_colour_for_each_kind() -> None:
    text = html(ICICLE, "a")
    data = values(text)
    assert data["values"] == {"MACs": [10, 7, 3], "parameters": [5, 5, 0]}
    assert data["parent"] == [-1, 0, 0]
    assert data["color"]["MACs"] == ["k-container", "k-convolution", "k-other"]
    assert "MACs: 10 in all" in text
    legend = re.findall(r'<li><i class="(k-\w+)"></i>(\w+)</li>', text)
    assert legend == [("k-convolution", "convolution"), ("k-container", "container"), ("k-other", "other")]


def test_a_tree_without_numbers_is_not_drawn() -> None:
    assert html(replace(ICICLE, choices=()), "a") == ""


NODES = Table.of(
    [
        (0, None, "a", "Conv2d", "convolution", "", 1, "", 100, 10, 0),
        (1, None, "b", "Block", "container", "", 3, "d", 50, 5, 2),
        (2, 1, "b.x", "Linear", "linear", "", 1, "", None, 0, 0),
        (3, None, None, "", "", "add", 1, "", 0, None, 0),
    ],
    ("node", "scope", "module", "type", "kind", "operators", "times", "last", "macs", "params", "unclear"),
)
EDGES = Table.of(
    [(None, 0, None, 0, "1x3"), (None, 1, 0, 1, "1x8"), (None, 1, 0, 3, "1x8"), (None, 2, 1, 3, "1x8")],
    ("scope", "tensor", "source", "target", "shape"),
)  # fmt: skip
GRAPH = Chart("graph", "architecture", "node", "", NODES, edges=EDGES)


def test_the_graph_names_its_boxes_and_what_they_take() -> None:
    text = html(GRAPH, "a")
    assert '<span class="name">b … d</span> <b class="times">x 3</b>' in text
    assert "100 MACs, 10 params" in text
    assert "unknown MACs" in text
    assert "2 readings of tensors that several boxes here wrote in pieces: not drawn" in text
    takes = re.findall(r'<span class="unseen">(.*?)</span>', text)
    assert takes == ["takes 1x3 from input", "takes 1x8 from a", "takes 1x8 from a, 1x8 from b … d"]
    # One tensor skips a box: from the foot of the first, in row 4 x 1 + 3, to the head of the third.
    assert re.findall(r'class="rail" style="grid-row:(\d+)/(\d+);grid-column:(\d)', text) == [
        ("7", "14", "2")
    ]


def test_tensors_that_go_the_same_way_are_one_line() -> None:
    edges = [(None, n, 0, 3, shape) for n, shape in enumerate(["1x8", "1x8", "1x9", None])]
    text = html(replace(GRAPH, edges=Table.of(edges, EDGES.columns)), "a")
    assert text.count('class="rail"') == 1
    assert "<small>4 tensors: 1x8, 1x9</small>" in text


def test_lanes_are_limited_and_the_rest_is_counted() -> None:
    count = LANES + 3
    rows = [(n, None, f"m{n}", "X", "other", "", 1, "", 0, 0, 0) for n in range(2 * count + 1)]
    edges = [(None, n, n, 2 * count, "1") for n in range(count)]
    chart = replace(GRAPH, frame=Table.of(rows, NODES.columns), edges=Table.of(edges, EDGES.columns))
    text = html(chart, "a")
    assert text.count('class="rail"') == LANES
    assert "3 more tensors skip boxes here" in text


def test_spans_lie_where_they_ran() -> None:
    frame = Table.of(
        [
            ("m", 0, 0.0, 0.010, 0.010, "container"),
            ("m.a", 1, 0.002, 0.004, 0.002, "linear"),
            ("m.b", 1, 0.0, 1e-7, 1e-7, "norm"),
        ],
        ("module", "depth", "start", "stop", "seconds", "kind"),
    )  # fmt: skip
    chart = Chart(
        "spans", "when", "time", "depth", frame, low="start", high="stop", label="module", color="kind",
        hover=("module", "seconds"),
    )  # fmt: skip
    text = text_of.unescape(html(chart, "a"))
    assert "left:0.000%;width:100.000%;top:0rem" in text
    assert "left:20.000%;width:20.000%;top:1.5rem" in text
    assert "1 calls are too short to be seen here" in text
    assert "time (ms)" in text


@pytest.mark.parametrize(
    ("numbers", "log", "ticks"),
    [
        ([0, 10], False, ["0", "2", "4", "6", "8", "10"]),
        ([3, 3], False, ["2.5", "3", "3.5"]),
        ([0, 3.2e6], False, ["0", "1M", "2M", "3M", "4M"]),
        ([2, 900], True, ["1", "10", "100", "1k"]),
        ([1e-9, 1e9], True, ["1e-09", "1e-06", "0.001", "1", "1k", "1M", "1G"]),
    ],
)
def test_ticks_are_round(numbers: list[float], log: bool, ticks: list[str]) -> None:
    made = axes.axis("whatever", numbers, log)
    assert [text for _, text in made.ticks] == ticks
    assert made.low <= min(numbers) <= max(numbers) <= made.high


def test_bytes_and_seconds_have_units_that_show_them() -> None:
    made = axes.axis("bytes", [0, 3 * 2**20])
    assert (made.title, made.ticks[-1]) == ("bytes (MiB)", (3 * 2**20, "3"))
    assert axes.axis("seconds", [0.0, 0.004]).title == "seconds (ms)"
    assert axes.named("samples_per_second") == "samples per second"
    assert axes.named("macs") == "MACs"
    assert axes.named("drift") == "drift (relative L2)"


# Colours.

MATRICES = {
    "deuteranopia": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "protanopia": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
}
"""What is left of linear red, green and blue without a kind of cones: Machado, Oliveira, Fernandes 2009."""


def fills() -> dict[str, tuple[str, str]]:
    """The fill and the text colour of each kind that has its own."""
    with open(area.__file__.replace("area.py", "charts.css"), encoding="utf-8") as file:
        rules = re.findall(r"\.k-(\w+)\{--fill:(#\w+);--text:(#\w+)\}", file.read())
    return {
        name: (fill, text.replace("#fff", "#ffffff")) for name, fill, text in rules if name in colors.KINDS
    }


def linear(color: str) -> list[float]:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def luminance(color: str) -> float:
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear(color)))


def lab(rgb: list[float]) -> tuple[float, float, float]:
    """CIE L*a*b* of linear sRGB."""
    rows = ((0.4124, 0.3576, 0.1805, 0.9505), (0.2126, 0.7152, 0.0722, 1.0), (0.0193, 0.1192, 0.9505, 1.0888))
    x, y, z = (sum(w * p for w, p in zip(row, rgb)) / row[3] for row in rows)
    x, y, z = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (max(t, 0.0) for t in (x, y, z))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_texts_can_be_read_on_every_kind() -> None:
    assert len(fills()) == len(colors.KINDS) - 1  # a container's follows the theme
    for name, (fill, text) in fills().items():
        light, dark = sorted((luminance(fill), luminance(text)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name  # WCAG 2, level AA


@pytest.mark.parametrize("eyes", MATRICES)
def test_kinds_differ_for_eyes_that_lack_cones(eyes: str) -> None:
    seen = {
        name: lab([sum(w * p for w, p in zip(row, linear(fill))) for row in MATRICES[eyes]])
        for name, (fill, _) in fills().items()
    }
    names = list(seen)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            distance = sum((a - b) ** 2 for a, b in zip(seen[one], seen[other])) ** 0.5
            assert distance > 10, (one, other)  # about four times what is just noticeable


def test_other_formats_and_json_are_the_same_with_charts(report: Report) -> None:
    drawn = replace(report, charts=[BAR])
    for name in ("json", "table", "markdown", "csv"):
        assert renderer(name)(drawn) == renderer(name)(report)


@pytest.mark.parametrize("format_", ["table", "markdown", "html"])
def test_a_metric_that_is_not_shown_is_in_json_only(report: Report, format_: str) -> None:
    hidden = replace(report, metrics={"quiet_one": Metric(3, "count", shown=False)}, sections=[], findings=[])
    assert "quiet one" not in renderer(format_)(hidden)
    assert "quiet_one" in renderer("json")(hidden)
