"""How a model is spread over devices: the mesh, what is sharded over which dimension, and how a step runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.naming import nearest

SHARDS = ("ddp", "zero1", "zero2", "fsdp", "hsdp")
"""ddp: every process keeps the model whole. zero1: the optimizer's state is split (torch's
ZeroRedundancyOptimizer under DDP). zero2: FSDP2 that keeps parameters whole from the forward to the backward.
fsdp: FSDP2. hsdp: FSDP2 inside groups of `dp`, replicated over `replicate`."""
DIMENSIONS = ("pp", "replicate", "dp", "tp")
"""Of a mesh, in the order in which ranks are numbered: neighbours are in the last."""
SCHEDULES = ("gpipe", "1f1b", "interleaved")
"""Of a pipeline: ScheduleGPipe, Schedule1F1B and ScheduleInterleaved1F1B of torch.distributed.pipelining."""
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
DTYPES = ("bfloat16", "float16", "float32")
_OTHERS = {
    "cp": ("context parallelism", "`sequence_parallel=True` splits the sequence over tp, outside attention"),
    "sp": ("a dimension of sequence parallelism", "use tp with `sequence_parallel=True`"),
    "ep": ("expert parallelism", "fsdp shards the experts, and a plan of tp may split their layers"),
}
"""Dimensions that others have, and what is possible in their place."""
_HINT = 'write e.g. `mesh="dp=64,tp=8"`'
FORWARD, BACKWARD = "F", "B"


@dataclass(frozen=True)
class Action:
    """Forward or backward of one microbatch in one stage of a pipeline."""

    kind: str
    stage: int
    microbatch: int


@dataclass(frozen=True)
class Layout:
    """`mesh` maps dimensions to their sizes. `reshard`: gathered parameters are freed after the forward.
    `wrap`: globs of the modules whose parameters FSDP2 gathers together (none: see `parallelize.units`).
    `checkpoints`: globs of modules computed again in the backward. `accumulate`: batches whose gradients are
    added before they are reduced and the optimizer steps. `param_dtype`, `reduce_dtype`: FSDP2's
    MixedPrecisionPolicy. `plan`: styles of tensor parallelism by module; None takes the model's own.
    `sequence`: what lies between the modules of the plan is split over tp along the sequence.
    `offload`: FSDP2's CPUOffloadPolicy. `schedule`: of the pipeline, if the mesh has pp. `microbatches`:
    parts of a batch; None takes one for each sample. `stages_per_rank`: of the interleaved schedule."""

    mesh: Mapping[str, int]
    shard: str = "fsdp"
    reshard: bool = True
    wrap: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    accumulate: int = 1
    param_dtype: str | None = None
    reduce_dtype: str | None = None
    plan: Mapping[str, str] | None = field(default=None)
    offload: bool = False
    sequence: bool = False
    schedule: str | None = None
    microbatches: int | None = None
    stages_per_rank: int = 1

    @staticmethod
    def of(mesh: str | Mapping[str, int], shard: str | None = None, **more: Any) -> Layout:
        """Checked. Raises InspectError for a layout that torch has no code for."""
        sizes = read_mesh(mesh)
        shard = shard or ("hsdp" if "replicate" in sizes else "fsdp")
        layout = Layout(sizes, shard, **more)
        layout._check()
        layout._check_pipeline()
        return layout

    @staticmethod
    def pipelined(
        mesh: str | Mapping[str, int],
        schedule: str | None,
        microbatches: int | None,
        stages_per_rank: int | None,
    ) -> dict[str, Any]:
        """The words of a pipeline, with their defaults. Raises InspectError for words without a pipeline."""
        if "pp" not in read_mesh(mesh):
            words = {"schedule": schedule, "microbatches": microbatches, "stages_per_rank": stages_per_rank}
            name = next((name for name, value in words.items() if value is not None), None)
            if name is not None:
                raise InspectError(
                    f"`{name}=` belongs to a pipeline, which the mesh does not have",
                    'add its stages, e.g. `mesh="dp=8,pp=4"`',
                )
            return {}
        schedule = schedule or "1f1b"
        if schedule not in SCHEDULES:
            hint = nearest(schedule, SCHEDULES, f"use one of: {', '.join(SCHEDULES)}")
            raise InspectError(f"unknown schedule {schedule!r}", hint)
        if stages_per_rank is None:
            stages_per_rank = 2 if schedule == "interleaved" else 1
        return {"schedule": schedule, "microbatches": microbatches, "stages_per_rank": stages_per_rank}

    @property
    def world_size(self) -> int:
        return prod(self.mesh.values())

    @property
    def data_parallel(self) -> int:
        """Processes with batches of their own."""
        return self.mesh.get("dp", 1) * self.mesh.get("replicate", 1)

    @property
    def tensor_parallel(self) -> int:
        return self.mesh.get("tp", 1)

    @property
    def pipeline(self) -> int:
        """Processes that a batch passes, one after another."""
        return self.mesh.get("pp", 1)

    @property
    def stages(self) -> int:
        """Parts that the model is cut into."""
        return self.pipeline * self.stages_per_rank

    @property
    def fully_sharded(self) -> bool:
        """Whether FSDP2 runs."""
        return self.shard in ("zero2", "fsdp", "hsdp") and self.data_parallel > 1

    @property
    def replicated(self) -> bool:
        """Whether DDP runs."""
        return self.shard in ("ddp", "zero1") and self.data_parallel > 1

    @property
    def text(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.mesh.items())

    def coordinates(self, rank: int) -> dict[str, int]:
        """The place of a rank in the mesh."""
        place: dict[str, int] = {}
        for name, size in reversed(list(self.mesh.items())):
            rank, place[name] = divmod(rank, size)
        return {name: place[name] for name in self.mesh}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _check(self) -> None:
        if self.shard not in SHARDS:
            raise InspectError(
                f"unknown sharding {self.shard!r}",
                nearest(self.shard, SHARDS, f"use one of: {', '.join(SHARDS)}"),
            )
        if self.shard == "hsdp" and not {"replicate", "dp"} <= set(self.mesh):
            raise InspectError(
                "hsdp shards over dp and replicates over replicate", 'use e.g. `mesh="replicate=8,dp=8"`'
            )
        if "replicate" in self.mesh and self.shard != "hsdp":
            raise InspectError(
                f"{self.shard} has no dimension `replicate`", 'use `shard="hsdp"`, or dp alone'
            )
        if self.replicated and self.tensor_parallel > 1:
            raise InspectError(
                f"{self.shard} beside tensor parallelism is not simulated", 'use `shard="fsdp"` or "zero2"'
            )
        for name in ("param_dtype", "reduce_dtype"):
            dtype = getattr(self, name)
            if dtype is None:
                continue
            if dtype not in DTYPES:
                raise InspectError(f"unknown `{name}=` {dtype!r}", f"use one of: {', '.join(DTYPES)}")
            if not self.fully_sharded:
                raise InspectError(
                    f"`{name}=` is a policy of FSDP2, which {self.shard} on {self.text} does not use",
                    "use `amp=True` or `dtype=`",
                )
        if self.accumulate < 1:
            raise InspectError(f"cannot accumulate {self.accumulate} batches", "use 1 or more")
        if self.sequence and self.tensor_parallel < 2:
            raise InspectError(
                "sequence parallelism splits over tp, which the mesh does not have",
                'use e.g. `mesh="dp=4,tp=2"`',
            )
        if self.offload and not self.fully_sharded:
            raise InspectError(
                f"`offload=` is a policy of FSDP2, which {self.shard} on {self.text} does not use",
                'use `shard="fsdp"` on two ranks or more',
            )
        if self.wrap and not self.fully_sharded:
            raise InspectError("`wrap=` names the units of FSDP2, which does not run", "leave it out")

    def _check_pipeline(self) -> None:
        if "pp" not in self.mesh:
            return
        if self.pipeline < 2:
            raise InspectError("a pipeline of one stage is none", "leave pp out")
        if self.replicated:
            raise InspectError(
                f"{self.shard} beside a pipeline is not simulated", 'use `shard="fsdp"` or "zero2"'
            )
        if self.sequence:
            raise InspectError(
                "sequence parallelism beside a pipeline is not simulated", "leave one of the two out"
            )
        if self.offload:
            raise InspectError("offload beside a pipeline is not simulated", "leave one of the two out")
        if self.accumulate > 1:
            raise InspectError(
                "the microbatches of a pipeline accumulate gradients", "raise `microbatches=` and `batch=`"
            )
        if self.microbatches is not None and self.microbatches < 1:
            raise InspectError(f"cannot cut a batch into {self.microbatches}", "use 1 or more")
        if (self.schedule == "interleaved") != (self.stages_per_rank > 1):
            raise InspectError(
                f"{self.schedule} does not run {self.stages_per_rank} stages on a rank",
                'use `schedule="interleaved"` for 2 or more, the others for 1',
            )


def read_mesh(mesh: str | Mapping[str, int]) -> dict[str, int]:
    """The sizes of a mesh written "dp=64,tp=8", in the order of `DIMENSIONS`. Raises InspectError."""
    if isinstance(mesh, Mapping):
        pairs: Sequence[tuple[str, Any]] = list(mesh.items())
    else:
        split = [part.partition("=") for part in str(mesh).split(",")]
        pairs = [(name.strip(), size.strip()) for name, _, size in split]
    sizes: dict[str, int] = {}
    for name, size in pairs:
        if name in _OTHERS:
            what, instead = _OTHERS[name]
            raise InspectError(f"{what} ({name}={size}) is not simulated", instead)
        if name not in DIMENSIONS:
            hint = (
                f"write dp={name}" if name.isdecimal() else f"{_HINT}; dimensions are {', '.join(DIMENSIONS)}"
            )
            raise InspectError(f"a mesh has no dimension {name!r}", hint)
        if name in sizes:
            raise InspectError(f"the mesh names {name} twice", _HINT)
        if not str(size).isdecimal() or not 0 < int(size) <= 2**20:
            raise InspectError(f"cannot read the size {str(size)!r} of {name}", _HINT)
        sizes[name] = int(size)
    return {name: sizes[name] for name in DIMENSIONS if name in sizes}
