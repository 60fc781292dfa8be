"""The input grammar: what the model is called with, written as shapes.

    1x3x224x224                 float32 of that shape
    float32[1,3,224,224]        with a dtype; int64[] is a scalar
    ids=int64[1,128]            a keyword input
    [3x800x800,3x600x600]       a list of tensors as one input
    causal:=false               a plain value by keyword, read as YAML; `:=2.0` by position

Several inputs are several strings. Values are drawn from a seed: floats from a normal
distribution, integers from a range that every embedding of the model accepts, booleans fairly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError, first_line
from inspector.core.values import yaml_value
from inspector.models.copies import copied
from inspector.tracing.values import tensors

HINT = "write 1x3x224x224, 'float32[1,3,224,224]', 'ids=int64[1,128]', '[3x800x800]' or 'causal:=false'"
DEPTH = 20
"""How deep lists of inputs may nest."""
_VALUE = re.compile(r"([A-Za-z_]\w*)?\s*:=(.*)", re.DOTALL)
_NAMED = re.compile(r"([A-Za-z_]\w*)\s*=\s*(.+)", re.DOTALL)
_TYPED = re.compile(r"([a-z]\w*)\s*\[\s*((?:\d+(?:\s*[x,]\s*\d+)*)?)\s*,?\s*\]")
_PLAIN = re.compile(r"\d+(?:\s*[x,]\s*\d+)*")
_INTEGERS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip


@dataclass(frozen=True)
class InputSpec:
    """A tensor to make: dtype, shape, and for integers the range [0, below); or fixed `values`.

    `runs` says what every row (along the last dimension) begins with, as (value, how often): the
    placeholders of an image, the sizes of a grid, a mask of ones. What is drawn for the rest avoids those
    values and `never`. A model reads them, so such a tensor stays on the CPU in a pass on meta.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    below: int | None = None
    values: Any = None
    runs: tuple[tuple[int, int], ...] = ()
    never: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """What a model is called with: nested lists, tuples and dicts of `InputSpec` or tensors."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def has_tensors(self) -> bool:
        """Whether some argument is more than a plain value."""
        return any(not _plain(value) for value in (*self.args, *self.kwargs.values()))

    @property
    def has_nested(self) -> bool:
        """Whether some argument is a nested tensor, whose shapes are values."""
        values = (*self.args, *self.kwargs.values())
        return any(isinstance(value, Tensor) and value.is_nested for value in values)

    @property
    def valueless(self) -> bool:
        """Whether some tensor of the caller is on meta: it can run nowhere else."""
        return any(tensor.is_meta for tensor in tensors((self.args, self.kwargs)))

    def with_values(self, values: Mapping[str, Any]) -> Inputs:
        """The same call with `values` by keyword."""
        return Inputs(self.args, {**self.kwargs, **values})


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))


def parse_inputs(texts: Iterable[str]) -> Inputs:
    """Read one string for each input. Raises InspectError that shows the grammar."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        plain, named = _VALUE.fullmatch(text.strip()), _NAMED.fullmatch(text.strip())
        name = plain[1] if plain else named[1] if named else None
        value = (
            yaml_value(plain[2], f"input {text!r}")
            if plain
            else _parse_value(named[2] if named else text, text)
        )
        if name is None:
            args.append(value)
        elif name in kwargs:
            raise InspectError(f"input {name!r} appears twice", HINT)
        else:
            kwargs[name] = value
    return Inputs(tuple(args), kwargs)


def _parse_value(text: str, whole: str, depth: int = 0) -> Any:
    text = text.strip()
    if text.startswith("[") and text.endswith("]") and depth < DEPTH:
        return [_parse_value(part, whole, depth + 1) for part in _split(text[1:-1])]
    typed = _TYPED.fullmatch(text)
    if typed:
        dtype = getattr(torch, typed[1], None)
        if not isinstance(dtype, torch.dtype):
            raise InspectError(f"input {whole!r}: no dtype is called {typed[1]!r}", HINT)
        if not (dtype.is_floating_point or dtype.is_complex or dtype in (*_INTEGERS, torch.bool)):
            raise InspectError(f"input {whole!r}: {typed[1]} inputs cannot be generated", HINT)
        return InputSpec(_shape(typed[2], whole), dtype)
    if _PLAIN.fullmatch(text):
        return InputSpec(_shape(text, whole))
    raise InspectError(f"cannot read input {whole!r}", HINT)


def _shape(text: str, whole: str) -> tuple[int, ...]:
    parts = [part for part in re.split(r"[x,\s]+", text) if part]
    for part in parts:
        if len(part) > 20 or int(part) >= 2**40:
            raise InspectError(f"input {whole!r}: {part} is too large for a dimension", HINT)
    return tuple(map(int, parts))


def _split(text: str) -> list[str]:
    """Split at commas that stand outside brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]


def as_inputs(value: Any) -> Inputs:
    """What the Python API accepts: a tensor, a tuple or list of call arguments, a dict of keyword
    arguments, `((...), {...})` for both; or one string of the grammar or a list of them. A string among
    call arguments is a value."""
    if isinstance(value, Inputs):
        return value
    if isinstance(value, str):
        return parse_inputs([value])
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        return parse_inputs(value)
    if isinstance(value, Mapping):
        return Inputs((), _by_keyword(value))
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
        if isinstance(value[0], (list, tuple)):
            return Inputs(tuple(value[0]), _by_keyword(value[1]))
    return Inputs(tuple(value) if type(value) in (list, tuple) else (value,))


def _by_keyword(values: Mapping[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in values):
        raise InspectError("a dict of inputs names them by keyword", "use strings as keys, or a tuple")
    return dict(values)


def batch_of_two(inputs: Inputs) -> Inputs:
    """The same inputs with a first dimension of 2 where it was 1."""

    def double(value: Any) -> Any:
        if isinstance(value, InputSpec) and value.shape[:1] == (1,):
            return replace(value, shape=(2, *value.shape[1:]))
        return value

    return Inputs(tuple(map(double, inputs.args)), {k: double(v) for k, v in inputs.kwargs.items()})


def materialise(
    inputs: Inputs, model: nn.Module, device: str, seed: int = 0
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs on `device`: tensors without values on meta, with seeded ones elsewhere. What the caller
    gave is copied, whatever it is made of: a cache of keys and values, a list that the model appends to."""
    generator = torch.Generator().manual_seed(seed)
    legal = index_range(model)

    def make(value: Any, runs: bool) -> Any:
        if isinstance(value, InputSpec):
            return _tensor(value, device, generator, legal) if bool(value.runs) is runs else value
        if type(value) in (list, tuple):
            return type(value)(make(entry, runs) for entry in value)
        return {key: make(entry, runs) for key, entry in value.items()} if type(value) is dict else value

    try:
        moved = copied(make((inputs.args, inputs.kwargs), False), device)
        return make(moved, True)  # type: ignore[no-any-return]
    except (RuntimeError, MemoryError) as error:
        raise InspectError(
            f"cannot make the inputs on {device}: {first_line(error)}",
            "use smaller shapes or another dtype",
        ) from error


def _tensor(spec: InputSpec, device: str, generator: torch.Generator, legal: int) -> Tensor:
    if spec.values is not None:
        return torch.tensor(spec.values, dtype=spec.dtype, device=device)
    if spec.runs:
        return _with_runs(spec, generator, legal).to("cpu" if device == "meta" else device)
    if device == "meta":
        return torch.empty(spec.shape, dtype=spec.dtype, device="meta")
    if spec.dtype is torch.bool:
        return torch.randint(2, spec.shape, generator=generator).bool().to(device)
    if spec.dtype in _INTEGERS:
        below = min(spec.below or legal, torch.iinfo(spec.dtype).max)
        return torch.randint(below, spec.shape, generator=generator).to(spec.dtype).to(device)
    return torch.randn(spec.shape, generator=generator).to(spec.dtype).to(device)


def _with_runs(spec: InputSpec, generator: torch.Generator, legal: int) -> Tensor:
    """Drawn values, over which the runs are written."""
    below = spec.below or legal
    drawn = torch.randint(below, spec.shape, generator=generator)
    taken = {*spec.never, *(value for value, _ in spec.runs)}
    for value in sorted(taken) if len(taken) < below else ():
        free = next(one for one in range(below) if one not in taken)
        drawn[drawn == value] = free
    start = 0
    for value, length in spec.runs:
        drawn[..., start : start + length] = value
        start += length
    return drawn.to(spec.dtype)


def index_range(model: nn.Module) -> int:
    """How many values an integer input may take: what the smallest embedding accepts, because
    nothing says which embedding an input reaches. Without embeddings, 2."""
    sizes = [
        module.num_embeddings
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    ]
    return min(sizes, default=2)
