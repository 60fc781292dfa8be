"""The program of one rank as a user writes it, on real processes under gloo; what torch says of its memory
and what a dispatch mode sees of its collectives. Nothing of inspector's simulation is used here.

    python real.py BACKEND WORLD_SIZE RANK STORE ANSWER CASE...

Under gloo the memory events of torch tell the peak of DDP alone: for other collectives gloo takes buffers of
its own, and releases tensors on threads that the profiler does not see. The peak of those programs is that of
real tensors in one process whose group is torch's fake one.
"""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from inspector.core.collection import paused
from inspector.profiling.meter import metered
from tests.scaling import cases


class Seen(TorchDispatchMode):
    """The collectives and the names of operators, below DTensor."""

    def __init__(self) -> None:
        super().__init__()
        self.collectives: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind.__name__ in ("DTensor", "AsyncCollectiveTensor") for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        space, _, name = func._schema.name.partition("::")
        self.names.add(f"{space}.{name}")
        if space in ("c10d", "_c10d_functional") and name not in ("wait_tensor", "_wrap_tensor_autograd"):
            self.collectives[name] += 1
            sides = [_nbytes(args), _nbytes(result)]
            # in place: the tensor is on both sides; out of place with an output argument: the larger is it
            parts = [_nbytes(arg) for arg in args] + [sides[1]]
            self.nbytes[name] += max(parts)
        return result


def _nbytes(value: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(value) if isinstance(t, torch.Tensor))


def llama_plan(model: Any) -> dict[str, Any]:
    """Written out by hand, as torch's own tutorial of tensor parallelism does."""
    plan: dict[str, Any] = {}
    if isinstance(model.model.embed_tokens, nn.Embedding):  # a stage of a pipeline may not have it
        plan["model.embed_tokens"] = RowwiseParallel(input_layouts=Replicate())
    if isinstance(model.lm_head, nn.Linear):
        plan["lm_head"] = ColwiseParallel(output_layouts=Replicate())
    for number in range(len(model.model.layers)):
        for name in (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
        ):
            plan[f"model.layers.{number}.{name}"] = ColwiseParallel()
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            plan[f"model.layers.{number}.{name}"] = RowwiseParallel()
    return plan


def sequence_plan(model: Any) -> dict[str, Any]:
    """As torch's tutorial has it for sequence parallelism."""
    part, whole = Shard(1), Replicate()
    plan = llama_plan(model)
    plan["model.embed_tokens"] = RowwiseParallel(
        input_layouts=whole, output_layouts=part, use_local_output=False
    )
    plan["model.norm"] = SequenceParallel()
    plan["lm_head"] = ColwiseParallel(input_layouts=part, output_layouts=whole)
    for number in range(len(model.model.layers)):
        layer = f"model.layers.{number}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            plan[f"{layer}.{name}"] = SequenceParallel()
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            plan[f"{layer}.{name}"] = RowwiseParallel(output_layouts=part, use_local_output=False)
        plan[f"{layer}.self_attn"] = PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": part},
            desired_input_kwarg_layouts={"hidden_states": whole},
        )
        plan[f"{layer}.mlp"] = PrepareModuleInput(input_layouts=(part,), desired_input_layouts=(whole,))
    return plan


def blocks(case: cases.Case, model: Any) -> list[nn.Module]:
    if case.model in cases.RESNETS:
        return [block for number in range(1, 5) for block in getattr(model, f"layer{number}")]
    return list(model.transformer.h if case.model == "gpt2" else model.model.layers)


def recompute(layers: Iterable[nn.Module]) -> None:
    """Let each layer be computed again in the backward."""
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]


def autocast(case: cases.Case) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=case.amp)


def program(case: cases.Case, peaks: bool) -> dict[str, Any]:
    """What one step of the case holds and sends, and with `peaks` its peak, in one step more."""
    torch.manual_seed(0)
    model: Any = cases.build(case.model)
    sizes = {part.partition("=")[0]: int(part.partition("=")[2]) for part in case.mesh.split(",")}
    mesh = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    if "tp" in sizes:
        plan = sequence_plan(model) if case.sequence else llama_plan(model)
        parallelize_module(model, mesh["tp"], plan)
    if case.checkpoint:
        recompute(blocks(case, model))
    wrapped, sharded = model, case.shard in ("fsdp", "zero2", "hsdp") and "dp" in sizes
    if sharded:
        over = mesh["replicate", "dp"] if case.shard == "hsdp" else mesh["dp"]
        reshard = case.reshard and case.shard != "zero2"
        policy = MixedPrecisionPolicy(
            param_dtype=getattr(torch, case.param_dtype) if case.param_dtype else None
        )
        for block in blocks(case, model):
            fully_shard(block, mesh=over, reshard_after_forward=reshard, mp_policy=policy)
        fully_shard(model, mesh=over, reshard_after_forward=False, mp_policy=policy)
    elif case.shard in ("ddp", "zero1"):
        wrapped = nn.parallel.DistributedDataParallel(model, process_group=mesh.get_group("dp"))
    optimizer = optimizer_of(case, list(model.parameters()), mesh)
    kwargs = cases.call(case)

    def step() -> None:
        optimizer.zero_grad()
        for number in range(case.accumulate):
            last = number == case.accumulate - 1
            if sharded:
                model.set_requires_gradient_sync(last)
            with nullcontext() if sharded or last else wrapped.no_sync():
                images = case.model in cases.RESNETS
                with autocast(case):
                    out = wrapped(*kwargs.values()) if images else wrapped(**kwargs).loss
                out.backward(torch.ones_like(out))
                del out
        optimizer.step()

    for _ in range(1 if sharded else 2):  # in the second DDP makes its buckets anew
        step()
    seen = Seen()
    with seen:
        step()
    gradients = held(p.grad for p in model.parameters())
    optimizer.zero_grad()
    state = getattr(optimizer, "optim", optimizer).state
    states = held(v for entry in state.values() for v in entry.values() if isinstance(v, torch.Tensor))
    parameters, buffers = held(model.parameters()), held(model.buffers())
    buckets = 0
    if wrapped is not model:  # DDP keeps buckets of the gradients' size
        buckets = sum(p.numel() * p.element_size() for p in model.parameters())
    before = parameters + buffers + states + held(kwargs.values()) + buckets
    return {
        "parameters": parameters, "gradients": gradients, "optimizer state": states, "buffers": buffers,
        "peak": before + peak_of(step, seen.names) if peaks else None,
        "collectives": seen.collectives, "nbytes": seen.nbytes,
    }  # fmt: skip


def peak_of(step: Callable[[], None], names: set[str]) -> int:
    """The peak of a step's tensors, without garbage of former ones."""
    gc.collect()
    with paused(), metered("cpu", names) as peak:
        step()
    return peak.tensors


def optimizer_of(case: cases.Case, parameters: list[nn.Parameter], mesh: Any) -> Any:
    kind: Any = torch.optim.AdamW if case.optimizer == "adamw" else torch.optim.SGD
    more = {"momentum": 0.9} if case.optimizer == "momentum" else {}
    if case.shard == "zero1":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(parameters, kind, process_group=mesh.get_group("dp"), lr=1e-3, **more)
    return kind(parameters, lr=1e-3, **more)


def held(tensors: Any) -> int:
    """Bytes of the memory behind tensors, each once."""
    storages = {}
    for tensor in tensors:
        if tensor is not None:
            storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def main(words: list[str]) -> None:
    from tests.scaling import pipelines  # which takes from here

    backend, world_size, rank, store, answer, *names = words
    place: dict[str, Any] = {"init_method": f"file://{store}"}
    if backend == "fake":
        from torch.testing._internal.distributed.fake_pg import FakeStore

        place = {"store": FakeStore()}
    dist.init_process_group(backend, world_size=int(world_size), rank=int(rank), **place)
    chosen = [case for case in (*cases.TWO, *cases.FOUR) if case.name in names]
    results = {}
    for case in chosen:
        try:
            peaks = backend == "fake" or case.shard in ("ddp", "zero1")
            results[case.name] = (pipelines.program if case.schedule else program)(case, peaks)
        except Exception as error:  # the others still tell
            import traceback

            traceback.print_exc()
            results[case.name] = {"error": f"{type(error).__name__}: {error}"}
            break
    Path(answer).write_text(json.dumps(results))
    if backend == "gloo":
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
