"""A step played on an allocator: what lives when, and the peak.

Training plays two steps, as a loop does that calls `zero_grad()` (gradients are freed), forward, backward
and the optimizer: the first makes the optimizer's state, the second is the one that counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from inspector.footprint.allocator import CachingAllocator, ExactAllocator, rounded
from inspector.footprint.blocks import MATMULS, Block, blocks
from inspector.footprint.cublas import Workspaces
from inspector.footprint.optimizers import OPTIMIZERS, Optimizer
from inspector.footprint.workspaces import ATTENTION, Rules, Workspace
from inspector.tracing.record import Op, Trace

CUDA_CONTEXT = (200 * 2**20, 800 * 2**20)
"""What CUDA itself takes outside torch's allocator: a range, by device, driver and loaded kernels."""

OPTIMIZER_STEP = -1
"""The moment of the optimizer's step, after all operators."""


@dataclass(frozen=True)
class Plan:
    """How the step is run. `optimizer` None: no training. `exact`: count bytes as the CPU does, without
    rounding and without workspaces. `workspaces`: what cuBLAS takes; `rules`: what the kernels of
    convolutions and attention take. `recorded`: the trace holds the optimizer's step, and its state."""

    optimizer: Optimizer | None = None
    master_weights: bool = False
    exact: bool = False
    workspaces: Workspaces = field(default_factory=Workspaces.expected)
    rules: Rules = field(default_factory=Rules)
    recorded: bool = False

    @staticmethod
    def of(trace: Trace, optimizer: str = "sgd", **more: Any) -> Plan:
        chosen = OPTIMIZERS[optimizer] if trace.phase == "train" else None
        return Plan(chosen, **more)  # type: ignore[arg-type]


@dataclass
class Memory:
    """What a step takes, in bytes: `allocated` at its peak, of which the tensors asked for `requested`;
    `reserved` by torch from the driver; `extras` what workspaces that are not in it may add to the peak,
    by owner, kind and source: bytes at least and at most. `peak_at` is an index into the operators, or
    OPTIMIZER_STEP; `peak` the blocks that live there with the bytes each counts for; `curve` the most bytes
    of each category at each operator, and in its last row in the optimizer's step."""

    allocated: int = 0
    reserved: int = 0
    requested: int = 0
    extras: dict[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)
    peak_at: int = 0
    peak: list[tuple[Block, int]] = field(default_factory=list)
    curve: list[dict[str, int]] = field(default_factory=list)

    @property
    def categories(self) -> Counter[str]:
        """Bytes of each category at the peak."""
        sums: Counter[str] = Counter()
        for block, nbytes in self.peak:
            sums[block.category] += nbytes
        return sums

    def extra(self, owner: str) -> tuple[int, int]:
        """What the workspaces of `owner` may add to the peak: bytes at least and at most."""
        ranges = [extra for (whose, _, _), extra in self.extras.items() if whose == owner]
        return max((low for low, _ in ranges), default=0), max((high for _, high in ranges), default=0)

    @property
    def workspaces(self) -> int:
        """The most that the workspaces of a library may add to the peak."""
        return max((high for _, high in self.extras.values()), default=0)

    @property
    def needed(self) -> int:
        """What a device must have: what torch reserves, and the upper end of the CUDA context."""
        return self.reserved + CUDA_CONTEXT[1]


def simulate(trace: Trace, plan: Plan) -> Memory:
    """The memory of a step of `trace` under `plan`: a pure function of the two."""
    run = _Run(trace, plan)
    run.prepare()
    if plan.optimizer is not None or plan.recorded:
        run.step(watched=False)
    run.step(watched=True)
    return run.result()


@dataclass
class _Lived:
    """A block, the bytes that it counts for, and when it lived, in ticks of the run's clock."""

    block: Block
    size: int
    since: int
    until: int | None = None


class _Run:
    """One allocator, the blocks that live in it, and what was observed."""

    def __init__(self, trace: Trace, plan: Plan) -> None:
        self.trace, self.plan = trace, plan
        self.allocator = ExactAllocator() if plan.exact else CachingAllocator()
        self.live: dict[int, int | None] = {}
        self.history: list[_Lived] = []
        self.clock = self.peak_clock = 0
        self.totals: Counter[str] = Counter()
        self.memory = Memory()
        self.states: list[int] = []
        self.gradients: list[int] = []
        self.handles: set[str] = set()
        needed = blocks(trace)
        self.before = [block for block in needed if block.birth is None]
        self.born: dict[int, list[Block]] = defaultdict(list)
        for block in needed:
            if block.birth is not None:
                self.born[block.birth].append(block)
        self.highest: dict[tuple[str, str, str], tuple[int, int]] = {}

    def make(self, block: Block) -> int:
        """Allocate a block; its key in `live`."""
        address = self.allocator.malloc(block.nbytes)
        key, size = len(self.history), self.allocator.size(address)
        self.clock += 1
        self.history.append(_Lived(block, size, self.clock))
        self.live[key] = address
        self.totals[block.category] += size
        return key

    def release(self, key: int) -> None:
        lived = self.history[key]
        self.clock += 1
        lived.until = self.clock
        self.totals[lived.block.category] -= lived.size
        self.allocator.free(self.live.pop(key))

    def prepare(self) -> None:
        """Allocate what exists before the first step: the model, then the inputs."""
        for first in (True, False):
            for block in self.before:
                if (block.category != "inputs") is first:
                    self.make(block)
        if self.plan.master_weights:
            for block in self.born_gradients():
                if block.item < 4:
                    nbytes = 4 * block.numel
                    self.make(block._replace(nbytes=nbytes, category="master weights", birth=None))

    def born_gradients(self) -> Iterator[Block]:
        for index in sorted(self.born):
            yield from (block for block in self.born[index] if block.category == "gradients")

    def step(self, watched: bool) -> None:
        for key in self.gradients:
            self.release(key)
        self.gradients = []
        dying: dict[int, list[int]] = defaultdict(list)
        last = len(self.trace.ops) - 1
        for index, op in enumerate(self.trace.ops):
            workspaces = [] if self.plan.exact else self.plan.rules.workspaces(op)
            passing = [*self.cublas(op), *self.taken(workspaces)]
            for block in self.born.get(index, ()):
                key = self.make(block)
                if block.category == "gradients":
                    self.gradients.append(key)
                else:
                    dying[last if block.death is None else max(block.death, index)].append(key)
            if watched:
                self.look(index, workspaces)
            for key in passing:
                self.release(key)
            if index < last:
                for key in dying.pop(index, ()):
                    self.release(key)
        if self.plan.optimizer is not None:
            self.optimize(self.plan.optimizer, watched)
        for key in dying.pop(last, ()):
            self.release(key)

    def cublas(self, op: Op) -> list[int]:
        """cuBLAS's memory for a product: kept for each thread's handle, or the key of what is freed after."""
        if op.name not in MATMULS or self.plan.exact:
            return []
        cublas = self.plan.workspaces
        if not cublas.kept:
            return [self.make(Block(cublas.passing(op.name), "workspace", "", "cuBLAS", None, None))]
        if op.phase not in self.handles:
            self.handles.add(op.phase)
            self.make(Block(cublas.nbytes, "workspace", "", "cuBLAS", None, None))
        return []

    def taken(self, workspaces: list[Workspace]) -> list[int]:
        """The keys of what the backward of attention takes at least."""
        return [
            self.make(Block(workspace.low, "workspace", "", ATTENTION, None, None))
            for workspace in workspaces
            if workspace.owner == ATTENTION and workspace.low
        ]

    def optimize(self, optimizer: Optimizer, watched: bool) -> None:
        grown = list(self.born_gradients())
        if not self.states:
            for block in grown:
                nbytes = optimizer.state_bytes(block.numel, self.item(block))
                state = block._replace(nbytes=nbytes, category="optimizer state", op=optimizer.name)
                self.states += [self.make(state) for _ in range(optimizer.states)]
        passing = []
        for _ in range(optimizer.temporaries):
            for block in grown:
                nbytes = block.numel * self.item(block)
                passing.append(self.make(block._replace(nbytes=nbytes, category="temporaries", op="step")))
        if watched:
            self.look(OPTIMIZER_STEP, [])
        for key in passing:
            self.release(key)

    def item(self, gradient: Block) -> int:
        """Bytes of an element of what the optimizer works on."""
        return max(gradient.item, 4) if self.plan.master_weights else gradient.item

    def look(self, index: int, workspaces: list[Workspace]) -> None:
        """Note what lives now; the first of equal peaks counts."""
        self.memory.curve.append(dict(self.totals))
        now = self.allocator.allocated
        for low, high, owner, kind, source in workspaces:
            there = rounded(low) if owner == ATTENTION and low else 0  # already in `now`
            before = self.highest.get((owner, kind, source), (0, 0))
            least, most = (now - there + rounded(nbytes) if nbytes else 0 for nbytes in (low, high))
            self.highest[owner, kind, source] = max(before[0], least), max(before[1], most)
        if now > self.memory.allocated:
            self.memory.allocated, self.memory.peak_at = now, index
            self.peak_clock = self.clock

    def result(self) -> Memory:
        memory = self.memory
        memory.reserved = self.allocator.reserved
        memory.peak = [
            (lived.block, lived.size)
            for lived in self.history
            if lived.since <= self.peak_clock and (lived.until is None or lived.until > self.peak_clock)
        ]
        memory.requested = sum(block.nbytes for block, _ in memory.peak)
        memory.extras = {
            which: (max(0, low - memory.allocated), max(0, high - memory.allocated))
            for which, (low, high) in self.highest.items()
        }
        return memory
