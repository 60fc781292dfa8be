"""GitHub workflow commands: each failure an error annotation, each remark a warning.

GitHub keeps the first 10 of each kind that a step writes and silently drops the others, so the last
one says how many more there are.
"""

from __future__ import annotations

from inspector.reporting.parts import Content, Finding

SUFFIXES = (".github",)
LIMIT = 10
_KINDS = {"fail": "error", "warn": "warning"}


def render(report: Content) -> str:
    lines = []
    for status, kind in _KINDS.items():
        matching = [finding for finding in report.findings if finding.status == status]
        shown = matching if len(matching) <= LIMIT else matching[: LIMIT - 1]
        lines += [_line(kind, report, finding) for finding in shown]
        if len(shown) < len(matching):
            rest = f"{len(matching) - len(shown):,} more: see the whole report"
            lines.append(f"::{kind} title={_property(_title(report))}::{_data(rest)}")
    return "".join(f"{line}\n" for line in lines)


def _line(kind: str, report: Content, finding: Finding) -> str:
    parts = [part for part in (finding.subject, finding.check) if part]
    message = f"{' '.join(parts)}: {finding.message}" if parts else finding.message
    return f"::{kind} title={_property(_title(report))}::{_data(message)}"


def _title(report: Content) -> str:
    return f"inspect {report.command}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
