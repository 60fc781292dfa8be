"""Kill and restart: every run of `inspect ddp` loses a worker to SIGKILL and must go on bit by bit.

python benchmarks/ddp_kill.py [RUNS]
"""

from __future__ import annotations

import sys
import time

from common import save

import inspector

SETTINGS = {"SOLVER.STEPS": 6, "SOLVER.VALIDATE_EVERY": 3, "DATA.BATCH": 4}


def main(words: list[str]) -> None:
    runs = int(words[0]) if words else 20
    rows = []
    for _ in range(runs):
        start = time.perf_counter()
        report = inspector.ddp("resnet18", nproc=2, device="cpu", settings=SETTINGS)
        assert report is not None
        found = {f.check: f.status for f in report.findings if f.check in ("killed", "resume")}
        failed = [f.message for f in report.findings if f.status == "fail"]
        rows.append({"seconds": round(time.perf_counter() - start, 1), **found, "failed": failed})
        print(len(rows), rows[-1], flush=True)
        passed = sum(row.get("killed") == row.get("resume") == "pass" for row in rows)
        save("ddp_kill", {"runs": len(rows), "passed": passed, "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
