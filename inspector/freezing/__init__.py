"""Freezing: `plan` what rests, `apply` it to a live model, `verify` that it does."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from inspector.freezing.apply import Undo, apply
from inspector.freezing.checks import CHECKS, Case, optimizer_audit
from inspector.freezing.ddp import TwoProcesses
from inspector.freezing.evidence import gather
from inspector.freezing.plan import Plan, plan
from inspector.reporting.report import Finding

__all__ = ["Plan", "Undo", "apply", "plan", "verify"]


def verify(
    model: nn.Module,
    claim: Plan,
    args: Any,
    kwargs: Any,
    *,
    seed: int = 0,
    ddp: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    prepare: str = "",
) -> list[Finding]:
    """Every check of `claim` on a model that was frozen, by us or by others. The model stays as it is.

    args, kwargs: a training batch of two or more samples, on the model's device.
    optimizer: a training script's own one, to be audited.
    ddp: also train in two processes; `prepare` ("module:function") is called there on the wrapped
        model before the first step.
    Raises InspectError when the model cannot take a training step on these inputs.
    """
    findings: list[Finding] = []
    if ddp:
        with TwoProcesses(model, claim, args, kwargs, seed, prepare) as processes:
            evidence = gather(model, claim, args, kwargs, seed)
            parallel = processes.findings()
    else:
        evidence, parallel = gather(model, claim, args, kwargs, seed), []
    case = Case(model, claim, evidence)
    for check in CHECKS:
        findings += check(case)
    if optimizer is not None:
        findings += optimizer_audit(model, claim, optimizer)
    return findings + parallel
