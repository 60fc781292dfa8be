"""What a transformers model is called with when nobody says: read from its class and its configuration.

A kind of input (text, images, sounds, time series) is given where the forward names it
and the configuration describes it, or where it is the class's `main_input_name` or demanded. A kind can be
laid out in several ways, and a configuration rarely tells which: each is tried on meta, and the first that
runs is the default. Where images or sounds are merged into the text, their placeholder tokens stand before
it, as many as the model makes features of them.
"""

from __future__ import annotations

import inspect as introspection
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

import torch
from torch import nn

from inspector.core.errors import InspectError
from inspector.models.inputs import Inputs, InputSpec, materialise
from inspector.models.transformers_companions import DEMANDED, USED
from inspector.models.transformers_images import images, processed_size
from inspector.models.transformers_labels import labels
from inspector.models.transformers_rules import (
    MERGED,
    Asked,
    Way,
    placed,
    placeholder,
    special,
    text,
    token_ids,
)
from inspector.models.transformers_series import decisions, series
from inspector.models.transformers_sounds import sounds
from inspector.tracing.capture import ForwardError, capture
from inspector.tracing.capture.pricing import Rule
from inspector.tracing.values import tensors

KINDS: tuple[Callable[[Asked], Iterator[Way]], ...] = (text, images, sounds, series, decisions)
MOST_WAYS = 16
MOST_POSITIONS = 4096
"""Up to which a text is made as long as the positions of a model."""


@dataclass(frozen=True)
class Trial:
    """How a model runs on meta: what `Recipe` says too."""

    rules: Mapping[str, Rule]
    context: Callable[[nn.Module], AbstractContextManager[Any]]

    def run(self, model: nn.Module, inputs: Inputs, phase: str) -> float:
        """How many operators ran before the model raised; infinity where it did not."""
        args, kwargs = materialise(inputs, model, "meta")
        try:
            capture(model, args, kwargs, phase=phase, rules=self.rules, context=self.context)
        except ForwardError as error:
            return len(error.trace.ops)
        return math.inf


def default_inputs(model: Any, phase: str, trial: Trial) -> Inputs | None:
    """The first way that runs on meta, else the one that came furthest. None where the class names no input
    that is known. Raises InspectError where its forward demands another, or it has none."""
    asked = Asked(model)
    _check_forward(model)
    kinds = [_usable(asked, list(kind(asked)), trial) for kind in KINDS]
    ways = list(islice(_ways(asked, [ways for ways in kinds if ways]), MOST_WAYS))
    best: tuple[float, Way] | None = None
    for way in (_merged(asked, way, trial) for way in ways):
        best = _further(best, _came(asked, way, phase, trial))
        if best[0] == math.inf:
            break
    if best is None and asked.takes("input_ids"):  # under another name than the main input's
        best = _came(asked, {"input_ids": token_ids(asked)}, phase, trial)
    if best is None:
        return None
    if best[0] < math.inf and (way := _as_processed(asked, best[1])) != best[1]:
        best = _further(best, _came(asked, way, phase, trial))
    if best[0] < math.inf:  # with what some forwards use without demanding it
        used = {name: rule(asked, best[1]) for name, rule in USED.items() if name not in best[1]}
        best = _further(best, _came(asked, {**best[1], **asked.fits(used)}, phase, trial))
    if best[0] < math.inf:  # for a forward that looks for empty images
        filled = _merged(asked, _filled(best[1]), trial)
        best = _further(best, _came(asked, filled, phase, trial))
    if best[0] < math.inf:
        best = _further(best, _came(asked, _alongside(asked, best[1], trial), phase, trial))
    if best[0] < math.inf:  # for a forward that inverts its masks
        inverted = _merged(asked, _of_bools(asked, best[1]), trial)
        best = _further(best, _came(asked, inverted, phase, trial))
    if best[0] < math.inf:
        best = _further(best, _came(asked, _at_every_position(asked, best[1]), phase, trial))
    return Inputs((), best[1])


def _filled(way: Way) -> Way:
    """Images of ones, whose values are known on meta too."""
    images = {name: spec for name, spec in way.items() if name.startswith("pixel_values")}
    return {**way, **{name: replace(spec, runs=((1, spec.shape[-1]),)) for name, spec in images.items()}}


def _of_bools(asked: Asked, way: Way) -> Way:
    """Masks that are true or false, where they were 1 or 0; beside a text without placeholders, because
    other features may come of them."""
    masks = {name: replace(spec, dtype=torch.bool) for name, spec in way.items() if name.endswith("_mask")}
    text = {"input_ids": token_ids(asked)} if masks and "input_ids" in way else {}
    return {**way, **text, **masks}


def _at_every_position(asked: Asked, way: Way) -> Way:
    """A text as long as the model has positions, for one that lays out all of them beforehand."""
    ids = way.get("input_ids")
    if not isinstance(ids, InputSpec) or placed(asked, ids) or asked.longest > MOST_POSITIONS:
        return way
    return {**way, "input_ids": replace(ids, shape=(*ids.shape[:-1], asked.longest))}


def _as_processed(asked: Asked, way: Way) -> Way:
    """Images as large as the model's image processor makes them."""
    size = processed_size(asked.config)
    images = {
        name: replace(spec, shape=(*spec.shape[:-2], *size))
        for name, spec in way.items()
        if size and name.startswith("pixel_values") and len(spec.shape) >= 4
    }
    return {**way, **images}


def _came(asked: Asked, way: Way, phase: str, trial: Trial) -> tuple[float, Way]:
    """How far a way comes, in training with labels."""
    whole = {**way, **(labels(asked, way) if phase == "train" else {})}
    return trial.run(asked.model, Inputs((), whole), phase), whole


def _further(best: tuple[float, Way] | None, other: tuple[float, Way]) -> tuple[float, Way]:
    return other if best is None or other[0] > best[0] else best


def _check_forward(model: nn.Module) -> None:
    if type(model).forward is nn.Module.forward:
        raise InspectError(
            f"{type(model).__name__} has no forward", 'run one of its methods: `call="generate"`'
        )


def _ways(asked: Asked, kinds: list[list[Way]]) -> Iterator[Way]:
    """Every combination of the ways of each kind. Raises InspectError where none has all that is demanded."""
    missing: list[str] = []
    usable = False
    for parts in product(*kinds):
        way = _whole(asked, parts)
        lacking = [name for name in asked.demanded if name not in way]
        if way and not lacking:
            usable = True
            yield way
        missing += lacking
    if missing and not usable:
        raise _unknown(asked, missing[0])


def _usable(asked: Asked, ways: list[Way], trial: Trial) -> list[Way]:
    """The first way comes first of which the model can make features of an image or a sound."""
    for way in ways:
        if any(_features(asked, kind, way, trial) for kind in MERGED):
            return [way, *(other for other in ways if other is not way)]
    return ways


def _whole(asked: Asked, parts: tuple[Way, ...]) -> Way:
    """The parts together with what the forward demands besides, in its order."""
    way = {name: value for part in parts for name, value in part.items()}
    for name in asked.demanded:
        if name not in way and name in DEMANDED:
            way[name] = DEMANDED[name](asked, way)
    return {name: way[name] for name in asked.parameters if name in way}


def _unknown(asked: Asked, name: str) -> InspectError:
    needed = ", ".join(f"`{one}`" for one in asked.demanded)
    hint = f'pass them all, tensors with their shapes: `inputs=["{name}=1x16x{_width(asked)}"]`'
    if "Tensor" not in asked.annotation(name):
        hint = f"make it as the documentation of transformers shows, and pass it: `inputs={{{name!r}: ...}}`"
    return InspectError(
        f"{type(asked.model).__name__} has no default input: its forward demands {needed},"
        f" and nothing says what `{name}` is",
        hint,
    )


def _width(asked: Asked) -> int:
    return getattr(asked.config, "hidden_size", None) or 64


# Images and sounds within the text.


def _merged(asked: Asked, way: Way, trial: Trial) -> Way:
    """With the placeholders of images and sounds before the text."""
    ids = way.get("input_ids")
    if not isinstance(ids, InputSpec) or placed(asked, ids):
        return way
    runs = []
    for kind in MERGED:
        token = placeholder(asked.config, kind)
        features = token is not None and _features(asked, kind, way, trial)
        if token is not None and features:
            runs.append((token, features))
    if not runs:
        return way
    *rows, length = ids.shape
    count = sum(count for _, count in runs)
    length = min(length, asked.longest - count if asked.longest > count else length) + count
    merged = replace(ids, shape=(*rows, length), runs=tuple(runs), never=special(asked.config))
    return {**way, "input_ids": merged}


def _features(asked: Asked, kind: str, way: Way, trial: Trial) -> int:
    """How many tokens the model makes of an image or a sound; 0 where it does not say."""
    methods = (getattr(module, f"get_{kind}_features", None) for module in asked.model.modules())
    for method in filter(callable, methods):
        named = {name: value for name, value in way.items() if name in _parameters(method)}
        if not named:  # it only hands on what it gets to the module within
            continue
        made: list[int] = []
        trial.run(_Probe(asked.model, method, made.append), Inputs((), named), "forward")
        return made[0] if made else 0
    return 0


def _alongside(asked: Asked, way: Way, trial: Trial) -> Way:
    """With one token for each feature of a sound, for a forward that adds the two."""
    ids = way.get("input_ids")
    features = _features(asked, "audio", way, trial) if isinstance(ids, InputSpec) else 0
    if not features or not isinstance(ids, InputSpec) or placed(asked, ids):
        return way
    return {**way, "input_ids": replace(ids, shape=(*ids.shape[:-1], features))}


class _Probe(nn.Module):
    """Calls a method of a model, and tells how many rows of features it gives."""

    def __init__(self, model: nn.Module, method: Callable[..., Any], tell: Callable[[int], object]) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.tell = tell

    def forward(self, **kwargs: Any) -> Any:
        output = self.method(**kwargs)
        pooled = getattr(output, "pooler_output", None)
        features = output if pooled is None else pooled
        self.tell(sum(tensor.numel() // tensor.shape[-1] for tensor in tensors(features) if tensor.dim()))
        return features


def _parameters(method: Callable[..., Any]) -> set[str]:
    return set(introspection.signature(method).parameters)
