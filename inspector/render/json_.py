"""The JSON contract, byte-identical for equal reports."""

from inspector.report import Report


def render(report: Report) -> str:
    return report.to_json() + "\n"
