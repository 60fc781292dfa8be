"""The first section as CSV with plain numbers; unknown is an empty cell."""

from inspector.reporting.parts import Content

SUFFIXES = (".csv",)


def render(report: Content) -> str:
    if not report.sections:
        names = {name: metric.value for name, metric in report.metrics.items()}
        return ",".join(names) + "\n" + ",".join(map(str, names.values())) + "\n"
    return report.sections[0].frame.to_csv(index=False, lineterminator="\n")
