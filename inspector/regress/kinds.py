"""What is known of a metric by its name: unit, class, and on what its value depends."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """Unit, class (exact, toleranced, noisy) and better direction (lower, higher, none) of a metric."""

    unit: str
    kind: str = "exact"
    direction: str = "lower"


COLUMNS = {
    "params": Kind("element"),
    "trainable_params": Kind("element"),
    "packed_params": Kind("element"),
    "buffers": Kind("element"),
    "param_bytes": Kind("byte"),
    "buffer_bytes": Kind("byte"),
    "macs": Kind("MAC"),
    "forward_macs": Kind("MAC"),
    "backward_macs": Kind("MAC"),
    "pointwise_flops": Kind("FLOP"),
    "flops": Kind("FLOP"),
    "activations": Kind("element"),
    "bytes_moved": Kind("byte"),
    "ops": Kind("op", direction="none"),
    "unknown_ops": Kind("op"),
    "ops_digest": Kind("", direction="none"),
    "state_keys": Kind("count", direction="none"),
    "state_digest": Kind("", direction="none"),
    "stages": Kind("stage", direction="none"),
    "stages_digest": Kind("", direction="none"),
    "latency": Kind("seconds", "noisy"),
    "cpu_time": Kind("seconds", "noisy"),
    "peak_memory": Kind("byte", "toleranced"),
}
"""The columns of a regression table that are compared, in the order in which they are written."""

OF_STATE = {
    "params", "trainable_params", "packed_params", "buffers", "persistent_buffers", "param_bytes",
    "buffer_bytes", "state_keys", "state_digest", "tensors", "elements", "bytes",
}  # fmt: skip
"""They depend on the model alone; every other metric on what it was run with, too."""

OF_VERSION = {"ops", "ops_digest", "bytes_moved"}
"""They depend on how torch cuts work into operators. Over all torchvision models, torch 2.8 and 2.15 differ
in these (of 35 models) and agree on everything else: .ci/run holds one baseline against both."""
