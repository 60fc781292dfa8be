"""No false alarm: every torchvision classification model, frozen at three N, must pass every check.

    python benchmarks/freeze_clean.py [MODEL ...]

One stage, half of them, and all of them; random weights, the smallest inputs that each model accepts, the
default number of steps. (The DDP step is in the corpus and in the tests.) Results are added to
benchmarks/results/freeze_clean.json as they come; models in it are not run again.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import warnings

from common import RESULTS, save
from torchvision import models

import inspector

FILE = RESULTS / "freeze_clean.json"


def names() -> list[str]:
    """Smallest first, so that an interrupted run has covered the most models."""
    known = models.list_models(module=models)
    return sorted(known, key=lambda name: models.get_model_weights(name).DEFAULT.meta["num_params"])


def verify(name: str) -> dict:
    start = time.perf_counter()
    total = len(inspector.freeze(name, at=0).plan.backbone.stages)
    alarms, checks = {}, 0
    for at in (1, total // 2, total):
        handle = inspector.freeze(name, at=at)
        report = handle.verify(ddp=False)
        checks += len(report.findings)
        failed = [f"{f.check}: {f.subject} {f.message}" for f in report.findings if f.status == "fail"]
        if failed:
            alarms[at] = failed
        handle = None
        gc.collect()
    return {
        "stages": total,
        "checks": checks,
        "alarms": alarms,
        "seconds": round(time.perf_counter() - start, 1),
    }


def main(words: list[str]) -> None:
    warnings.simplefilter("ignore")
    done = json.loads(FILE.read_text())["models"] if FILE.exists() else {}
    for name in words or [name for name in names() if name not in done]:
        try:
            done[name] = verify(name)
        except Exception as error:
            done[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(name, done[name], flush=True)
        alarms = sum(bool(row.get("alarms")) for row in done.values())
        errors = sum("error" in row for row in done.values())
        content = {"models_run": len(done), "with_alarms": alarms, "with_errors": errors, "models": done}
        save("freeze_clean", content)


if __name__ == "__main__":
    main(sys.argv[1:])
