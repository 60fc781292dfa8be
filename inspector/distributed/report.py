"""A short DistributedDataParallel training that says whether this model trains right."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial, reduce
from math import inf
from operator import getitem
from pathlib import Path
from typing import Any

import torch

from inspector.core.config import completed, dump, load, summary
from inspector.core.errors import InspectError
from inspector.core.files import write_whole
from inspector.core.forking import Nursery, nursery
from inspector.distributed import checkpoint
from inspector.distributed.forks import IMAGES, PRELOADED, SHARDED, possible
from inspector.distributed.job import Job, Place, adopt_slurm
from inspector.distributed.launch import Group, Outcome, Tell, launch
from inspector.distributed.sections import report
from inspector.models import Recipe, resolve
from inspector.models.device import real_device
from inspector.models.inputs import Inputs, InputSpec, as_inputs
from inspector.models.small import smallest, with_batch
from inspector.profiling.run import trace
from inspector.reporting.report import Report
from inspector.tracing.describe import describe

WORKER = "inspector.distributed.start"
SHARDS = ("ddp", "fsdp")
BACKENDS = ("auto", "gloo", "nccl")
"""`auto` is nccl on GPUs and gloo on a CPU."""
LEAST = {
    "DATA.BATCH": 1, "DATA.SAMPLES": 1, "DATA.WORKERS": 0, "SOLVER.STEPS": 1, "SOLVER.ACCUMULATE": 1,
    "SOLVER.VALIDATE_EVERY": 1, "SOLVER.SCHEDULER.PATIENCE": 0, "DDP.MAX_RESTARTS": 0,
}  # fmt: skip
"""The settings that are whole numbers, each with the smallest that makes sense."""
RATES = [
    f"SOLVER.{name}"
    for name in ("BASE_LR", "BIAS_LR_FACTOR", "WEIGHT_DECAY", "WEIGHT_DECAY_BIAS", "MOMENTUM")
]


def ddp(
    model: str = "resnet50",
    inputs: Any = None,
    *,
    nproc: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    data: str | None = None,
    amp: bool = False,
    shard: str | None = None,
    sync_bn: bool = False,
    accumulate: int | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    kill: bool = True,
    device: str | None = None,
    deadline: float | None = None,
    nnodes: int = 1,
    node_rank: int = 0,
    rdzv_endpoint: str = "",
    model_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    trainer: str = "inspector.distributed.loop:Trainer",
    verbose: bool = False,
    tell: Tell = lambda beat: None,
) -> Report | None:
    """Train `model` for some steps in `nproc` processes under DDP or FSDP2, and check what people get wrong.

    model: a spec ("resnet50", "timm:...", "file.py:build"): every process builds it from `seed`.
    inputs: strings of the input grammar; the first is the tensor of samples, its batch DATA.BATCH. Without
        it, the smallest images that the model accepts.
    steps, batch, data, amp, shard, sync_bn, accumulate, output_dir, deadline: short for SOLVER.STEPS,
        DATA.BATCH, DATA.SOURCE, AMP.ENABLED, DDP.SHARD, DDP.SYNC_BN, SOLVER.ACCUMULATE, OUTPUT_DIR and
        DDP.DEADLINE.
    shard: "ddp" (DistributedDataParallel) or "fsdp" (FSDP2: `fully_shard` of each block, see
        `inspector.models.units`, and of the rest).
    settings: of `inspector.core.config`, by dotted name ({"SOLVER.STEPS": 20}), over the YAML file `config`.
    device: "cuda" (nccl) or "cpu" (gloo); None takes the GPUs if there are any. `nproc`: one for each GPU,
        or two on a CPU.
    resume: continue from the checkpoint in `output_dir`. `kill`: also kill a worker, which must be started
        again and go on from its checkpoint (on one machine).
    nnodes, node_rank, rdzv_endpoint: of several machines, as torchrun takes them.
    trainer: "module:Class", a subclass of `inspector.distributed.loop.Trainer` with parts of your own.

    In a process that torchrun or SLURM started (RANK, WORLD_SIZE) no further one is started, and only rank 0
    gets a report. Raises InspectError for input that cannot be trained on; what goes wrong while training
    is a finding that fails.
    """
    node = _node(config, settings, steps, batch, data, amp, shard, sync_bn, accumulate, output_dir, deadline)
    _check(node, resume)
    kind, inside = _kind(device, node), _started()
    group = _group(node, kind, nproc, nnodes, node_rank, rdzv_endpoint)
    kill = kill and not inside and nnodes == 1 and not resume and node.DDP.MAX_RESTARTS > 0
    group = replace(group, restarts=group.restarts + kill)  # for the one that is killed on purpose
    with ExitStack() as stack:
        ready = None
        if not inside and isinstance(model, str) and possible(kind, nnodes):
            ready = stack.enter_context(nursery(*_imports(model, inputs, node)))
        recipe = _recipe(model, model_args)
        folder, output = stack.enter_context(_folder(node.OUTPUT_DIR, inside, node_rank == 0))
        job = _job(
            model, recipe, inputs, node, output, group.nproc, model_args=dict(model_args or {}), seed=seed,
            weights=str(weights) if weights is not None else None, device=kind, trainer=trainer,
            resume=resume, kill=kill, verbose=verbose, launched=not inside,
        )  # fmt: skip
        return _run(job, folder, output, group, inside, tell, ready)


_SHORT = (
    "SOLVER.STEPS", "DATA.BATCH", "DATA.SOURCE", "AMP.ENABLED", "DDP.SHARD", "DDP.SYNC_BN",
    "SOLVER.ACCUMULATE", "OUTPUT_DIR", "DDP.DEADLINE",
)  # fmt: skip
"""The settings that `ddp` has keywords for, in their order."""


def _node(config: str | Path | None, settings: Mapping[str, Any] | None, *short: Any) -> Any:
    """The settings with the keywords of `ddp` over them; None and False say nothing."""
    named = {key: value for key, value in zip(_SHORT, short) if value is not None and value is not False}
    return load(config, {**(settings or {}), **named})


def _imports(model: str, inputs: Any, node: Any) -> list[str]:
    """What workers will import, as far as the options tell."""
    texts = [inputs] if isinstance(inputs, str) else inputs if isinstance(inputs, (list, tuple)) else []
    first = texts[0] if texts and isinstance(texts[0], str) else "1,3,1,1"
    images = node.DATA.SOURCE != "synthetic" and len(re.split("[x,]", first)) > 3
    library = ":" not in model or model.startswith("torchvision:")
    sharded = SHARDED if node.DDP.SHARD == "fsdp" else ()
    return [*PRELOADED, *(IMAGES if images or library else ()), *sharded]


def _recipe(model: Any, model_args: Mapping[str, Any] | None) -> Recipe:
    if not isinstance(model, str):
        raise InspectError(
            "every process builds its own model: an nn.Module cannot be sent to it",
            "give a spec: resnet50, or path/to/file.py:build",
        )
    recipe = resolve(model, dict(model_args or {}))
    if recipe.only_on is not None:
        raise InspectError(f"{recipe.name} does not train: {recipe.only_on[1]}", "name the float model")
    return recipe


def _kind(device: str | None, node: Any) -> str:
    kind = real_device(device, "train", numbered=False)
    if kind == "cpu" and node.DDP.BACKEND == "nccl":
        raise InspectError("nccl connects GPUs only", 'leave DDP.BACKEND out, or use `device="cuda"`')
    return kind


def _started() -> bool:
    """Whether torchrun or SLURM has started this process as one of several."""
    adopt_slurm(os.environ)
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _group(node: Any, kind: str, nproc: int | None, nnodes: int, node_rank: int, endpoint: str) -> Group:
    count = _processes(nproc if nproc is not None else node.DDP.NPROC, kind)
    if nnodes > 1 and not endpoint:
        raise InspectError("several nodes need a rendezvous endpoint", "give `rdzv_endpoint=HOST:PORT`")
    limits = node.DDP.MAX_RESTARTS, float(node.DDP.STALL), float(node.DDP.DEADLINE)
    return Group(count, nnodes, node_rank, endpoint, *limits)


def _job(model: str, recipe: Recipe, inputs: Any, node: Any, output: Path, count: int, **chosen: Any) -> Job:
    texts = _inputs(recipe, inputs, node.DATA.BATCH)
    own = {"MODEL.NAME": model, "MODEL.ARGS": chosen["model_args"], "INPUT": texts, "SEED": chosen["seed"]}
    config = dump(completed(node, {**own, "DDP.NPROC": count}))
    end = time.time() + float(node.DDP.DEADLINE)
    return Job(model, config, texts, str(output), deadline=end, **chosen)


def _run(
    job: Job,
    folder: Path,
    output: Path,
    group: Group,
    inside: bool,
    tell: Tell,
    ready: Nursery | None,
) -> Report | None:
    """Be a worker, or launch them."""
    _checkpoint(job, output, group, inside)
    write_whole(output / "config.yaml", job.config)
    if not inside or os.environ["RANK"] == "0":
        tell({"phase": "starting", "settings": summary(job.settings)})
    if inside:
        return _inside(job, folder)
    job.write(folder)
    tell = _following(output / "log.txt", tell) if job.verbose else tell
    outcome = launch(group, folder, WORKER, tell, ready)
    return _concluded(job, folder, group, outcome)


def _following(log: Path, tell: Tell) -> Tell:
    """`tell`, which also shows on standard error what rank 0 logs: its own is a file of the launcher's."""
    shown = log.stat().st_size if log.exists() else 0

    def both(beat: dict[str, Any]) -> None:
        nonlocal shown
        if log.exists():
            with log.open(encoding="utf-8") as stream:
                stream.seek(shown)
                sys.stderr.write(stream.read())
                shown = stream.tell()
        tell(beat)

    return both


def _check(node: Any, resume: bool) -> None:
    """Refuse what no training can have."""
    if resume and not node.OUTPUT_DIR:
        raise InspectError("`resume=True` needs the folder of an earlier run", 'give `output_dir="runs/one"`')

    def demand(key: str, wanted: str, example: float, holds: Callable[[Any], bool]) -> None:
        value: Any = reduce(getitem, key.split("."), node)
        if not holds(value):
            raise InspectError(f"{key} is {value!r}", f'give {wanted}: `settings={{"{key}": {example}}}`')

    for key, least in LEAST.items():
        demand(key, f"{least} or more", least, partial(_is_whole, least=least))
    for key in RATES:
        demand(key, "0 or more", 0.1, lambda value: 0 <= value < inf)
    demand("SOLVER.SCHEDULER.FACTOR", "a number between 0 and 1", 0.1, lambda value: 0 < value < 1)
    for key in ("DDP.STALL", "DDP.DEADLINE"):
        demand(key, "seconds", 60, lambda value: 0 < value < inf)
    if node.DDP.BACKEND not in BACKENDS:
        raise InspectError(f"DDP.BACKEND is {node.DDP.BACKEND!r}", f"use one of: {', '.join(BACKENDS)}")
    if node.DDP.SHARD not in SHARDS:
        raise InspectError(f"`shard=` is {node.DDP.SHARD!r}", f"use one of: {', '.join(SHARDS)}")
    if node.DDP.SHARD == "fsdp" and node.DDP.FIND_UNUSED:
        raise InspectError(
            "FSDP2 has no DDP.FIND_UNUSED: a parameter without a gradient has no state to resume from",
            'freeze what is not used, or use `shard="ddp"`',
        )


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _processes(nproc: int | None, kind: str) -> int:
    cards = torch.cuda.device_count()
    count = nproc if nproc is not None else (cards if kind == "cuda" else 2)
    if count < 1:
        raise InspectError(f"{count} processes cannot train", "give `nproc=1` or more")
    if kind == "cuda" and count > cards:
        raise InspectError(
            f"{count} processes need {count} GPUs, and this machine has {cards}",
            f'give `nproc={cards}`, or `device="cpu"`',
        )
    return count


def _inputs(recipe: Recipe, inputs: Any, batch: int) -> list[str]:
    """What each process trains on, as strings, the batch in front."""
    if inputs is not None:
        batched: Inputs | None = with_batch(as_inputs(inputs), batch)
    else:
        batched = smallest(recipe, recipe.build("meta" if recipe.rebuilds else "cpu"), batch)
    if batched is None:
        raise InspectError(f"{recipe.name} has no default input", 'give one with `inputs="1x3x32x32"`')
    values = (*batched.args, *batched.kwargs.values())
    if not values or not all(isinstance(value, InputSpec) for value in values) or not values[0].shape:
        raise InspectError(
            f"{recipe.name} does not take just tensors, the samples first: it cannot be trained here",
            'give `inputs="1x3x32x32"`, or wrap it in a model that takes one',
        )
    if inputs is not None:
        trace(recipe, batched, phase="train")  # refuses what the model does not take, before processes start
    named = [f"{key}={describe(value)}" for key, value in batched.kwargs.items()]
    return [*map(describe, batched.args), *named]


def _checkpoint(job: Job, output: Path, group: Group, inside: bool) -> None:
    """Refuse a resume that cannot be, before processes start."""
    file = output / "checkpoint.pt"
    if not job.resume:
        return
    if not file.exists() and (inside or group.node_rank == 0):
        raise InspectError(
            f"no checkpoint in {output}", 'name the folder of an earlier run: `output_dir="runs/one"`'
        )
    if not inside and file.exists():
        node = job.settings
        world = group.nproc * group.nnodes
        checkpoint.check(checkpoint.load(file), world, node.SOLVER.STEPS, node.DDP.SHARD)


@contextmanager
def _folder(wanted: str | None, inside: bool, first: bool) -> Iterator[tuple[Path, Path]]:
    """(files of this run, where checkpoints and logs go); temporary folders are removed afterwards."""
    if inside and wanted is None:
        run = os.environ.get("TORCHELASTIC_RUN_ID", os.getppid())
        name = f"inspector-ddp-{os.environ.get('MASTER_PORT')}-{run}"
        shared = Path(tempfile.gettempdir()) / name
        shared.mkdir(exist_ok=True)
        yield shared, shared
        if os.environ["RANK"] == "0":
            shutil.rmtree(shared, ignore_errors=True)
        return
    temporary = Path(tempfile.mkdtemp(prefix="inspector-ddp-"))
    output = Path(wanted).expanduser() if wanted else temporary
    try:
        output.mkdir(parents=True, exist_ok=True)
        (temporary / "agents").mkdir()
        with _alone(output) if wanted and not inside and first else nullcontext():
            yield temporary, output.resolve()
    except OSError as error:
        raise InspectError(
            f"cannot write to {output}: {error.strerror or error}", "choose another OUTPUT_DIR"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Refuse a folder that another run on this machine writes to. The lock is on the folder itself, and ends
    with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise InspectError(
            f"another run writes to {output}", "wait for its end, or choose another `output_dir=`"
        ) from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def _inside(job: Job, folder: Path) -> Report | None:
    """This process is a worker already."""
    from inspector.distributed import rank as ddp_worker

    place = Place.of(os.environ, job.device)
    job.write(folder)
    ddp_worker.run(folder)
    if place.rank:
        return None
    ranks = json.loads((folder / "evidence.json").read_text())
    return report(job, ranks, None, Group(place.world))


def _concluded(job: Job, folder: Path, group: Group, outcome: Outcome) -> Report | None:
    """The report of a run that ended, or InspectError when there was nothing to run."""
    if outcome.refused is not None:
        raise InspectError(outcome.refused["message"], outcome.refused["hint"])
    file = folder / "evidence.json"
    ranks = json.loads(file.read_text()) if file.exists() else []
    if not ranks and not outcome.errors and outcome.stalled is None:
        tail = outcome.printed.splitlines()
        if group.nnodes > 1 and outcome.code == 0:
            return None  # the machine with rank 0 has the report
        where = f" at {group.endpoint}" if group.endpoint else ""
        last = tail[-1].strip() if tail else "the launcher printed nothing"
        raise InspectError(
            f"the processes did not find each other{where}: {last}",
            "check `rdzv_endpoint=`, `nnodes=` and `node_rank=`, and that the machines reach each other",
        )
    return report(job, ranks, outcome, group)
