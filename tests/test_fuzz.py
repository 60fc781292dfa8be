"""Texts and files that nobody thought of: a value, or InspectError with one line. Bounded and seeded, so
that a run in CI is the same as the one before it."""

from __future__ import annotations

import contextlib
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from inspector.core.config import load
from inspector.core.errors import InspectError
from inspector.core.values import yaml_value
from inspector.core.visible import visible
from inspector.models import checkpoint, weights
from inspector.models.inputs import parse_inputs
from inspector.regress.content import side
from inspector.regress.sweep.entries import entries
from inspector.reporting.formats import FORMATS
from inspector.reporting.report import from_json
from tests.regress.hand import finding, row, table

pytestmark = pytest.mark.once
BOUNDED = settings(
    max_examples=100, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@contextlib.contextmanager
def only_inspect_error() -> Any:
    """Everything else that is raised fails the test."""
    message = "done"
    try:
        yield
    except InspectError as error:
        message = error.message
    assert message
    assert "\n" not in message


def texts(words: str, longest: int) -> Any:
    """Texts of these words, of blanks, and of anything."""
    pieces = st.sampled_from([*words.split(), " ", "\n", "\u0661"])
    return st.one_of(st.lists(pieces, max_size=longest).map("".join), st.text(max_size=30))


GRAMMAR = (
    "1 x 3 , [ ] ( float32 int64 bool = := ids - 0 { ' 99999999999999 complex32 null uint4 &a *a 2024-13-45"
)


@BOUNDED
@given(texts(GRAMMAR, 14))
@example("[" * 3000)
@example("[" * 3000 + "1" + "]" * 3000)
@example("9" * 5000)
@example("x".join(["1"] * 10_000))
@example("float32[" + "9" * 5000 + "]")
@example("a:=" + "[" * 3000)
def test_the_input_grammar(text: str) -> None:
    with only_inspect_error():
        parse_inputs([text])


YAML = (
    "a : - [ ] { } &a *a !!int !!binary !!set !!omap 2024-02-30 0x 0b 1_ ~ << | > \" ' % @ # ? 1e5 SEED"
    " SOLVER model MODEL INPUT FREEZE resnet18"
)


@BOUNDED
@given(text=texts(YAML, 16))
def test_yaml_as_an_argument_as_settings_and_as_a_list_of_models(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with only_inspect_error():
        yaml_value(text, "--arg")
    with only_inspect_error():
        load(file)
    with only_inspect_error():
        entries([str(file)])
    with only_inspect_error():
        load(None, {"SEED": text, "SOLVER.BASE_LR": text})


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
GOOD = table([row("m")]) | {"findings": [finding("a", "pass", "b", "c")]}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, entry in items for place in places(entry, (*path, key)))]


@BOUNDED
@given(st.sampled_from(places(GOOD)[1:]), VALUES)
def test_a_report_with_anything_anywhere(place: tuple[Any, ...], value: Any) -> None:
    content = json.loads(json.dumps(GOOD))
    held = content
    for key in place[:-1]:
        held = held[key]
    held[place[-1]] = value
    with only_inspect_error():
        side(content, "a.json")
    with only_inspect_error():
        report = from_json(json.dumps(content), "a.json")
        report.to_json()
        for form in set(FORMATS) - {"html"}:
            report.written(form)


@BOUNDED
@given(st.text(max_size=40))
@example("[" * 100_000)
@example('{"schema": "inspector.report/2", "schema": "inspector.report/2"}')
@example('{"schema": "inspector.report/' + "9" * 5000 + '"}')
@example('{"schema": "inspector.report/\u00b2"}')
@example("9" * 5000)
def test_a_report_of_any_text(text: str) -> None:
    with only_inspect_error():
        from_json(text, "a.json")


def saved(zipped: bool) -> bytes:
    stream = io.BytesIO()
    state = {
        "a": torch.arange(3.0),
        "b": [torch.zeros(2, 2), {"c": torch.ones(1, dtype=torch.int64)}],
        "n": 3,
    }
    torch.save(state, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


WHOLE = {"zip": saved(True), "legacy": saved(False)}


@BOUNDED
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1),
    whole=st.booleans(),
)
def test_a_checkpoint_with_other_bytes(
    tmp_path: Path, kind: str, changes: list[tuple[float, int]], cut: float, whole: bool
) -> None:
    content = bytearray(WHOLE[kind])
    for place, byte in changes:
        content[int(place * len(content))] = byte
    file = tmp_path / "a.pth"
    file.write_bytes(content if whole else content[: int(cut * len(content))])
    with only_inspect_error():
        checkpoint.read(file)
    with only_inspect_error():
        weights.load_tensors(file)


OPCODES = b"(.0123456789:FIKMNXSVUTLJGRQPcbaeilodstu]})hq" + bytes([0, 1, 10, *range(0x80, 0x96)])


@BOUNDED
@given(seed=st.integers(0, 2**32), length=st.integers(0, 60))
def test_a_pickle_of_any_opcodes(tmp_path: Path, seed: int, length: int) -> None:
    draw = random.Random(seed)
    body = b"".join(
        draw.choice(
            [bytes([draw.choice(OPCODES)]), b"ctorch\nFloatStorage\n", b"X\x01\x00\x00\x00a", b"K\x05"]
        )
        for _ in range(length)
    )
    file = tmp_path / "a.pth"
    file.write_bytes(WHOLE["zip"])
    with zipfile.ZipFile(io.BytesIO(WHOLE["zip"])) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"\x80\x02" + body + b"." if name.endswith("data.pkl") else old.read(name))
    with only_inspect_error():
        checkpoint.read(file)


@BOUNDED
@given(
    header=st.one_of(VALUES, st.dictionaries(st.text(max_size=3), VALUES, max_size=3)),
    data=st.binary(max_size=9),
)
def test_a_safetensors_header_of_anything(tmp_path: Path, header: Any, data: bytes) -> None:
    text = json.dumps(header).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    with only_inspect_error():
        checkpoint.read(file)


@BOUNDED
@given(st.text(alphabet=st.characters(), max_size=30))
def test_what_is_shown_of_a_text_is_one_printable_line(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    assert not shown.lstrip().startswith("::")
