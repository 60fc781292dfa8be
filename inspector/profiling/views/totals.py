"""The sums of a trace."""

from __future__ import annotations

from inspector.profiling.views.state import real_numbers
from inspector.tracing.record import Op, Trace


def totals(trace: Trace) -> dict[str, int]:
    """params, buffers, MACs, FLOPs, activations, bytes and operator counts, all integers.

    `causal_macs`: what masks of attention (causal, sliding, by blocks) leave, where all of them are known.
    `real_params` where a parameter is complex: each such element is two real numbers.

    Operators without a formula add nothing here: `unknown_ops` says how many there are, and with
    any the MACs, FLOPs and activations are lower bounds.
    """
    parameters = [entry for entry in trace.state if entry.kind == "parameter"]
    buffers = [entry for entry in trace.state if entry.kind == "buffer"]
    packed = [entry for entry in trace.state if entry.kind == "packed"]
    macs = sum(op.macs or 0 for op in trace.ops)
    pointwise = sum(op.pointwise_flops or 0 for op in trace.ops)
    sums = {
        "params": sum(entry.numel for entry in parameters),
        "trainable_params": sum(entry.numel for entry in parameters if entry.trainable),
        "buffers": sum(entry.numel for entry in buffers),
        "param_bytes": sum(entry.nbytes for entry in parameters),
        "buffer_bytes": sum(entry.nbytes for entry in buffers),
        "macs": macs,
        "pointwise_flops": pointwise,
        "flops": 2 * macs + pointwise,
        "activations": sum(op.activations for op in trace.ops),
        "bytes_moved": sum(op.bytes_read + op.bytes_written for op in trace.ops),
        "ops": len(trace.ops),
        "unknown_ops": sum(1 for op in trace.ops if not op.known),
    }
    reals = real_numbers(trace.state)
    if reals is not None:
        sums["real_params"] = reals
    if packed:
        sums["packed_params"] = sum(entry.numel for entry in packed)
    effective = _under_masks(trace)
    if effective not in (None, macs):
        sums["causal_macs"] = effective
    if trace.phase == "train":
        sums["forward_macs"] = sum(op.macs or 0 for op in trace.ops if op.phase == "forward")
        sums["backward_macs"] = sum(op.macs or 0 for op in trace.ops if op.phase == "backward")
    return sums


def _under_masks(trace: Trace) -> int | None:
    """The MACs that masks leave; None where the values of one are not known."""
    effective = 0
    for op in trace.ops:
        if op.density is None:
            return None
        effective += round((op.macs or 0) * op.density)
    return effective


def flops(op: Op) -> int:
    """2 x MACs + pointwise FLOPs; 0 for an unknown operator (which `known` tells)."""
    return 2 * (op.macs or 0) + (op.pointwise_flops or 0)
