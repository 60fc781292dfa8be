"""DeepSpeed's flops profiler: functions of torch replaced by counting ones while the model runs."""

from __future__ import annotations

from inspector.counters.patching import CONVOLUTIONS, cells, explainer
from inspector.counters.record import Count, Counter
from inspector.models import Subject


def run(subject: Subject, phase: str) -> Count:
    """The steps of `get_model_profile` without its warm-up, with the per-module MACs read before they
    are taken away."""
    from deepspeed.profiling.flops_profiler import FlopsProfiler

    model = subject.model.eval()
    profiler = FlopsProfiler(model)
    profiler.start_profile()
    try:
        model(*subject.args, **subject.kwargs)
        total, params = profiler.get_total_macs(), profiler.get_total_params()
        return Count(int(total), int(params), cells(model))
    finally:
        profiler.end_profile()


COUNTER = Counter(
    name="deepspeed",
    unit="MAC",
    convention="linear, convolution, products and SDPA as functions; no einsum, no recurrence; eval mode",
    source="deepspeed 0.19: deepspeed/profiling/flops_profiler/profiler.py",
    run=run,
    explain=explainer(
        CONVOLUTIONS
        | {"linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm"}
        | {"scaled_dot_product_attention"}
    ),
    package="deepspeed",
)
