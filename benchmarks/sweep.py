"""Every weights entry of torchvision, by each counter, in one run: what accuracy.py and speed.py read.

    python benchmarks/sweep.py                     ours, thop, fvcore, torch and what else is installed
    python benchmarks/sweep.py ours thop           these counters
    python benchmarks/sweep.py --one thop FILE     one counter, in this process, over the specs in FILE

Each counter has a process of its own, which builds every model (random weights, no download) and counts
it at the input of its weights entry, batch 1, through the adapters of inspector.counters: thop, fvcore
and the others on the CPU with real tensors, ours on meta. Entries that are the same architecture at the
same input (our count, parameters and input agree) are run once. What fails is reported, and its time
counts. A model may take `LIMIT` seconds.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from common import save

DEFAULT = ("ours", "thop", "fvcore", "torch", "torchinfo", "ptflops")
LIMIT = 180


def entries() -> dict[str, str]:
    """Each `NAME@ENTRY`, and the first one that is the same work."""
    from torchvision.models import get_model_weights, list_models

    from inspector.profiling.run import trace
    from inspector.profiling.views.totals import totals

    first: dict[Any, str] = {}
    same = {}
    for name in list_models():
        for entry in get_model_weights(name):
            spec = f"{name}@{entry.name}"
            found = trace(spec)
            sums = totals(found)
            same[spec] = first.setdefault((name, found.inputs, sums["macs"], sums["params"]), spec)
    return same


def sweep(name: str, specs: list[str]) -> dict[str, Any]:
    from inspector.counters import find
    from inspector.counters.isolate import Question, answer
    from inspector.models import resolve

    warnings.filterwarnings("ignore")
    signal.signal(signal.SIGALRM, _too_long)
    counter = find(name)
    started = time.process_time()
    macs: dict[str, int | str] = {}
    seconds: dict[str, float] = {}
    for spec in specs:
        recipe = resolve(spec)
        ours_on = recipe.only_on[0] if recipe.only_on else "meta"
        question = Question(spec, {}, None, None, "forward", ours_on, 0, 1, LIMIT)
        signal.alarm(LIMIT)
        outcome = answer(counter, recipe, question)
        signal.alarm(0)
        count = outcome.count
        macs[spec] = count.value // counter.per_mac if count else outcome.message[:120]
        seconds[spec] = round(outcome.seconds or 0.0, 4)
        print(f"{name:9} {spec:60} {seconds[spec]:8.2f} s  {macs[spec]}", file=sys.stderr, flush=True)
        del outcome, count
        gc.collect()
    return {
        "models": len(specs),
        "failed": sum(1 for value in macs.values() if isinstance(value, str)),
        "total_seconds": round(sum(seconds.values()), 2),
        "cpu_seconds": round(time.process_time() - started, 2),
        "load_average": [round(load, 2) for load in os.getloadavg()],  # of the machine, at the end
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "seconds": seconds,
        "macs": macs,
    }


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"no answer in {LIMIT} s")


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--one"]:
        specs = json.loads(Path(words[2]).read_text())
        print(json.dumps(sweep(words[1], specs)))
        return
    from inspector.counters import find
    from inspector.counters.isolate import missing

    wanted = [name for name in words or DEFAULT if missing(find(name)) is None]
    same = entries()
    counters = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "specs.json"
        file.write_text(json.dumps(sorted(set(same.values()))))
        for name in wanted:
            done = subprocess.run(
                [sys.executable, __file__, "--one", name, str(file)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            counters[name] = json.loads(done.stdout.splitlines()[-1])
            save("sweep", {"same_as": same, "counters": counters})


if __name__ == "__main__":
    main()
