"""A comparison of all eight states in every format, held against files that were read by hand.

After a wanted change: INSPECT_WRITE_GOLDEN=1 pytest tests/regress/test_formats.py, then read the difference.
The numbers: regressed has params 1000 to 1500 (+500, +50%) and macs 2000 to 3000 (+1000, +50%), both from
`conv`, which went from 10 to 20 channels; improved has 1000 to 900 (-100, -10%); noisy 10 to 12 ms (+20%).
Failing are the 2 regressed rows, and missing, invalid and incomparable: 5 of 9.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from inspector.core.errors import InspectError
from inspector.regress.compare import Comparison, compare
from inspector.regress.outcome import fitted, report
from inspector.regress.rules import STATES
from inspector.regress.written import COMMENT_LIMIT, SUMMARY_LIMIT, add_to_summary, markdown, write
from inspector.reporting.answers import answer
from inspector.reporting.formats import renderer
from inspector.reporting.report import Report, from_json
from tests.regress.hand import eight_states, row, side, table

pytestmark = pytest.mark.once

GOLDEN = Path(__file__).parent / "golden"
FILES = {
    "table": "states.txt", "markdown": "states.md", "json": "states.json", "csv": "states.csv",
    "html": "states.html", "junit": "states.xml", "github": "states.github",
}  # fmt: skip


def comparison() -> Comparison:
    base, head = eight_states()
    return compare(side(base, "base.json"), side(head, "head.json"))


@pytest.mark.parametrize("form", FILES)
def test_every_format_is_byte_for_byte_what_was_read_by_hand(form: str) -> None:
    text = _seen(write(comparison(), form))
    file = GOLDEN / FILES[form]
    if os.environ.get("INSPECT_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()
    assert text == _seen(write(comparison(), form))


def _seen(text: str) -> str:
    """Without style and scripts: how a page looks and moves is another matter."""
    return re.sub(r"<(style|script)\b.*?</\1>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("form", FILES)
def test_no_format_leaves_out_what_is_not_as_it_was(form: str) -> None:
    text = write(comparison(), form).lower()
    for state in STATES:
        if not (form == "github" and state in ("ok", "improved")):  # annotations are of trouble
            assert state in text, state


def test_json_is_a_report_with_the_counts_of_the_states() -> None:
    found = from_json(write(comparison(), "json"), "diff.json")
    assert {name: metric.value for name, metric in found.metrics.items()} == {
        "regressed": 2, "missing": 1, "invalid": 1, "incomparable": 1, "noisy": 1, "new": 1, "improved": 1,
        "ok": 1,
    }  # fmt: skip
    assert found.verdict == "fail"


def test_csv_has_plain_numbers() -> None:
    rows = list(csv.DictReader(io.StringIO(write(comparison(), "csv"))))
    macs = next(r for r in rows if r["metric"] == "macs" and r["model"] == "regressed")
    assert (macs["base"], macs["head"], macs["delta"], macs["relative"]) == ("2000", "3000", "1000", "0.5")


def test_junit_counts_its_failures_and_its_cases() -> None:
    suite = ElementTree.fromstring(write(comparison(), "junit"))[0]
    # 2 regressed, missing, invalid, incomparable; noisy, new, improved; one case for what is ok.
    assert (suite.get("tests"), suite.get("failures")) == ("9", "5")
    failed = [case.get("classname") for case in suite if case.find("failure") is not None]
    assert failed == ["regressed", "regressed", "missing", "invalid", "incomparable"]


def test_the_layer_is_named_where_people_look() -> None:
    for form in ("table", "markdown", "html", "junit", "github"):
        text = write(comparison(), form)
        if form != "junit":
            text = " ".join(re.sub(r"<[^>]*>|\|", " ", text).split())
        assert re.search(r"conv(:| [+]1.000 k [+]500) 10 to 20 channels", text), form


def big(models: int = 4_000) -> Comparison:
    """Every model got larger by its own number; names are long and hostile."""
    names = [f"<script>|model_{number:05d}`*{'x' * 120}" for number in range(models)]
    base = table([row(name, params=100_000, macs=100_000) for name in names])
    head = table([row(name, params=100_000 + n, macs=100_000) for n, name in enumerate(names, 1)])
    return compare(side(base), side(head))


class TestLimits:
    @pytest.fixture(scope="class")
    @staticmethod
    def found() -> Comparison:
        return big()

    def test_a_comment_holds_the_worst_and_says_what_it_left_out(self, found: Comparison) -> None:
        text = write(found, "markdown")
        assert COMMENT_LIMIT * 0.8 < len(text.encode()) <= COMMENT_LIMIT
        shown = text.count("| REGRESSED |")
        assert f"({shown:,} of 8,000 rows, worst first; not shown: {4_000 - shown:,} regressed" in text
        assert "4,000 ok" in text
        assert "model\\_03999" in text  # the largest change, by construction
        assert "model\\_00000" not in text
        assert "<script>" not in text

    def test_a_step_summary_stays_under_its_limit_with_what_is_there(
        self, found: Comparison, tmp_path: Path
    ) -> None:
        file = tmp_path / "summary.md"
        file.write_text("x" * 300_000)
        assert add_to_summary(found, file)
        assert 0.8 * SUMMARY_LIMIT < file.stat().st_size <= SUMMARY_LIMIT
        assert file.read_text().startswith("x" * 300_000 + "###")
        file.write_text("x" * (SUMMARY_LIMIT - 100))
        assert not add_to_summary(found, file)
        assert file.stat().st_size == SUMMARY_LIMIT - 100

    def test_ten_annotations_of_a_kind_the_last_says_how_many_more(self, found: Comparison) -> None:
        lines = write(found, "github").splitlines()
        assert len(lines) == 10
        assert all(line.startswith("::error ") for line in lines)
        assert lines[-1].endswith("::3,991 more: see the whole report")

    def test_a_table_for_the_screen_is_cut_and_says_so(self, found: Comparison) -> None:
        text = write(found, "table")
        assert text.count("REGRESSED") == 100
        assert "(100 of 8,000 rows" in text

    def test_machines_get_all(self, found: Comparison) -> None:
        assert len(json.loads(write(found, "json"))["tables"]["rows"]) == 8_000
        assert len(write(found, "csv").splitlines()) == 8_001
        suite = ElementTree.fromstring(write(found, "junit"))[0]
        assert suite.get("failures") == "4000"


def test_a_limit_that_holds_no_row_is_still_kept() -> None:
    assert len(markdown(big(50), 400).encode()) <= 400


def test_as_many_rows_are_shown_as_fit() -> None:
    found, write_all = big(30), renderer("markdown")
    texts = [fitted(found, write_all, 10**9, at_most=rows) for rows in range(61)]
    sizes = [len(text.encode()) for text in texts]
    assert len(set(sizes)) > 30
    for limit in (*range(sizes[0], sizes[-1] + 200, 311), *sizes[1:30], *(size - 1 for size in sizes[1:30])):
        most = max(rows for rows in range(61) if sizes[rows] <= limit)
        assert markdown(found, limit) == texts[most], limit


def test_hostile_names_stay_text() -> None:
    name = "a,b::c%\n::error::<b>\x01"
    found = compare(side(table([row(name, params=1)])), side(table([row(name, params=2)])))
    lines = write(found, "github").splitlines()
    assert len(lines) == 1
    assert "%0A%3A" not in lines[0].partition("::")[0]
    assert "%25" in lines[0]
    assert "<b>" not in write(found, "html").replace("<b>FAIL</b>", "")
    ElementTree.fromstring(write(found, "junit"))


def test_a_summary_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InspectError, match="cannot append"):
        add_to_summary(comparison(), tmp_path / "none" / "summary.md")


def test_every_row_is_in_the_table_whatever_is_shown() -> None:
    made: Report = report(comparison(), rows=2)
    frame: Any = made.tables["rows"]
    assert len(frame) == 9
    assert len(made.sections[1].frame) == 2
    assert made.sections[1].note.startswith("(2 of 9 rows, worst first; not shown: 1 missing, 1 invalid")
    assert len(report(comparison(), every=True).sections[1].frame) == 9
    assert report(comparison()).sections[1].note == "(1 ok; --all lists them)"


def test_an_annotation_is_of_a_model_and_says_what_where_and_what_accepts_it() -> None:
    lines = write(comparison(), "github").splitlines()
    assert lines[0] == (
        "::error title=inspect diff::regressed: regressed: params 1,000 to 1,500, +500 (+50%25); "
        "macs 2,000 to 3,000, +1,000 (+50%25); conv: 10 to 20 channels (+1.000 k MACs, +500 parameters) "
        "(a wanted change is accepted by the same command with --update-baseline)"
    )
    assert len([line for line in lines if line.startswith("::error")]) == 4  # of 5 failures in 4 models
    committed = compare(side(eight_states()[0], "git:main:base.json"), side(eight_states()[1], "head.json"))
    assert "--update-baseline" not in write(committed, "github")  # a revision cannot be written


def test_the_sentence_names_what_failed_and_its_cause() -> None:
    assert answer(report(comparison())) == (
        "FAILED: 4 of 8 models: regressed (parameters +50%), missing (missing), invalid (parameters invalid),"
        " 1 more"
    )
    base, head = (table([r for r in content["tables"]["models"] if r["model"] in ("regressed", "ok")],
                        layers=content["tables"]["layers"]) for content in eight_states())  # fmt: skip
    assert answer(report(compare(side(base), side(head)))) == (
        "FAILED: regressed: parameters +50%, MACs +50%; conv: 10 to 20 channels"
    )
    same = compare(side(base), side(base))
    assert answer(report(same)) == "passed: 3 ok"
