"""What a counter says, and what a difference is made of: plain data that passes between processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from inspector.models import Subject
from inspector.tracing.record import Trace

CAUSES = {
    "convention factor 2": "the counter prints FLOPs, a multiply-add being two",
    "counts normalisation": "batch, layer, group or instance norm is added to the MACs",
    "counts other pointwise work": "pooling, softmax, interpolation or gates are added to the MACs",
    "counts bias": "the addition of a bias is counted as one",
    "counts embedding": "a table that is only looked up is counted as a matrix product",
    "no formula for attention": "attention is missing, the projections of nn.MultiheadAttention too",
    "fast path opaque": "a fused kernel ran, and the counter cannot see the products inside",
    "no formula for this operator": "the operator is a contraction and the counter has no formula for it",
    "no rule for this class of module": "the counter knows modules by their exact class, and not this one",
    "weights used without calling their module": "a function used them, so that no hook of the module ran",
    "Linear counted once per sample": "further dimensions between batch and features are ignored",
    "taken for a convolution by its name": "Conv in the name of a class makes the counter skip its features",
    "broadcast product without its batch": "only the batch of the first matrix is counted",
    "transposed convolution over-counted by its stride": "counted per output instead of per input element",
    "grouped weight gradient": "the weight gradient of a grouped convolution is `groups` times too large",
    "attention computed again in the backward": "a fused backward computes the scores a second time",
    "backward not counted": "the counter runs the forward only",
    "unused submodule": "the counter runs in eval mode, and this submodule does not run there",
    "training does more here": "the counter runs in eval mode, where this module does less",
    "input without a batch misread": "its second dimension is taken for the channels, or the batch",
    "shared module counted for each parent": "a module with several names is hooked and added up for each",
    "work that depends on the data": "ours assumes the most work; the counter saw the work that was done",
    "rounded figure": "the published figure has fewer digits",
}
"""The closed list of causes. Each amount is worked out from the trace and the counter's convention,
never from what is left over: that is the unexplained remainder."""

UNEXPLAINED = "unexplained"
BACKWARD = "(backward)"
"""Where a backward is compared: plain hooks, torch's too, cannot give its operators to modules."""


class Cell(NamedTuple):
    """A part of a counter's total, in its own unit: the module that ran, the counter's name for what it
    counted, and what its rule depends on (`detail`: the mode of an Upsample, the dim of a Softmax)."""

    module: str
    kind: str
    value: int
    detail: dict[str, Any] = {}


@dataclass(frozen=True)
class Count:
    """The result of one counter, in its own unit.

    `cells` add up to `value`; without cells only the total can be compared. `blind` names, for each
    module, the operators that ran and that the counter has no formula for. `formulas` are the operators
    that it has formulas for, where it counts operators. `slack` is how far a rounded figure may be off.
    """

    value: int
    params: int | None = None
    cells: tuple[Cell, ...] = ()
    blind: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    formulas: tuple[str, ...] = ()
    slack: int = 0

    @staticmethod
    def from_plain(content: Mapping[str, Any]) -> Count:
        """The inverse of `vars` after a way through JSON, where tuples become lists."""
        cells = tuple(Cell(*cell) for cell in content["cells"])
        return Count(**{**content, "cells": cells, "formulas": tuple(content["formulas"])})


class Part(NamedTuple):
    """A share of the difference between a counter and our MACs, in MACs: where, of what class of
    operator, and why (one of `CAUSES`)."""

    module: str
    operator: str
    cause: str
    amount: int
    phase: str = "forward"


Run = Callable[[Subject, str], Count]
Explain = Callable[[Trace, Count], list[Part]]


@dataclass(frozen=True)
class Counter:
    """One way to count: how to run it on a copy of a model, and how it differs from ours.

    `unit` is MAC or FLOP (then a multiply-add is two), `convention` what the number includes, `source`
    where that was read. `package` must be importable. `explain` is None
    for a counter whose total cannot be taken apart. `trains` that it counts a backward, too.
    """

    name: str
    unit: str
    convention: str
    source: str
    run: Run
    explain: Explain | None
    package: str
    trains: bool = False

    @property
    def install(self) -> str:
        """How to get a package that is missing."""
        return f"pip install {self.package}"

    @property
    def per_mac(self) -> int:
        """Units for one multiply-accumulate."""
        return 2 if self.unit == "FLOP" else 1
