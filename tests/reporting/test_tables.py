"""The tables of reports: small, without pandas, and a DataFrame where one is asked for."""

from __future__ import annotations

import pandas as pd
import pytest

from inspector.reporting.report import Finding, Section
from inspector.reporting.rows import cells
from inspector.reporting.tables import Table, as_table

pytestmark = pytest.mark.once

NETS = Table({"net": ["b", "a", "b"], "macs": [3, None, 1], "share": [0.75, None, 0.25]})


def test_rows_come_as_mappings_or_as_sequences() -> None:
    assert Table.of([("b", 3), ("a", None)], ("net", "macs")) == Table({"net": ["b", "a"], "macs": [3, None]})
    lacking = Table.of([{"net": "b", "macs": 3}, {"net": "a"}])
    assert lacking.records() == [{"net": "b", "macs": 3}, {"net": "a", "macs": None}]


def test_without_rows_the_columns_stay() -> None:
    for empty in (Table.of([], ("net", "macs")), NETS.where([False] * 3).drop("share")):
        assert (empty.columns, len(empty), empty.records()) == (["net", "macs"], 0, [])
        assert list(empty.to_frame().columns) == ["net", "macs"]
    assert len(Table({})) == 0


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"differ in length: \{'net': 1, 'macs': 2\}"):
        Table({"net": ["a"], "macs": [1, 2]})


def test_what_is_made_of_a_table_leaves_it_as_it_was() -> None:
    changed = NETS.assign(macs=[0, 0, 0], new=[1, 2, 3]).rename({"net": "model"}).drop("share", "none")
    assert changed.columns == ["model", "macs", "new"]
    assert NETS.columns == ["net", "macs", "share"]
    assert NETS["macs"] == [3, None, 1]


def test_sorting_keeps_the_order_of_equal_rows() -> None:
    assert NETS.sort(lambda row: row["net"])["macs"] == [None, 3, 1]


def test_groups_come_in_the_order_of_their_first_rows() -> None:
    groups = Table({"op": ["mm", None, "add", "mm"], "calls": [1, 2, 3, 4]}).groups("op")
    assert {op: rows["calls"] for op, rows in groups.items()} == {"mm": [1, 4], "add": [3]}


def test_whole_numbers_stay_whole_in_a_frame_where_some_are_missing() -> None:
    frame = NETS.to_frame()
    assert str(frame["macs"].dtype) == "Int64"
    assert str(frame["share"].dtype) == "float64"
    assert frame["macs"].sum() == 4
    assert frame["macs"].isna().tolist() == [False, True, False]


def test_a_frame_of_a_users_own_becomes_a_table() -> None:
    frame = pd.DataFrame(
        {"net": ["a", "b"], "macs": pd.array([1, None], dtype="Int64"), 7: [0.5, float("nan")]}
    )
    table = as_table(frame)
    assert table == Table({"net": ["a", "b"], "macs": [1, None], "7": [0.5, None]})
    assert type(table["macs"][0]) is int
    assert as_table(table) is table


def test_headings_are_the_registrys_words() -> None:
    columns = ("name", "params", "macs", "gmacs", "nbytes", "at_most", "state_digest", "largest_thing")
    frame = Table.of([("a", 1, 2, 3.0, 4, 5, "x", "y")], columns)
    assert cells(Section("t", frame))[0] == [
        "name", "params", "MACs", "GMACs", "bytes", "at most", "state digest", "largest thing",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "message", "sentence"),
    [
        ("", "done", "done"),
        ("conv", "moved", "conv: moved"),
        ("net.py:Net", "net.py:Net has no default input", "net.py:Net has no default input"),
        ("conv", "and 3 more moved", "conv and 3 more moved"),
    ],
)
def test_the_subject_of_a_finding_stands_once(subject: str, message: str, sentence: str) -> None:
    assert Finding("check", "fail", subject, message).sentence == sentence
