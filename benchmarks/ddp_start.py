"""What `inspect ddp` takes beside its own work: the whole command against its training and checks.

    python benchmarks/ddp_start.py [MODEL]

`seconds` is the wall clock of the whole process `python -m inspector ddp MODEL --nproc 2 --device cpu`, from
its start to its end: imports, reading the model, starting the workers twice (one is killed), the report.
`own` is what rank 0 says of itself (the metric `training_seconds`): the sum over its two starts of the time
from joining the group to its last evidence (the start that is killed: to the kill). That holds building the
model and the data, every check, the training, the kill and the resume; it holds no import, no start of a
process, no rendezvous, and nothing of the command itself. The ratio is that of one run; the median of five is
reported. Beside it stands the same where the workers are started by torch's elastic launcher.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

from common import median, save

REPEATS = 5
WANTED = 1.5
ELASTIC = (
    "import sys; from inspector.distributed import report; report.possible = lambda *_: False;"
    "from inspector.cli.main import main; sys.exit(main())"
)
"""The command as it runs where no fork is safe."""


def run(start: list[str], model: str) -> dict[str, float]:
    words = [*start, "ddp", model, "--nproc", "2", "--device", "cpu", "--format", "json"]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    own = json.loads(done.stdout)["metrics"]["training_seconds"]["value"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = {"seconds": seconds, "own": own, "ratio": seconds / own, "cpu_seconds": cpu}
    return {key: round(value, 3) for key, value in row.items()}


def main(words: list[str]) -> None:
    model = words[0] if words else "resnet18"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ways = {"forked": ["-m", "inspector"], "elastic": ["-c", ELASTIC]}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, start in ways.items():
            runs[name].append(run(start, model))
            print(name, runs[name][-1], flush=True)
    medians = {
        name: {key: median([row[key] for row in rows]) for key in rows[0]} for name, rows in runs.items()
    }
    for name, row in medians.items():
        print(f"{name}: {row['seconds']:.1f} s, {row['ratio']:.2f} times its training and checks")
    content = {"model": model, "wanted": WANTED, "medians": medians, "runs": runs, "cores": os.cpu_count()}
    save("ddp_start", content)


if __name__ == "__main__":
    main(sys.argv[1:])
