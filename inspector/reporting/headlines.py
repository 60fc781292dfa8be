"""Which numbers of a command matter most, and how a number came about."""

from __future__ import annotations

HEADLINES = {
    "profile": ("params", "macs", "roofline_seconds", "cache_bytes", "flops", "param_bytes"),
    "report": ("params", "macs", "flops", "forward_seconds", "param_bytes"),
    "params": ("params", "trainable_params", "param_bytes", "buffers"),
    "memory": (
        "max_batch",
        "peak_allocated",
        "peak_reserved",
        "convolution_workspace",
        "attention_workspace",
    ),
    "scale": ("peak_allocated", "peak_reserved", "sent_bytes", "step_bound", "mfu_bound"),
    "llm": ("max_batch", "tokens_per_second", "time_to_first_token", "cache_bytes_per_token"),
    "freeze": ("frozen_params", "params", "frozen_stages", "frozen_buffers"),
}
"""By command: the metrics that matter most, the first of them first; a page shows four in its head."""

SIMULATED = {
    "peak_allocated", "peak_reserved", "max_batch", "peak_per_process", "param_bytes_per_rank",
    "gradient_bytes_per_rank", "optimizer_bytes_per_rank", "collectives", "collective_bytes", "sent_bytes",
    "meshes_tried", "meshes_fitting",
}  # fmt: skip
BOUNDS = {
    "roofline_seconds", "roofline_memory_bound", "compute_seconds", "exposed_seconds", "step_bound",
    "mfu_bound", "samples_bound", "time_to_first_token", "tokens_per_second", "tokens_per_second_each",
    "convolution_workspace_low", "convolution_workspace", "attention_workspace",
}  # fmt: skip


def provenance(name: str, kind: str) -> str:
    """How a metric came about: counted, simulated, a bound, or measured."""
    if name in SIMULATED:
        return "simulated"
    if name in BOUNDS:
        return "bound"
    return "counted" if kind == "exact" else "measured"
