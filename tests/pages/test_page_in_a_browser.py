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
    opened.wait_for_selector(".boxes button")
    yield opened
    context.close()


def table(page: Any, title: str) -> Any:
    return page.locator("table").filter(has=page.locator("caption", has_text=title)).first


def header(page: Any, title: str, column: str) -> Any:
    return table(page, title).get_by_role("button", name=column, exact=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 800, 400])
def test_it_opens_in_silence_and_asks_nobody(visit, file: Path, scheme: str, width: int) -> None:
    seen = visit(file, scheme=scheme, width=width).drawn()
    assert seen.complaints == []
    assert seen.requests == [file.resolve().as_uri()]
    assert (
        seen.page.locator(".plot > svg").count() == 3
    )  # the roofline, and memory with and without parameters
    assert seen.page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_it_breaks_no_rule_of_axe(visit, file: Path, scheme: str, width: int) -> None:
    assert violations(visit(file, scheme=scheme, width=width).drawn().page) == []


def violations(page: Any, *, contrast: bool = True) -> list[tuple[str, str]]:
    """The rules of axe-core (WCAG 2 A and AA, and best practice) that the page breaks, and where. The
    contrast of colours takes most of its time."""
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    broken = page.evaluate(
        "options => axe.run(options).then(result => result.violations)",
        {"resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": contrast}}},
    )
    return [(rule["id"], node["html"]) for rule in broken for node in rule["nodes"]]


def test_axe_sees_what_is_broken(visit, file: Path) -> None:
    page = visit(file).drawn().page
    page.evaluate("document.querySelector('.find label').remove()")
    assert [rule for rule, _ in violations(page, contrast=False)] == ["label"]


def test_it_has_its_landmarks_and_one_heading_of_all(page: Any) -> None:
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("navigation", name="contents").count() == 1
    assert page.locator("h1").count() == 1
    links = page.locator("nav.contents a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert all(page.locator(link).count() == 1 for link in links)


def test_nothing_on_it_can_send_anything(visit, file: Path) -> None:
    page = visit(file).drawn().page
    fetched = page.evaluate("() => fetch('data:text/plain,x').then(() => 'went', () => 'refused')")
    assert fetched == "refused"  # by the page's own policy, which allows no address at all


def test_its_numbers_are_those_of_its_json_and_of_the_command(page: Any, report: Report) -> None:
    inside = json.loads(page.locator("#report-json").text_content())
    assert inside == json.loads(report.to_json())
    for name, metric in inside["metrics"].items():
        card = page.locator(f'main > .more [data-metric="{name}"]')
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
    button = header(page, "modules", "MACs")
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
    header(page, "modules", "MACs").click()  # sorting keeps the search
    shown = table(page, "modules").locator("tbody tr:visible td:first-child").all_text_contents()
    assert shown == ["layer3", "layer2", "layer0", "layer1", "layer4"]
    box.fill("")
    assert table(page, "modules").locator("tbody tr:visible").count() == 13


def test_the_head_has_four_numbers_and_says_once_how_they_came_about(page: Any, report: Report) -> None:
    cards = page.locator("main > .numbers > div")
    names = cards.evaluate_all("all => all.map(card => card.dataset.card)")
    assert names == ["params", "macs", "flops", "forward_seconds"]
    macs = report.metrics["macs"].value
    assert cards.nth(1).locator(".value").text_content() == f"at least {si(macs)}"
    assert cards.nth(1).locator(".exact").text_content() == f"{macs:,}"
    marks = page.locator("main > .marks li").all_text_contents()
    assert [mark.split()[1].rstrip(",") for mark in marks] == ["counted", "measured"]
    assert cards.nth(3).locator(".sign").get_attribute("aria-label") == "measured"


SHARES = """() => Object.fromEntries([...document.querySelectorAll('.boxes button')].map(button =>
    [button.querySelector('b').textContent, button.getBoundingClientRect().height + 1]))"""
WHOLE = "() => document.querySelector('.boxes').clientHeight"
LAYERS = {"layer0": 900, "layer1": 300, "layer2": 2000, "layer3": 4000, "layer4": 160}


def test_areas_are_as_large_as_their_numbers(page: Any) -> None:
    heights, whole = page.evaluate(SHARES), page.evaluate(WHOLE)
    # 4 rows of: 30 x 30, 30 x 10, 10 x 200, 200 x 20, 20 x 8, 8 x 5
    for name, macs in LAYERS.items():
        assert heights[name] / whole == pytest.approx(macs / 7400, abs=0.003)


def test_buttons_switch_what_the_areas_stand_for(page: Any, report: Report) -> None:
    for label, name in (("parameters", "params"), ("bytes moved", "bytes_moved"), ("MACs, at least", "macs")):
        button = page.locator(".switch").get_by_role("button", name=label, exact=True)
        button.click()
        assert f"({report.metrics[name].value:,}) in all" in page.locator(".whole").text_content()
        pressed = page.locator(".switch button[aria-pressed=true]").all_text_contents()
        assert pressed == [label]
    page.locator(".switch").get_by_role("button", name="parameters").click()
    heights, whole = page.evaluate(SHARES), page.evaluate(WHOLE)
    # weights and biases: 930, 310, 2200, 4020, 168 and 45 of 7673
    assert heights["layer2"] / whole == pytest.approx(2200 / 7673, abs=0.003)
    page.locator(".switch").get_by_role("button", name="MACs").click()


def test_a_box_opens_and_closes_by_click_and_by_key(page: Any) -> None:
    boxes = page.locator(".boxes button")
    before = boxes.count()
    boxes.filter(has_text="layer2").click()
    assert boxes.count() == 1
    assert page.locator(".way button").all_text_contents()[-1] == "layer2"
    page.keyboard.press("Escape")
    assert boxes.count() == before
    assert page.locator(".way button").count() == 0
    boxes.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    focused = "() => document.activeElement.querySelector('b').textContent"
    assert page.evaluate(focused) == "layer1"  # what is too thin to see is passed over
    assert "MACs inside 1.200 k" in page.locator(".tree .detail").text_content()
    page.keyboard.press("Enter")
    assert boxes.count() == 1
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == "layer0"


def test_search_in_the_tree_highlights(page: Any) -> None:
    find = page.get_by_label("Find a module")
    find.fill("linear layer")
    assert page.locator(".find output").text_content() == "5 of 13 modules"
    hits = page.locator(".boxes button.hit b").all_text_contents()
    assert hits == list(LAYERS)
    find.fill("layer3")
    find.press("Enter")
    assert page.locator(".way button").all_text_contents()[-1] == "layer3"
    page.locator(".way button").first.click()
    find.fill("")
    assert page.locator(".boxes button.hit").count() == 0


def test_memory_can_be_seen_without_the_parameters(page: Any, report: Report) -> None:
    timeline = report.to_frame("timeline")
    peak = page.locator(".areas .view:not([hidden]) > .peak")
    assert size(int(timeline["total"].max())) in peak.text_content()
    page.get_by_label("show parameters").uncheck()
    rest = (timeline["total"] - timeline["parameter"]).max()
    assert size(int(rest)) in peak.text_content()
    page.get_by_label("show parameters").check()


def test_pointing_at_the_memory_tells_what_lives_there(page: Any, report: Report) -> None:
    box = page.locator(".areas .view:not([hidden]) svg[role=img]").bounding_box()
    page.mouse.move(box["x"] + 0.5, box["y"] + 50)
    first = report.to_frame("timeline").iloc[0]
    told = page.locator(".areas .detail").text_content()
    assert told.startswith("operator 0 · aten.")
    assert f"parameter {size(int(first['parameter']))}" in told


def test_boxes_of_the_graph_open_and_lines_follow(visit, tmp_path: Path) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + x

    page = visit(inspector.page(nn.Sequential(Residual(), nn.Linear(4, 4)), "2x4").save(tmp_path / "r.html"))
    page = page.drawn().page
    rail = page.locator(".graph .rail").first

    def ends() -> tuple[float, float]:
        """How far the line begins below the input's box, and ends above the sum's."""
        line, port = rail.bounding_box(), page.locator(".node .port").first.bounding_box()
        add = page.locator(".node.op").bounding_box()
        return line["y"] - port["y"], line["y"] + line["height"] - add["y"]

    assert page.locator(".node.op").text_content().startswith("add")
    before, height = ends(), rail.bounding_box()["height"]
    page.locator("summary").filter(has_text="inner").click()  # it was open
    assert rail.bounding_box()["height"] < height - 40
    assert ends() == pytest.approx(before, abs=1)


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
    assert page.evaluate("() => document.querySelectorAll('.boxes button[tabindex=\"0\"]').length") == 1
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
    assert page.locator("script:not([type])").count() == 4  # tables, charts, areas, tree
    drawn = page.locator(".boxes button").all_text_contents()
    assert any("<img src=x onerror=alert(2)>" in text for text in drawn)
    page.locator(".boxes button").first.hover()
    assert "<img src=x onerror=alert(2)>" in page.locator(".tree .detail").text_content()
    assert seen.complaints == []


def test_charts_follow_the_colour_scheme_while_open(visit, file: Path) -> None:
    page = visit(file, scheme="light").drawn().page
    ink = "() => getComputedStyle(document.querySelector('.plot .peak circle')).fill"
    paper = "() => getComputedStyle(document.body).backgroundColor"
    assert (page.evaluate(ink), page.evaluate(paper)) == ("rgb(24, 32, 44)", "rgb(255, 255, 255)")
    page.emulate_media(color_scheme="dark")
    assert (page.evaluate(ink), page.evaluate(paper)) == ("rgb(230, 234, 240)", "rgb(15, 19, 25)")


def test_without_scripts_the_numbers_are_still_there(browser, file: Path, report: Report) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.resolve().as_uri())
    assert page.locator('[data-card="macs"] .exact').text_content() == f"{report.metrics['macs'].value:,}"
    assert page.locator(".areas svg[role=img]").first.is_visible()
    assert page.locator(".graph .node").first.is_visible()
    context.close()


def test_pages_of_other_commands_sort_and_search_too(visit, tmp_path: Path) -> None:
    seen = visit(inspector.params(net()).save(tmp_path / "params.html"))
    header(seen.page, "totals", "bytes").click()
    seen.page.get_by_label("Search state").fill("layer3")
    assert table(seen.page, "state").locator("tbody tr:visible").count() == 2
    assert seen.complaints == []
