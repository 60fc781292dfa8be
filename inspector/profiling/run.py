"""A spec or a live module becomes a Trace: on meta, on the CPU where meta cannot, with two samples where one
is too few. Every command that counts comes through here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from inspector.core.collection import paused
from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.reporting.report import environment
from inspector.tracing._deferred import deferred, loaded
from inspector.tracing.record import Trace

if TYPE_CHECKING:  # the report of a trace needs no torch: a cached one is shown without
    from inspector.models import Model, Recipe
    from inspector.models.inputs import Inputs
    from inspector.models.serving import Serving
    from inspector.tracing.capture import ForwardError
    from inspector.tracing.capture.setting import Setting

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
    call: str | None = None,
    context: int | None = None,
    batch: int | None = None,
    new_tokens: int | None = None,
    kv_cache: str | None = None,
) -> Trace:
    """Run one pass over `model` and record every operator.

    model: a spec ("resnet50", "timm:...", "file.py:build") or an nn.Module, which stays untouched.
    inputs: tensors (meta too), a tuple of them, a dict of keyword inputs, or grammar strings
        ("1x3x224x224"); None takes the source's default.
    phase: "forward" (eval mode, no gradients), "train" (train mode, forward and backward), or a step of a
        language model's service on `batch` sequences (1) of `context` tokens (2,048): "prefill" computes the
        context, "decode" `new_tokens` (1) after it, on a cache of the model's own ("dynamic") or one of fixed
        length (`kv_cache="static"`), a decode on one in fewer bits ("fp8", "int4", "int2") too.
    device: None counts on meta, and falls back to the CPU where meta cannot run the model.
    setting: dtype, kernels and checkpointing of the pass; kernels are chosen on meta only.
    call: the method to run in place of the forward ("generate", "encode").

    Raises ForwardError when the model raises, InspectError for everything else that is wrong.
    """
    with paused(), compiler_left_out(model, model_args):
        step = context, batch, new_tokens, kv_cache
        return _trace(model, inputs, phase, device, seed, model_args, setting, call, step)


def _trace(
    model: Model,
    inputs: Any,
    phase: str,
    device: str | None,
    seed: int,
    model_args: Mapping[str, Any] | None,
    setting: Setting | None,
    call: str | None,
    step: tuple[Any, ...],
) -> Trace:
    from inspector.models import as_recipe
    from inspector.models.device import check_device
    from inspector.models.inputs import as_inputs
    from inspector.models.serving import Serving
    from inspector.tracing.capture import ForwardError
    from inspector.tracing.capture.setting import PORTABLE

    serving = Serving.of(phase, *step)
    recipe = as_recipe(model, model_args, call)
    chosen = as_inputs(inputs) if inputs is not None else None
    if serving is not None and chosen is not None and chosen.has_tensors:
        raise InspectError(
            f"a {phase} makes its own tokens", "leave `inputs=` out, and say `batch=N` and `context=N`"
        )
    if serving is not None and recipe.call != "forward":
        raise InspectError(f"a {phase} is a step of the forward, not of {recipe.call}", "leave `call=` out")
    attempt = _Attempt(recipe, chosen, phase, seed, setting or PORTABLE, serving)
    if recipe.only_on is not None and device in (None, recipe.only_on[0]):
        place, reason = recipe.only_on
        return attempt.run(place, f"counted on {place}: {reason}")
    if device is None and chosen is not None and chosen.has_nested:
        return attempt.run("cpu", "counted on cpu: the shapes of nested tensors are values")
    if device is not None:
        check_device(device)
        return attempt.run(device)
    try:
        return attempt.run("meta")
    except ForwardError as error:
        fault = _why_not_meta(error)
        if fault is None:
            raise
        if chosen is not None and chosen.valueless:
            raise InspectError(
                f"meta cannot run {recipe.name} ({fault}), and the inputs are on meta: they have no values",
                "give tensors with values, or shapes: they are then made on the CPU",
            ) from error
        logger.info("meta cannot run %s: %s", recipe.name, fault)
        _check_memory(recipe, fault)
        why = f"counted on cpu, because meta cannot run it: {fault}"
        return attempt.run("cpu", why, _IRREPRODUCIBLE)


_TORCHVISION = re.compile(r"(?:torchvision:)?(\w+)(?:@\w+)?")


def compiler_left_out(model: Model, model_args: Mapping[str, Any] | None) -> ExitStack:
    """`deferred()` where the model is torchvision's: then no code of others runs."""
    stack = ExitStack()
    spec = _TORCHVISION.fullmatch(model) if isinstance(model, str) else None
    if spec is not None and "peft" not in (model_args or {}):
        with paused():
            stack.enter_context(deferred())
            from inspector.models.torchvision import names
        if spec[1] not in names():
            stack.close()  # it is looked up elsewhere
    return stack


_IRREPRODUCIBLE = (
    "work that depends on values is counted as it happened with seeded inputs (and random weights,"
    " unless the model is yours): another seed may give other numbers"
)


MADE_UP = "the model has no values (it is on meta): it ran with random weights drawn from the seed"
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
    serving: Serving | None = None

    def run(self, device: str, *notes: str) -> Trace:
        before = loaded()
        counted = self._enough(device, *notes)
        if not before and loaded():  # its import runs operators, and was within the pass
            return self._enough(device, *notes)
        return counted

    def _enough(self, device: str, *notes: str) -> Trace:
        """With one sample, or with two where a batch norm needs them."""
        from inspector.tracing.capture import ForwardError

        try:
            return self._run(device, notes, 1)
        except ForwardError as error:
            if self.inputs is not None or not needs_two(error):
                raise
        return self._run(device, (*notes, BATCH_OF_TWO), 2)

    def _run(self, device: str, notes: tuple[str, ...], batch: int) -> Trace:
        from inspector.models import Subject
        from inspector.models.serving import Step
        from inspector.models.subject import on_meta
        from inspector.tracing.capture import ForwardError, capture

        step = Step(self.recipe, self.serving, device, self.seed) if self.serving is not None else None
        recipe = self.recipe if step is None else step.recipe
        logger.info("running %s (%s) on %s", recipe.name, self.phase, device)
        setting = self.setting if device == "meta" else self.setting.on_a_device(recipe.name, notes)
        subject = Subject.make(recipe, device, self.inputs, self.phase, self.seed, batch, counted=True)
        notes += (
            recipe.notes
            + recipe.stated(recipe.call)
            + (recipe.assumed(subject.model) if device == "meta" else ())
        )
        if device != "meta" and on_meta(subject.model):
            notes += (MADE_UP,)
        try:
            counted = capture(
                subject.model,
                subject.args,
                subject.kwargs,
                phase="forward" if step is not None else self.phase,
                device=device,
                name=recipe.name,
                source=recipe.source,
                seed=self.seed,
                rules=recipe.rules_on(device),
                context=recipe.context,
                notes=notes,
                uncounted=recipe.uncounted(subject.model) if device == "meta" else (),
                setting=setting,
                values=subject.values,
            )
        except ForwardError as error:
            raise ForwardError(self._completed(error.trace, device)) from error.__cause__
        if step is not None:
            counted = replace(counted, phase=self.phase, served=step.served)
        return self._completed(counted, device)

    def _completed(self, counted: Trace, device: str) -> Trace:
        from inspector.models.device import gpu_name

        if self.recipe.reference is not None:
            counted = _with_reference(counted, self.recipe)
        made = environment(gpu=gpu_name(device), seed=self.seed)
        return replace(counted, environment=made, call=self.recipe.call)


def _with_reference(counted: Trace, recipe: Recipe) -> Trace:
    """A quantized model has no parameters: count those of the float model that it came from."""
    from inspector.models import Recipe
    from inspector.tracing.capture.state import state_entries

    assert recipe.reference is not None
    twin = Recipe(recipe.name, recipe.source, recipe.reference).build("meta")
    state = tuple(e for e in state_entries(twin) if e.kind == "parameter")
    packed = tuple(entry for entry in counted.state if entry.kind != "parameter")
    note = "parameters are those of the float model before fusion and quantization"
    return replace(counted, state=state + packed, notes=(*counted.notes, note))


def _why_not_meta(error: ForwardError) -> str | None:
    """Why the meta device is to blame for an error, or None when the model or the input is."""
    failure = error.trace.failure
    assert failure is not None
    if failure.misfit:
        return None
    text = failure.message.strip()
    shape = (failure.expects or _SHAPE_ERROR.search(text)) and not _META_ERROR.search(text)
    if shape and failure.error in ("RuntimeError", "AssertionError", "ValueError", "IndexError"):
        return None
    first = text.splitlines()[0] if text else failure.error
    where = f" in {failure.module} ({failure.type})" if failure.module else ""
    return f"{first}{where}"


def _check_memory(recipe: Recipe, reason: str) -> None:
    """Refuse to build on the CPU what does not fit there."""
    from inspector.models.build import available_bytes
    from inspector.tracing.capture.state import state_entries

    needed = sum(entry.nbytes for entry in state_entries(recipe.build("meta")))
    available = available_bytes()
    if available is not None and needed > available:
        raise InspectError(
            f"meta cannot run {recipe.name} ({reason}), and its {needed / 2**30:.1f} GiB of weights"
            " do not fit into memory",
            "choose a smaller configuration with `model_args=`",
        )
