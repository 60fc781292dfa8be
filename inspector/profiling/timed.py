"""Measure each module's time for a page: on a copy of the model, in the state that inference has."""

from __future__ import annotations

import copy

import torch

from inspector.core.errors import InspectError
from inspector.models import Recipe
from inspector.models.inputs import Inputs, first_line, materialise
from inspector.models.subject import with_values
from inspector.profiling.module_times import ModuleTimes, module_times
from inspector.tracing.capture.isolate import random_state


def refuse(device: str, phase: str, only_trace: bool) -> None:
    """Raise InspectError for what `time` cannot measure, before any work."""
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise InspectError(f"cannot measure time on {device!r}", 'use `time="cpu"` or `time="cuda"`')
    if phase != "forward":
        raise InspectError("`time=` measures a forward", 'leave out `phase="train"`, or see: inspect bench')
    if only_trace:
        raise InspectError("a trace alone cannot be timed", "give the model")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InspectError(f"no device {device!r} here", 'use `time="cpu"`, or see: inspect env') from error


def measure(recipe: Recipe, given: Inputs | None, device: str, seed: int) -> tuple[ModuleTimes, str]:
    """The times in eval mode without gradients, and where they were taken. The model is copied if it is the
    user's own object."""
    threads = torch.get_num_threads()
    place = f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    if device != "cpu":
        place = torch.cuda.get_device_name(device)
    with random_state():
        live = with_values(recipe, given, seed)
        known = given if given is not None else recipe.defaults(live, "forward")
        if known is None:
            raise InspectError(f"{recipe.name} has no default input", 'give one with `inputs="1x3x224x224"`')
        try:
            model = (live if recipe.rebuilds else copy.deepcopy(live)).to(device).eval()
            args, kwargs = materialise(known, model, device, seed)
            return module_times(model, args, kwargs, device), place
        except InspectError:
            raise
        except Exception as error:  # what the user's forward raises, or out of memory
            raise InspectError(
                f"{type(error).__name__}: {first_line(error)}", "see `error.__cause__`"
            ) from error
