"""Who may import whom (the room table of the design), and what a start of the program costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent / "inspector"

TORCH = {"torch", "numpy"}
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "core": (set(), {"yacs", "yaml", "platformdirs"}),
    "reporting": ({"core"}, {"pandas", "tabulate", "junitparser"}),
    "tracing": ({"core"}, TORCH),
    "models": (
        {"tracing"},
        {
            *TORCH,
            "torchvision",
            "timm",
            "transformers",
            "diffusers",
            "huggingface_hub",
            "gguf",
            "peft",
            "safetensors",
        },
    ),
    "profiling": ({"models"}, TORCH),
    "footprint": ({"profiling"}, TORCH),
    "scaling": ({"footprint"}, TORCH),
    "serving": ({"footprint", "benchmarking"}, {"torch"}),
    "backbones": ({"profiling"}, TORCH),
    "freezing": ({"backbones"}, TORCH),
    "initialization": ({"backbones"}, {*TORCH, "scipy", "fvcore"}),
    "benchmarking": ({"profiling"}, {*TORCH, "scipy", "torchvision", "pynvml"}),
    "distributed": ({"profiling"}, {*TORCH, "torchvision", "sklearn", "PIL"}),
    "counters": (
        {"profiling"},
        {*TORCH, "torchvision", "thop", "fvcore", "torchinfo", "ptflops", "calflops", "deepspeed"},
    ),
    "regress": ({"reporting"}, {"numpy", "pytest"}),
    "regress/sweep": ({"regress", "backbones", "benchmarking"}, {*TORCH, "yaml", "ray", "distributed"}),
    "pages": ({"footprint"}, TORCH),
}
"""A room, the highest rooms that its files may import (with all that those may; reporting is open to every
room above it), and packages that are not of the standard library."""

PASSAGES = {
    # The front of profiling hands the question to another counter; those stand on profiling's other files.
    "profiling/profile.py": {"counters.profile"},
    # What each of several processes needs is simulated, by the room that stands on this one's other files.
    "footprint/report.py": {"scaling.processes"},
    # A worker freezes and initialises its model as the settings say, before it trains.
    "distributed/rank.py": {"freezing", "initialization"},
    # What a page carries along is drawn by the room that made it.
    "pages/added.py": {"benchmarking.sections", "distributed.sections"},
    "pages/report.py": {"backbones"},
    "pages/parts.py": {"backbones"},
}
"""Files that may import more than their room, and why."""

ON_DEMAND = {"cli", "regress"}
"""Rooms that load further rooms inside functions only: their start must be light."""

OPEN = {"core", "reporting"}


def below(room: str) -> set[str]:
    """The rooms that `room` may import: itself, those of the table, and what is below them."""
    reached = {room}
    for lower in ROOMS[room][0]:
        reached |= below(lower)
    return reached | (OPEN if room not in ("core", "tracing", "reporting") else set())


def for_type_checkers(tree: ast.AST) -> set[int]:
    """The nodes of blocks that only type checkers read."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }


def imported(file: Path, top_level_only: bool) -> set[str]:
    """Imports outside the standard library, `inspector.` cut off; TYPE_CHECKING blocks left out."""
    tree = parsed(file)
    typing_only = for_type_checkers(tree)
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"inspector.{alias.name}" for alias in node.names if node.module == "inspector"} or {
                node.module
            }
    return {
        name.removeprefix("inspector.")
        for name in found
        if name.partition(".")[0] not in sys.stdlib_module_names and name != "inspector.__version__"
    }


@cache
def files() -> tuple[Path, ...]:
    return tuple(sorted(ROOT.rglob("*.py")))


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def place(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", files(), ids=place)
def test_a_room_imports_only_what_the_design_allows(file: Path) -> None:
    folders = file.relative_to(ROOT).parts[:-1]
    if not folders:
        return
    room = next(r for r in ("/".join(folders[:2]), folders[0]) if r in {*ROOMS, "cli"})
    names = imported(file, top_level_only=room in ON_DEMAND)
    rooms = {"cli", "core", "reporting"} if room == "cli" else below(room)
    packages = {"typer"} if room == "cli" else ROOMS[room][1]
    for name in names:
        top = name.partition(".")[0]
        passage = any(name == p or name.startswith(f"{p}.") for p in PASSAGES.get(place(file), ()))
        assert top in rooms | packages or passage, f"{place(file)} imports {name}"


def test_every_room_is_in_the_table() -> None:
    folders = {entry.name for entry in ROOT.iterdir() if entry.is_dir() and entry.name != "__pycache__"}
    assert folders == {*(room for room in ROOMS if "/" not in room), "cli"}


def test_no_room_shares_its_name_with_a_public_function() -> None:
    import inspector

    assert not set(dir(inspector)) & {*ROOMS, "cli"}


def test_dir_shows_exactly_the_public_names() -> None:
    import inspector

    stub = (ROOT / "__init__.pyi").read_text()
    assert sorted(dir(inspector)) == sorted(
        line.rpartition(" as ")[2] for line in stub.splitlines() if " as " in line
    )
    for name in dir(inspector):
        assert getattr(inspector, name) is not None


def test_no_circle_between_files() -> None:
    """Also not by an import inside a function: each file can be understood after those that it imports."""
    graph = {module(file): targets(file) for file in files()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@cache
def modules() -> frozenset[str]:
    return frozenset(module(file) for file in files())


def module(file: Path) -> str:
    return place(file).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def targets(file: Path) -> set[str]:
    """The files of inspector that a file imports anywhere."""
    names = modules()
    found = set()
    tree = parsed(file)
    typing_only = for_type_checkers(tree)
    for node in ast.walk(tree):
        if id(node) in typing_only or not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for alias in node.names:
            base = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            parts = base.split(".")[1:] if base.startswith("inspector") else []
            exact = next(
                (m for k in (len(parts), len(parts) - 1) if (m := ".".join(parts[:k])) in names), None
            )
            if exact:
                found.add(exact)
    return found - {module(file), ""}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["profile", "--help"],
        ["freeze", "--help"],
        ["init", "--help"],
        ["bench", "--help"],
        ["report", "--help"],
        ["table", "--help"],
        ["diff", "--help"],
        ["memory", "--help"],
        ["reconcile", "--help"],
        ["--version"],
    ],
)
def test_help_loads_no_torch_and_no_pandas(words: list[str]) -> None:
    program = (
        "import sys; from inspector.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'torchvision', 'pandas', 'numpy', 'rich'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_diff_of_two_files_loads_no_torch_and_no_scipy(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    parts = '"environment": {}, "metrics": {}, "tables": {}, "findings": [], "verdict": "none"'
    file.write_text(f'{{"schema": "inspector.report/1", "command": "profile", "subject": {{}}, {parts}}}')
    program = (
        "import sys; from inspector.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'torchvision', 'scipy'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    words = [sys.executable, "-c", program, "diff", file, file]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module",
    ["inspector", "inspector.reporting.report", "inspector.tracing.record", "inspector.tracing.formulas"],
)
def test_light_rooms_load_no_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_no_file_passes_400_lines() -> None:
    long = [
        f"{file.relative_to(ROOT)}: {len(lines)}"
        for file in ROOT.rglob("*.py")
        if len(lines := file.read_text().splitlines()) > 400
    ]
    assert long == []
