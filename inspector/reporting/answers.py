"""What a report says, in one sentence: a function of its numbers and findings, made or read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from inspector.reporting.numbers import counted, digits, duration, si, size
from inspector.reporting.parts import Content
from inspector.reporting.registry import quantity


def answer(report: Content) -> str:
    """The sentence; "" where a report of this command has none, or lacks what it needs."""
    write = _ANSWERS.get(report.command)
    try:
        return write(report) if write is not None else ""
    except (KeyError, TypeError, IndexError):  # a file of another version, a report of a plugin
        return ""


def _profile(report: Content) -> str:
    step = {"train": "one training step on ", "decode": "a decode step of ", "prefill": "a prefill of "}
    phase = str(report.subject.get("phase"))
    macs = report.metrics["macs"]
    least = "at least " if macs.lower_bound else ""
    inputs = " ".join(report.subject["inputs"])
    if serving := report.subject.get("serving"):
        sequences = counted(serving["batch"], "sequence")
        inputs = (
            f"{sequences} " + ("after" if phase == "decode" else "of") + f" {serving['context']:,} tokens"
        )
    name, params = report.subject["name"], _si(report, "params")
    work = "unknown MACs" if macs.value is None else f"{_with_unit(si(int(macs.value)), 'MACs')}"
    return f"{name}: {params} parameters, {least}{work} for {step.get(phase, '')}{inputs}"


def _with_unit(text: str, unit: str) -> str:
    """4.089 GMACs, 512 MACs."""
    return f"{text}{unit}" if text[-1].isalpha() else f"{text} {unit}"


def _params(report: Content) -> str:
    buffers = f", {_si(report, 'buffers')} elements in buffers" if "buffers" in report.metrics else ""
    params = f"{_si(report, 'params')} parameters ({_size(report, 'param_bytes')})"
    return f"{report.subject['name']}: {params}{buffers}"


def _memory(report: Content) -> str:
    name, phase = report.subject["name"], report.subject["phase"]
    step = {"train": "a training step", "forward": "inference"}.get(phase, f"a {phase}")
    peak = (
        f"{_size(report, 'peak_allocated')} allocated, {_size(report, 'peak_reserved')} reserved at the peak"
    )
    if "max_batch" in report.metrics:
        batch = report.metrics["max_batch"].value
        if not batch:
            return f"{name}: no batch fits"
        return f"{name}: {step} fits with a batch of {batch}{_safe(report, int(batch))} ({peak})"
    fits = next((finding for finding in report.findings if finding.check == "fits"), None)
    return f"{name}: {step} takes {peak}" + (f"; it {fits.message.partition(' (')[0]}" if fits else "")


def _safe(report: Content, batch: int) -> str:
    """Whether it is safe whatever workspaces libraries take; nothing of a report that does not know."""
    if "safe_batch" not in report.metrics:
        return ""
    safe = int(report.metrics["safe_batch"].value or 0)
    if not safe:
        return ", but none does if its libraries take their largest workspaces"
    return ("" if safe == batch else f", or of {safe}") + " whatever workspaces its libraries take"


def _verified(report: Content) -> str:
    statuses = Counter(finding.status for finding in report.findings)
    name = report.subject["name"]
    if statuses["fail"]:
        failed = dict.fromkeys(finding.check for finding in report.findings if finding.status == "fail")
        return f"{name}: FAILED {', '.join(failed)}"
    if not statuses["pass"]:
        return f"{name}: nothing was verified"
    frozen = ""
    if "frozen_params" in report.metrics:
        frozen = f"{_si(report, 'frozen_params')} of {_si(report, 'params')} parameters are frozen; "
    skipped = f", {statuses['skip']} skipped" if statuses["skip"] else ""
    return f"{name}: {frozen}{counted(statuses['pass'], 'check')} passed, none failed{skipped}"


def _bench(report: Content) -> str:
    best: dict[str, dict[str, Any]] = {}
    for row in report.tables["rows"].records():
        if (
            row.get("speedup_low")
            and row["speedup_low"] > best.get(row["mode"], {"speedup_low": 0})["speedup_low"]
        ):
            best[row["mode"]] = row
    texts = [
        f"{row['precision']} is {digits(row['speedup'], 3)} ({digits(row['speedup_low'], 3)} to"
        f" {digits(row['speedup_high'], 3)}) times as fast as {row['against']} ({mode}, batch {row['batch']})"
        for mode, row in best.items()
    ]
    failed = ["FAILED"] if any(finding.status == "fail" for finding in report.findings) else []
    return f"{report.subject['name']}: {'; '.join(failed + texts)}" if failed or texts else ""


def _stages(report: Content) -> str:
    return f"{report.subject['name']}: {counted(int(report.metrics['stages'].value or 0), 'stage')}"


def _reconcile(report: Content) -> str:
    ran = [row for row in report.tables["counters"].records() if row["macs"] is not None]
    ours = next((row["macs"] for row in ran if row["counter"] == "ours"), None)
    if ours is None:
        return ""
    others = [row for row in ran if row["counter"] != "ours"]
    mine = _with_unit(si(int(ours)), "MACs")
    texts = {row["counter"]: _with_unit(si(int(row["macs"])), "MACs") for row in others}
    differ = "".join(f"; {name} {text}" for name, text in texts.items() if text != mine)
    same = sum(text == mine for text in texts.values())
    agree = f"; {same} of {counted(len(others), 'other')} to the same four digits" if others else ""
    return f"{report.subject['name']}: {mine}{agree}{differ}"


def _table(report: Content) -> str:
    models, failed = (int(report.metrics[name].value or 0) for name in ("models", "failed"))
    return f"{counted(models, 'model')}, {failed or 'none'} failed"


_STATES = ("regressed", "missing", "invalid", "incomparable", "noisy", "improved", "new", "ok")
_NAMED = 3
"""Of what failed, so many are named."""


def _diff(report: Content) -> str:
    states = {name: int(report.metrics[name].value or 0) for name in _STATES}
    counts = ", ".join(f"{count} {name}" for name, count in states.items() if count)
    rows = report.tables["rows"].records()
    failing = [row for row in rows if row["fails"]]
    if report.verdict != "fail" or not failing:
        head = {"fail": "FAILED", "pass": "passed"}.get(report.verdict, "nothing compared")
        return f"{head}: {counts}" if counts else head
    models = list(dict.fromkeys(row["model"] for row in failing))
    if len(models) == 1:
        named = [_failure(row) for row in failing]
        about = f"{models[0]}: " if models[0] else ""
    else:  # of each the worst
        worst = {row["model"]: row for row in reversed(failing)}
        named = [f"{name} ({_failure(worst[name])})" for name in models]
        about = f"{len(models)} of {len({row['model'] for row in rows})} models: "
    more = f", {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    reason = f"; {failing[0]['why']}" if len(models) == 1 and failing[0]["why"] else ""
    return f"FAILED: {about}{', '.join(named[:_NAMED])}{more}{reason}"


def _failure(row: dict[str, Any]) -> str:
    """MACs +12.3%, or what else became of it."""
    if row["metric"] == "model":
        return str(row["state"])
    label = quantity(row["metric"]).label or str(row["metric"]).replace("_", " ")
    if row["state"] != "regressed":
        return f"{label} {row['state']}"
    return f"{label} {100 * row['relative']:+.3g}%" if row["relative"] else label


def _llm(report: Content) -> str:
    gpu, context = report.subject["gpu"], report.subject["context"]
    batch, rate = (report.metrics.get(name) for name in ("max_batch", "tokens_per_second"))
    first = f"first token after {duration(float(report.metrics['time_to_first_token'].value or 0))} at least"
    name = report.subject["name"]
    if batch is None or batch.value is None or rate is None or rate.value is None:
        return f"{name}: no batch of these fits on one {gpu}; {first}"
    return (
        f"{name}: the largest of these batches that fits on one {gpu} is"
        f" {counted(int(batch.value), 'sequence')} of {context:,} tokens,"
        f" at most {digits(float(rate.value))} tokens a second; {first}"
    )


def _scale(report: Content) -> str:
    name, gpu = report.subject["name"], report.subject.get("gpu")
    if "meshes_tried" in report.metrics:
        tried, fitting = (int(report.metrics[key].value or 0) for key in ("meshes_tried", "meshes_fitting"))
        best = next((row for row in report.tables["meshes"].records() if row["fits"]), None)
        fastest = f"; {best['mesh']} {best['shard']} is the fastest, at most" if best else ""
        return f"{name}: {fitting} of {tried} meshes of {report.subject['gpus']} {gpu} fit{fastest.rstrip()}"
    peaks = f"{_size(report, 'peak_allocated')} allocated, {_size(report, 'peak_reserved')} reserved"
    who = "the fullest" if "in_flight" in report.metrics else "each"
    text = f"{name}: {who} of {report.subject['ranks']:,} ranks has {peaks} at the peak"
    text += f", and sends {_size(report, 'sent_bytes')} a step"
    step = report.metrics.get("step_bound")
    return text + (f" of {duration(float(step.value))} at least" if step and step.value else "")


def _si(report: Content, name: str) -> str:
    value = report.metrics[name].value
    return "unknown" if value is None else si(int(value))


def _size(report: Content, name: str) -> str:
    value = report.metrics[name].value
    return "unknown" if value is None else size(int(value))


_ANSWERS: dict[str, Callable[[Content], str]] = {
    "profile": _profile,
    "report": _profile,
    "params": _params,
    "memory": _memory,
    "freeze": _verified,
    "init": _verified,
    "ddp": _verified,
    "bench": _bench,
    "stages": _stages,
    "reconcile": _reconcile,
    "table": _table,
    "diff": _diff,
    "llm": _llm,
    "scale": _scale,
}
