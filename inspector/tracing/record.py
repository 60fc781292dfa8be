"""What one pass over a model recorded: plain data that needs no torch to read.

A `Trace` is a list of operators in the order in which they ran, the storages that they touched,
and the modules, parameters and buffers of the model. Every view is a function of it.

History of the file format (`SCHEMA`):
    inspector.trace/1  first version; runs were added, a file without them is read
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from inspector.core.errors import InspectError
from inspector.core.files import write_whole

SCHEMA = "inspector.trace/1"

_ITEM_BYTES = """
    16 complex128
    8 float64 int64 uint64 complex64
    4 float32 int32 uint32 qint32 complex32 bcomplex32
    2 float16 bfloat16 int16 uint16 bits16
    1 int8 uint8 bool qint8 quint8 bits8 bits1x8 bits2x4 bits4x2 quint4x2 quint2x4
    1 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2
    1 int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7
"""
ITEM_BYTES = {
    dtype: int(size) for size, *dtypes in map(str.split, _ITEM_BYTES.strip().splitlines()) for dtype in dtypes
}
"""Bytes that one element takes in memory, by dtype name; tests hold it against torch's own."""


class TensorSpec(NamedTuple):
    """Shape and dtype of one tensor, the index of its storage in `Trace.storages` (-1: it has none)
    and its first element's position there."""

    shape: tuple[int, ...]
    dtype: str
    storage: int = -1
    offset: int = 0

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]


class WrappedSpec(TensorSpec):
    """A tensor kept as others (quantised, sharded, sparse): shape and dtype are those that it shows, the
    storage is that of its largest part. Formulas see it; an `Op` has its `parts` in its place."""

    parts: tuple[TensorSpec, ...]

    @staticmethod
    def of(shape: tuple[int, ...], dtype: str, parts: tuple[TensorSpec, ...]) -> WrappedSpec:
        main = max(parts, key=lambda part: part.nbytes)
        spec = WrappedSpec(shape, dtype, main.storage, main.offset)
        spec.parts = parts
        return spec

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


class NestedSpec(WrappedSpec):
    """A nested tensor: `components` are the tensors in it, of different shapes, in one storage."""

    components: tuple[TensorSpec, ...]

    @staticmethod
    def holding(components: tuple[TensorSpec, ...], dtype: str) -> NestedSpec:
        storage = components[0].storage if components else -1
        numel = sum(component.numel for component in components)
        spec = NestedSpec((len(components),), dtype, storage, 0)
        spec.parts = (TensorSpec((numel,), dtype, storage, 0),)
        spec.components = components
        return spec

    @property
    def numel(self) -> int:
        return self.parts[0].numel


class Storage(NamedTuple):
    """A block of memory: its size, and when it lived, in indices into `Trace.ops`.

    `birth` is the operator that made it, None if it existed before the pass. `death` is the last
    operator that had run when its last alias was released, None if it outlived the pass.
    `role` is parameter, packing (scales and tables of a parameter that is kept as several tensors), buffer,
    input, constant, intermediate, or gradient (a parameter's, at the end of the pass). `module` is the path
    of the module that holds a parameter, its gradient or a buffer.
    """

    nbytes: int
    device: str
    role: str
    birth: int | None
    death: int | None
    module: str = ""


ACCUMULATION = "gradient accumulation"
"""The group of the additions by which the backward joins the gradients of one tensor's several uses."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operator call.

    `name` is the operator without overload ("aten.addmm"), `group` the torch function that the
    model called ("scaled_dot_product_attention"), `module` the path of the module that ran it,
    `phase` "forward" or "backward". `macs` and `pointwise_flops` are None when no formula is known.
    `bytes_read` and `bytes_written` count each input and each output once; views move none. `density` is
    the share of the MACs that a causal or block mask leaves, 1 where there is none, None where there is one
    whose values nobody knows: MACs themselves are dense.
    """

    name: str
    group: str
    module: str
    phase: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    macs: int | None
    pointwise_flops: int | None
    activations: int
    bytes_read: int
    bytes_written: int
    density: float | None = 1.0

    @property
    def known(self) -> bool:
        return self.macs is not None


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the tree: its path ("" for the root), class and how often it was called there.

    `same_as` is the first path of a module that is registered in several places, None at that path itself.
    """

    path: str
    type: str
    calls: int
    same_as: str | None = None


class ModuleRun(NamedTuple):
    """One call of the module at `path`: it ran the operators from `start` to before `end`, its own and those
    of the modules that it called. `caller` is the index of the call that made it, -1 where none did."""

    path: str
    caller: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class StateEntry:
    """A parameter or buffer: its first name, and every other name of the same storage.

    Of a tensor kept as others (quantised, sharded, sparse), `shape` and `numel` are those of the tensor that
    it stands for, `dtype` (that of the largest part) and `nbytes` those of what this process holds. `stored`
    says how where that differs: "float32 as int8[128,64] + float32[128,1]".
    """

    name: str
    kind: str  # parameter, buffer, packed (inside a quantized module)
    shape: tuple[int, ...]
    dtype: str
    numel: int
    nbytes: int
    trainable: bool
    persistent: bool
    aliases: tuple[str, ...] = ()
    device: str = "cpu"
    stored: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a pass ended early: the innermost module that raised, its inputs, and its message. Where it is
    known, `expects` says what that module wanted and got, `better` which inputs of the call would fit.
    `misfit`: where the call does not fit the model's signature, what it lacks and what to pass."""

    module: str
    type: str
    inputs: tuple[str, ...]
    error: str
    message: str
    expects: str = ""
    better: tuple[str, ...] = ()
    misfit: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """A step of a language model's service. `batch` sequences have `context` tokens each; the step computes
    `tokens`, of all sequences together: the whole context (prefill), or the next (decode). `cache_bytes` are
    the keys, values and states that the model keeps of all sequences with their context, in an object of the
    class `cache`; one more token of one sequence adds `cache_bytes_per_token`. `kv_cache` is how it was asked
    for: "dynamic", "static", or in fewer bits, then a token's bytes are those once it is quantised."""

    context: int
    batch: int
    tokens: int
    cache: str
    cache_bytes: int
    cache_bytes_per_token: int
    kv_cache: str = "dynamic"

    def asked(self, phase: str) -> dict[str, Any]:
        """The numbers that ask for this step."""
        more = {"new_tokens": self.tokens // self.batch} if phase == "decode" else {}
        kept = {"kv_cache": self.kv_cache} if self.kv_cache != "dynamic" else {}
        return {"context": self.context, "batch": self.batch, **more, **kept}


def called(method: str) -> list[tuple[str, str]]:
    """The line of a report that names the method that ran; none for the forward."""
    return [("call", method)] if method != "forward" else []


@dataclass(frozen=True)
class Trace:
    """The record of one pass.

    `device` says where it was counted, `notes` what a reader must know of how ("counted on cpu
    because ..."), `uncounted` which pointwise work is missing although the model does it, `failure`
    that the pass stopped early: the totals then cover only what ran before. `call` is the method that ran,
    `served` what step of a service it was. `runs` are the calls of modules, each before those that it made;
    none in a record of an earlier version.
    """

    model: str
    source: str
    phase: str
    device: str
    inputs: tuple[str, ...]
    ops: tuple[Op, ...]
    storages: tuple[Storage, ...]
    modules: tuple[Module, ...]
    state: tuple[StateEntry, ...]
    notes: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    call: str = "forward"
    served: Served | None = None
    runs: tuple[ModuleRun, ...] = ()

    @property
    def subject(self) -> dict[str, Any]:
        """What ran and how, as a report names it."""
        return {
            "name": self.model,
            "source": self.source,
            "inputs": list(self.inputs),
            "phase": self.phase,
            "device": self.device,
            **dict(called(self.call)),
            **({"serving": self.served.asked(self.phase)} if self.served is not None else {}),
        }

    def by_first_path(self) -> Trace:
        """The trace with everything that a shared module does under its first path, and no other."""
        first = {module.path: module.same_as for module in self.modules if module.same_as is not None}
        if not first:
            return self
        calls = Counter[str]()
        for module in self.modules:
            calls[first.get(module.path, module.path)] += module.calls
        return replace(
            self,
            ops=tuple(replace(op, module=first.get(op.module, op.module)) for op in self.ops),
            modules=tuple(replace(m, calls=calls[m.path]) for m in self.modules if m.path not in first),
            runs=tuple(run._replace(path=first.get(run.path, run.path)) for run in self.runs),
        )

    def to_json(self) -> str:
        """The trace as versioned JSON; `from_json` gives an equal trace back."""
        names = list(_OP_FIELDS)
        content = {"schema": SCHEMA, **{name: getattr(self, name) for name in _PLAIN_FIELDS}}
        content["failure"] = asdict(self.failure) if self.failure else None
        content["served"] = asdict(self.served) if self.served else None
        content["modules"] = [asdict(module) for module in self.modules]
        content["state"] = [asdict(entry) for entry in self.state]
        content["runs"] = self.runs
        content["storages"] = {"fields": list(Storage._fields), "rows": self.storages}
        rows = [[getattr(op, name) for name in names] for op in self.ops]
        content["ops"] = {"fields": names, "rows": rows}
        return json.dumps(content, allow_nan=False, separators=(",", ":"))

    def save(self, path: str | Path) -> Path:
        """Write `to_json()` to `path`, whole or not at all."""
        return write_whole(path, self.to_json())

    @staticmethod
    def from_json(text: str) -> Trace:
        """Read what `to_json` wrote. Raises InspectError on anything else."""
        try:
            content = json.loads(text)
            schema = content.pop("schema")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise InspectError("not a trace file", "make one with `save_trace=FILE`") from error
        if schema != SCHEMA:
            raise InspectError(
                f"the trace has schema {schema!r}, this version reads {SCHEMA!r}",
                "record the trace again with this version",
            )
        try:
            return _read(content)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise InspectError("the trace file is damaged", "record the trace again") from error

    @staticmethod
    def load(path: str | Path) -> Trace:
        """Read the file that `save` wrote."""
        try:
            return Trace.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InspectError(f"cannot read {path}: {error}", "name a trace file") from error


_PLAIN_FIELDS = ("model", "source", "phase", "device", "inputs", "notes", "uncounted", "environment", "call")
_OP_FIELDS = tuple(Op.__dataclass_fields__)


def _read(content: dict[str, Any]) -> Trace:
    def specs(rows: list[Any]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(tuple(shape), *rest) for shape, *rest in rows)

    ops = []
    for row in content["ops"]["rows"]:
        values = dict(zip(content["ops"]["fields"], row))
        values.update(inputs=specs(values["inputs"]), outputs=specs(values["outputs"]))
        ops.append(Op(**values))
    fields = content["storages"]["fields"]
    failure = content["failure"]
    if failure:
        lists = {name: tuple(failure.get(name, ())) for name in ("inputs", "better", "misfit")}
        failure = Failure(**{**failure, **lists})
    return Trace(
        **{name: content[name] for name in ("model", "source", "phase", "device", "environment")},
        inputs=tuple(content["inputs"]),
        notes=tuple(content["notes"]),
        uncounted=tuple(content["uncounted"]),
        ops=tuple(ops),
        storages=tuple(Storage(**dict(zip(fields, row))) for row in content["storages"]["rows"]),
        modules=tuple(Module(**entry) for entry in content["modules"]),
        state=tuple(
            StateEntry(**{**e, "shape": tuple(e["shape"]), "aliases": tuple(e["aliases"])})
            for e in content["state"]
        ),
        failure=failure,
        call=content.get("call", "forward"),
        served=Served(**content["served"]) if content.get("served") else None,
        runs=tuple(ModuleRun(*row) for row in content.get("runs", ())),
    )
