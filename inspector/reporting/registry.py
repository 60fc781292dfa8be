"""The one registry of metrics and of columns of tables: what a number is, by its name.

A metric and a column of the same name share an entry, for example `macs`. The order is that in which
reports list their metrics. A new metric takes one line here and the place that computes its value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from typing import Any

KINDS = ("exact", "toleranced", "noisy")
DIRECTIONS = ("lower", "higher", "none")
RUN, MODEL, TORCH = "run", "model", "torch"
"""What a value depends on: the model and its inputs, the model alone, or also how torch splits work into
operators. Over all torchvision models, torch 2.8 and 2.15 differ in the last (of 35 models) and agree on
everything else: .ci/run holds one baseline against both."""


class Unit(str, Enum):
    """What a number counts, one word for each unit; NONE is for names, digests, and yes or no."""

    NONE = ""
    COUNT = "count"
    MAC = "MAC"
    GMAC = "GMAC"
    FLOP = "FLOP"
    BYTE = "byte"
    SECOND = "second"
    PER_SECOND = "1/s"
    FLOP_PER_BYTE = "FLOP/byte"
    TFLOP_PER_SECOND = "TFLOP/s"
    SHARE = "share"
    RATIO = "ratio"
    NUMBER = "number"
    JOULE = "joule"
    WATT = "watt"
    CELSIUS = "celsius"
    MEGAHERTZ = "MHz"

    __str__ = str.__str__
    __hash__ = str.__hash__


class Form(Enum):
    """How a number is written for people, by example (see `reporting.numbers`)."""

    PLAIN = "as it is"
    SI = "4.089 G, or unknown"
    SIZE = "97.49 MiB, or unknown"
    SIZE_IF_MEASURED = "97.49 MiB, or nothing"
    SIGNED = "+4.089 G"
    DURATION = "12.30 ms"
    NUMBER = "12,345, or 1.000e-09"
    DIGITS = "12.35"
    THREE_DIGITS = "12.3"
    WHOLE = "12"
    PERCENT = "45.3%"
    SHORT_PERCENT = "45%, or 0.032%"
    TIMES = "1.85x"
    SCIENTIFIC = "2.1e-04"


_FORMS: dict[str, Form] = {
    Unit.NONE: Form.PLAIN,
    Unit.COUNT: Form.SI,
    Unit.MAC: Form.SI,
    Unit.GMAC: Form.PLAIN,
    Unit.FLOP: Form.SI,
    Unit.BYTE: Form.SIZE,
    Unit.SECOND: Form.DURATION,
    Unit.PER_SECOND: Form.DIGITS,
    Unit.FLOP_PER_BYTE: Form.DIGITS,
    Unit.TFLOP_PER_SECOND: Form.THREE_DIGITS,
    Unit.SHARE: Form.PERCENT,
    Unit.RATIO: Form.TIMES,
    Unit.JOULE: Form.THREE_DIGITS,
    Unit.WATT: Form.THREE_DIGITS,
    Unit.CELSIUS: Form.WHOLE,
}
"""The form of each unit unless the registry says otherwise; all others are NUMBER."""


@dataclass(frozen=True)
class Quantity:
    """What a metric or a column holds. `kind` decides how `diff` compares it, `direction` which way is
    better. Without `shown`, a metric is for machines alone: a table says it to people."""

    unit: str
    kind: str = "exact"
    direction: str = "lower"
    label: str = ""
    own_form: Form | None = None
    shown: bool = True
    depends_on: str = RUN

    @property
    def form(self) -> Form:
        """How it is written for people."""
        return self.own_form or _FORMS.get(self.unit, Form.NUMBER)


def _neutral(unit: Unit, label: str = "", form: Form | None = None, **more: Any) -> Quantity:
    """Neither higher nor lower is better."""
    return Quantity(unit, direction="none", label=label, own_form=form, **more)


def _measured(unit: Unit, direction: str = "lower", label: str = "", form: Form | None = None) -> Quantity:
    return Quantity(unit, "noisy", direction, label, form)


def _drift(label: str = "") -> Quantity:
    """A relative L2 distance."""
    return Quantity(Unit.RATIO, "toleranced", label=label, own_form=Form.SCIENTIFIC)


TEXT = Quantity(Unit.NONE, direction="none")
NUMBER = Quantity(Unit.NUMBER, direction="none")

QUANTITIES: dict[str, Quantity] = {
    # What a model holds.
    "params": Quantity(Unit.COUNT, label="parameters", depends_on=MODEL),
    "real_params": Quantity(Unit.COUNT, label="parameters as real numbers", depends_on=MODEL),
    "trainable_params": Quantity(Unit.COUNT, label="trainable parameters", depends_on=MODEL),
    "packed_params": Quantity(Unit.COUNT, label="packed parameters", depends_on=MODEL),
    "buffers": Quantity(Unit.COUNT, depends_on=MODEL),
    "persistent_buffers": Quantity(Unit.COUNT, depends_on=MODEL),
    "param_bytes": Quantity(Unit.BYTE, label="parameter bytes", depends_on=MODEL),
    "buffer_bytes": Quantity(Unit.BYTE, depends_on=MODEL),
    "tensors": _neutral(Unit.COUNT, depends_on=MODEL),
    "elements": Quantity(Unit.COUNT, depends_on=MODEL),
    "bytes": Quantity(Unit.BYTE, depends_on=MODEL),
    "bits_per_element": Quantity(
        Unit.NUMBER, label="bits an element", own_form=Form.DIGITS, depends_on=MODEL
    ),
    "numel": Quantity(Unit.COUNT, label="elements"),
    # What a pass computes.
    "macs": Quantity(Unit.MAC, label="MACs"),
    "causal_macs": Quantity(Unit.MAC, label="MACs under masks"),
    "forward_macs": Quantity(Unit.MAC, label="forward MACs"),
    "backward_macs": Quantity(Unit.MAC, label="backward MACs"),
    "pointwise_flops": Quantity(Unit.FLOP, label="pointwise FLOPs"),
    "flops": Quantity(Unit.FLOP, label="FLOPs"),
    "activations": Quantity(Unit.COUNT),
    # A step of a language model's service.
    "active_params": Quantity(Unit.COUNT, label="active parameters"),
    "active_params_no_lookup": Quantity(Unit.COUNT, label="active, without lookups"),
    "flops_per_token": Quantity(Unit.FLOP, label="FLOPs a token"),
    "bytes_per_token": Quantity(Unit.BYTE, label="bytes moved a token", depends_on=TORCH),
    "weights_read": Quantity(Unit.BYTE, label="weights read a step"),
    "cache_bytes": Quantity(Unit.BYTE, label="cache"),
    "cache_bytes_per_token": Quantity(Unit.BYTE, label="cache, one more token"),
    "arithmetic_intensity": _neutral(Unit.FLOP_PER_BYTE, "FLOPs a byte", depends_on=TORCH),
    "time_to_first_token": Quantity(Unit.SECOND, label="first token, at least"),
    "tokens_per_second": Quantity(Unit.PER_SECOND, direction="higher", label="tokens a second, at most"),
    "tokens_per_second_each": Quantity(Unit.PER_SECOND, direction="higher", label="of each sequence"),
    "measured_time_to_first_token": _measured(Unit.SECOND, label="first token, measured"),
    "measured_tokens_per_second": _measured(Unit.PER_SECOND, "higher"),
    "of_bound": _measured(Unit.SHARE, "higher"),
    "longest_context": Quantity(Unit.COUNT, direction="higher", own_form=Form.NUMBER),
    "compute_bound_batch": _neutral(Unit.COUNT, "batch that is bound by compute", form=Form.PLAIN),
    "bytes_moved": Quantity(Unit.BYTE, depends_on=TORCH),
    "ops": _neutral(Unit.COUNT, "operators", depends_on=TORCH),
    "unknown_ops": Quantity(Unit.COUNT, label="unknown operators"),
    "ops_digest": _neutral(Unit.NONE, depends_on=TORCH),
    "state_keys": _neutral(Unit.COUNT, depends_on=MODEL),
    "state_digest": _neutral(Unit.NONE, depends_on=MODEL),
    "stages": _neutral(Unit.COUNT, form=Form.PLAIN),
    "stages_digest": _neutral(Unit.NONE),
    "rest_params": _neutral(Unit.COUNT, "parameters in no stage"),
    # What it costs.
    "latency": _measured(Unit.SECOND),
    "cpu_time": _measured(Unit.SECOND, label="CPU time"),
    "peak_memory": Quantity(Unit.BYTE, "toleranced"),
    "roofline_seconds": Quantity(Unit.SECOND, label="at least (roofline)"),
    "roofline_memory_bound": _neutral(Unit.SHARE, "of it bound by memory"),
    "forward_seconds": _measured(Unit.SECOND, label="forward time"),
    "samples_per_second": _measured(Unit.PER_SECOND, "higher"),
    "scaling_efficiency": _measured(Unit.SHARE, "higher", "scaling efficiency (report only)"),
    "training_seconds": _measured(Unit.SECOND, label="training and checks"),
    "drift": _drift("drift (relative L2)"),
    "final_loss": Quantity(Unit.NUMBER, "toleranced", own_form=Form.DIGITS),
    "peak_allocated": Quantity(Unit.BYTE),
    "peak_reserved": Quantity(Unit.BYTE),
    "convolution_workspace_low": Quantity(Unit.BYTE, label="cuDNN's workspaces add at least"),
    "convolution_workspace": Quantity(Unit.BYTE, label="cuDNN's workspaces add at most"),
    "attention_workspace": Quantity(Unit.BYTE, label="attention's workspaces add at most"),
    "max_batch": Quantity(Unit.COUNT, direction="higher", label="largest batch", own_form=Form.PLAIN),
    "safe_batch": Quantity(
        Unit.COUNT, direction="higher", label="largest batch under all workspaces", own_form=Form.PLAIN
    ),
    "peak_per_process": Quantity(Unit.BYTE, label="peak of each process"),
    # What a rank of many holds, sends and takes.
    "param_bytes_per_rank": Quantity(Unit.BYTE, label="parameters of a rank"),
    "gradient_bytes_per_rank": Quantity(Unit.BYTE, label="gradients of a rank"),
    "optimizer_bytes_per_rank": Quantity(Unit.BYTE, label="optimizer state of a rank"),
    "host_bytes_per_rank": Quantity(Unit.BYTE, label="of these on the host"),
    "to_device_bytes": Quantity(Unit.BYTE, label="copied from host to device"),
    "to_host_bytes": Quantity(Unit.BYTE, label="copied from device to host"),
    "collectives": Quantity(Unit.COUNT, label="collectives a step", depends_on=TORCH),
    "collective_bytes": Quantity(Unit.BYTE, label="bytes of collectives"),
    "sent_bytes": Quantity(Unit.BYTE, label="sent by a rank"),
    "sends": Quantity(Unit.COUNT, label="sends a step"),
    "send_bytes": Quantity(Unit.BYTE, label="bytes of sends"),
    "in_flight": Quantity(Unit.COUNT, label="microbatches in flight, at most"),
    "bubble": Quantity(Unit.SHARE, label="bubble of the pipeline"),
    "compute_seconds": Quantity(Unit.SECOND, label="compute, at least"),
    "exposed_seconds": Quantity(Unit.SECOND, label="exposed communication, at least"),
    "step_bound": Quantity(Unit.SECOND, label="step, at least"),
    "mfu_bound": Quantity(Unit.SHARE, direction="higher", label="MFU, at most"),
    "samples_bound": Quantity(Unit.PER_SECOND, direction="higher", label="samples/s, at most"),
    "meshes_tried": _neutral(Unit.COUNT),
    "meshes_fitting": Quantity(Unit.COUNT, direction="higher", label="meshes that fit"),
    # What a command did, met or compared.
    "frozen_params": _neutral(Unit.COUNT, "frozen parameters"),
    "matches": Quantity(Unit.COUNT, direction="higher"),
    "gpus": _neutral(Unit.COUNT, shown=False),
    **dict.fromkeys(
        ("regressed", "missing", "invalid", "incomparable", "noisy", "new", "improved", "ok"),
        _neutral(Unit.COUNT, shown=False),
    ),
    **dict.fromkeys(
        ("unknown", "failed", "differs", "constant", "uninitialised", "nans", "infs"), Quantity(Unit.COUNT)
    ),
    **dict.fromkeys(
        ("frozen_buffers", "frozen_stages", "layers", "ambiguous", "inconclusive", "models", "entries",
         "removed", "calls", "modules", "depth", "blocks", "frozen", "says", "rounds", "round", "samples",
         "warm_up_calls", "top1_samples", "step", "steps"),
        _neutral(Unit.COUNT),
    ),
    # Columns of tables, and headings that only people see.
    **dict.fromkeys(("index", "at"), _neutral(Unit.COUNT, form=Form.NUMBER)),
    "batch": _neutral(Unit.COUNT, form=Form.PLAIN),
    "top1_agreeing": Quantity(Unit.COUNT, "toleranced", "higher"),
    "skipped_steps": Quantity(Unit.COUNT, "toleranced"),
    "parameters": Quantity(Unit.COUNT),
    **dict.fromkeys(("MACs", "MACs, at least"), Quantity(Unit.MAC)),
    **dict.fromkeys(("difference", "amount"), _neutral(Unit.MAC, form=Form.SIGNED)),
    "gmacs": Quantity(Unit.GMAC, label="GMACs"),
    "FLOPs": Quantity(Unit.FLOP),
    **dict.fromkeys(("intensity", "FLOPs per byte moved"), _neutral(Unit.FLOP_PER_BYTE)),
    **dict.fromkeys(
        ("needed", "weights", "cache", "working", "predicted", "total", "largest", "at the peak",
         "bytes moved", "at_least", "at_most"),
        Quantity(Unit.BYTE),
    ),
    **dict.fromkeys(("allocated", "reserved", "peak memory"), Quantity(Unit.BYTE, "toleranced")),
    **dict.fromkeys(("peak_bytes", "peak"), _measured(Unit.BYTE, form=Form.SIZE_IF_MEASURED)),
    **{
        f"{name}_bytes": Quantity(Unit.BYTE, label=name.replace("_", " "))
        for name in ("parameters", "gradients", "optimizer_state", "buffers")
    },
    "host_bytes": Quantity(Unit.BYTE, label="on the host"),
    "nbytes": Quantity(Unit.BYTE, label="bytes"),
    "sent": Quantity(Unit.BYTE),
    **dict.fromkeys(("rank", "processes"), _neutral(Unit.COUNT, form=Form.PLAIN)),
    "memory": _neutral(Unit.BYTE),
    **dict.fromkeys(
        ("seconds", "own_seconds", "cpu_seconds", "step_seconds", "warm_up_seconds", "first_call_seconds",
         "latency_low", "latency_high", "low", "high", "p95", "p99", "measured", "time", "CPU time",
         "first call"),
        _measured(Unit.SECOND),
    ),
    "start": _measured(Unit.SECOND, "none"),
    "samples/s": _measured(Unit.PER_SECOND, "higher"),
    **dict.fromkeys(("tflops", "TFLOP/s"), _measured(Unit.TFLOP_PER_SECOND, "higher", "TFLOP/s")),
    **dict.fromkeys(("joules_per_sample", "joules"), _measured(Unit.JOULE)),
    **dict.fromkeys(("share", "idle"), _neutral(Unit.SHARE)),
    "bits": Quantity(Unit.NUMBER, own_form=Form.DIGITS),
    **dict.fromkeys(("achieved", "fraction_of_peak", "of peak"), _measured(Unit.SHARE, "higher")),
    "accuracy": Quantity(Unit.SHARE, "toleranced", "higher"),
    **dict.fromkeys(
        ("unexplained", "unexplained_share"), Quantity(Unit.SHARE, own_form=Form.SHORT_PERCENT)
    ),
    "of_ours": _neutral(Unit.SHARE, form=Form.SHORT_PERCENT),
    "speedup": _measured(Unit.RATIO, "higher", "speed-up (times)"),
    **dict.fromkeys(("speedup_low", "speedup_high"), _measured(Unit.RATIO, "higher")),
    **dict.fromkeys(("gradient_drift", "gradients", "matmul_error", "conv_error", "rel_l2"), _drift()),
    "relative": _neutral(Unit.RATIO, form=Form.SCIENTIFIC),
    "loss": Quantity(Unit.NUMBER, "toleranced"),
    "max_abs": Quantity(Unit.NUMBER, "toleranced", "none"),
    "lr": _neutral(Unit.NUMBER, "learning rate"),
    **dict.fromkeys(("base", "head", "delta"), NUMBER),
}  # fmt: skip

FAMILIES = {
    "macs_": _neutral(Unit.MAC, shown=False),  # of another counter
    "unexplained_": Quantity(Unit.MAC, shown=False),
    "peak_": Quantity(Unit.BYTE, shown=False),  # by category
}
"""Metrics with these prefixes that have no entry of their own."""

_LIVE = (
    "parameters", "buffers", "optimizer state", "master weights", "gradients", "autocast copies",
    "activations", "temporaries", "inputs", "workspace", "parameter", "buffer", "input", "constant",
    "gradient", "intermediate", "gathered parameters", "communication buffers",
)  # fmt: skip
OF_TABLE: dict[str, dict[str, Quantity]] = {
    "stages": {"modules": TEXT},
    "timeline": dict.fromkeys(_LIVE, Quantity(Unit.BYTE)),
    "measured": {
        "measured": _measured(Unit.BYTE),
        "ratio": _measured(Unit.RATIO, "none", form=Form.DIGITS),
    },
    "roofline_modules": {"seconds": Quantity(Unit.SECOND)},
    "roofline_operators": {"seconds": Quantity(Unit.SECOND)},
    "rows": {
        "peak_allocated": Quantity(Unit.BYTE, "toleranced"),
        "peak_reserved": Quantity(Unit.BYTE, "toleranced"),
        **{
            f"{name}_{when}": Quantity(unit, "noisy", "none")
            for when in ("start", "end")
            for name, unit in (
                ("sm_clock_mhz", Unit.MEGAHERTZ), ("temperature_c", Unit.CELSIUS), ("power_w", Unit.WATT),
            )
        },
    },
    "counters": {"unexplained": Quantity(Unit.MAC)},
    "schemes": {"n": NUMBER},
    "propagation": dict.fromkeys(("forward_std", "forward_max", "backward_std"), NUMBER),
    "validations": {"best": Quantity(Unit.NUMBER, "toleranced")}
    | dict.fromkeys(("num_bad_epochs", "last_epoch"), _neutral(Unit.COUNT)),
    "collectives": {"seconds": Quantity(Unit.SECOND)},
    "architecture": dict.fromkeys(("node", "scope", "times", "unclear"), _neutral(Unit.COUNT)),
    "edges": dict.fromkeys(("scope", "tensor", "source", "target"), _neutral(Unit.COUNT)),
    "pipeline": {"blocks": TEXT, "busy": Quantity(Unit.SECOND)},
    "peers": {"peer": _neutral(Unit.COUNT, form=Form.PLAIN)},
    "devices": {"cores": _neutral(Unit.COUNT)},
    "models": {"entries": TEXT},
    "tensors": {
        **dict.fromkeys(("fan_in", "fan_out", "effective_fan_in", "effective_fan_out"), _neutral(Unit.COUNT)),
        **dict.fromkeys(("bound", "max", "expected_std", "std", "mean", "ks", "ks_p", "p"), NUMBER),
    },
}  # fmt: skip
"""Columns whose names mean something else, or nothing, in other tables."""


def quantity(name: str) -> Quantity:
    """What a metric or a column is by its name; TEXT for a name that is not registered. The last part of
    `train/8/fp32/latency`, a metric of one of the `rows` of a benchmark, is a column of that table."""
    row, _, last = name.rpartition("/")
    of_row = OF_TABLE["rows"].get(last) if row else None
    registered = QUANTITIES.get(name) or of_row or QUANTITIES.get(last)
    if registered is not None:
        return registered
    return next((family for prefix, family in FAMILIES.items() if last.startswith(prefix)), TEXT)


def column(table: str, name: str, values: Iterable[Any] = ()) -> Quantity:
    """What a column of a table holds; of one that is not registered the values tell number from text."""
    registered = OF_TABLE.get(table, {}).get(name) or QUANTITIES.get(name)
    if registered is not None:
        return registered
    number = False
    for value in values:
        if not is_missing(value):
            if not is_number(value):
                return TEXT
            number = True
    return NUMBER if number else TEXT


def form_in(unit: str, entry: Quantity) -> Form:
    """How a number in `unit` is written whose name stands for `entry`, perhaps in another unit."""
    return (entry if entry.unit == unit else Quantity(unit)).form


def is_missing(value: Any) -> bool:
    """None, NaN, and what pandas has for them."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def is_number(value: Any) -> bool:
    """Whether a value can be written in a unit: yes and no cannot."""
    return isinstance(value, Real) and not isinstance(value, bool)
