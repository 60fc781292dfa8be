"""A regression table: one row of exact numbers for each of many models, as a baseline for `diff`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from inspector.core.errors import InspectError
from inspector.models.device import OTHERS, gpu_name, real_device
from inspector.profiling.meter import metered, uncounted
from inspector.regress.content import compared
from inspector.regress.sweep import measure as measuring
from inspector.regress.sweep.engines import ENGINES
from inspector.regress.sweep.entries import entries as read_entries
from inspector.regress.sweep.entries import once
from inspector.regress.sweep.pool import sweep
from inspector.regress.sweep.row import Counted, Entry
from inspector.reporting.report import Finding, Report, Section, environment, metrics
from inspector.reporting.tables import Table

Tell = Callable[[str, float], None]
MEASURES = ("latency", "memory")
ROUNDS = 30
_ASKED = (
    "model", "spec", "given_inputs", "model_args", "call", "serving", "source", "class", "inputs", "phase",
    "device", "notes", "error", "lower_bound",
)  # fmt: skip


_SHOWN = {
    "model": "model", "params": "params", "MACs": "macs", "FLOPs": "flops", "activations": "activations",
    "buffers": "buffers", "stages": "stages", "state dict": "state_digest", "operators": "ops_digest",
    "unknown": "unknown_ops", "latency": "latency", "CPU time": "cpu_time", "peak memory": "peak_memory",
    "error": "error",
}  # fmt: skip
"""Labels of the columns that people compare, and their names in the table of models."""


def table(
    models: str | Sequence[str] | Sequence[Entry] = (),
    *,
    all: str | None = None,
    inputs: Sequence[str] | None = None,
    model_args: Mapping[str, Any] | None = None,
    phase: str = "forward",
    device: str | None = None,
    seed: int = 0,
    jobs: int = 1,
    engine: str | None = None,
    address: str | None = None,
    measure: Sequence[str] = (),
    rounds: int = ROUNDS,
    output: str | Path | None = None,
    append: bool = False,
    resume: bool = False,
    call: str | None = None,
    tell: Tell = lambda what, share: None,
) -> Report:
    """Count every model and list the numbers, one row each; a model that fails is a row with its error.

    models, all, inputs, model_args, phase, call: see `entries` in inspector/regress/sweep/entries.py.
    device: None counts on meta, and on the CPU where meta cannot; measurements take the GPU if there is one.
    jobs: processes that count.
    engine, address: the existing cluster that counts in their place: "ray" at HOST:PORT (or "auto"), "dask"
        at tcp://HOST:PORT. Its workers need the same versions, and the files of models under the same paths.
        Measurements are made here.
    output: the file that the report will be saved to (`.save(output)`, which is left to the caller). A sweep
        that is cut off leaves a journal beside it: `resume` goes on from there.
    measure: of "latency" (seconds of a forward, on a CPU also its CPU time; `rounds` visits, all models in
        turn) and "memory" (what torch's allocator holds at the peak).
    append: the rounds of the table in `output` (.json) come before these: two checkouts that add a round
        each in turn can be compared.
    """
    _check(measure, rounds, jobs, device)
    _check_engine(engine, address, jobs)
    file = Path(output) if output is not None else None
    journal, earlier = _journal(file, resume), _earlier(file) if append else None
    asked = _entries(models, all, inputs, model_args, phase, call)
    _check_same(asked, earlier)
    counted = sweep(
        asked, device=device, seed=seed, jobs=jobs, engine=engine, address=address, journal=journal,
        resume=resume, tell=tell,
    )  # fmt: skip
    rows = {one.row["model"]: dict(one.row) for one in counted}
    place = real_device(device, others=OTHERS) if measure else None
    taken = _measured(asked, rows, measure, rounds, place, seed, earlier, tell) if place else []
    result = report(counted, list(rows.values()), taken, _title(models, all), place, seed)
    if place and "memory" in measure and (why := uncounted(place)):
        result.findings.append(Finding("memory", "skip", place, f"not measured: {why}"))
    return result


def _journal(output: Path | None, resume: bool) -> Path | None:
    """Where a sweep that is cut off leaves what it knows."""
    if output is None and resume:
        raise InspectError("`resume=True` needs the sweep's `output=FILE`", "name the file of the sweep")
    return output.with_name(f".{output.name}.journal") if output is not None else None


def _earlier(output: Path | None) -> Report | None:
    """The table that these rounds are added to, if it is there already."""
    if output is None or output.suffix != ".json":
        raise InspectError("`append=True` needs an `output=FILE.json`", "say where the rounds are kept")
    return Report.read(output) if output.is_file() else None


def _entries(
    models: Any, source: Any, inputs: Any, model_args: Any, phase: str, call: str | None
) -> list[Entry]:
    if not isinstance(models, str) and models and all(isinstance(model, Entry) for model in models):
        return once(list(models))
    texts = [models] if isinstance(models, str) else list(models)
    return read_entries(texts, all=source, inputs=inputs, model_args=model_args, phase=phase, call=call)


def _title(models: Any, source: str | None) -> str:
    texts = [models] if isinstance(models, str) else [getattr(model, "name", model) for model in models]
    named = ([source] if source else []) + [str(text) for text in texts]
    return ", ".join(named) if len(named) <= 3 else f"{named[0]} and {len(named) - 1} more"


def _check(measure: Sequence[str], rounds: int, jobs: int, device: str | None) -> None:
    for name in measure:
        if name not in MEASURES:
            raise InspectError(f"cannot measure {name!r}", f"use some of: {', '.join(MEASURES)}")
    if rounds < 1 or jobs < 1:
        raise InspectError("rounds and jobs must be at least 1", "pass e.g. `rounds=30` `jobs=2`")
    if measure and device == "meta":
        raise InspectError("nothing can be measured on meta", 'use `device="cpu"` or cuda')


def _check_engine(engine: str | None, address: str | None, jobs: int) -> None:
    if engine is None and address is not None:
        raise InspectError("`address=` is that of a cluster", 'say of which kind: `engine="ray"` or "dask"')
    if engine is None:
        return
    if engine not in ENGINES:
        raise InspectError(f"no engine is called {engine!r}", f"use one of: {', '.join(ENGINES)}")
    if address is None:
        raise InspectError(
            f"`engine={engine!r}` needs the address of a cluster that runs",
            "give `address=HOST:PORT`, or `jobs=2` for processes of this machine",
        )
    if jobs > 1:
        raise InspectError("`jobs=` are processes of this machine, not of a cluster", "leave out `jobs=`")


def _check_same(entries: Sequence[Entry], earlier: Report | None) -> None:
    """Rounds of different questions must not be mixed."""
    if earlier is None:
        return
    if earlier.command != "table":
        raise InspectError(f"a {earlier.command} report has no rounds", "name a table, or a new file")
    before = {row["model"]: row for row in earlier.tables["models"].records()}
    for entry in entries:
        row = before.get(entry.name)
        asked = entry.as_dict()
        keys = {"spec": "spec", "given_inputs": "inputs", "model_args": "model_args", "phase": "phase"}
        if (
            row is None
            or any(row[mine] != asked[name] for mine, name in keys.items())
            or (row.get("call", "forward"), row.get("serving") or {}) != (entry.call, entry.step)
        ):
            raise InspectError(
                f"the table to add to has no row {entry.name!r} of the same spec, inputs and arguments",
                "remove the file, or ask the same again",
            )


def _measured(
    entries: Sequence[Entry],
    rows: dict[str, dict[str, Any]],
    measure: Sequence[str],
    rounds: int,
    device: str,
    seed: int,
    earlier: Report | None,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Fill in the measured columns of `rows`; gives the rows of the table of rounds."""
    models: list[measuring.Live] = []
    clock = None
    for entry in entries:
        row = rows[entry.name]
        if row["error"]:
            continue
        try:
            model = measuring.live(entry, device, seed, clock)
            clock = model.clock
            if "memory" in measure and not uncounted(device):
                with metered(device) as peak:
                    model.step()
                row["peak_memory"] = peak.whole
            models.append(model)
        except Exception as error:  # the model's own, on real values
            message = error.message if isinstance(error, InspectError) else f"{type(error).__name__}: {error}"
            row["error"] = " ".join(f"cannot be measured on {device}: {message}".split())
    if "latency" not in measure:
        return []
    measuring.rounds(models, rounds, lambda number: tell(f"round {number}", number / rounds))
    before = _rounds_before(earlier)
    taken = []
    for model in models:
        taken += [*before.get(model.name, []), *model.rounds]
        mine = [line for line in taken if line["model"] == model.name]
        rows[model.name]["latency"] = median([line["seconds"] for line in mine])
        if device == "cpu":
            rows[model.name]["cpu_time"] = median([line["cpu_seconds"] for line in mine])
    return taken


def _rounds_before(earlier: Report | None) -> dict[str, list[dict[str, Any]]]:
    rounds: dict[str, list[dict[str, Any]]] = {}
    if earlier is not None and "rounds" in earlier.tables:
        for line in earlier.tables["rounds"].records():
            rounds.setdefault(str(line["model"]), []).append({str(key): value for key, value in line.items()})
    return rounds


def report(
    counted: Sequence[Counted],
    rows: list[dict[str, Any]],
    rounds: list[dict[str, Any]],
    title: str,
    measured_on: str | None,
    seed: int,
) -> Report:
    """The report of the rows that were counted."""
    present = {name for row in rows for name, value in row.items() if value is not None}
    columns = [*_ASKED, *compared(present)]
    frame = Table.of(rows, columns)
    tables = {
        "models": frame,
        "layers": Table.of(line for one in counted for line in one.layers),
        "ops": Table.of(line for one in counted for line in one.ops),
        "stages": Table.of(line for one in counted for line in one.stages),
        "rounds": Table.of(rounds),
    }
    bad = [row for row in rows if row["error"]]
    return Report(
        command="table",
        subject={"name": title, "source": "table", "inputs": [], "phase": None, "device": measured_on},
        environment=_environment(measured_on, seed),
        metrics=metrics({"models": len(rows), "failed": len(bad)}),
        tables={name: table for name, table in tables.items() if len(table)},
        findings=[Finding("counted", "fail", row["model"], row["error"], shown=False) for row in bad],
        verdict="fail" if bad else "none",
        sections=[Section("models", _shown(rows), _note(rows))],
    )


def _environment(measured_on: str | None, seed: int) -> dict[str, Any]:
    """Counts are the same on every machine: a baseline names none, unless something was measured."""
    facts = environment(seed=seed)
    if measured_on is None:
        facts.pop("platform")
        return facts
    return {**facts, "gpu": gpu_name(measured_on), "device": measured_on, "threads": torch.get_num_threads()}


def _shown(rows: list[dict[str, Any]]) -> Table:
    """The columns that people compare; what no row has is left out."""
    records = [{label: row.get(name) for label, name in _SHOWN.items()} for row in rows]
    frame = Table.of(records, _SHOWN)
    unused = [name for name in ("latency", "CPU time", "peak memory") if set(frame[name]) <= {None}]
    unused += [name for name in ("unknown", "error") if not any(frame[name])]
    return frame.drop(*unused)


def _note(rows: list[dict[str, Any]]) -> str:
    bounds = sum(1 for row in rows if row["lower_bound"])
    rows_are = "1 row is a lower bound" if bounds == 1 else f"{bounds} rows are lower bounds"
    return f"({rows_are}: operators without a formula)" if bounds else ""
