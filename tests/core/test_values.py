"""Values written as YAML: whatever the text, a value or one clear line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from inspector.core.config import load
from inspector.core.devices import read as read_devices
from inspector.core.errors import InspectError
from inspector.core.values import yaml_file, yaml_value
from inspector.regress.sweep.entries import entries

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
ATTACKS = {
    "month": "2024-13-45",
    "integer": "!!int x",
    "bool": "!!bool x",
    "date": "!!timestamp x",
    "python": "!!python/object/apply:os.system [id]",
    "digits": "9" * 5000,
    "sixty": ":".join(["1"] * 3000),
    "deep": "[" * 1000 + "]" * 1000,
    "nested": "[" * 100 + "]" * 100,
    "maps": "{a: " * 3000,
    "itself": "&a [*a]",
    "laughs": LAUGHS,
    "control": "\x00",
    "surrogate": '"\\ud800',
    "twice": "{a: 1, a: 2}",
    "unhashable": "{[1]: 2}",
    "merge": "<<: 3",
    "document": "--- 1\n--- 2",
}


@pytest.mark.once
@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_what_is_no_plain_value_is_refused_in_one_line_and_at_once(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    reads: list[Any] = [
        lambda: yaml_value(text, "--arg"), lambda: yaml_file(file, "mend it"), lambda: load(file),
        lambda: entries([str(file)]), lambda: read_devices(file),
    ]  # fmt: skip
    for read in reads:
        start = time.process_time()
        with pytest.raises(InspectError) as caught:
            read()
        assert "\n" not in caught.value.message
        assert time.process_time() - start < 3.0


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2.0", 2.0),
        ("[1, [2, {a: b}]]", [1, [2, {"a": "b"}]]),
        ("&a {x: 1}", {"x": 1}),
        ("{base: &b {x: 1}, own: {<<: *b, y: 2}}", {"base": {"x": 1}, "own": {"x": 1, "y": 2}}),
        ("[&a 1, *a, *a]", [1, 1, 1]),
        ("", None),
    ],
)
def test_plain_values_are_read(text: str, value: Any) -> None:
    assert yaml_value(text, "--arg") == value


@pytest.mark.once
def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("SEED: 1\nSEED: 2\n")
    with pytest.raises(InspectError, match="'SEED' stands twice"):
        load(file)


@pytest.mark.once
@pytest.mark.parametrize("value", ["(" * 2000, "[" * 300 + "]" * 300, "9" * 5000, "\x00", "1e999999", "'''"])
def test_a_setting_may_be_anything(value: str) -> None:
    """yacs reads a value as Python writes it."""
    for key in ("SOLVER.BASE_LR", "SEED", "MODEL.NAME", "INPUT", "FREEZE", "", "."):
        message = ""
        try:
            load(None, {key: value})
        except InspectError as error:
            message = error.message
        assert "\n" not in message
