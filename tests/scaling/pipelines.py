"""The program of one rank of a pipeline as a user writes it; see `real`, of which it is a part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
)
from torch.distributed.tensor.parallel import parallelize_module

from tests.scaling import cases
from tests.scaling.real import Seen, autocast, held, llama_plan, optimizer_of, peak_of, recompute

LAYERS = {
    "llama": [(0, 2), (2, 3)],
    "llama4": [(0, 1), (1, 2), (2, 3), (3, 4)],
}
"""The layers of each stage, from and to: three on two ranks, four on two ranks of two stages each."""


class LossInside(nn.Module):
    """A stage that takes what comes by position, and gives a tensor."""

    def __init__(self, model: Any, last: bool, case: cases.Case) -> None:
        super().__init__()
        self.model, self.last, self.case = model, last, case

    def forward(self, value: Tensor, labels: Tensor | None = None) -> Tensor:
        with autocast(self.case):
            if self.last:
                return self.model(value, labels=labels).loss.unsqueeze(0)
            return self.model(value).logits


def stage_of(case: cases.Case, number: int, mesh: Any) -> nn.Module:
    torch.manual_seed(0)
    model: Any = cases.build(case.model)
    stages = LAYERS[case.model]
    start, end = stages[number]
    model.model.layers = model.model.layers[start:end]
    if number > 0:
        model.model.embed_tokens = nn.Identity()
    if number < len(stages) - 1:
        model.model.norm, model.lm_head = nn.Identity(), nn.Identity()
    if "tp" in case.mesh:
        parallelize_module(model, mesh["tp"], llama_plan(model))
    if case.checkpoint:
        recompute(model.model.layers)
    part = LossInside(model, number == len(stages) - 1, case)
    if "dp" in case.mesh:
        for block in model.model.layers:
            fully_shard(block, mesh=mesh["dp"], reshard_after_forward=case.shard != "zero2")
        fully_shard(part, mesh=mesh["dp"], reshard_after_forward=False)
    return part


def program(case: cases.Case, peaks: bool) -> dict[str, Any]:
    sizes = {part.partition("=")[0]: int(part.partition("=")[2]) for part in case.mesh.split(",")}
    mesh = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    place, count = mesh.get_local_rank("pp"), len(LAYERS[case.model])
    numbers = range(place, count, 2)
    kwargs = cases.call(case)
    ids, labels = kwargs["input_ids"], kwargs["labels"]
    piece = torch.empty(2, 40, dtype=torch.int64)
    hidden = torch.empty(2, 40, 72, requires_grad=True)
    models = [stage_of(case, number, mesh) for number in numbers]
    stages = [
        PipelineStage(
            model, number, count, torch.device("cpu"), input_args=(hidden if number else piece,),
            output_args=(torch.empty(1, requires_grad=True) if number == count - 1 else hidden,),
            group=mesh.get_group("pp"),
        )
        for number, model in zip(numbers, models)
    ]  # fmt: skip
    kinds: Any = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B}
    alone = stages if case.schedule == "interleaved" else stages[0]
    schedule = kinds[case.schedule](alone, case.microbatches, loss_fn=lambda loss, target: loss.squeeze())
    parameters = [p for model in models for p in model.parameters()]
    optimizer = optimizer_of(case, parameters, mesh)
    del hidden, piece

    def step() -> None:
        optimizer.zero_grad()
        first = (ids,) if place == 0 else ()
        last = {"labels": labels, "target": labels} if numbers[-1] == count - 1 else {}
        schedule.step(*first, **last)
        optimizer.step()

    step()
    seen = Seen()
    with seen:
        step()
    gradients = held(p.grad for p in parameters)
    optimizer.zero_grad()
    states = held(v for e in optimizer.state.values() for v in e.values() if isinstance(v, Tensor))
    buffers = held(b for model in models for b in model.buffers())
    mine = [ids] if place == 0 else [labels]
    before = held(parameters) + buffers + states + held(mine) + received(stages)
    return {
        "parameters": held(parameters), "gradients": gradients, "optimizer state": states,
        "buffers": buffers, "peak": before + peak_of(step, seen.names) if peaks else None,
        "collectives": seen.collectives, "nbytes": seen.nbytes,
    }  # fmt: skip


def received(stages: Any) -> int:
    """What torch 2.8 keeps from step to step to receive into."""
    infos = [
        info for stage in stages for each in (stage.args_recv_info, stage.grad_recv_info)
        for part in each.values() for info in part
    ]  # fmt: skip
    return held(getattr(info, "buffer", None) for info in infos)
