"""What a step of a language model's service takes for each token: see `Served`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

from inspector.profiling.views.totals import flops
from inspector.tracing.record import Op, TensorSpec, Trace

ATTENTION = "scaled_dot_product_attention"
NUMBERS = (
    "active_params", "active_params_no_lookup", "flops_per_token", "bytes_per_token", "weights_read",
    "cache_bytes", "cache_bytes_per_token", "arithmetic_intensity",
)  # fmt: skip


def serving(trace: Trace) -> dict[str, float]:
    """Nothing for a pass that is no step of a service.

    active_params: parameters that take part in one token's forward, with each embedding table whole, and of
        each group of experts the share that one token goes to (mixtral's 2 of 8). `_no_lookup` is without
        tables that are only looked up.
    flops_per_token, bytes_per_token: FLOPs and bytes moved, over the tokens that the step computes.
    weights_read: bytes of parameters that the step reads, each once: of an embedding the rows that are looked
        up, of experts those that some token goes to when the tokens spread evenly.
    cache_bytes: keys, values and states of all sequences before a decode, or after a prefill;
        `_per_token` what one more token of one sequence adds.
    arithmetic_intensity: FLOPs a byte moved.

    Of an attention that is called as one function, bytes moved are those of one kernel: queries, keys, values
    and a mask are read, the result is written, and nothing in between. A cache that grows is appended to
    in place, as servers do, although transformers copies it.
    """
    served = trace.served
    if served is None:
        return {}
    work = sum(map(flops, trace.ops))
    moved = _moved(in_place(trace))
    active, without = active_params(trace, served.tokens)
    values = (
        active, without, round(work / served.tokens), round(moved / served.tokens), _weights_read(trace),
        served.cache_bytes, served.cache_bytes_per_token, work / moved if moved else 0.0,
    )  # fmt: skip
    return dict(zip(NUMBERS, values))


def in_place(trace: Trace) -> Trace:
    """The trace of a decode whose cache is appended to in place: of a concatenation with what was there
    before the step only the new part is read and written."""
    if trace.served is None:
        return trace
    return replace(trace, ops=tuple(_appended(op) if _appends(trace, op) else op for op in trace.ops))


def held_in_place(trace: Trace) -> Trace:
    """The same for memory: of a concatenation only the new part takes any."""
    storages = list(trace.storages)
    for op in trace.ops if trace.served is not None else ():
        if _appends(trace, op):
            place = op.outputs[0].storage
            storages[place] = storages[place]._replace(nbytes=_appended(op).bytes_written)
    return replace(trace, storages=tuple(storages))


def _appends(trace: Trace, op: Op) -> bool:
    if op.name != "aten.cat" or not op.inputs or op.inputs[0].storage < 0 or not op.inputs[0].numel:
        return False
    first = trace.storages[op.inputs[0].storage]
    return first.birth is None and first.role in ("constant", "input")


def _appended(op: Op) -> Op:
    new = sum(spec.nbytes for spec in op.inputs[1:])
    return replace(op, bytes_read=new, bytes_written=new)


def _moved(trace: Trace) -> int:
    """Bytes read and written, with each call of attention as one operator."""
    total, start = 0, 0
    last = {spec.storage: index for index, op in enumerate(trace.ops) for spec in op.inputs}
    for _, group in groupby(trace.ops, lambda op: (op.group == ATTENTION, op.module)):
        ops = list(group)
        end = start + len(ops)
        if ops[0].group == ATTENTION:
            total += _as_one(trace, ops, start, end, last)
        else:
            total += sum(op.bytes_read + op.bytes_written for op in ops)
        start = end
    return total


def _as_one(trace: Trace, ops: list[Op], start: int, end: int, last: dict[int, int]) -> int:
    """What the operators from `start` to `end` read of older storages, and write for later ones."""
    moved: dict[tuple[int, bool], int] = {}
    for op in ops:
        for spec in op.inputs:
            if spec.storage >= 0 and _birth(trace, spec) < start:
                key = spec.storage, False
                whole = min(spec.nbytes, trace.storages[spec.storage].nbytes)
                moved[key] = max(moved.get(key, 0), whole)
        for spec in op.outputs:
            if spec.storage < 0 or _birth(trace, spec) < start:
                continue
            death = trace.storages[spec.storage].death
            if last.get(spec.storage, -1) >= end or (spec.storage not in last and death is None):
                key = spec.storage, True
                moved[key] = max(moved.get(key, 0), spec.nbytes)
    return sum(moved.values())


def _birth(trace: Trace, spec: TensorSpec) -> int:
    """The operator that made a tensor's storage; -1 for what was there before the step."""
    birth = trace.storages[spec.storage].birth
    return -1 if birth is None else birth


def _weights_read(trace: Trace) -> int:
    read: dict[int, int] = {}
    for op in trace.ops:
        for spec in _parameters(trace, op):
            read[spec.storage] = max(read.get(spec.storage, 0), _read(trace, op, spec))
    return sum(read.values())


def _read(trace: Trace, op: Op, spec: TensorSpec) -> int:
    """Bytes of a parameter that an operator reads."""
    from inspector.tracing.formulas.traffic import GROUPED, touched  # all formulas: not at every start

    whole = min(spec.nbytes, trace.storages[spec.storage].nbytes)
    if op.name == "aten.embedding":
        return min(whole, sum(made.nbytes for made in op.outputs))
    if op.name in GROUPED and spec is op.inputs[1]:
        return round(whole * touched(op.inputs[0], spec))
    return 0 if not op.bytes_read and not op.macs else whole


def active_params(trace: Trace, tokens: int) -> tuple[int, int]:
    """Active parameters, with and without tables that are only looked up, of a pass over so many tokens."""
    from inspector.tracing.formulas.traffic import GROUPED

    shares: dict[int, float] = {}
    experts: dict[str, tuple[int, float]] = {}
    uses: dict[int, set[str]] = {}
    for op in trace.ops:
        for spec in _parameters(trace, op):
            uses.setdefault(spec.storage, set()).add(op.name)
            if op.name in GROUPED and len(spec.shape) == 3 and tokens:
                groups, chosen = spec.shape[0], op.inputs[0].shape[0] / tokens
                shares[spec.storage] = min(1.0, chosen / groups)
                experts[trace.storages[spec.storage].module] = groups, shares[spec.storage]
    storages = {
        (entry.module, entry.nbytes): index
        for index, entry in enumerate(trace.storages)
        if entry.role == "parameter"
    }
    active = looked_up = 0
    for entry in trace.state:
        if entry.kind != "parameter":
            continue
        module = entry.name.rpartition(".")[0]
        storage = storages.get((module, entry.nbytes), -1)
        groups, share = experts.get(module, (0, 1.0))
        stacked = groups and entry.shape[:1] == (groups,)
        numel = round(entry.numel * (shares.get(storage, share) if stacked else 1.0))
        active += numel
        looked_up += numel if uses.get(storage) == {"aten.embedding"} else 0
    return active, active - looked_up


def _parameters(trace: Trace, op: Op) -> Iterator[TensorSpec]:
    for spec in op.inputs:
        if spec.storage >= 0 and trace.storages[spec.storage].role == "parameter":
            yield spec
