"""What the frozen part computes: alone and in a batch, before and after training."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from inspector.backbones import GIVEN
from inspector.freezing.checks.case import Case
from inspector.freezing.probe import Probe
from inspector.reporting.checks import check, failed, passed, skipped, warned
from inspector.reporting.report import Finding


@check
def batch_independence(case: Case) -> Iterator[Finding]:
    """In train mode the frozen part gives a sample the same output alone as inside a batch.

    Dropout, and batch norms that train, are switched off for the comparison. Skipped where the frozen part
    draws random numbers, or cannot run on one sample.
    """
    probes, same = case.evidence.probes.observed, True
    for probe in probes:
        if probe.error or (probe.apart is not None and probe.apart > _tolerance(probe)):
            same = False
            how = "raises on one sample alone" if probe.error else f"differs by {probe.apart:.2g} (relative)"
            message = f"a sample's output of the frozen part depends on the others: it {how}; {_mixer(case)}"
            yield failed(message, probe.path, relative=probe.apart)
    if not same:
        return
    if any(probe.apart is not None for probe in probes):
        yield passed("a sample's output of the frozen part is the same alone and in a batch")
    else:
        yield _not_compared(case)


@check
def prefix_output(case: Case) -> Iterator[Finding]:
    """The frozen part computes the same output before and after training, in train mode and in eval mode."""
    probes = case.evidence.probes.observed
    compared = [(probe, probe.drift) for probe in probes if probe.drift is not None and probe.whole]
    changed = [(probe, drift) for probe, drift in compared if drift > _tolerance(probe) / 100]
    for probe, drift in changed:
        message = f"the output of the frozen part is not what it was before training: {drift:.2g} (relative)"
        yield failed(message, probe.path, relative=drift)
    if changed:
        return
    if compared:
        yield passed("the frozen part computes the same before and after training")
    elif any(not probe.whole for probe in probes):
        yield skipped("some parameters of the frozen part train by choice")
    else:
        yield _not_compared(case)


@check
def prefix_grad(case: Case) -> Iterator[Finding]:
    """The output of the frozen stages does not require grad: no backward pass runs through them.

    Only a warning for stages that you named yourself.
    """
    probes = case.evidence.probes
    if not case.plan.stages or not case.plan.whole or not case.plan.parameters:
        return
    if not probes.requires_grad:
        yield passed("the output of the frozen stages does not require grad")
    elif not probes.feeding:
        message = "requires grad although nothing before it trains (an input does): its backward is wasted"
        yield warned(message, probes.requires_grad)
    else:
        chosen = case.plan.backbone is not None and case.plan.backbone.rule == GIVEN
        source = f"{probes.feeding[0]} before or inside them trains"
        message = f"the output of the frozen stages requires grad: {source}"
        yield (warned if chosen else failed)(message, probes.requires_grad, names=probes.feeding)


def _mixer(case: Case) -> str:
    """The likely culprit: a batch norm of the frozen part that uses batch statistics, or attention along the
    first dimension, which is the batch here."""
    for path in case.plan.norms:
        module = case.model.get_submodule(path)
        if getattr(module, "running_mean", 0) is None:
            return f"{path} has no running statistics (track_running_stats=False)"
    if case.evidence.awake:
        return f"{case.evidence.awake[0]} normalises by the batch in train mode: pass --norm freeze"
    for path in case.plan.modules:
        if getattr(case.model.get_submodule(path), "batch_first", True) is False:
            return f"{path or 'the model'} has batch_first=False: is its input batch-first?"
    return "one of its modules mixes the samples"


def _tolerance(probe: Probe) -> float:
    """Rounding differs with the batch size; a batch norm is off by a tenth and more."""
    eps = max((torch.finfo(leaf.dtype).eps for leaf in probe.seen.output), default=0.0)
    return max(1e-3, 8 * eps)


def _not_compared(case: Case) -> Finding:
    probes = case.evidence.probes.observed
    reason = (probes[0].why if probes else case.evidence.probes.why) or "it cannot be called by itself"
    reason = reason if case.plan.parameters else "nothing is frozen"
    return skipped(f"not compared: {reason}", probes[0].path if probes else "")
