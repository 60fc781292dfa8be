"""Who may import whom (the room table of the design), and what a start of the program costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "inspector"

ALLOWED = {
    "errors.py": set(),
    "files.py": {"errors"},
    "rooms.py": set(),
    "devices.py": {"errors", "yaml"},
    "log.py": set(),
    "cache.py": {"__version__", "errors", "files", "log", "trace.record", "platformdirs"},
    "config.py": {"errors", "models.naming", "yacs", "yaml"},
    "report.py": {"errors", "files", "render", "pandas"},
    "render": {"errors", "report", "render", "tabulate", "pandas", "plotly", "junitparser"},
    "views": {"trace.record", "views", "pandas"},
    "trace/record.py": {"errors", "files"},
    "trace/formulas": {"trace.record", "trace.formulas"},
    "trace/capture": {"errors", "trace", "torch", "numpy"},
    "models": {
        "errors", "files", "models", "trace.capture", "trace.record", "safetensors",
        "torch", "torchvision", "timm", "transformers", "numpy",
    },
    "verify": {
        "errors", "models", "report", "trace.capture", "trace.record", "verify",
        "torch", "numpy", "scipy", "fvcore",
    },
    "ddp": {
        "config", "ddp", "errors", "files", "log", "models", "report", "rooms", "trace.capture",
        "torch", "torchvision", "numpy", "sklearn", "PIL",
    },
    "bench": {
        "bench", "errors", "log", "models", "report", "rooms", "trace.capture", "trace.record",
        "torch", "numpy", "scipy", "pynvml",
    },
    "counters": {
        "counters", "errors", "log", "models", "trace", "views.totals",
        "torch", "torchvision", "thop", "fvcore", "torchinfo", "ptflops", "calflops", "deepspeed",
    },
    "api": {
        "api", "bench", "config", "counters", "ddp", "devices", "errors", "files", "log", "models", "regress",
        "render", "report", "trace", "verify", "views", "torch", "torchvision", "pandas", "yaml",
    },
    "regress": {"api", "errors", "files", "regress", "render", "report", "numpy", "pandas", "pytest"},
    "cli": {"errors", "cli", "typer"},
}  # fmt: skip
"""What a room's files may import: names inside `inspector`, and packages that are not stdlib."""


def imported(file: Path, top_level_only: bool) -> set[str]:
    """Imports outside the standard library, `inspector.` cut off; TYPE_CHECKING blocks left out."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
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


def rooms() -> list[tuple[str, Path]]:
    return [
        (room, file)
        for room in ALLOWED
        for file in ([ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py")))
    ]


@pytest.mark.parametrize(("room", "file"), rooms(), ids=lambda v: str(getattr(v, "name", v)))
def test_a_room_imports_only_what_the_design_allows(room: str, file: Path) -> None:
    # The command line reaches into torch-side rooms inside functions only.
    for name in imported(file, top_level_only=room == "cli"):
        allowed = any(name == entry or name.startswith(entry + ".") for entry in ALLOWED[room])
        assert allowed, f"{file.relative_to(ROOT)} imports {name}"


def test_every_room_is_in_the_table() -> None:
    outside = {"__init__.py", "__main__.py"}
    for entry in ROOT.iterdir():
        if entry.name not in outside and entry.name != "__pycache__":
            assert any(key.split("/")[0] == entry.name for key in ALLOWED), entry.name


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
    "module", ["inspector", "inspector.report", "inspector.trace.record", "inspector.trace.formulas"]
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
