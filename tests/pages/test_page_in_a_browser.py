"""The page of `inspect report`, opened from the disk in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.core.visible import visible
from inspector.reporting.numbers import si, size
from inspector.reporting.report import Report

pytestmark = pytest.mark.once

EVIL = "<script>alert(1)<\u2044script><img src=x onerror=alert(2)>\u2028</script><b>&amp;"
NUMBERS = """table => [...table.tBodies[0].rows].filter(row => !row.hidden)
    .map(row => row.cells[%d].dataset.v === undefined ? null : Number(row.cells[%d].dataset.v))"""


class Odd(nn.Module):
    """An operator that has no formula."""

    def forward(self, x: Tensor) -> Tensor:
        torch.histogram(x, 4)
        return x


def net() -> nn.Module:
    """Layers in which no order is that of the alphabet, and names that mean harm."""
    model = nn.Sequential()
    widths = [30, 30, 10, 200, 20, 8]
    for number, (before, after) in enumerate(pairwise(widths)):
        model.add_module(f"layer{number}", nn.Linear(before, after))
        model.add_module(f"act{number}", nn.ReLU())
    model.add_module("odd", Odd())
    model.add_module(EVIL.replace(".", ""), nn.Linear(8, 5))
    return model


def named(kind: str) -> nn.Module:
    """The model as an object of a class with that name."""
    model = net()
    model.__class__ = type(kind, (nn.Sequential,), {})
    return model


@pytest.fixture(scope="session")
def report() -> Report:
    added = inspector.params(nn.Linear(3, 3))
    return inspector.page(named(EVIL), "1x4x30", time="cpu", added=[added], stages=[["layer0"], ["layer1"]])


@pytest.fixture(scope="session")
def file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.save(tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def page(browser: Any, file: Path) -> Iterator[Any]:
    """The page opened once, for tests that leave it as they find it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(30_000)
    opened = context.new_page()
    opened.goto(file.resolve().as_uri())
    opened.wait_for_selector("body[data-drawn]")
    yield opened
    context.close()


def table(page: Any, title: str) -> Any:
    return page.locator("table").filter(has=page.locator("caption", has_text=title)).first


def header(page: Any, title: str, column: str) -> Any:
    return table(page, title).get_by_role("button", name=column, exact=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_opens_in_silence_and_asks_nobody(visit, file: Path, scheme: str, width: int) -> None:
    seen = visit(file, scheme=scheme, width=width).drawn()
    assert seen.complaints == []
    assert seen.requests == [file.resolve().as_uri()]
    assert seen.page.locator(".plot .main-svg").count() >= 3
    assert seen.page.evaluate("document.documentElement.scrollWidth") == width


def test_nothing_on_it_can_send_anything(visit, file: Path) -> None:
    page = visit(file).drawn().page
    buttons = page.locator(".modebar-btn").evaluate_all("all => all.map(b => b.getAttribute('data-title'))")
    known = {"download plot as a png", "zoom", "pan", "zoom in", "zoom out", "reset axes"}
    assert {button.lower() for button in buttons} == known
    fetched = page.evaluate("() => fetch('data:text/plain,x').then(() => 'went', () => 'refused')")
    assert fetched == "refused"  # by the page's own policy, which allows no address at all


def test_its_numbers_are_those_of_its_json_and_of_the_command(page: Any, report: Report) -> None:
    inside = json.loads(page.locator("#report-json").text_content())
    assert inside == json.loads(report.to_json())
    for name, metric in inside["metrics"].items():
        card = page.locator(f'main > .numbers [data-metric="{name}"]')
        if metric["unit"] == "second":
            continue
        write = size if metric["unit"] == "byte" else si
        bound = "at least " if metric.get("lower_bound") else ""
        assert card.locator(".value").text_content() == bound + write(metric["value"])
        exact = card.locator(".exact").text_content()
        assert exact == (f"{metric['value']:,}" if metric["value"] >= 1000 else "")


def test_the_rows_of_modules_add_up_to_the_numbers_above(page: Any, report: Report) -> None:
    macs = table(page, "modules").evaluate(NUMBERS % (4, 4))
    # 4 rows of: 30 x 30, 30 x 10, 10 x 200, 200 x 20, 20 x 8, 8 x 5
    assert macs[0] == report.metrics["macs"].value == 4 * (900 + 300 + 2000 + 4000 + 160 + 40)
    assert sum(value or 0 for value in macs[1:]) == macs[0]


def test_a_header_sorts_by_number_and_back(page: Any) -> None:
    button = header(page, "modules", "macs")
    cell = table(page, "modules").locator("th").nth(4)
    before = table(page, "modules").evaluate(NUMBERS % (4, 4))
    assert cell.get_attribute("aria-sort") == "none"
    known = sorted(value for value in before if value is not None)
    button.click()
    assert cell.get_attribute("aria-sort") == "descending"
    assert table(page, "modules").evaluate(NUMBERS % (4, 4)) == [*reversed(known), None]  # odd is unknown
    button.click()
    assert cell.get_attribute("aria-sort") == "ascending"
    assert table(page, "modules").evaluate(NUMBERS % (4, 4)) == [*known, None]
    button.click()
    assert cell.get_attribute("aria-sort") == "none"
    assert table(page, "modules").evaluate(NUMBERS % (4, 4)) == before


def test_one_column_is_sorted_at_a_time_and_names_by_their_numbers(page: Any) -> None:
    header(page, "operator calls", "bytes").click()
    header(page, "operator calls", "op").click()
    sorts = (
        table(page, "operator calls")
        .locator("th")
        .evaluate_all(
            "cells => cells.map(cell => cell.getAttribute('aria-sort')).filter(sort => sort !== 'none')"
        )
    )
    assert sorts == ["ascending"]
    names = table(page, "operator calls").locator("tbody tr td:nth-child(2)").all_text_contents()
    assert names == sorted(names)


def test_search_leaves_the_rows_with_all_words_and_counts_them(visit, file: Path) -> None:
    page = visit(file).drawn().page
    box = page.get_by_label("Search modules")
    box.fill("LINEAR layer")
    shown = table(page, "modules").locator("tbody tr:visible td:first-child").all_text_contents()
    assert shown == [f"layer{number}" for number in range(5)]
    assert page.locator(".search").filter(has=box).locator("output").text_content() == "5 of 13 rows"
    header(page, "modules", "macs").click()  # sorting keeps the search
    shown = table(page, "modules").locator("tbody tr:visible td:first-child").all_text_contents()
    assert shown == ["layer3", "layer2", "layer0", "layer1", "layer4"]
    box.fill("")
    assert table(page, "modules").locator("tbody tr:visible").count() == 13


def test_buttons_switch_what_the_areas_stand_for(page: Any, report: Report) -> None:
    whole = "() => document.querySelector('.tree .plot').data[0].values[0]"
    for label, name in (("parameters", "params"), ("bytes moved", "bytes_moved"), ("MACs, at least", "macs")):
        button = page.locator(".switch").get_by_role("button", name=label, exact=True)
        button.click()
        value = report.metrics[name].value
        assert page.evaluate(whole) == value
        assert f"({value:,}) in all" in page.locator(".whole").text_content()
        pressed = page.locator(".switch button[aria-pressed=true]").all_text_contents()
        assert pressed == [label]
    page.locator(".switch").get_by_role("button", name="time").click()
    assert page.evaluate(whole) == pytest.approx(report.to_frame("times")["own_seconds"].sum())


def test_the_areas_are_really_drawn_anew(page: Any) -> None:
    shapes = "() => [...document.querySelectorAll('.tree .slice path')].map(p => p.getAttribute('d')).join()"
    page.wait_for_function(f"() => ({shapes})().length > 0")
    before = page.evaluate(shapes)
    page.locator(".switch").get_by_role("button", name="parameters").click()
    page.wait_for_function(f"before => ({shapes})() !== before", arg=before)
    page.locator(".switch").get_by_role("button", name="MACs").click()


def test_without_a_measurement_there_is_no_button_for_time(visit, tmp_path: Path) -> None:
    page = visit(inspector.page(net(), "1x4x30").save(tmp_path / "r.html")).drawn().page
    assert page.locator(".switch button").all_text_contents() == [
        "MACs, at least",
        "parameters",
        "bytes moved",
    ]
    assert "No button for time: it was not measured" in page.locator("figure .note").first.text_content()


def test_everything_is_reached_by_the_keyboard(visit, file: Path) -> None:
    page = visit(file).drawn().page
    page.locator(".switch button").nth(0).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".switch button[aria-pressed=true]").text_content() == "parameters"
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.get_by_label("Search modules").focus()
    page.keyboard.press("Tab")  # the table's own scrolling
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "modules"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert table(page, "modules").locator("th").nth(0).get_attribute("aria-sort") == "ascending"
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_areas_zoom_by_the_name_of_a_module(page: Any) -> None:
    level = "() => document.querySelector('.tree .plot').data[0].level"
    zoom = page.get_by_label("Zoom to module")
    zoom.fill("layer2")
    zoom.press("Enter")
    assert page.evaluate(level) == "layer2"
    zoom.fill("no such module")
    zoom.press("Enter")
    assert page.evaluate(level) == "layer2"
    zoom.fill("")
    zoom.press("Enter")
    assert page.evaluate(level) == "."


def test_names_that_look_like_markup_are_text(visit, file: Path) -> None:
    seen = visit(file).drawn()
    page = seen.page
    evil = visible(EVIL)  # a character that ends lines is shown escaped
    assert "\\u2028" in evil
    name = evil.replace(".", "")
    assert table(page, "modules").locator("td", has_text="alert(2)").nth(0).text_content() == evil
    assert name in table(page, "modules").locator("td").all_text_contents()
    assert evil in page.title()
    assert page.locator("img").count() == 0
    assert page.locator("script:not([type])").count() == 3  # plotly, tables, charts
    drawn = page.locator(".tree .slicetext").all_text_contents()
    assert any("<img src=x onerror=alert(2)>" in text for text in drawn)
    assert seen.complaints == []


def test_charts_follow_the_colour_scheme_while_open(visit, file: Path) -> None:
    page = visit(file, scheme="light").drawn().page
    ink = "() => document.querySelector('.plot').layout.font.color"
    paper = "() => getComputedStyle(document.body).backgroundColor"
    assert (page.evaluate(ink), page.evaluate(paper)) == ("#1c2430", "rgb(255, 255, 255)")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"() => ({ink})() === '#e3e8ef'")
    assert page.evaluate(paper) == "rgb(18, 22, 28)"


def test_a_browser_that_cannot_draw_says_so_and_keeps_the_tables(visit, file: Path) -> None:
    seen = visit(file, before="delete window.DecompressionStream")
    seen.page.wait_for_function("() => document.querySelector('.plot').textContent !== ''")
    assert "This browser cannot draw the chart" in seen.page.locator(".plot").first.text_content()
    header(seen.page, "modules", "macs").click()
    assert table(seen.page, "modules").locator("th").nth(4).get_attribute("aria-sort") == "descending"


def test_without_scripts_the_numbers_are_still_there(browser, file: Path, report: Report) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.resolve().as_uri())
    assert page.locator('[data-metric="macs"] .exact').text_content() == f"{report.metrics['macs'].value:,}"
    context.close()


def test_pages_of_other_commands_sort_and_search_too(visit, tmp_path: Path) -> None:
    seen = visit(inspector.params(net()).save(tmp_path / "params.html"))
    header(seen.page, "totals", "bytes").click()
    seen.page.get_by_label("Search state").fill("layer3")
    assert table(seen.page, "state").locator("tbody tr:visible").count() == 2
    assert seen.complaints == []
