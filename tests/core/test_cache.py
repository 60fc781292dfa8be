"""The cache of traces: what it keeps, what it never keeps, and what it does when a file is broken."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from inspector.core import cache
from inspector.profiling import cached
from inspector.profiling.cached import Entry
from inspector.tracing.record import Trace
from tests.conftest import Run


def entry(spec: str = "squeezenet1_1", phase: str = "forward", inputs: list[str] | None = None) -> Entry:
    found = Entry.of(spec, {}, inputs, phase)
    assert found is not None
    return found


@pytest.fixture
def trace() -> Trace:
    return Trace("squeezenet1_1", "torchvision", "forward", "meta", ("float32[1,3,224,224]",), (), (), (), ())


def test_a_second_run_is_cached_and_says_the_same(inspect: Run) -> None:
    _, first, _ = inspect("profile", "squeezenet1_1", "--depth", 0)
    _, second, _ = inspect("profile", "squeezenet1_1", "--depth", 0)
    cached = [line for line in second.splitlines() if line not in first.splitlines()]
    assert cached == ["cached      counted by an earlier run; --no-cache counts again"]
    _, anew, _ = inspect("profile", "squeezenet1_1", "--depth", 0, "--no-cache")
    assert anew == first


def test_a_cached_profile_loads_no_torch(inspect: Run) -> None:
    inspect("profile", "squeezenet1_1")
    program = (
        "import sys; from inspector.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'torchvision', 'timm', 'scipy'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "profile", "squeezenet1_1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cached" in done.stdout


@pytest.mark.parametrize(
    "spec",
    ["net.py", "net.py:build", "./a/net.py:Net", "package.module:Net", "hf:config.json", "huggingface:x"],
)
def test_models_of_users_are_never_kept(spec: str) -> None:
    assert Entry.of(spec, {}, None, "forward") is None


def test_every_part_of_the_question_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        entry(),
        entry("timm:squeezenet1_1"),
        entry("resnet18"),
        entry(phase="train"),
        entry(inputs=["2x3x64x64"]),
        Entry.of("squeezenet1_1", {"num_classes": 7}, None, "forward"),
    }
    monkeypatch.setattr(cached, "_versions", lambda: {"torch": "9.9"})
    found.add(entry())
    monkeypatch.setattr(cached, "_code", lambda source: [("trace/formulas/x.py", 1, 2)])
    found.add(entry())
    assert len(found) == 8


def test_versions_are_those_of_the_installed_packages() -> None:
    import torch
    import torchvision

    found = cached._versions()
    for name, package in (("torch", torch), ("torchvision", torchvision)):
        version = package.__version__.partition("+")[0]
        assert any(version in place for place, _, _ in found[name])
    assert found["python"] == platform.python_version()


def test_another_torch_on_the_path_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cached._versions()
    (tmp_path / "torch-9.9.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cached._versions()["torch"] != before["torch"]
    assert cached._versions()["timm"] == before["timm"]


def test_a_changed_model_is_another_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torchvision"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    net = package / "models" / "net.py"
    net.write_text("width = 8")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = entry()
    net.write_text("width = 16")
    assert entry() != before


@pytest.mark.parametrize("damage", ["", "{", '{"schema": "inspector.trace/1"}', "[]"])
def test_a_damaged_entry_is_counted_again(inspect: Run, damage: str) -> None:
    inspect("profile", "squeezenet1_1")
    (file,) = cache.entries()
    file.write_text(damage)
    code, out, err = inspect("profile", "squeezenet1_1")
    assert (code, err) == (0, "")
    assert "cached" not in out
    assert json.loads(file.read_text())["model"] == "squeezenet1_1"


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"source": "python"}, {"source": "huggingface"}])
def test_what_depends_on_more_than_the_key_is_not_kept(trace: Trace, change: dict[str, str]) -> None:
    entry().store(replace(trace, **change))  # type: ignore[arg-type]
    assert cache.entries() == []


def test_many_writers_leave_one_whole_entry(trace: Trace) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: entry().store(trace), range(40)))
    assert len(list(cache.folder().iterdir())) == 1
    assert entry().load() == trace


def test_a_folder_that_cannot_be_written_costs_nothing(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    entry().store(trace)
    assert entry().load() is None


def test_the_oldest_entries_go(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 2)
    for phase in ("forward", "train", "other"):
        entry(phase=phase).store(trace)
    assert len(cache.entries()) == 2


def test_the_command_shows_and_clears(inspect: Run, trace: Trace) -> None:
    entry().store(trace)
    code, out, _ = inspect("cache", "--format", "json")
    assert (code, json.loads(out)["metrics"]["entries"]["value"]) == (0, 1)
    code, out, _ = inspect("cache", "--clear", "--format", "json")
    metrics = json.loads(out)["metrics"]
    assert (code, metrics["removed"]["value"], metrics["entries"]["value"]) == (0, 1, 0)
    assert cache.entries() == []
