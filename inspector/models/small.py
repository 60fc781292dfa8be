"""The smallest inputs that a model accepts, for checks that run real training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.models.inputs import Inputs, InputSpec, materialise
from inspector.models.subject import Recipe
from inspector.tracing.capture.isolate import preserved, random_state, swap_state

SIZES = (32, 48, 64, 80, 96, 128, 160, 192, 224, 256, 299)
"""Heights and widths of images to try, in pixels."""
TOKENS = 16
"""Length of a token sequence: no model needs more to run all of its layers."""


def smallest(recipe: Recipe, model: nn.Module, batch: int = 4, values: Inputs | None = None) -> Inputs | None:
    """The source's default inputs, joined by plain `values`, as a small training batch: images and token
    sequences as short as a training forward on meta accepts, `batch` of them; two where nothing can be
    shortened. (A batch norm that sees two values gives almost no gradient.) None when the source has no
    default."""
    inputs = recipe.joined(model, values, "train")
    if inputs is None:
        return None
    whole, larger = with_batch(inputs, 2), with_batch(inputs, batch)
    candidates = [scaled for scaled in _shorter(larger) if scaled != larger]
    if not candidates:
        return whole
    runs = _runner(recipe)
    return next((scaled for scaled in candidates if runs(scaled)), whole)


def with_batch(inputs: Inputs, batch: int) -> Inputs:
    """The same inputs for `batch` samples: a first dimension of 1 becomes `batch` (tensors are varied), a
    list of one (the images of a detector) is repeated, and so are patches that the samples share a first
    dimension for."""
    shared = _packed(inputs)

    def more(value: Any, name: str = "") -> Any:
        if name in shared:
            return _repeated(value, batch)
        if isinstance(value, InputSpec) and value.shape[:1] == (1,) and value.values is None:
            return replace(value, shape=(batch, *value.shape[1:]))
        if isinstance(value, Tensor) and value.shape[:1] == (1,) and value.device.type != "meta":
            return torch.cat([value, *(_varied(value, number) for number in range(1, batch))])
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (InputSpec, Tensor)):
            return value * batch
        return value

    return Inputs(tuple(map(more, inputs.args)), {k: more(v, k) for k, v in inputs.kwargs.items()})


def _packed(inputs: Inputs) -> set[str]:
    """The images whose first dimension counts patches or tiles of all samples together: more than one, beside
    one row of token ids or of a grid."""
    rows = {name: tuple(getattr(value, "shape", ()))[:1] for name, value in inputs.kwargs.items()}
    if not any(rows[name] == (1,) for name in rows if name == "input_ids" or "grid" in name):
        return set()
    images = (name for name in rows if name.startswith(("pixel_values", "hidden_states", "image_position")))
    return {name for name in images if rows[name] and rows[name][0] > 1}


def _repeated(value: Any, batch: int) -> Any:
    if isinstance(value, InputSpec):
        return (
            replace(value, shape=(batch * value.shape[0], *value.shape[1:]))
            if value.values is None
            else value
        )
    return torch.cat([value, *(_varied(value, number) for number in range(1, batch))])


def _varied(value: Tensor, number: int) -> Tensor:
    """Another sample of the same kind: equal ones would hide that a batch norm mixes them."""
    moved = value.detach().roll(number, -1)
    return moved * (1 - 0.1 * number) if value.is_floating_point() else moved


def _shorter(inputs: Inputs) -> Iterator[Inputs]:
    if any(isinstance(value, InputSpec) and value.runs for value in inputs.kwargs.values()):
        return  # placeholders and grids belong to the size of the image
    for size in SIZES:
        yield _mapped(inputs, partial(_shrunk, size=size))


def _shrunk(spec: InputSpec, size: int) -> InputSpec:
    *batch, height, width = spec.shape if len(spec.shape) > 1 else (None, 0, 0)
    if spec.dtype.is_floating_point and len(spec.shape) >= 4 and height == width and size < height:
        return replace(spec, shape=(*batch, size, size))
    if not spec.dtype.is_floating_point and len(spec.shape) == 2 and width > TOKENS:
        return replace(spec, shape=(height, TOKENS))
    return spec


def _mapped(inputs: Inputs, change: Callable[[InputSpec], InputSpec]) -> Inputs:
    def apply(value: Any) -> Any:
        return change(value) if isinstance(value, InputSpec) and value.values is None else value

    return Inputs(tuple(map(apply, inputs.args)), {k: apply(v) for k, v in inputs.kwargs.items()})


def _runner(recipe: Recipe) -> Callable[[Inputs], bool]:
    """A test whether a training forward on meta accepts some inputs, on a model of its own."""
    try:
        model = recipe.build("meta") if recipe.rebuilds else recipe.construct()
    except InspectError:
        return lambda inputs: False

    def runs(inputs: Inputs) -> bool:
        with preserved(model), random_state(), torch.no_grad():
            try:
                swap_state(model, "meta")
                args, kwargs = materialise(inputs, model, "meta")
                model.train()(*args, **kwargs)
            except Exception:
                return False
        return True

    return runs
