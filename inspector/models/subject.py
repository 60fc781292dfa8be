"""From a spec to something that can be run: `Recipe` builds a `Subject` on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from inspector.core.errors import InspectError, first_line
from inspector.core.log import logger
from inspector.models.build import build, out_of_memory
from inspector.models.calling import accepted, calling
from inspector.models.inputs import Inputs, batch_of_two, materialise
from inspector.models.replica import replica
from inspector.reporting.report import Finding
from inspector.tracing._torch import tree_leaves, tree_map
from inspector.tracing.capture.called import required
from inspector.tracing.capture.isolate import random_state, seed_all
from inspector.tracing.capture.pricing import Rule
from inspector.tracing.record import StateEntry


@dataclass(frozen=True)
class Recipe:
    """How to build one model, on any device and any number of times.

    `construct` returns the nn.Module; `defaults(model, phase)` its inputs, or None when only the
    user can supply them. `rules` and `context` make data-dependent work countable on meta, `assumed`
    says under which assumptions. `only_on` names the one device where it can run, with the reason.
    `outline` calls `construct` so that the model there takes no memory, for what reads shapes alone.
    `reference` builds the float model whose parameters a quantized model's count means. `notes` say what was
    left out of what the source asks for; `checks` hold the state that was built against what its source
    publishes.
    """

    name: str
    source: str
    construct: Callable[[], nn.Module]
    defaults: Callable[[nn.Module, str], Inputs | None] = lambda model, phase: None
    rules: Mapping[str, Rule] = field(default_factory=dict)
    context: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext
    assumed: Callable[[nn.Module], tuple[str, ...]] = lambda model: ()
    uncounted: Callable[[nn.Module], tuple[str, ...]] = lambda model: ()
    only_on: tuple[str, str] | None = None
    outline: Callable[[Callable[[], nn.Module]], nn.Module] | None = None
    reference: Callable[[], nn.Module] | None = None
    notes: tuple[str, ...] = ()
    checks: Callable[[Sequence[StateEntry]], tuple[Finding, ...]] = lambda entries: ()
    rebuilds: bool = True  # a live model is never moved: the pass runs on stand-ins
    call: str = "forward"  # the method that is run
    stated: Callable[[str], tuple[str, ...]] = lambda call: ()  # what is decided once where a method runs
    ready: list[tuple[str, nn.Module]] = field(default_factory=list, compare=False)  # see `first`

    @property
    def place(self) -> str:
        """Where the model is counted and listed, unless another device is asked for."""
        return self.only_on[0] if self.only_on else "meta"

    def shapes(self, device: str | None = None, seed: int = 0) -> nn.Module:
        """The model, to be counted or listed: on meta, or on `device`. Its values may be missing where it can
        run on one device only."""
        device = device or self.place
        if self.outline is not None and self.call == "forward" and device == self.place:
            try:
                ready = self._ready(device)
                return self.outline(self.construct) if ready is None else ready
            except Exception:  # it asks for values
                logger.info("%s is built with values", self.name, exc_info=True)
        return self.build(device, seed)

    def rules_on(self, device: str) -> Mapping[str, Rule]:
        """`rules`, where tensors have no values."""
        return self.rules if device == "meta" or (self.outline and device == "cpu") else {}

    def build(self, device: str, seed: int = 0) -> nn.Module:
        """The model on `device`. What its constructor raises becomes an InspectError."""
        try:
            model = self._ready(device)
            if model is None:
                model = build(self.construct, device, seed) if self.rebuilds else self.construct()
        except InspectError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise InspectError(
                    f"not enough memory to build {self.name} on {device}", "build it on meta"
                ) from error
            raise InspectError(
                f"cannot build {self.name}: {type(error).__name__}: {first_line(error)}",
                "check `model_args=`, or see the whole error with `error.__cause__`",
            ) from error
        if not isinstance(model, nn.Module):
            raise InspectError(
                f"{self.name} returned a {type(model).__name__}, not an nn.Module",
                "name an nn.Module, or a class or function that returns one",
            )
        return model if self.call == "forward" else calling(model, self.call, self.name)

    def first(self, model: nn.Module, device: str) -> Recipe:
        """The recipe whose first build on `device` is `model`, which was built there before; builds elsewhere
        are its own."""
        return replace(self, ready=[(device, model)])

    def _ready(self, device: str) -> nn.Module | None:
        return self.ready.pop()[1] if self.ready and self.ready[0][0] == device else None

    def joined(self, model: nn.Module, chosen: Inputs | None, phase: str = "forward") -> Inputs | None:
        """`chosen`, or what the source calls `model` with, joined by `chosen` where that is plain values by
        keyword. None where there is neither."""
        if chosen is not None and chosen.has_tensors:
            return chosen
        inputs = self.defaults(model, phase)
        if inputs is not None and self.call != "forward":
            inputs = accepted(inputs, model, self.call)
        if chosen is None:
            return inputs
        return chosen if inputs is None or chosen.args else inputs.with_values(chosen.kwargs)

    def inputs(self, model: nn.Module, chosen: Inputs | None = None, phase: str = "forward") -> Inputs:
        """`joined`. Raises InspectError where there is no input."""
        inputs = self.joined(model, chosen, phase)
        if inputs is None:
            raise InspectError(f"{self.name} has no default input", _inputs_hint(model))
        return inputs


def _inputs_hint(model: nn.Module) -> str:
    """Inputs to pass: an image, or what the signature asks for where that is several, or is named."""
    missing = required(model.forward)
    image = len(missing) < 2 and not any(text.partition("=")[2].startswith("int") for text in missing)
    wanted = "1x3x224x224" if image else missing
    what = "pass one with" if image else "pass"
    how = "" if image else ", with their dtypes and shapes"
    return f"{what} `inputs={wanted!r}`{how}, or define example_inputs() in its file"


@dataclass(frozen=True)
class Subject:
    """A model with the inputs to run it, on one device. On meta `values` are the same inputs on the CPU where
    the caller gives integers (a mask with padding), or a method runs, which may ask its tokens how long to
    go on; None elsewhere."""

    recipe: Recipe
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    device: str
    values: Any = None

    @staticmethod
    def make(
        recipe: Recipe,
        device: str,
        inputs: Inputs | None = None,
        phase: str = "forward",
        seed: int = 0,
        batch: int = 1,
        counted: bool = False,
    ) -> Subject:
        """Build the recipe's model on `device`, with `inputs` or the source's own (`batch` 1 or 2). One that
        is only `counted` may be without values."""
        model = recipe.shapes(device, seed) if counted else recipe.build(device, seed)
        chosen = recipe.inputs(model, inputs, phase)
        if inputs is None and batch == 2:
            chosen = batch_of_two(chosen)
        args, kwargs = materialise(chosen, model, device, seed)
        asked = device == "meta" and (recipe.call != "forward" or _has_integers(inputs))
        values = _values(chosen, model, seed) if asked else None
        if lazy(model):
            model = materialised(recipe, chosen, seed)
        return Subject(recipe, model, args, kwargs, device, values)


def _has_integers(inputs: Inputs | None) -> bool:
    """Whether the caller gives values that a model may read on meta: tokens, masks, lengths."""
    leaves = tree_leaves((inputs.args, inputs.kwargs)) if inputs is not None else []
    return any(isinstance(leaf, Tensor) and not leaf.is_floating_point() for leaf in leaves)


def _values(inputs: Inputs, model: nn.Module, seed: int) -> Any:
    """The inputs on the CPU, without those that have no values; None where some cannot be left out."""

    def kept(leaf: Any) -> Any:
        return None if isinstance(leaf, Tensor) and leaf.device.type == "meta" else leaf

    args, kwargs = tree_map(kept, (inputs.args, inputs.kwargs))
    try:
        return materialise(Inputs(args, kwargs), model, "cpu", seed)
    except InspectError:  # inside some object
        return None


def with_values(
    recipe: Recipe, inputs: Inputs | None = None, seed: int = 0, weights: str | Path | None = None
) -> nn.Module:
    """The model on the CPU with real weights: those of `seed`, then those of the checkpoint `weights`.
    Lazy parameters are initialised by one forward on `inputs`, or the source's own where it knows any; a
    live model comes as it is."""
    model = recipe.build("cpu", seed)
    if lazy(model) and recipe.rebuilds:
        needed = recipe.joined(model, inputs)
        model = materialised(recipe, needed, seed) if needed is not None else model
    if weights is not None:
        from inspector.models.weights import load_into

        load_into(model, weights)
    return model


def trainable(
    recipe: Recipe, inputs: Inputs | None, seed: int, weights: str | Path | None = None
) -> nn.Module:
    """`with_values`, for what trains or is measured part by part: Python modules whose parameters have a
    shape. Raises InspectError for others; lazy parameters of a live model get theirs, in place, from one
    forward on `inputs`."""
    model = with_values(recipe, inputs, seed, weights)
    refuse_scripted(model)
    if lazy(model) and inputs is not None and inputs.has_tensors:
        _settle(model, inputs, seed)
    if lazy(model):
        raise InspectError("the model has lazy parameters", "run it once before, or pass `inputs=`")
    return model


def owned(recipe: Recipe, device: str, seed: int, inputs: Inputs | None = None) -> nn.Module:
    """The model with values on `device`, safe to change: a live one is copied."""
    model = with_values(recipe, inputs, seed)
    refuse_meta(model)
    return (model if recipe.rebuilds else replica(model)).to(device)


def on_meta(model: nn.Module) -> bool:
    """Whether some parameter has no values."""
    return any(tensor.device.type == "meta" for tensor in model.parameters())


def refuse_meta(model: nn.Module) -> None:
    """Without values nothing can run."""
    if on_meta(model):
        raise InspectError("the model is on meta: it has no values", "pass a model with real weights")


def refuse_scripted(model: nn.Module) -> None:
    """TorchScript keeps its parameters and modes where Python cannot change them part by part."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise InspectError("a TorchScript module cannot be changed part by part", "use the Python module")


def lazy(model: nn.Module) -> bool:
    """Whether some parameter waits for the first input to learn its shape."""
    return any(map(is_lazy, chain(model.parameters(), model.buffers())))


def materialised(recipe: Recipe, inputs: Inputs, seed: int) -> nn.Module:
    """The model with its lazy parameters initialised, on the CPU, by one forward that is not counted.
    A live model is copied first."""
    model = recipe.build("cpu", seed) if recipe.rebuilds else replica(recipe.construct())
    return _settle(model, inputs, seed).eval()


def _settle(model: nn.Module, inputs: Inputs, seed: int) -> nn.Module:
    """Run the model once in eval mode, which gives lazy parameters their shape and values; then its modules
    have their modes again."""
    args, kwargs = materialise(inputs, model, "cpu", seed)
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad(), random_state():
        seed_all(seed)
        try:
            model.eval()(*args, **kwargs)
        except Exception as error:
            raise InspectError(
                f"the lazy parameters cannot be initialised: {first_line(error)}",
                "check `inputs=`, or run the model once before",
            ) from error
    for module, training in modes:
        module.training = training
    return model
