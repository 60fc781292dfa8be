"""Charts of the HTML page: whole without a network, the same each time, nothing left out in silence."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from inspector.reporting.formats import renderer
from inspector.reporting.formats.html import fragment
from inspector.reporting.formats.html.charts import html
from inspector.reporting.report import Chart, Metric, Report

FRAME = pd.DataFrame(
    {
        "precision": ["fp32", "fp16", "<script>alert(1)</script>"],
        "rate": [10.0, None, 30.0],
        "low": [9.0, None, 29.0],
        "high": [11.0, None, 33.0],
        "where": ["a", "a", "b"],
    }
)
BAR = Chart("bar", "rate <b>", "precision", "rate", FRAME, group="where", low="low", high="high")


def test_a_page_has_the_script_once_and_needs_no_network(report: Report) -> None:
    line = Chart("line", "loss", "rate", "low", FRAME)
    page = renderer("html")(replace(report, charts=[BAR, line]))
    assert page.count("plotly.js v") == 1
    assert 'src="' not in page
    assert page.count('class="plot"') == 2


def test_plotly_comes_packed_and_whole(report: Report) -> None:
    page = renderer("html")(replace(report, charts=[BAR]))
    packed = re.search(r'id="plotly-packed">([^<]+)</script>', page)
    assert packed is not None
    assert gzip.decompress(base64.b64decode(packed[1])).decode() == get_plotlyjs()


def test_without_charts_there_is_no_script(report: Report) -> None:
    assert "plotly" not in renderer("html")(report)
    assert "plotly" not in fragment(replace(report, charts=[BAR]))


def test_the_same_charts_give_the_same_bytes() -> None:
    assert html(BAR, "a") == html(BAR, "a")


def test_names_are_text() -> None:
    text = html(BAR, "a")
    assert "<script>alert" not in text
    (figure,) = re.findall(r'<script type="application/json" id="a-data">(.*?)</script>', text)
    bars = json.loads(figure)["data"]
    assert [name for bar in bars for name in bar["x"]] == ["fp32", "&lt;script>alert(1)&lt;/script>"]


def test_rows_that_were_not_measured_are_named() -> None:
    assert "not shown, because not measured: a, fp16" in html(BAR, "a")
    nothing = replace(BAR, frame=FRAME.assign(rate=None))
    assert 'class="plot"' not in html(nothing, "a")
    assert "not shown" in html(nothing, "a")


def test_other_formats_and_json_are_the_same_with_charts(report: Report) -> None:
    drawn = replace(report, charts=[BAR])
    for name in ("json", "table", "markdown", "csv"):
        assert renderer(name)(drawn) == renderer(name)(report)


@pytest.mark.parametrize("format_", ["table", "markdown", "html"])
def test_a_metric_that_is_not_shown_is_in_json_only(report: Report, format_: str) -> None:
    hidden = replace(report, metrics={"quiet_one": Metric(3, "count", shown=False)}, sections=[], findings=[])
    assert "quiet one" not in renderer(format_)(hidden)
    assert "quiet_one" in renderer("json")(hidden)
