"""Every model of timm's registry at the input that its own configuration names, one forward on meta.

    nice -n 19 python benchmarks/timm_sweep.py          all of them, about an hour; it resumes when stopped
    python benchmarks/timm_sweep.py resnet18 vit_*      these, printed and not saved

Random weights, no download, batch 1, one process. A model that meta cannot run is counted on the CPU, as
`inspect profile` does. Each row: MACs, parameters, and where there are any the unknown operators, the notes,
or what failed. A model may take `LIMIT` seconds.
"""

from __future__ import annotations

import fnmatch
import sys
import warnings
from typing import Any

from common import resumable, save, unknown

LIMIT = 180


def row(name: str) -> dict[str, Any]:
    from inspector.profiling.run import trace
    from inspector.profiling.views.totals import totals

    counted = trace(f"timm:{name}")
    sums = totals(counted)
    result: dict[str, Any] = {"macs": sums["macs"], "params": sums["params"]}
    if counted.device != "meta":
        result["device"] = counted.device
    if counted.notes:
        result["notes"] = list(counted.notes)
    if sums["unknown_ops"]:
        result["unknown"] = unknown(counted)
    return result


def main() -> None:
    import timm

    warnings.filterwarnings("ignore")
    names = timm.list_models()
    if sys.argv[1:]:
        for name in (n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in sys.argv[1:])):
            print(name, row(name))
        return
    rows = resumable("timm_sweep", names, row, LIMIT)
    failed = {name: found["error"] for name, found in rows.items() if "error" in found}
    summary = {
        "timm": timm.__version__,
        "models": len(rows),
        "failed": len(failed),
        "with_unknown_operators": sum("unknown" in found for found in rows.values()),
        "on_cpu": sum("device" in found for found in rows.values()),
        "seconds": round(sum(found["seconds"] for found in rows.values())),
    }
    print(summary)
    save("timm_sweep", {**summary, "rows": rows})


if __name__ == "__main__":
    main()
