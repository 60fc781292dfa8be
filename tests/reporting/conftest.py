"""A report made by hand, with everything that a renderer meets."""

from __future__ import annotations

import pandas as pd
import pytest

from inspector.reporting.report import Finding, Metric, Report, Section


@pytest.fixture
def report() -> Report:
    frame = pd.DataFrame(
        {
            "module": ["toy", "  <script>|x_1"],
            "macs": pd.array([4_089_184_256, None], dtype="Int64"),
            "bytes": [102_228_128, 0],
            "share": [1.0, float("nan")],
        }
    )
    return Report(
        command="profile",
        subject={"name": "<b>toy</b>", "source": "python", "inputs": [], "phase": "forward"},
        environment={"python": "3"},
        metrics={
            "macs": Metric(4_089_184_256, "MAC", label="MACs", lower_bound=True),
            "params": Metric(12, "count"),
            "loss": Metric(None, "MAC"),
            "ratio": Metric(float("inf"), "ratio", kind="noisy"),
        },
        tables={"modules": frame},
        findings=[
            Finding("coverage", "warn", "", "no formula for my.op"),
            Finding("frozen", "fail", "layer1", "moved by 3", {"by": float("nan")}),
        ],
        verdict="fail",
        header=[("model", "<b>toy</b>")],
        sections=[Section("tree", frame, "(all of 2)")],
    )
