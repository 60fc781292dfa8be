"""Recurrent layers step by step, in one form on every device.

torch runs them in one opaque kernel (oneDNN, cuDNN), or step by step; and the steps differ by device. On the
CPU the input of a whole layer meets its weights in one product, before the steps; elsewhere each step makes
its own, which reads the input's weights once a step, and adds up their gradient once a step. The first is
what cuDNN and oneDNN do too, and what is counted: here it is for tensors that are not on the CPU, operator by
operator as torch runs it there (ATen/native/RNN.cpp of torch 2.8 to 2.15).

Shapes: steps L, batch N. Hidden states are lists: (h,), or (h, c) of an LSTM; each (N, hidden).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from inspector.tracing import _torch
from inspector.tracing.capture.isolate import stepwise

Hidden = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Weights:
    """The parameters of one layer in one direction; those that it does not have are None."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None

    @staticmethod
    def of(params: Sequence[Tensor], biased: bool, projected: bool) -> list[_Weights]:
        """One for each layer and direction, in torch's order."""
        size = 2 + 2 * biased + projected
        split = [list(params[i : i + size]) for i in range(0, len(params), size)]
        return [
            _Weights(
                w[0], w[1], w[2] if biased else None, w[3] if biased else None, w[-1] if projected else None
            )
            for w in split
        ]

    def of_input(self, x: Tensor) -> Tensor:
        return linear(x, self.w_ih, self.b_ih)

    def of_hidden(self, h: Tensor) -> Tensor:
        return linear(h, self.w_hh, self.b_hh)


# One step: `x` is the product of the input with its weights.

Cell = Callable[[Tensor, Hidden, _Weights], Hidden]


def _simple(activation: Callable[[Tensor], Tensor], x: Tensor, hidden: Hidden, weights: _Weights) -> Hidden:
    return (activation(weights.of_hidden(hidden[0]).add_(x)),)


def _gru(x: Tensor, hidden: Hidden, weights: _Weights) -> Hidden:
    (h,) = hidden
    from_input = x.unsafe_chunk(3, 1)
    from_hidden = weights.of_hidden(h).unsafe_chunk(3, 1)
    reset = from_hidden[0].add_(from_input[0]).sigmoid_()
    update = from_hidden[1].add_(from_input[1]).sigmoid_()
    new = from_input[2].add(from_hidden[2].mul_(reset)).tanh_()
    return ((h - new).mul_(update).add_(new),)


def _lstm(x: Tensor, hidden: Hidden, weights: _Weights) -> Hidden:
    h, c = hidden
    gates = weights.of_hidden(h).add_(x).unsafe_chunk(4, 1)
    enter, keep, new, leave = gates[0].sigmoid_(), gates[1].sigmoid_(), gates[2].tanh_(), gates[3].sigmoid_()
    c = (keep * c).add_(enter * new)
    h = leave * c.tanh()
    return (h if weights.w_hr is None else h.matmul(weights.w_hr.t())), c


CELLS: dict[str, Cell] = {
    "rnn_tanh": partial(_simple, torch.tanh),
    "rnn_relu": partial(_simple, torch.relu),
    "gru": _gru,
    "lstm": _lstm,
}


# One layer in one direction: the input (L, N, input), or packed (rows, input) with the rows of each step.

Layer = Callable[[Cell, Tensor, Hidden, _Weights, bool], tuple[Tensor, Hidden]]


def _whole(cell: Cell, x: Tensor, hidden: Hidden, weights: _Weights, backward: bool) -> tuple[Tensor, Hidden]:
    steps = list(weights.of_input(x).unbind(0))
    outputs = []
    for step in reversed(steps) if backward else steps:
        hidden = cell(step, hidden, weights)
        outputs.append(hidden[0])
    return torch.stack(outputs[::-1] if backward else outputs, 0), hidden


def _packed(
    batch_sizes: list[int], cell: Cell, x: Tensor, hidden: Hidden, weights: _Weights, backward: bool
) -> tuple[Tensor, Hidden]:
    """Sequences that have ended leave the batch; backwards they join it where they end."""
    x = weights.of_input(x)
    starts = [sum(batch_sizes[:i]) for i in range(len(batch_sizes))]
    steps = list(zip(starts, batch_sizes))
    outputs: list[Tensor] = []
    if backward:
        first, rows = hidden, batch_sizes[-1]
        hidden = _rows(first, 0, rows)
        for start, size in reversed(steps):
            if size > rows:
                hidden = _joined([hidden, _rows(first, rows, size)])
            rows = size
            hidden = cell(x.narrow(0, start, size), hidden, weights)
            outputs.append(hidden[0])
        return torch.cat(outputs[::-1], 0), hidden
    rows, ended = batch_sizes[0], []
    for start, size in steps:
        step = x.narrow(0, start, size)
        if size < rows:
            ended.append(_rows(hidden, size, rows))
            hidden = _rows(hidden, 0, size)
        rows = size
        hidden = cell(step, hidden, weights)
        outputs.append(hidden[0])
    return torch.cat(outputs, 0), _joined([hidden, *reversed(ended)])


def _rows(hidden: Hidden, start: int, stop: int) -> Hidden:
    return tuple(state.narrow(0, start, stop - start) for state in hidden)


def _joined(parts: Iterable[Hidden]) -> Hidden:
    return tuple(torch.cat(states, 0) for states in zip(*parts))


# All layers.


def run(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run `torch.NAME`, which is `function`, step by step: on the CPU torch does it, with oneDNN off."""
    arguments = dict(zip(_PACKED if _is_packed(args, kwargs) else _WHOLE, args), **kwargs)
    data = arguments.pop("input", None) if "input" in arguments else arguments.pop("data", None)
    batch_sizes = arguments.pop("batch_sizes", None)
    complete = set(arguments) == set(_WHOLE[1:] if batch_sizes is None else _WHOLE[1:-1])
    if not complete or not isinstance(data, Tensor) or data.device.type == "cpu" or data.numel() == 0:
        with stepwise():
            return function(*args, **kwargs)
    layer = _whole if batch_sizes is None else partial(_packed, batch_sizes.tolist())
    return _layers(name, layer, data, **arguments)


_WHOLE = (
    "input",
    "hx",
    "params",
    "has_biases",
    "num_layers",
    "dropout",
    "train",
    "bidirectional",
    "batch_first",
)
_PACKED = ("data", "batch_sizes", *_WHOLE[1:-1])
"""The arguments of the two overloads, in torch's order."""


def _is_packed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """The second argument of a packed call is the batch's size at each step, then come the states."""
    return "batch_sizes" in kwargs or (len(args) > 3 and isinstance(args[3], (list, tuple)))


def _layers(
    name: str,
    layer: Layer,
    x: Tensor,
    hx: Any,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
) -> tuple[Tensor, ...]:
    states = tuple(hx) if name == "lstm" else (hx,)
    projected = name == "lstm" and hx[0].shape[2] != hx[1].shape[2]
    weights = iter(_Weights.of(params, has_biases, projected))
    hidden = iter(zip(*(state.unbind(0) for state in states)))
    x = x.transpose(0, 1) if batch_first else x
    final: list[Hidden] = []
    for index in range(num_layers):
        outputs = []
        for backward in (False, True) if bidirectional else (False,):
            output, last = layer(CELLS[name], x, next(hidden), next(weights), backward)
            outputs.append(output)
            final.append(last)
        x = torch.cat(outputs, outputs[0].dim() - 1) if bidirectional else outputs[0]
        if dropout and train and index < num_layers - 1:
            x = torch.dropout(x, dropout, True)
    x = x.transpose(0, 1) if batch_first else x
    return tuple(chain([x], (torch.stack(states, 0) for states in zip(*final))))


@contextmanager
def repeatable(named: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
    """Have `run` called also where no function mode sees the call: by what a checkpoint runs again in the
    backward. There `named(name)` names it for the record."""
    before = [(owner, name, vars(owner).get(name)) for owner in (torch, _torch.VF) for name in CELLS]
    try:
        for owner, name, _ in before:
            setattr(owner, name, _seen(name, getattr(owner, name), named))
        yield
    finally:
        for owner, name, function in before:
            if function is None:
                delattr(owner, name)
            else:
                setattr(owner, name, function)


def _seen(
    name: str, function: Callable[..., Any], named: Callable[[str], AbstractContextManager[Any]]
) -> Callable[..., Any]:
    thread = threading.get_ident()

    def recurrent(*args: Any, **kwargs: Any) -> Any:
        if _torch.function_mode_is_on() or threading.get_ident() != thread:
            return function(*args, **kwargs)
        with named(name):
            return run(name, function, args, kwargs)

    return recurrent
