"""What `inspect diff` costs: two tables of all torchvision models, and 10,000 rows in every format.

python benchmarks/diff_speed.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import interleaved, median, save

BASELINE = Path(__file__).parent / "baselines" / "torchvision.json"
FORMATS = ("table", "markdown", "json", "csv", "html", "junit", "github")
REPEATS = 7
ROWS = 10_000


def tables(folder: Path, rows: int) -> tuple[Path, Path]:
    """Two tables of `rows` models, each with one metric that got worse by its own number."""
    content = json.loads(BASELINE.read_text())
    pattern = {**content["tables"]["models"][0]}
    for name in list(pattern):
        if isinstance(pattern[name], int) or name.endswith("_digest"):
            del pattern[name]
    files = folder / "base.json", folder / "head.json"
    for file, step in zip(files, (0, 1)):
        models = [{**pattern, "model": f"model_{n:05d}", "macs": 10**6 + step * n} for n in range(rows)]
        file.write_text(json.dumps({**content, "tables": {"models": models}}))
    return files


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)


def main() -> None:
    diff = ["-m", "inspector", "diff"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = {
            "python": lambda: run("-c", "pass"),
            "import pandas": lambda: run("-c", "import pandas"),
            "diff of all torchvision models": lambda: run(*diff, str(BASELINE), str(BASELINE)),
        }
        seconds = interleaved(work, REPEATS)
        base, head = tables(folder, ROWS)
        forms = {
            form: lambda form=form: run(*diff, str(base), str(head), "--format", form) for form in FORMATS
        }
        many = interleaved(forms, 1)
    medians = {name: round(median(values), 3) for name, values in seconds.items()}
    fastest = {name: round(min(values), 3) for name, values in seconds.items()}
    ratio = medians["diff of all torchvision models"] / medians["import pandas"]
    rows = {form: round(median(values), 3) for form, values in many.items()}
    for name, value in {**medians, **rows}.items():
        print(f"{name:32} {value:7.3f} s")
    save(
        "diff_speed",
        {
            "median_seconds": medians,
            "fastest_seconds": fastest,
            "ratio_diff_to_import": round(ratio, 3),
            "rows": ROWS,
            "seconds_of_all_rows": rows,
        },
    )


if __name__ == "__main__":
    main()
