"""Recurrent layers in one fused call.

weight_ih (gates * hidden, input), weight_hh (gates * hidden, hidden).
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

from inspector.tracing.formulas.pointwise import GATE_FLOPS
from inspector.tracing.formulas.registry import Cost, first, formula
from inspector.tracing.record import TensorSpec


def _rnn(weights: list[TensorSpec], steps: int, cells: int, hidden: int, gate_flops: int) -> Cost:
    """`weights` of all cells (layers times directions): each matrix meets every time step once."""
    matrices = [w for w in weights if len(w.shape) == 2]
    biases = [w for w in weights if len(w.shape) == 1]
    macs = steps * sum(w.numel for w in matrices)
    pointwise = steps * sum(b.numel for b in biases) + steps * cells * gate_flops * hidden
    return Cost(macs, pointwise, steps * sum(w.shape[0] for w in matrices))


@formula("aten._cudnn_rnn")
def cudnn_rnn(
    out: Any,
    x: TensorSpec,
    weights: list[TensorSpec],
    stride0: int,
    weight_buf: Any,
    hx: Any,
    cx: Any,
    mode: int,
    hidden: int,
    proj: int,
    layers: int,
    batch_first: bool,
    dropout: float,
    train: bool,
    bidirectional: bool,
    *_: Any,
) -> Cost:
    """mode: 0 relu, 1 tanh, 2 LSTM, 3 GRU. x (L, N, input), or packed (sum of lengths, input)."""
    gates = ("relu", "tanh", "lstm", "gru")[mode]
    cells = layers * (2 if bidirectional else 1)
    return _rnn(weights, prod(x.shape[:-1]), cells, hidden, GATE_FLOPS[gates])


@formula("aten.mkldnn_rnn_layer")
def mkldnn_rnn_layer(
    out: Any, x: TensorSpec, w0: TensorSpec, w1: TensorSpec, b0: TensorSpec, b1: TensorSpec, *_: Any
) -> Cost:
    """One LSTM layer in one direction, x (L, N, input)."""
    return _rnn([w0, w1, b0, b1], prod(x.shape[:-1]), 1, w1.shape[1], GATE_FLOPS["lstm"])


@formula("aten._cdist_forward", "aten._euclidean_dist")
def cdist(out: Any, a: TensorSpec, b: TensorSpec, *_: Any) -> Cost:
    """Distances of all pairs of rows: subtract, power, add for each coordinate, then the root."""
    pairs = first(out).numel
    return Cost(0, pairs * (3 * a.shape[-1] + 1))


@formula("aten._cdist_backward")
def cdist_backward(out: Any, grad: TensorSpec, a: TensorSpec, *_: Any) -> Cost:
    """Of the first rows alone: for each pair and coordinate the difference again, times the gradient over the
    distance (2), and its sum."""
    return Cost(0, 4 * grad.numel * a.shape[-1])


def _fused_cell(
    kind: str, out: Any, gates: TensorSpec, hidden_gates: TensorSpec, state: TensorSpec, *biases: Any
) -> Cost:
    """gates (N, 4 * hidden) of an LSTM, (N, 3 * hidden) of a GRU: the products ran before, the biases are
    added here."""
    added = gates.numel * sum(bias is not None for bias in biases)
    return Cost(0, added + state.numel * GATE_FLOPS[kind])


for _kind in ("lstm", "gru"):
    formula(f"aten._thnn_fused_{_kind}_cell")(partial(_fused_cell, _kind))
