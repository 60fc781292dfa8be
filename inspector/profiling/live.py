"""A model as it really runs on a device: with values, in its setting, on seeded inputs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from inspector.models import Recipe
from inspector.models.inputs import Inputs, materialise
from inspector.models.subject import owned
from inspector.tracing._torch import tree_map
from inspector.tracing.capture.setting import PORTABLE, Setting


@dataclass(frozen=True)
class Live:
    """A model of our own, and what it is called with, on `device`."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    device: str
    setting: Setting

    @staticmethod
    def make(
        recipe: Recipe,
        inputs: Inputs | None,
        device: str,
        seed: int,
        setting: Setting = PORTABLE,
        phase: str = "forward",
    ) -> Live:
        """The model in the mode of `phase`; `inputs` None are the source's own."""
        model = owned(recipe, device, seed, inputs)
        if setting.torch_dtype is not None:
            model = model.to(setting.torch_dtype)
        values = materialise(recipe.inputs(model, inputs), model, device, seed)
        args, kwargs = tree_map(setting.cast, values)
        return Live(model.train(phase == "train"), args, kwargs, device, setting)

    def autocast(self) -> AbstractContextManager[Any]:
        """The autocast of the setting, switched off where it has none."""
        lowered = self.setting.kernels.autocast if self.setting.kernels else None
        kind = self.device.partition(":")[0]
        dtype = getattr(torch, lowered) if lowered else torch.get_autocast_dtype(kind)
        return torch.autocast(kind, dtype, enabled=lowered is not None)

    def __call__(self) -> Any:
        """A forward under the autocast of the setting."""
        with self.autocast():
            return self.model(*self.args, **self.kwargs)
