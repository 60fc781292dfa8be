"""Initialise a model by a scheme, or verify which initialisation it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from inspector.core.errors import InspectError, first_line
from inspector.core.naming import texts
from inspector.initialization.examine import STATUSES
from inspector.initialization.expect import Outcome, Row
from inspector.initialization.job import Job, applied_and_verified, job_of, verified
from inspector.initialization.schemes import Choice, choose
from inspector.models import Recipe
from inspector.models.device import device_of
from inspector.models.inputs import materialise
from inspector.models.small import smallest
from inspector.reporting.report import Finding, Report, Section, environment, metrics
from inspector.reporting.tables import Table
from inspector.tracing.describe import describe_call

SHOWN = 20
"""Tensors that the text report lists; the table holds them all."""
BATCH = 8
"""Samples that are propagated: with fewer values, a batch norm turns the gradients into noise."""
PLOTTED = 60
"""Modules in the propagation plot for people."""
FEW = 3
"""Up to this many tensors that fail one check are findings of their own."""
GOOD = ("matches", "ambiguous", "inconclusive")


def init(
    model: str | Path | nn.Module | Recipe,
    scheme: str | None = None,
    *,
    expect: str | None = None,
    a: float | None = None,
    mode: str | None = None,
    gain: float | None = None,
    std: float | None = None,
    value: float | None = None,
    layers: Sequence[str] | None = None,
    bias: str | float = "auto",
    seed: int = 0,
    weights: str | Path | None = None,
    inputs: Any = None,
    model_args: Mapping[str, Any] | None = None,
    save: str | Path | None = None,
    propagation: bool = True,
) -> Report:
    """Initialise `model` in place with `scheme` and verify it, or with `expect` verify alone.

    model: a spec ("resnet50", "timm:...", "file.py:build"), an nn.Module, or with `expect` a checkpoint
        file. A spec is built on the CPU from `seed`.
    scheme: a name of `inspector.initialization.schemes` (default kaiming_uniform with a = 1); `a`, `mode`,
        `gain`, `std` and `value` are its options.
    expect: a scheme's name, or "auto": name the known law that each tensor has. Changes nothing.
    layers: globs over layer paths ("conv*", "layer1.*"). Default: every layer with a weight of two or
        more dimensions but embeddings, recurrent and norm layers (`expect="default"`: all layers).
    bias: "auto" (zeros for c2_*, torch's default for `default`, else keep, as torch.nn.init does),
        "keep", "zeros", "default" or a number.
    weights: a checkpoint to load first. save: write the state_dict there, with a manifest beside it.
    propagation: also run the model and report the spread of activations and gradients.

    The verdict is fail when a tensor contradicts its law; under "auto" only when one is uninitialised.
    Raises InspectError for unknown names, and for options that the scheme does not use.
    """
    options = {"a": a, "mode": mode, "gain": gain, "std": std, "value": value}
    _check(scheme, expect, options, bias, save)
    choice = None if expect == "auto" else choose(expect or scheme or "kaiming_uniform", bias, **options)
    job = job_of(model, model_args, seed, inputs, weights, expect)
    wanted = texts(layers, "layers") if layers else None
    if expect is not None:
        outcome, selected, of = verified(job, choice, wanted)
        report = _report(job, outcome, choice, selected, of, applied=False)
    else:
        assert job.model is not None
        assert choice is not None
        applied, outcome = applied_and_verified(job, choice, wanted)
        report = _report(job, outcome, choice, len(applied.layers), applied.of, applied=True)
    if propagation and job.model is not None:
        _propagate(job, report)
    report.findings = _gathered(report.findings)
    report.verdict = "fail" if any(f.status == "fail" for f in report.findings) else "pass"
    if save is not None:
        _save(job, report, choice, save)
    return report


def _check(
    scheme: str | None, expected: str | None, options: Mapping[str, Any], bias: Any, save: Any
) -> None:
    if scheme is not None and expected is not None:
        raise InspectError(
            "`scheme=` applies and `expect=` verifies: give one of them", "an applied scheme is verified too"
        )
    if expected is not None and save is not None:
        raise InspectError("`expect=` changes nothing that `save=` could write", "leave `save=` out")
    used = [name for name, option in options.items() if option is not None]
    if expected == "auto" and (used or bias != "auto"):
        raise InspectError(
            f'`expect="auto"` tries every known law and does not use `{(used or ["bias"])[0]}=`',
            "leave it out, or name a scheme",
        )
    if save is not None:
        from inspector.models.weights import check_save

        check_save(save)


def _gathered(findings: list[Finding]) -> list[Finding]:
    """Many tensors that fail one check are one finding: the first, and all of them as its evidence."""
    kept: dict[str, list[Finding]] = {}
    for number, finding in enumerate(findings):
        alone = finding.status != "fail"
        kept.setdefault(f"{number}" if alone else finding.check, []).append(finding)
    gathered: list[Finding] = []
    for first, *others in kept.values():
        if len(others) >= FEW:
            evidence = {finding.subject: finding.evidence for finding in (first, *others)}
            message = f"{first.message} (and {len(others)} more tensors likewise)"
            first, others = replace(first, message=message, evidence=evidence), []
        gathered += [first, *others]
    return gathered


def _propagate(job: Job, report: Report) -> None:
    """Add the propagation table, plot and findings; without inputs say so."""
    from inspector.initialization.propagation import propagate

    assert job.model is not None
    assert job.recipe is not None
    try:
        inputs = job.inputs
        if inputs is None or not inputs.has_tensors:
            inputs = smallest(job.recipe, job.model, BATCH, values=inputs)
        if inputs is None:
            raise InspectError("the model has no default input: give `inputs=`")
        args, kwargs = materialise(inputs, job.model, device_of(job.model), job.seed)
        signal = propagate(job.model, args, kwargs, job.seed)
    except InspectError as error:
        message = f"not measured: {first_line(error)}"
        report.findings.append(Finding("propagation", "skip", "", message))
        return
    described = describe_call(args, kwargs)
    report.subject["inputs"] = described
    report.header.append(("propagated", ", ".join(described)))
    frame = Table.of(signal.rows)
    report.tables["propagation"] = frame
    report.findings += signal.findings
    if len(frame):
        note = f"(the first {PLOTTED} of {len(frame)} modules)" if len(frame) > PLOTTED else ""
        report.sections.append(Section("propagation", _written_out(frame.head(PLOTTED)), note=note))


def _save(job: Job, report: Report, choice: Choice | None, path: str | Path) -> None:
    from inspector.models.weights import save_state

    assert job.model is not None
    assert choice is not None
    tensors = report.tables["tensors"]
    manifest = {
        "model": job.name,
        "scheme": choice.scheme.name,
        "options": choice.options,
        "bias": choice.bias,
        "seed": job.seed,
        "environment": report.environment,
        "verdict": report.verdict,
        "tensors": dict(zip(tensors["tensor"], tensors["law"])),
    }
    files = save_state(job.model, path, manifest)
    report.header.append(("saved", ", ".join(str(file) for file in files)))


def _report(job: Job, outcome: Outcome, choice: Choice | None, layers: int, of: int, applied: bool) -> Report:
    done = "applied" if applied else "expected"
    worst, note = _worst(outcome.rows)
    counts = {status: outcome.count(status) for status in STATUSES}
    return Report(
        command="init",
        subject={"name": job.name, "source": job.source, "inputs": [], "phase": None, "device": "cpu"},
        environment=environment(),
        metrics=metrics({"layers": layers, "tensors": len(outcome.rows), **counts}),
        tables={"tensors": Table.of([row.cells() for row in outcome.rows])},
        findings=outcome.findings,
        header=[
            ("model", f"{job.name} ({job.source})"),
            (done, choice.text if choice is not None else "auto: any known law"),
            ("layers", f"{layers} of {of}"),
            ("seed", str(job.seed) if job.model is not None else "none: a file"),
        ],
        sections=[
            Section("tensors by law", _summary(outcome.rows)),
            Section("evidence (p of each tensor by itself, before Holm)", worst, note=note),
        ],
    )


def _summary(rows: list[Row]) -> Table:
    """How many tensors of each role have each status and law."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        law = " or ".join(row.labels) or row.looks_like or (row.law.label if row.law else "none known")
        group = sums.setdefault((row.target.role, row.status, law), [0, 0])
        group[0] += 1
        group[1] += row.evidence.sample.numel if row.evidence.sample else 0
    lines = [(role, status, law, *group) for (role, status, law), group in sums.items()]
    lines.sort(key=lambda line: (str(line[0]), line[3]), reverse=True)
    return Table.of(lines, ("role", "status", "law", "tensors", "numel"))


def _worst(rows: list[Row]) -> tuple[Table, str]:
    """The tensors that differ, then those nearest to it: what a reader looks at first."""
    order = sorted(rows, key=lambda row: (row.status in GOOD, row.fit.p if row.fit else 1.0))
    shown = order[:SHOWN]
    columns = ["tensor", "status", "law", "max", "expected_std", "std", "ks", "p", "looks_like"]
    note = f"(the {SHOWN} most doubtful of {len(rows)})" if len(rows) > SHOWN else ""
    return _written_out(Table.of([row.cells() for row in shown], columns)), note


def _written_out(frame: Table) -> Table:
    """Numbers with four digits, what was not measured empty."""

    def text(cell: Any) -> str:
        if cell is None or cell != cell:
            return ""
        return f"{cell:.4g}" if isinstance(cell, float) else str(cell)

    return Table({name: map(text, values) for name, values in frame.items()})
