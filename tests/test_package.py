"""What is published: a wheel and an sdist that build, hold what they should, and run from an empty folder."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import inspector
from inspector.benchmarking import machine

build = pytest.importorskip("hatchling.build")
pytestmark = pytest.mark.once
ROOT = Path(__file__).parent.parent


def built(source: Path, into: Path, kind: str) -> Path:
    """The archive that hatchling makes of a source tree, in a process of its own."""
    code = f"import hatchling.build as b; print(b.build_{kind}({str(into)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True
    )
    return into / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the sdist: what an index serves, and what pip builds where it takes the source."""
    place: Path = tmp_path_factory.mktemp("dist")
    with tarfile.open(built(ROOT, place, "sdist")) as archive:
        archive.extractall(place / "source", filter="data")
    (source,) = (place / "source").iterdir()
    return built(source, place, "wheel")


def test_a_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        about = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        names = set(archive.namelist())
    assert about["Name"] == "torch-inspector"
    assert about["Version"] == inspector.__version__
    assert about["License-Expression"] == "BSD-3-Clause"
    assert "Typing :: Typed" in about.get_all("Classifier")
    assert "inspect = inspector.cli.main:entry" in scripts
    assert "inspector = inspector.cli.main:entry" in scripts
    assert "[pytest11]" in scripts
    assert {"inspector/py.typed", "inspector/__init__.pyi", f"{info}/licenses/LICENSE"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("inspector/")}
    tracked = subprocess.run(
        ["git", "ls-files", "inspector"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("this is no clone")
    assert set(tracked.stdout.split()) <= packed


def test_a_wheel_runs_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    code = "import inspector as i, inspector.cli.main as m; print(i.__file__); m.main(['--version'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert str(tmp_path / "site") in done.stdout, done.stderr
    assert inspector.__version__ in done.stdout


def test_another_command_of_that_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "inspect"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (finding,) = machine._command()
    assert finding.status == "warn"
    assert str(other) in finding.message
    monkeypatch.setenv("PATH", "")
    assert not list(machine._command())
