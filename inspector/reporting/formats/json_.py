"""The JSON contract, byte-identical for equal reports."""

from inspector.reporting.report import Report


def render(report: Report) -> str:
    return report.to_json() + "\n"
