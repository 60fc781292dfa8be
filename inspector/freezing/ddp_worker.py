"""One process of the DDP step."""

from __future__ import annotations

import hashlib
import importlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from inspector.core.errors import first_line
from inspector.freezing.batch import copied
from inspector.freezing.ddp import RANKS
from inspector.freezing.training import FEW_STEPS, LEARNING_RATE, objective
from inspector.models.replica import raw
from inspector.tracing._torch import tree_map
from inspector.tracing.capture.isolate import seed_all

TIMEOUT = timedelta(seconds=90)


def main(words: list[str]) -> dict[str, Any]:
    """What this process saw, also when the step raises. `words`: the folder, the rank, files of the model."""
    folder, rank, files = Path(words[0]), int(words[1]), words[2:]
    result: dict[str, Any] = {
        "stage": "start", "error": "", "unsynchronised": [], "diverged": [], "frozen_moved": [],
    }  # fmt: skip
    try:
        torch.set_num_threads(1)
        payload = _payload(folder, files)
        store = (folder / "store").as_uri()
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=TIMEOUT)
        result["stage"] = "train"
        _train(payload, rank, result)
        dist.destroy_process_group()
    except Exception as error:  # destroying the group would wait for a rank that is gone
        result["error"] = f"{type(error).__name__}: {first_line(error)}"
    return result


def _payload(folder: Path, files: list[str]) -> dict[str, Any]:
    from inspector.models.python import load_file

    for file in files:
        load_file(file)
    # Written a moment ago by the parent process into a folder that only it can write to.
    return torch.load(folder / "payload.pt", map_location="cpu", weights_only=False)


def _train(payload: dict[str, Any], rank: int, result: dict[str, Any]) -> None:
    model: nn.Module = payload["model"]
    model.train()
    names = dict(model.named_parameters(remove_duplicate=False))
    wrapped = DistributedDataParallel(model)
    if payload["prepare"]:
        place, _, function = payload["prepare"].partition(":")
        getattr(importlib.import_module(place), function)(wrapped)
    frozen = {name: names[name].detach().clone() for name in payload["frozen"]}
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    args, kwargs = _own(payload["inputs"], rank)
    seed_all(payload["seed"] + rank)
    for step in range(FEW_STEPS):
        optimizer.zero_grad(set_to_none=False)
        own_args, own_kwargs = copied((args, kwargs))
        loss = objective(wrapped(*own_args, **own_kwargs), 1000 * rank + step)
        if loss is None:
            raise RuntimeError("the output holds no tensor that requires grad")
        loss.backward()
        result["unsynchronised"] += _differing({n: names[n].grad for n in payload["trainable"]}, result)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    result["diverged"] = _differing({n: names[n] for n in payload["trainable"]}, result)
    result["frozen_moved"] = [
        n for n, before in frozen.items() if not torch.equal(raw(before), raw(names[n]))
    ]


def _own(inputs: Any, rank: int) -> Any:
    """Other data on each rank: gradients that nobody averaged must differ."""
    generator = torch.Generator().manual_seed(rank)

    def shifted(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 2:
            return value + 0.1 * rank * torch.randn(value.shape, generator=generator).to(value.dtype)
        return value

    return tree_map(shifted, inputs)


def _differing(tensors: dict[str, Tensor | None], result: dict[str, Any]) -> list[str]:
    """Names whose bytes are not the same on every rank; those already reported are left out."""
    mine = {name: _digest(tensor) for name, tensor in tensors.items()}
    everyone: list[Any] = [None] * RANKS
    dist.all_gather_object(everyone, mine)
    return [
        n for n in mine if len({ranks[n] for ranks in everyone}) > 1 and n not in result["unsynchronised"]
    ]


def _digest(tensor: Tensor | None) -> str:
    return "none" if tensor is None else hashlib.sha1(raw(tensor).numpy().tobytes()).hexdigest()
