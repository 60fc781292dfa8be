"""The report of a comparison: what every format writes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from inspector.core.version import __version__
from inspector.regress.compare import Change, Comparison, Where
from inspector.regress.content import Scalar
from inspector.regress.layers import described
from inspector.regress.rules import STATES
from inspector.reporting.numbers import duration, si
from inspector.reporting.registry import Quantity, Unit
from inspector.reporting.report import Finding, Report, Section, metrics
from inspector.reporting.tables import Table

MODULES = 10
"""Causes of one model that are shown at most; the table `where` has every module."""
_STATUS = {"new": "warn", "noisy": "warn", "incomparable": "warn", "improved": "pass", "ok": "pass"}


def report(found: Comparison, rows: int | None = None, plain: bool = False, every: bool = False) -> Report:
    """The report of `found`. Its tables are whole; the sections show at most `rows` changes, worst first.

    `plain` is for CSV: one section, with every row and its numbers as they are. `every`: what is ok is
    listed, too, and each module by itself.
    """
    base, head = found.base, found.head
    table = Table.of([_record(change) for change in found.changes], _COLUMNS)
    where = Table.of([line for entry in found.where for line in _modules(entry)], _WHERE)
    return Report(
        command="diff",
        subject={"name": _title(found), "source": "diff", "base": base.place, "head": head.place},
        environment={"inspector": __version__},  # a comparison is the same on every machine
        metrics=metrics(found.counts),
        tables={"rows": table, "where": where},
        findings=_findings(found),
        verdict=found.verdict,
        header=_header(found),
        sections=_sections(found, rows, every, table if plain else None),
    )


def _sections(
    found: Comparison, rows: int | None, every: bool = False, plain: Table | None = None
) -> list[Section]:
    """Where it changed, and what."""
    if plain is not None:
        return [Section("changes", plain)]
    changes = [change for change in found.changes if every or change.state != "ok" or change.fails]
    sections = _where_section(found.where, rows, every)
    if changes:  # else the header says it all
        shown = changes[:rows]
        sections.append(
            Section("changes, worst first", _written(shown), _left(found.changes, shown), _WRITTEN)
        )
    return sections


def fitted(
    found: Comparison,
    write: Callable[[Report], str],
    limit: int,
    at_most: int = 10_000,
    every: bool = False,
) -> str:
    """What `write` makes of as many of the worst changes as fit in `limit` bytes."""
    whole = report(found, 0)

    def cut(rows: int) -> str:
        return write(replace(whole, sections=_sections(found, rows, every)))

    most = min(len(found.changes), at_most)
    text = cut(most).encode()
    if len(text) > limit:
        text = _longest(lambda rows: cut(rows).encode(), most, len(text), limit)
    return text[:limit].decode(errors="ignore")


def _longest(cut: Callable[[int], bytes], most: int, size: int, limit: int) -> bytes:
    """The last of `cut(0)`, `cut(1)`, ... that fits in `limit`; the first where none does. That of `most` has
    `size` bytes and does not. Rows are about equally long, so every other guess is on a line."""
    fits, too_many, text = 0, most, cut(0)
    on_line = True
    while len(text) <= limit and too_many - fits > 1:
        share = (limit - len(text)) / (size - len(text)) if on_line else 0.5
        rows = min(max(fits + int(share * (too_many - fits)), fits + 1), too_many - 1)
        longer = cut(rows)
        if len(longer) <= limit:
            fits, text = rows, longer
        else:
            too_many, size = rows, len(longer)
        on_line = not on_line
    return text


_COLUMNS = ("state", "fails", "model", "metric", "base", "head", "delta", "relative", "unit", "why")
_WHERE = ("model", "module", "was", "macs", "params", "what")
_WRITTEN: dict[str, Quantity] = dict.fromkeys(
    ("base", "head", "change", "MACs", "parameters"), Quantity(Unit.NUMBER)
)
"""Numbers that are already text, because each row has its own unit."""


def _record(change: Change) -> dict[str, Any]:
    record = {name: getattr(change, name) for name in _COLUMNS} | {"why": change.reason}
    infinite = change.relative is not None and math.isinf(change.relative)
    return {**record, "relative": None} if infinite else record


def _written(changes: list[Change]) -> Table:
    """The changes as people read them."""
    rows = [
        {
            "state": f"{c.state.upper() if c.fails else c.state}",
            "model": c.model,
            "metric": c.metric,
            "base": number(c.base, c.unit),
            "head": number(c.head, c.unit),
            "change": delta(c),
            "why": c.why,
        }
        for c in changes
    ]
    table = Table.of(rows, ("state", "model", "metric", "base", "head", "change", "why"))
    return table.drop(*(name for name in ("model", "why") if not any(table[name])))


def number(value: Scalar, unit: str) -> str:
    """Every digit of a whole number: two that differ must look different."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value[:12]
    if isinstance(value, int):
        return f"{value:,}"
    return duration(value) if unit == Unit.SECOND else f"{value:.6g}"


def delta(change: Change) -> str:
    """`+20 (+20%)`; empty where nothing moved."""
    if change.delta is None or change.delta == 0:
        return ""
    relative = change.relative
    part = "" if relative is None or math.isinf(relative) else f" ({100 * relative:+.3g}%)"
    sign = "+" if change.delta > 0 else "-"
    return f"{sign}{number(abs(change.delta), change.unit)}{part}"


def _left(changes: list[Change], shown: list[Change]) -> str:
    """A note about what is not shown: of what is ok, only how many."""
    listed = set(map(id, shown))
    rest = [change for change in changes if id(change) not in listed]
    if not rest:
        return ""
    if all(change.state == "ok" for change in rest):
        return f"({len(rest):,} ok; --all lists them)"
    return f"({len(shown):,} of {len(changes):,} rows, worst first; not shown: {_counted(rest)})"


def _counted(changes: Iterable[Change]) -> str:
    states = [change.state for change in changes]
    return ", ".join(f"{states.count(state):,} {state}" for state in STATES if state in states)


def _modules(entry: Where) -> Iterable[dict[str, Any]]:
    for change in entry.modules:
        was = change.base.path if change.renamed and change.base else ""
        line = (entry.model, change.path, was, change.macs, change.params, described(change))
        yield dict(zip(_WHERE, line))
    yield from _unexplained(entry)


def _where_section(entries: list[Where], rows: int | None, every: bool) -> list[Section]:
    """What explains most of each model, worst models first: a line for each cause, or `every` module."""

    def signed(value: int) -> str:
        return f"{'+' if value > 0 else '-'}{si(abs(value))}" if value else ""

    shown, total, folded = [], 0, False
    for entry in entries:
        lines = list(_modules(entry) if every else _causes(entry))
        total += len(lines)
        folded = folded or len(lines) < len(entry.modules)
        for line in lines if every else lines[:MODULES]:
            shown.append(
                {
                    "model": line["model"],
                    "module": line["module"] or "(the model itself)",
                    "MACs": signed(line["macs"]),
                    "parameters": signed(line["params"]),
                    "what": line["what"],
                }
            )
    shown = shown[:rows]
    if not shown:
        return []
    table = Table.of(shown)
    table = table if any(table["model"]) else table.drop("model")
    kind = "changed modules" if every else "changes of modules"
    note = f"({len(shown):,} of {total:,} {kind})" if len(shown) < total else ""
    note = note or (
        "(layers that changed alike, or follow, are one line; --all lists each)" if folded else ""
    )
    return [Section("where it changed, children not included", table, note, _WRITTEN)]


def _causes(entry: Where) -> Iterable[dict[str, Any]]:
    """A line for each group of modules, as `_modules` for each module."""
    for group in entry.groups:
        yield dict(zip(_WHERE, (entry.model, group.name, "", group.macs, group.params, group.what)))
    yield from _unexplained(entry)


def _unexplained(entry: Where) -> Iterable[dict[str, Any]]:
    if entry.macs_left or entry.params_left:
        left = (entry.model, "", "", entry.macs_left, entry.params_left, "not explained by any module")
        yield dict(zip(_WHERE, left))


def _title(found: Comparison) -> str:
    names = [str(side.subject.get("name", "")) for side in (found.base, found.head)]
    return names[0] if names[0] == names[1] else " and ".join(names)


def _header(found: Comparison) -> list[tuple[str, str]]:
    lines = [("BASE", _place(found.base)), ("HEAD", _place(found.head))]
    failing = sum(change.fails for change in found.changes)
    counted = _counted(found.changes) or "nothing to compare"
    lines.append(("result", f"{counted}" + (f": {failing:,} FAIL" if failing else "")))
    return lines


def _place(side: Any) -> str:
    versions = [
        f"{name} {side.environment[name]}" for name in ("inspector", "torch") if side.environment.get(name)
    ]
    name = side.subject.get("name", "")
    return f"{side.place}: {side.command} of {name}" + (f" ({', '.join(versions)})" if versions else "")


def _findings(found: Comparison) -> list[Finding]:
    """One for each change that is not ok, and one for all of a model's that are: for machines."""
    good = Counter(change.model for change in found.changes if change.state == "ok")
    findings = [
        Finding(
            change.metric,
            "fail" if change.fails else _STATUS.get(change.state, "warn"),
            change.model,
            sentence(change),
            shown=False,
        )
        for change in found.changes
        if change.state != "ok"
    ]
    findings += [
        Finding("unchanged", "pass", model, f"{count} ok", shown=False) for model, count in good.items()
    ]
    if not any(change.state in ("ok", "improved", "regressed") for change in found.changes):
        status = "fail" if found.verdict == "fail" else "warn"
        findings.append(Finding("compared", status, "", "nothing could be compared"))
    return findings


def sentence(change: Change) -> str:
    """One line about a change: `regressed: 100 to 120, +20 (+20%)`."""
    text = values(change)
    return f"{change.state}: {text}" if text else change.state


def values(change: Change) -> str:
    """What a metric was and is, and why."""
    base, head = number(change.base, change.unit), number(change.head, change.unit)
    both = f"{base} to {head}" if base and head else head or base
    return ", ".join(part for part in (both, delta(change), change.reason) if part)
