"""What every command returns: a `Report` of metrics, tables and findings."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.core.errors import InspectError
from inspector.core.version import __version__
from inspector.core.visible import visible
from inspector.reporting.harmless import harmless
from inspector.reporting.parts import Chart, Content, Finding, Metric, Section, metric, metrics
from inspector.reporting.schema import as_text, plain_content, read_text, restored, to_dict

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Chart", "Finding", "Metric", "Report", "Section", "environment", "from_json", "metric", "metrics",
]  # fmt: skip


class Report(Content):
    """The result of a command."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract as plain Python values; NaN and infinity become None."""
        return to_dict(self)

    def to_json(self) -> str:
        """`to_dict` as text: a row of a table and a finding are one line each, so that two files can be
        compared line by line."""
        return as_text(self.to_dict())

    @staticmethod
    def read(file: str | Path) -> Report:
        """A report from the JSON file that some command wrote, without header, sections and charts: those
        are not in the file. Raises InspectError for a file that is missing, torn, of another kind or of a
        newer major version of the schema."""
        return from_json(read_text(Path(file)), str(file))

    def save(self, file: str | Path) -> Path:
        """Write the report, whole or not at all, in the format of the file's suffix: .html, .json, .md,
        .csv, .txt."""
        from inspector.core.files import write_whole
        from inspector.reporting.formats import format_of

        return write_whole(file, self.written(format_of(file)))

    def written(self, form: str, color: bool = False, width: int | None = None) -> str:
        """The report as text in one of `inspector.reporting.formats.FORMATS`; `color` and `width` are the
        terminal's, for a table."""
        from inspector.reporting.formats import renderer

        return renderer(form)(self, color, width) if form == "table" else renderer(form)(self)

    def failures(self) -> list[str]:
        """A sentence for each claim that is false."""
        return [finding.sentence for finding in self.findings if finding.status == "fail"]

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """One table as a pandas DataFrame: the first one, or the one named (see `tables`)."""
        if not self.tables:
            raise InspectError(f"a {self.command} report has no tables")
        name = table or next(iter(self.tables))
        if name not in self.tables:
            raise InspectError(f"no table is called {name!r}", f"there are: {', '.join(self.tables)}")
        return self.tables[name].to_frame()

    if not TYPE_CHECKING:  # a checker shall find what is misspelt

        def __getattr__(self, name: str) -> Any:
            """The value of the metric of that name: `report.macs`; None where it is not known."""
            metrics = self.__dict__.get("metrics", {})
            if name in metrics:
                return metrics[name].value
            raise AttributeError(f"this {type(self).__name__} has no attribute and no metric {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self.metrics if name.isidentifier())]

    def __str__(self) -> str:
        return self.written("table")

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={metric.value}" for name, metric in self.metrics.items())
        return visible(f"<Report {self.command} {self.subject.get('name', '')}: {numbers}>")

    def _repr_html_(self) -> str:
        from inspector.reporting.formats.html import fragment

        return fragment(harmless(self))


def from_json(text: str, place: str) -> Report:
    """The inverse of `Report.to_json`; `place` names the text in errors (see `Report.read`)."""
    return restored(Report, plain_content(text, place), place)


def environment(**more: Any) -> dict[str, Any]:
    """Versions and platform; packages that are not imported are not named."""
    versions: dict[str, Any] = {
        name: str(getattr(sys.modules[name], "__version__", None))
        for name in ("torch", "torchvision", "timm", "transformers")
        if name in sys.modules
    }
    return {
        "inspector": __version__,
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpu": None,
        **more,
    }
