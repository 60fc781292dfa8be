"""`inspect ddp` on models that train right, at 1, 2 and 4 processes: no check may fail.

    python benchmarks/ddp_clean.py

Whole runs of the launcher, a killed worker included (with 2 and more).
"""

from __future__ import annotations

import time

from common import save

import inspector

MODELS = {
    "resnet18": None,
    "mobilenet_v3_small": None,
    "timm:vit_tiny_patch16_224": None,
    "tests.distributed.nets:LayerNorms": ["4x3x8x8"],
}
SETTINGS = {"SOLVER.STEPS": 12, "SOLVER.VALIDATE_EVERY": 5, "DATA.BATCH": 4}


def main() -> None:
    rows = []
    for model, inputs in MODELS.items():
        for nproc in (1, 2, 4):
            start = time.perf_counter()
            report = inspector.ddp(
                model, inputs, nproc=nproc, device="cpu", settings=SETTINGS, kill=nproc > 1
            )
            assert report is not None
            statuses = [finding.status for finding in report.findings]
            failed = [f"{f.check}: {f.message}" for f in report.findings if f.status == "fail"]
            seconds = round(time.perf_counter() - start, 1)
            row = {"model": model, "nproc": nproc, "passed": statuses.count("pass"), "seconds": seconds}
            rows.append({**row, "failed": failed})
            print(rows[-1], flush=True)
            save(
                "ddp_clean",
                {"runs": len(rows), "with_alarms": sum(bool(r["failed"]) for r in rows), "rows": rows},
            )


if __name__ == "__main__":
    main()
