"""A table in a terminal: what stays, what goes, and that it is said."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from inspector.reporting.fitted import FIRST, wrapped
from inspector.reporting.formats.table import render, table
from inspector.reporting.report import Finding, Report, Section
from inspector.reporting.tables import Table

pytestmark = pytest.mark.once

MODULES = Table(
    {
        "module": ["net", "  layer1.0.conv1"],
        "type": ["Net", "Conv2d"],
        "calls": [1, 1],
        "params": [25_557_032, 9_408],
        "macs": [4_089_184_256, 118_013_952],
        "flops": [8_217_632_232, 236_027_904],
        "activations": [11_114_984, 802_816],
        "bytes": [427_601_472, 3_851_264],
        "share": [1.0, 0.029],
    }
)


def lines(width: int | None) -> list[str]:
    return table(Section("modules", MODULES), width).splitlines()


def test_without_a_width_all_is_there() -> None:
    assert lines(None)[0].lower().split() == MODULES.columns
    assert max(map(len, lines(None))) > 80


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, lines(width))) <= width


def test_the_important_columns_stay_and_the_others_are_named() -> None:
    shown = lines(60)
    headings = shown[0].split()
    assert {"module", "params", "MACs", "share"} <= set(headings)
    gone = [name for name in lines(None)[0].split() if name not in headings]
    assert " ".join(shown[4:]) == f"(not shown: {', '.join(gone)}; --wide shows all)"
    assert "4.089 G" in shown[2]
    assert "  layer1.0.conv1 " in shown[3]  # whole, with its indentation


def test_what_is_least_important_goes_first() -> None:
    counts = [len(lines(width)[0].split()) for width in (60, 80, 100, 120)]
    assert counts == sorted(counts)
    assert all(name in FIRST for name in ("params", "macs", "share"))


def test_a_name_is_shortened_where_nothing_else_helps() -> None:
    frame = Table({"name": ["a" * 100], "params": [1]})
    text = table(Section("t", frame), 40)
    assert max(map(len, text.splitlines())) <= 40
    assert "..." in text
    assert "not shown" not in text


def test_lines_break_between_words_and_go_on_below_the_first() -> None:
    text = wrapped("one two three four five six seven", 30, 6)
    assert text == "one two three four five\n      six seven"
    path = "/a/path/that/is/longer/than/the/terminal/is/wide.py"
    assert path in wrapped(f"see {path} there", 30, 6)
    assert wrapped("one two", None, 6) == "one two"


def test_findings_and_provenance_are_wrapped_too() -> None:
    report = Report(
        "profile", {"name": "net"}, {}, {}, header=[("model", "word " * 30)],
        findings=[Finding("check", "fail", "layer", "word " * 30)],
    )  # fmt: skip
    text = render(report, width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.splitlines()[1].startswith(" " * len("model  ") + "word")


def _on_a_terminal(*words: str) -> str:
    """What a command prints where standard output is a terminal of 80 columns."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    process = subprocess.Popen([sys.executable, "-m", "inspector", *words], stdout=writer, env=environment)
    os.close(writer)
    text = b""
    while True:
        try:
            piece = os.read(reader, 4096)
        except OSError:  # Linux says so where the other end is closed
            break
        if not piece:
            break
        text += piece
    os.close(reader)
    assert process.wait() == 0
    return text.decode().replace("\r\n", "\n")


def test_wide_gives_all_of_it() -> None:
    words = ("profile", "resnet18", "--depth", "1")
    narrow, wide = _on_a_terminal(*words), _on_a_terminal(*words, "--wide")
    assert max(map(len, narrow.splitlines())) <= 80
    assert "not shown: " in narrow
    assert "activations" in wide
    assert "not shown: " not in wide


def test_nothing_but_the_result_is_printed() -> None:
    """No warning, no leak report of a library at the exit."""
    words = [sys.executable, "-m", "inspector", "profile", "resnet18", "--no-cache"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_long_text_gives_way_before_a_column_does() -> None:
    frame = Table({"role": ["weight"], "status": ["ok"], "law": ["word " * 20], "tensors": [3], "numel": [9]})
    first, _, *rows = table(Section("laws", frame), 80).splitlines()
    assert first.split() == ["role", "status", "law", "tensors", "elements"]
    assert sum(line.count("word") for line in rows) == 20
    assert len(rows) == 3
    assert rows[1].split("word")[0].isspace()  # the other cells are not repeated
    assert max(map(len, rows)) <= 80


def test_the_end_of_a_text_that_takes_too_many_lines_is_cut_off() -> None:
    frame = Table({"name": ["a"], "why": [" ".join(f"w{number:02d}" for number in range(60))]})
    rows = table(Section("t", frame), 60).splitlines()[2:]
    assert len(rows) == 3
    assert rows[-1].endswith(" ...")
    assert "w00" in rows[0]


def test_names_stay_whole_before_other_columns_do() -> None:
    frame = Table(
        {"spec": ["timm:" + "a" * 45], "task": ["classification"], "source": ["timm"], "params": [1]}
    )
    text = table(Section("models", frame), 70)
    assert "timm:" + "a" * 45 in text
    assert "(not shown: " in text


def test_bars_are_scaled_and_not_cut() -> None:
    frame = Table({"name": ["a" * 30, "b", "c"], "bar": ["█" * 40, "█" * 20, "█" * 9 + "▎"]})
    rows = table(Section("t", frame), 60).splitlines()[2:]
    # 60 columns less the name's 30 and the 2 between are 28: of 40, 20 and 10 blocks 28, 14 and 7.
    assert [row.count("█") for row in rows] == [28, 14, 7]
    assert "..." not in "".join(rows)
