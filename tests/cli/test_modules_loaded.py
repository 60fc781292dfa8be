"""What a start loads: a count of modules does not depend on how busy the machine is, as its time does.

A module that appears here costs every user its import. To use one after all, say so in the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BASELINE = Path(__file__).parents[2] / "benchmarks" / "baselines" / "torchvision.json"
PROGRAM = """
import sys
from inspector.cli import main
end = sys.exit
sys.exit = lambda code: None
main.entry()
import json
json.dump(sorted(sys.modules), open(LOADED, "w"))
end(0)
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
    place = folder / "loaded.json"
    program = PROGRAM.replace("LOADED", repr(str(place)))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return set(json.loads(place.read_text()))


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


def test_a_profile_loads_torch_and_nothing_of_its_compiler_and_a_cached_one_neither(tmp_path: Path) -> None:
    cold = loaded("profile", "squeezenet1_1", "--input", "1x3x64x64", folder=tmp_path)
    assert "torch" in cold
    assert not cold & (COMPILER | OTHERS)
    assert own(cold) <= {"inspector", "cli", "core", "profiling", "models", "tracing", "reporting"}
    cached = loaded("profile", "squeezenet1_1", "--input", "1x3x64x64", folder=tmp_path)
    assert not cached & (HEAVY | PARSERS)
    assert own(cached) <= {"inspector", "cli", "core", "profiling", "tracing", "reporting"}
    assert not any(name.startswith(("inspector.tracing.", "inspector.models")) for name in cached - ALLOWED)


@pytest.mark.parametrize(
    "words",
    [
        ["freeze", "squeezenet1_1", "--pattern", "features.0.*", "--no-ddp"],
        ["reconcile", "squeezenet1_1", "--input", "1x3x64x64", "--counter", "thop", "--counter", "torch"],
    ],
)
def test_training_and_reconciling_load_nothing_of_the_compiler(words: list[str], tmp_path: Path) -> None:
    modules = loaded(*words, folder=tmp_path)
    assert "torchvision" in modules
    assert not modules & (COMPILER | OTHERS)


ALLOWED = {"inspector.tracing.record"}
"""Of the rooms that count, what shows a trace."""


@pytest.mark.parametrize(
    "counted", [["profile", "FILE:build", "--input", "1x3x8x8"], ["params", "FILE:build"]]
)
def test_a_users_own_net_loads_torch_alone(counted: list[str], net_file: Path, tmp_path: Path) -> None:
    words = [word.replace("FILE", str(net_file)) for word in counted]
    modules: Any = loaded(*words, folder=tmp_path)
    assert "torch" in modules
    assert not modules & {*OTHERS, "torchvision", "torch._dynamo", "torch._inductor"}


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
