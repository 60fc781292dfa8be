"""calflops 0.3: functions of torch replaced by counting ones while the model runs."""

from __future__ import annotations

from inspector.counters.patching import CONVOLUTIONS, cells, explainer
from inspector.counters.record import Count, Counter
from inspector.models import Subject


def run(subject: Subject, phase: str) -> Count:
    """The steps of `calculate_flops`, with the per-module MACs read before they are taken away."""
    from calflops.calculate_pipline import CalFlopsPipline

    model = subject.model.eval()
    pipeline = CalFlopsPipline(model=model, include_backPropagation=False, compute_bp_factor=2.0)
    pipeline.start_flops_calculate(ignore_list=None)
    try:
        model(*subject.args, **subject.kwargs)
        total, params = pipeline.get_total_macs(), pipeline.get_total_params()
        return Count(int(total), int(params), cells(model))
    finally:
        pipeline.end_flops_calculate()


COUNTER = Counter(
    name="calflops",
    unit="MAC",
    convention="linear, convolution, matmul, addmm as functions; no SDPA, bmm, @, einsum, recurrence; eval",
    source="calflops 0.3.2: calflops/pytorch_ops.py, calflops/calculate_pipline.py",
    run=run,
    explain=explainer(CONVOLUTIONS | {"linear", "matmul", "addmm", "baddbmm"}),
    package="calflops",
)
