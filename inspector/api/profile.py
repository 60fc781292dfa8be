"""Count a model: `trace` runs the one pass, `profile` makes the report of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from inspector.errors import InspectError
from inspector.log import logger
from inspector.report import Finding, Metric, Report, Section, environment
from inspector.trace.record import Failure, Trace
from inspector.views.modules import layers_frame, modules_frame, tree, types_frame
from inspector.views.ops import ops_frame, unknown_frame
from inspector.views.totals import totals

if TYPE_CHECKING:  # the report of a trace needs no torch: a cached one is shown without
    from inspector.models import Model, Recipe
    from inspector.models.inputs import Inputs
    from inspector.trace.capture import ForwardError
    from inspector.trace.capture.setting import Setting

GROUPINGS = ("module", "type", "op")
_SHAPE_ERROR = re.compile(
    r"size|shape|channels|dimension|mat1 and mat2|must match|expected input|argument", re.IGNORECASE
)
_META_ERROR = re.compile(r"meta|data-dependent|dynamic|aten::|fake tensor|storage", re.IGNORECASE)


def trace(
    model: Model,
    inputs: Any = None,
    *,
    phase: str = "forward",
    device: str | None = None,
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    setting: Setting | None = None,
) -> Trace:
    """Run one pass over `model` and record every operator.

    model: a spec ("resnet50", "timm:...", "file.py:build") or an nn.Module, which stays untouched.
    inputs: tensors (meta too), a tuple of them, a dict of keyword inputs, or grammar strings
        ("1x3x224x224"); None takes the source's default.
    phase: "forward" (eval mode, no gradients) or "train" (train mode, forward and backward).
    device: None counts on meta, and falls back to the CPU where meta cannot run the model.
    setting: dtype, kernels and checkpointing of the pass; kernels are chosen on meta only.

    Raises ForwardError when the model raises, InspectError for everything else that is wrong.
    """
    from inspector.models import as_recipe
    from inspector.models.inputs import as_inputs
    from inspector.trace.capture import ForwardError
    from inspector.trace.capture.setting import PORTABLE

    recipe = as_recipe(model, model_args)
    given = as_inputs(inputs) if inputs is not None else None
    attempt = _Attempt(recipe, given, phase, seed, setting or PORTABLE)
    if recipe.only_on is not None and device in (None, recipe.only_on[0]):
        place, reason = recipe.only_on
        return attempt.run(place, f"counted on {place}: {reason}")
    if device is not None:
        _check_device(device)
        return attempt.run(device)
    try:
        return attempt.run("meta")
    except ForwardError as error:
        fault = _why_not_meta(error)
        if fault is None:
            raise
        logger.info("meta cannot run %s: %s", recipe.name, fault)
        _check_memory(recipe, fault)
        why = f"counted on cpu, because meta cannot run it: {fault}"
        return attempt.run("cpu", why, _IRREPRODUCIBLE)


_IRREPRODUCIBLE = (
    "work that depends on values is counted as it happened with seeded inputs (and random weights,"
    " unless the model is yours): another seed may give other numbers"
)


BATCH_OF_TWO = "a batch of 2, because BatchNorm cannot train on one value per channel"


def needs_two(error: ForwardError) -> bool:
    """Whether one sample was too few for a batch norm."""
    return "more than 1 value per channel" in str(error)


@dataclass(frozen=True)
class _Attempt:
    """One question, to be run on one device or another."""

    recipe: Recipe
    inputs: Inputs | None
    phase: str
    seed: int
    setting: Setting

    def run(self, device: str, *notes: str) -> Trace:
        from inspector.trace.capture import ForwardError

        try:
            return self._run(device, notes, 1)
        except ForwardError as error:
            if self.inputs is not None or not needs_two(error):
                raise
        return self._run(device, (*notes, BATCH_OF_TWO), 2)

    def _run(self, device: str, notes: tuple[str, ...], batch: int) -> Trace:
        from inspector.models import Subject
        from inspector.trace.capture import ForwardError, capture

        recipe = self.recipe
        logger.info("running %s (%s) on %s", recipe.name, self.phase, device)
        setting = self.setting if device == "meta" else self.setting.on_a_device(recipe.name, notes)
        subject = Subject.make(recipe, device, self.inputs, self.phase, self.seed, batch)
        notes += recipe.assumed(subject.model) if device == "meta" else ()
        try:
            found = capture(
                subject.model,
                subject.args,
                subject.kwargs,
                phase=self.phase,
                device=device,
                name=recipe.name,
                source=recipe.source,
                seed=self.seed,
                rules=recipe.rules if device == "meta" else {},
                context=recipe.context,
                notes=notes,
                uncounted=recipe.uncounted(subject.model) if device == "meta" else (),
                setting=setting,
            )
        except ForwardError as error:
            raise ForwardError(self._completed(error.trace, device)) from error.__cause__
        return self._completed(found, device)

    def _completed(self, found: Trace, device: str) -> Trace:
        if self.recipe.reference is not None:
            found = _with_reference(found, self.recipe)
        return replace(found, environment=environment(gpu=_gpu(device), seed=self.seed))


def _with_reference(found: Trace, recipe: Recipe) -> Trace:
    """A quantized model has no parameters: count those of the float model that it was made of."""
    from inspector.models import Recipe
    from inspector.trace.capture.state import state_entries

    assert recipe.reference is not None
    twin = Recipe(recipe.name, recipe.source, recipe.reference).build("meta")
    state = tuple(e for e in state_entries(twin) if e.kind == "parameter")
    packed = tuple(entry for entry in found.state if entry.kind != "parameter")
    note = "parameters are those of the float model before fusion and quantization"
    return replace(found, state=state + packed, notes=(*found.notes, note))


def _why_not_meta(error: ForwardError) -> str | None:
    """Why the meta device is to blame for an error, or None when the model or the input is."""
    failure = error.trace.failure
    assert failure is not None
    text = failure.message.strip()
    shape = _SHAPE_ERROR.search(text) and not _META_ERROR.search(text)
    if shape and failure.error in ("RuntimeError", "AssertionError", "ValueError", "IndexError"):
        return None
    first = text.splitlines()[0] if text else failure.error
    where = f" in {failure.module} ({failure.type})" if failure.module else ""
    return f"{first}{where}"


def _check_memory(recipe: Recipe, reason: str) -> None:
    """Refuse to build on the CPU what does not fit there."""
    from inspector.models.build import available_bytes
    from inspector.trace.capture.state import state_entries

    needed = sum(entry.nbytes for entry in state_entries(recipe.build("meta")))
    available = available_bytes()
    if available is not None and needed > available:
        raise InspectError(
            f"meta cannot run {recipe.name} ({reason}), and its {needed / 2**30:.1f} GiB of weights"
            " do not fit into memory",
            "give a smaller configuration with --model-arg",
        )


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InspectError(
            f"no device {device!r} here", "use meta, cpu or cuda; leave --device out to choose"
        ) from error


def _gpu(device: str) -> str | None:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None


def profile(
    model: Model | Trace,
    inputs: Any = None,
    *,
    phase: str = "forward",
    device: str | None = None,
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    by: str = "module",
    depth: int = 2,
    top: int | None = None,
    strict: bool = False,
    counter: str = "ours",
) -> Report:
    """Count parameters, MACs, FLOPs, activations and bytes of `model`.

    Takes what `trace` takes (or a finished Trace) and returns a Report: `.metrics["macs"].value`,
    `.to_frame("modules")`, `.to_json()`. `by`, `depth` and `top` select what the printed form shows;
    the tables are always whole. With `strict` an operator without a formula fails the report.
    `counter` "thop", "fvcore", "torch", ... puts its numbers in place of ours (see api.counted).
    """
    if counter != "ours":
        from inspector.api.counted import counted

        if isinstance(model, Trace) or device is not None or strict:
            raise InspectError(f"{counter} counts a model on the CPU", "leave device and strict out")
        return counted(
            model, inputs, counter=counter, phase=phase, seed=seed, model_args=model_args,
            by=by, depth=depth, top=top,
        )  # fmt: skip
    if isinstance(model, Trace):
        found = model
    else:
        found = trace(model, inputs, phase=phase, device=device, seed=seed, model_args=model_args)
    return report(found, by=by, depth=depth, top=top, strict=strict)


UNITS = {
    "calls": "count", "modules": "count", "params": "count", "macs": "MAC", "flops": "FLOP",
    "activations": "count", "bytes": "bytes", "share": "share", "unknown": "count",
    "unknown_ops": "count",
}  # fmt: skip
_METRICS = {
    "params": "element", "trainable_params": "element", "packed_params": "element",
    "buffers": "element", "param_bytes": "byte", "buffer_bytes": "byte", "macs": "MAC",
    "causal_macs": "MAC", "forward_macs": "MAC", "backward_macs": "MAC", "pointwise_flops": "FLOP",
    "flops": "FLOP",
    "activations": "element", "bytes_moved": "byte", "ops": "op", "unknown_ops": "op",
}  # fmt: skip
_LABELS = {
    "macs": "MACs", "flops": "FLOPs", "pointwise_flops": "pointwise FLOPs", "ops": "operators",
    "causal_macs": "MACs under causal masks",
    "forward_macs": "forward MACs", "backward_macs": "backward MACs", "params": "parameters",
    "trainable_params": "trainable parameters", "unknown_ops": "unknown operators",
    "param_bytes": "parameter bytes", "packed_params": "packed parameters",
}  # fmt: skip
_POINTWISE = ("pointwise_flops", "flops")
_COUNTED = ("macs", "causal_macs", "forward_macs", "backward_macs", "pointwise_flops", "flops", "activations")


def report(
    found: Trace,
    *,
    by: str = "module",
    depth: int = 2,
    top: int | None = None,
    strict: bool = False,
) -> Report:
    """The report of a trace: a pure function of it."""
    if by not in GROUPINGS:
        raise InspectError(f"cannot group by {by!r}", f"use one of: {', '.join(GROUPINGS)}")
    sums = totals(found)
    partial = sums["unknown_ops"] > 0 or found.failure is not None
    metrics = {
        name: Metric(
            sums[name],
            unit,
            label=_LABELS.get(name, ""),
            direction="none" if name == "ops" else "lower",
            lower_bound=(partial and name in _COUNTED) or (bool(found.uncounted) and name in _POINTWISE),
        )
        for name, unit in _METRICS.items()
        if name in sums
    }
    modules, ops, unknown = modules_frame(found), ops_frame(found), unknown_frame(found)
    return Report(
        command="profile",
        subject={
            "name": found.model,
            "source": found.source,
            "inputs": list(found.inputs),
            "phase": found.phase,
            "device": found.device,
        },
        environment=dict(found.environment),
        metrics=metrics,
        tables={"modules": modules, "ops": ops, "unknown": unknown, "layers": layers_frame(found)},
        findings=_findings(found, sums, strict),
        verdict="fail" if found.failure or (strict and sums["unknown_ops"]) else "none",
        header=_header(found, sums),
        sections=_sections(found, by, depth, top),
        trace=found,
    )


def _header(found: Trace, sums: dict[str, int]) -> list[tuple[str, str]]:
    kind = found.modules[0].type if found.modules else ""
    phase = {
        "forward": "forward (eval mode, no gradients)",
        "train": "train (train mode, forward and backward)",
    }[found.phase]
    where = {"meta": "meta (shapes only: no weights, no data)"}.get(found.device, found.device)
    known = sums["ops"] - sums["unknown_ops"]
    return [
        ("model", f"{found.model} ({found.source}, {kind})"),
        ("input", " ".join(found.inputs)),
        ("phase", phase),
        ("counted on", where),
        ("coverage", f"{known} of {sums['ops']} operators have a formula"),
    ]


def _sections(found: Trace, by: str, depth: int, top: int | None) -> list[Section]:
    if by == "module":
        frame = tree(modules_frame(found), found.model, depth, top)
        title = f"modules (depth {depth}, children included)"
    elif by == "type":
        frame, title = types_frame(found), "module types (children not included)"
    else:
        frame, title = ops_frame(found), "operators"
    note = ""
    if top is not None and by != "module" and len(frame) > top:
        note, frame = f"(the largest {top} of {len(frame)})", frame.head(top)
    for column in ("unknown_ops", "unknown"):
        if column in frame and not frame[column].any():
            frame = frame.drop(columns=column)
    sections = [Section(title, frame, UNITS, note)]
    unknown = unknown_frame(found)
    if len(unknown):
        sections.append(Section("operators without a formula", unknown, UNITS))
    return sections


def _findings(found: Trace, sums: dict[str, int], strict: bool) -> list[Finding]:
    findings = [Finding("provenance", "warn", "", note) for note in found.notes]
    findings += [
        Finding("coverage", "warn", "", f"not counted on {found.device}: {work} (pointwise work)")
        for work in found.uncounted
    ]
    if found.failure is not None:
        findings.append(_failed(found.failure))
    if sums["unknown_ops"]:
        unknown = unknown_frame(found).groupby("op", sort=True)["calls"].sum()
        names = ", ".join(f"{op} ({calls})" for op, calls in unknown.items())
        findings.append(
            Finding(
                "coverage",
                "fail" if strict else "warn",
                "",
                f"no formula for {names}: MACs, FLOPs and activations are lower bounds",
                {str(op): int(calls) for op, calls in unknown.items()},
            )
        )
    findings += _unused(found)
    return findings


def _failed(failure: Failure) -> Finding:
    return Finding(
        "forward",
        "fail",
        failure.module,
        f"{failure.type} raised {failure.error}; the totals hold up to here",
        {"inputs": list(failure.inputs), "message": failure.message},
    )


def _unused(found: Trace) -> list[Finding]:
    """Parameters that no operator read: present in the count of parameters, absent from the MACs."""
    if found.failure is not None or found.source == "":
        return []
    used = {spec.storage for op in found.ops for spec in op.inputs}
    idle = sum(
        1 for i, s in enumerate(found.storages) if s.role == "parameter" and i not in used and s.nbytes
    )
    if not idle:
        return []
    return [
        Finding(
            "unused",
            "warn",
            "",
            f"{idle} parameter tensors were not read by any operator in this pass",
        )
    ]
