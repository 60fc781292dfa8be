"""How long each module's forward really takes on the device at hand."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils._pytree import tree_map

from inspector.benchmarking.stats import median
from inspector.core.errors import InspectError
from inspector.footprint.measured import owned
from inspector.models import Model, as_recipe
from inspector.models.inputs import as_inputs, materialise
from inspector.tracing.capture.isolate import random_state
from inspector.tracing.capture.setting import Setting

REPEATS = 7
"""Forwards that are timed, after three that are not; the median counts."""


def module_seconds(model: Model, inputs: Any, setting: Setting, seed: int) -> tuple[pd.DataFrame, str]:
    """Columns path and measured: seconds of all calls of a module in one forward, everything inside it
    included; and the name of the device. Hooks read the clock, so very short modules read a little long."""
    recipe = as_recipe(model)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with random_state():
        live = owned(recipe, place, seed).eval()
        if setting.torch_dtype is not None:
            live = live.to(setting.torch_dtype)
        known = as_inputs(inputs) if inputs is not None else recipe.defaults(live, "forward")
        if known is None:
            raise InspectError(f"{recipe.name} has no default input", 'give one with `inputs="1x3x224x224"`')
        args, kwargs = tree_map(setting.cast, materialise(known, live, place, seed))
        lowered = setting.kernels.autocast if setting.kernels else None

        def forward() -> None:
            autocast = torch.autocast(place, getattr(torch, lowered)) if lowered else nullcontext()
            with torch.no_grad(), autocast:
                live(*args, **kwargs)

        for _ in range(3):
            forward()
        rounds = [_once(live, forward, place) for _ in range(REPEATS)]
    rows = [{"path": path, "measured": median([r[path] for r in rounds if path in r])} for path in rounds[0]]
    name = torch.cuda.get_device_name() if place == "cuda" else f"this CPU ({_processor()})"
    return pd.DataFrame(rows, columns=["path", "measured"]), name


def _processor() -> str:
    threads = torch.get_num_threads()
    return f"{platform.processor() or platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def _once(model: nn.Module, forward: Callable[[], None], place: str) -> dict[str, float]:
    """Seconds of every module in one forward."""
    stamps: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    open_calls: list[Any] = []

    def now() -> Any:
        if place == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def enter(module: nn.Module, args: Any) -> None:
        open_calls.append(now())

    def leave(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            stamps[path].append((open_calls.pop(), now()))

        return hook

    handles = []
    try:
        for path, module in model.named_modules():
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave(path))]
        forward()
    finally:
        for handle in handles:
            handle.remove()
    if place == "cuda":
        torch.cuda.synchronize()
        return {p: sum(a.elapsed_time(b) / 1e3 for a, b in pairs) for p, pairs in stamps.items()}
    return {path: sum(b - a for a, b in pairs) for path, pairs in stamps.items()}
