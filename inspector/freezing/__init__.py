"""Freezing: `plan` what stays fixed, `apply` it to a live model, `verify` that it does."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from inspector.freezing.apply import Undo, apply
from inspector.freezing.checks import CHECKS, Case
from inspector.freezing.ddp import TwoProcesses
from inspector.freezing.evidence import gather
from inspector.freezing.plan import Plan, plan
from inspector.reporting.checks import examine
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
    steps: int | None = None,
    strict: bool = False,
) -> list[Finding]:
    """Every check of `claim` on a model that was frozen, by us or by others. The model is not changed.

    args, kwargs: a training batch of two or more samples, on the model's device.
    optimizer: the training script's own, to be checked too: a copy of it, with its hooks, trains a copy.
    steps: training steps of each optimizer, an eval phase in the middle of them. Default: 8 for models of up
        to 5 million parameters, else 2; each costs one forward and one backward.
    strict: a hook or an optimizer that cannot be copied fails.
    ddp: also train in two processes; `prepare` ("module:function") is called there on the wrapped
        model before the first step.
    Raises InspectError when the model cannot take a training step on these inputs.
    """
    parallel = None
    if ddp:
        with TwoProcesses(model, claim, args, kwargs, seed, prepare) as processes:
            evidence = gather(model, claim, args, kwargs, seed, steps, optimizer)
            parallel = processes.wait()
    else:
        evidence = gather(model, claim, args, kwargs, seed, steps, optimizer)
    return examine(CHECKS, Case(model, claim, evidence, optimizer, parallel, strict))
