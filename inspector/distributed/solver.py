"""Optimizer groups with a rule for biases, ReduceLROnPlateau, and mixed precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from inspector.core.errors import InspectError

OPTIMIZERS = ("sgd", "adam", "adamw")


def optimizer(model: nn.Module, node: Any) -> torch.optim.Optimizer:
    """Two groups: weights with BASE_LR and WEIGHT_DECAY; biases (parameters called "bias") with
    BASE_LR * BIAS_LR_FACTOR and WEIGHT_DECAY_BIAS, as Caffe and Detectron train. Frozen ones are in neither.

    Raises InspectError for an unknown optimizer.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    biases = [p for name, p in named if name.rpartition(".")[2] == "bias"]
    weights = [p for name, p in named if name.rpartition(".")[2] != "bias"]
    rate = node.BASE_LR * node.BIAS_LR_FACTOR
    groups: list[dict[str, Any]] = [
        {"params": weights, "lr": node.BASE_LR, "weight_decay": node.WEIGHT_DECAY, "role": "weight"},
        {"params": biases, "lr": rate, "weight_decay": node.WEIGHT_DECAY_BIAS, "role": "bias"},
    ]
    groups = [group for group in groups if group["params"]]
    if node.OPTIMIZER == "sgd":
        return torch.optim.SGD(groups, lr=node.BASE_LR, momentum=node.MOMENTUM)
    if node.OPTIMIZER == "adam":
        return torch.optim.Adam(groups, lr=node.BASE_LR)
    if node.OPTIMIZER == "adamw":
        return torch.optim.AdamW(groups, lr=node.BASE_LR)
    raise InspectError(f"no optimizer is called {node.OPTIMIZER!r}", f"use {', '.join(OPTIMIZERS)}")


def scheduler(optimizer: torch.optim.Optimizer, node: Any) -> ReduceLROnPlateau:
    """Multiply every learning rate by FACTOR after PATIENCE validations without improvement."""
    return ReduceLROnPlateau(optimizer, factor=node.SCHEDULER.FACTOR, patience=node.SCHEDULER.PATIENCE)


def amp_dtype(node: Any, device: str) -> torch.dtype | None:
    """The dtype of autocast, None when it is off; "auto" is float16 on CUDA and bfloat16 on a CPU."""
    if not node.ENABLED:
        return None
    names = {
        "auto": torch.float16 if device.startswith("cuda") else torch.bfloat16,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
    }
    if node.DTYPE not in names:
        raise InspectError(f"autocast to {node.DTYPE!r} is not supported", f"use {', '.join(names)}")
    return names[node.DTYPE]


def scaler(dtype: torch.dtype | None, device: str) -> torch.amp.GradScaler:
    """GradScaler, enabled for float16 alone: bfloat16 has the range of float32."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=dtype is torch.float16)
