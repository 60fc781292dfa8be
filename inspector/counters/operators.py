"""The classes of operators that the explanation speaks of, read off our trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from inspector.counters.record import Part
from inspector.tracing.record import Op, Trace

RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
ATTENTION = "scaled_dot_product_attention"


class Work(NamedTuple):
    """A contraction of the trace with its class."""

    op: Op
    kind: str

    @property
    def module(self) -> str:
        return self.op.module

    @property
    def macs(self) -> int:
        return self.op.macs or 0


class Contractions:
    """The operators of a trace that cost MACs, by module."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.types = {module.path: module.type for module in trace.modules}
        self.calls = {module.path: module.calls for module in trace.modules}
        self._softmax = {op.module for op in trace.ops if "softmax" in op.name}
        self.all = [Work(op, self._kind(op)) for op in trace.ops if op.macs]
        self._at: dict[str, list[Work]] = defaultdict(list)
        for work in self.all:
            self._at[work.module].append(work)

    def at(self, module: str) -> list[Work]:
        """Those that `module` itself ran."""
        return self._at.get(module, [])

    def below(self, module: str) -> Iterator[Work]:
        """Those that `module` and everything inside it ran."""
        for work in self.all:
            if inside(work.module, module):
                yield work

    def takes_parameter(self, op: Op) -> bool:
        storages = self.trace.storages
        return any(t.storage >= 0 and storages[t.storage].role == "parameter" for t in op.inputs)

    def _kind(self, op: Op) -> str:
        name, group = op.name, op.group
        if "attention" in name or group == ATTENTION:
            return "attention"
        if group in RECURRENT:
            return "recurrent"
        if "deform_conv" in name:
            return "deformable convolution"
        if "conv" in name:
            return "transposed convolution" if group.startswith("conv_transpose") else "convolution"
        if group == "linear" or self.takes_parameter(op):
            return "linear"
        return "attention" if op.module in self._softmax else "matmul"


def inside(path: str, module: str) -> bool:
    return not module or path == module or path.startswith(module + ".")


def unpriced(w: Work) -> str:
    """Why a counter that knows functions or operators by name has no number for a contraction."""
    return "no formula for attention" if w.kind == "attention" else "no formula for this operator"


def unhooked(w: Work, work: Contractions) -> str:
    """Why a counter that hooks modules of known classes does not meet a contraction."""
    if w.kind == "attention" or work.types.get(w.module, "") == "MultiheadAttention":
        return "no formula for attention"
    if w.kind == "matmul":
        return "no formula for this operator"
    if _of_idle_child(w, work):
        return "weights used without calling their module"
    return "no rule for this class of module"


def _of_idle_child(w: Work, work: Contractions) -> bool:
    """Whether the weight is that of a submodule which is never called."""
    sizes = {t.numel for t in w.op.inputs}
    prefix = f"{w.module}." if w.module else ""
    return any(
        entry.numel in sizes and name.startswith(prefix) and work.calls.get(name.rpartition(".")[0]) == 0
        for entry in work.trace.state
        for name in (entry.name, *entry.aliases)
        if entry.kind == "parameter" and name.rpartition(".")[0] != w.module
    )


def named(work: Iterable[Work], operator: str) -> list[Work]:
    """The contractions that a torch function or operator called `operator` made."""
    return [w for w in work if w.op.group == operator or w.op.name.rpartition(".")[2] == operator]


def norms(trace: Trace) -> Iterator[Op]:
    """The normalisations of the forward that are one operator (an RMS norm is several)."""
    for op in trace.ops:
        if op.phase == "forward" and op.name.startswith(_NORMS):
            yield op


_NORMS = (
    "aten.native_batch_norm", "aten._native_batch_norm", "aten._batch_norm", "aten.cudnn_batch_norm",
    "aten.batch_norm", "aten.native_layer_norm", "aten.native_group_norm",
)  # fmt: skip

FUSED = {"_native_multi_head_attention": False, "_transformer_encoder_layer_fwd": True}
"""The fast paths of torch.nn: whether they replace everything inside the module, too."""


def fused(module: str, kind: str, work: Contractions) -> Iterator[Part]:
    """All that a fused kernel did for `module`."""
    for w in work.below(module) if FUSED[kind] else work.at(module):
        if w.op.phase == "forward":
            yield Part(w.module, w.kind, "fast path opaque", -w.macs)
