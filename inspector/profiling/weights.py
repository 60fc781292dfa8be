"""A trace as if the weights of its layers were kept in fewer bits: bytes alone change.

Quantised are the matrices of Linear layers (GPT-2's Conv1D is one) inside the repeated blocks, and those of
experts; embeddings, the head, norms and routers stay as they are, as quantisers leave them by default. A
kernel makes 16-bit numbers of the codes as it reads them: products, and all that is computed, are those of
the model's own dtype. Only the schemes that quantise activations too (w8a8) multiply 8-bit numbers: what
comes in is read as such, with a float32 scale for each row, and is taken to be quantised by what wrote it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import ceil, prod

from inspector.core.errors import InspectError
from inspector.profiling.views.bounds import EIGHT_BITS
from inspector.tracing.formulas.traffic import GROUPED, touched
from inspector.tracing.record import ITEM_BYTES, Op, Trace


@dataclass(frozen=True)
class Scheme:
    """How a matrix with `rows` outputs and `columns` inputs is kept: `bits` for each number, and for each
    group of `group` inputs of one output (None: all of them) `beside` bits of scale and zero point. A matrix
    has `table` bytes more, an input `per_input` bits. `products`: the dtype of both sides, where not the
    model's."""

    name: str
    bits: int
    group: int | None
    beside: int
    source: str
    table: int = 0
    per_input: int = 0
    products: str | None = None

    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of one matrix."""
        groups = 1 if self.group is None else ceil(columns / self.group)
        bits = rows * columns * self.bits + rows * groups * self.beside + columns * self.per_input
        return ceil(bits / 8) + self.table

    @property
    def peak(self) -> str | None:
        """What a device's peak of its products is called; None where they are in the model's dtype."""
        return EIGHT_BITS[self.products] if self.products else None

    def __str__(self) -> str:
        return self.name if self.group is None else f"{self.name}, groups of {self.group}"


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8", 8, None, 32, "bitsandbytes Linear8bitLt: a float32 scale for each output"),
        Scheme("fp8", 8, None, 32, "torchao Float8WeightOnlyConfig: a float32 scale for each output"),
        Scheme("int4", 4, 128, 32, "torch._weight_int4pack_mm: bfloat16 scale and zero for each group"),
        Scheme("nf4", 4, 64, 32, "bitsandbytes Linear4bit: a float32 scale for each block, 16 levels", 64),
        Scheme(
            "gptq", 4, 128, 16 + 4, "GPTQ files: float16 scale and 4-bit zero for each group, g_idx",
            per_input=32,
        ),
        Scheme("w8a8", 8, None, 32, "int8 products; float32 scales for each output and row", products="int8"),
        Scheme(
            "w8a8-fp8", 8, None, 32, "torch._scaled_mm by rows: float32 scales for each output and row",
            products="float8_e4m3fn",
        ),
    )
}  # fmt: skip
_GROUP = re.compile(r"group=([1-9]\d{0,5})")
_REPEATED = re.compile(r"(^|\.)\d+(\.|$)")


def scheme(text: str) -> Scheme:
    """`int4`, or `int4:group=64`. Raises InspectError with all names."""
    name, colon, option = text.partition(":")
    if name not in SCHEMES:
        raise InspectError(f"no weights are called {name!r}", f"use one of: {', '.join(SCHEMES)}")
    chosen = SCHEMES[name]
    if not colon:
        return chosen
    match = _GROUP.fullmatch(option)
    if match is None or chosen.group is None:
        known = "it has no groups" if chosen.group is None else f"write {name}:group=64"
        raise InspectError(f"cannot read the weights {text!r}", known)
    return replace(chosen, group=int(match[1]))


def in_fewer_bits(trace: Trace, scheme: Scheme) -> Trace:
    """The trace with its layers' weights kept by `scheme`. What already is quantised stays. Raises
    InspectError where the scheme applies to nothing."""
    sizes = _sizes(trace, scheme)
    if not sizes:
        raise InspectError(
            f"{trace.model} has no Linear layer in repeated blocks to keep in {scheme.name}",
            "leave `weights=` out",
        )
    storages = list(trace.storages)
    before = {index: storages[index].nbytes for index in sizes}
    for index, nbytes in sizes.items():
        storages[index] = storages[index]._replace(nbytes=nbytes)
    ops = []
    for op in trace.ops:
        saved = 0
        for spec in {spec.storage: spec for spec in op.inputs if spec.storage in sizes}.values():
            if not op.macs:
                continue
            read = min(spec.nbytes, before[spec.storage])
            if op.name in GROUPED:
                read = round(read * touched(op.inputs[0], spec))
            saved += read - round(read * sizes[spec.storage] / before[spec.storage])
        ops.append(_narrow(op, saved, scheme, sizes) if saved else op)
    held = {(storages[index].module, before[index]): nbytes for index, nbytes in sizes.items()}
    state = []
    for entry in trace.state:
        kept = held.get((entry.name.rpartition(".")[0], entry.nbytes))
        if kept is None or entry.kind != "parameter" or len(entry.shape) < 2:
            state.append(entry)
        else:
            state.append(replace(entry, nbytes=kept, stored=f"{entry.dtype} as {scheme.name}"))
    return replace(trace, ops=tuple(ops), storages=tuple(storages), state=tuple(state))


def _narrow(op: Op, saved: int, scheme: Scheme, sizes: dict[int, int]) -> Op:
    """An operator that reads `saved` bytes less of its weights, and of its activations where they are
    quantised too."""
    if scheme.products is None:
        return replace(op, bytes_read=op.bytes_read - saved)
    inputs = []
    for spec in op.inputs:
        if len(spec.shape) > 1 and spec.dtype in _FLOATS:
            if spec.storage not in sizes:
                saved += spec.nbytes - spec.numel - 4 * (spec.numel // spec.shape[-1])
            spec = spec._replace(dtype=scheme.products)
        inputs.append(spec)
    inputs.sort(key=lambda spec: spec.dtype != scheme.products)  # before a bias
    return replace(op, inputs=tuple(inputs), bytes_read=op.bytes_read - saved)


def _sizes(trace: Trace, scheme: Scheme) -> dict[int, int]:
    """Bytes by `scheme` of each storage that it applies to."""
    linear = {module.path for module in trace.modules if module.type.endswith(("Linear", "Conv1D"))}
    stored = {entry.name.rpartition(".")[0] for entry in trace.state if entry.stored}
    sizes: dict[int, int] = {}
    for op in trace.ops:
        for spec in op.inputs if op.macs else ():
            if spec.storage < 0 or spec.storage in sizes or spec.dtype not in _FLOATS:
                continue
            held = trace.storages[spec.storage]
            whole = spec.nbytes == held.nbytes
            if held.role != "parameter" or held.module in stored or not _REPEATED.search(held.module):
                continue
            experts = op.name in GROUPED and len(spec.shape) == 3
            if whole and experts:
                columns = op.inputs[0].shape[-1]
                rows = prod(spec.shape[1:]) // columns
                sizes[spec.storage] = spec.shape[0] * scheme.nbytes(rows, columns)
            elif whole and held.module in linear and len(spec.shape) == 2:
                columns = op.inputs[-2].shape[-1] if len(op.inputs) > 1 else spec.shape[0]
                if columns in spec.shape:
                    sizes[spec.storage] = scheme.nbytes(spec.numel // columns, columns)
    return sizes


_FLOATS = {name for name in ITEM_BYTES if name in ("float16", "bfloat16", "float32", "float64")}
