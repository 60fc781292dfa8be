"""What a start loads: a count of modules does not depend on how busy the machine is, as its time does.

A module that appears here costs every user its import. To use one after all, say so in the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

BASELINE = Path(__file__).parents[2] / "benchmarks" / "baselines" / "torchvision.json"
PROGRAM = """
import sys
place, commands = sys.argv[1:]
commands = eval(commands)  # lists of strings; an import of json is for the commands to make
end, write, codes, after = sys.exit, sys.stdout.write, [], []
sys.exit = codes.append
for words in commands:
    printed = []
    sys.stdout.write = lambda text: (printed.append(text), write(text))[1]
    sys.argv[1:] = words
    from inspector.cli import main
    main.entry()
    after.append((sorted(sys.modules), any(printed)))
import json
json.dump(after, open(place, "w"))
end(max(code or 0 for code in codes))
"""
HEAVY = {"torch", "torchvision", "numpy", "pandas", "pydantic", "rich", "scipy", "tabulate"}
"""Packages that take longer to import than a start may take."""
PARSERS = {"yaml", "yacs", "importlib.metadata", "lazy_loader"}
"""What a start needs only for settings, versions of packages, or the Python API."""
COMPILER = {"torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes", "triton"}
OTHERS = {
    "pandas",
    "scipy",
    "timm",
    "transformers",
    "tabulate",
    "sklearn",
    "fvcore",
    "thop",
    "yacs",
}


def loaded(*words: str, folder: Path) -> set[str]:
    """The modules that the process of one command has loaded when it ends."""
    (modules,) = loaded_in_turn([words], folder)
    return modules


def loaded_in_turn(commands: Sequence[Sequence[str]], folder: Path) -> list[set[str]]:
    """The modules that one process has loaded after each of its commands: among them is what the command
    alone would load."""
    place = folder / "loaded.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(place), json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    after = json.loads(place.read_text())
    assert [printed for _, printed in after] == [True] * len(commands), done.stdout
    return [set(modules) for modules, _ in after]


@pytest.mark.once
def test_help_loads_little(tmp_path: Path) -> None:
    modules = loaded("--help", folder=tmp_path)
    assert not modules & (HEAVY | PARSERS)
    assert own(modules) <= {"inspector", "cli", "core", "reporting"}


@pytest.mark.once
def test_a_diff_of_two_files_loads_neither_torch_nor_pandas(tmp_path: Path) -> None:
    modules = loaded("diff", str(BASELINE), str(BASELINE), folder=tmp_path)
    assert not modules & (HEAVY | PARSERS)
    assert own(modules) <= {"inspector", "cli", "core", "regress", "reporting"}
    assert "inspector.regress.sweep" not in modules


ALLOWED = {"inspector.tracing.record"}
"""Of the rooms that count, what shows a trace."""


def test_what_counts_and_trains_loads_what_it_needs_and_nothing_of_the_compiler(
    net_file: Path, tmp_path: Path
) -> None:
    """GIVEN commands in one process, each of which may load more than those before, WHEN one has ended, THEN
    nothing is loaded that none of them may load."""
    mine = f"{net_file}:build"
    profile = ["profile", "squeezenet1_1", "--input", "1x3x64x64"]
    counters = ["--counter", "thop", "--counter", "torch"]
    params, net, library, freeze, reconcile = loaded_in_turn(
        [
            ["params", mine],
            ["profile", mine, "--input", "1x3x8x8"],
            profile,
            ["freeze", "squeezenet1_1", "--pattern", "features.0.*", "--no-ddp"],
            ["reconcile", "squeezenet1_1", "--input", "1x3x64x64", *counters],
        ],
        tmp_path,
    )
    for users in (params, net):
        assert "torch" in users
        assert not users & {*OTHERS, "torchvision", "torch._dynamo", "torch._inductor"}
    assert not library & (COMPILER | OTHERS)
    assert own(library) <= {"inspector", "cli", "core", "profiling", "models", "tracing", "reporting"}
    for trained in (freeze, reconcile):
        assert "torchvision" in trained
        assert not trained & (COMPILER | OTHERS)

    cached = loaded(*profile, folder=tmp_path)
    assert not cached & (HEAVY | PARSERS)
    assert own(cached) <= {"inspector", "cli", "core", "profiling", "tracing", "reporting"}
    assert not any(name.startswith(("inspector.tracing.", "inspector.models")) for name in cached - ALLOWED)


@pytest.mark.once
def test_a_checkpoint_of_safetensors_loads_no_torch(tmp_path: Path) -> None:
    from inspector.core.files import write_whole

    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    file = write_whole(tmp_path / "net.safetensors", len(header).to_bytes(8, "little") + header + bytes(24))
    modules = loaded("params", str(file), folder=tmp_path)
    assert not modules & (HEAVY - {"numpy"})  # safetensors itself imports that


def own(modules: set[str]) -> set[str]:
    """The rooms of inspector among them."""
    parts = [name.split(".") for name in modules if name.partition(".")[0] == "inspector"]
    return {part[1] if part[1:] else part[0] for part in parts}
