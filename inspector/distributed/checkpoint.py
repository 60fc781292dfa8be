"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inspector.core.errors import InspectError, first_line
from inspector.models import checkpoint as models


def save(state: dict[str, Any], file: Path) -> None:
    """Write `state` to `file` through a sibling that replaces it only when it is complete and on disk."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def load(file: Path) -> dict[str, Any]:
    """A checkpoint on the CPU; only tensors and plain values are read (weights_only). Raises InspectError for
    a file that is missing, torn, or no checkpoint."""
    try:
        state = models.load(file, values=True) if file.is_file() else None
    except InspectError as error:
        hint = "delete it, or train without `resume=`"
        raise InspectError(f"cannot read the checkpoint: {error.message}", hint) from error
    except OSError as error:
        raise InspectError(
            f"cannot read the checkpoint {file}: {first_line(error)}", "check its mode"
        ) from error
    if state is None:
        raise InspectError(f"no checkpoint at {file}", "train once without `resume=`")
    if not isinstance(state, dict) or "step" not in state:
        raise InspectError(f"{file} is no checkpoint of inspect ddp", "name the folder of an earlier run")
    return state


def check(state: dict[str, Any], world: int, steps: int, shard: str = "ddp") -> None:
    """Raise InspectError where `world` processes under `shard` cannot go on from a checkpoint, up to
    `steps`."""
    before = state.get("shard", "ddp")
    if before != shard:
        raise InspectError(
            f"the checkpoint was written under {before}, and this run is under {shard}",
            f'use `shard="{before}"`',
        )
    if state.get("world") != world:
        raise InspectError(
            f"the checkpoint was written by {state.get('world')} processes, but {world} run here",
            f"use `nproc={state.get('world')}`",
        )
    if not isinstance(state["step"], int) or state["step"] >= steps:
        raise InspectError(
            f"the checkpoint is at step {state['step']}, and SOLVER.STEPS is {steps}",
            "raise `steps=`, or leave out `resume=`",
        )


def random_states() -> dict[str, Any]:
    """The random states of this process, as tensors and plain values."""
    drawn: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = drawn
    words = torch.from_numpy(keys.astype(np.int64))
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [str(name), words, int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }  # fmt: skip


def restore_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` took."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"].cpu())
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
