"""Apply a scheme to a live model: each selected tensor is written once, by torch.nn.init's own function.

The bytes are those that torch.nn.init gives after `torch.manual_seed(seed)`, layer by layer in the order
of `model.modules()`, a layer's weight before its bias. A bfloat16 tensor is drawn in bfloat16, as a user
of torch.nn.init draws it: torch's grids for low precision are coarse (see `statistics`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from inspector.core.errors import InspectError
from inspector.initialization import parametrized
from inspector.initialization.laws import Law
from inspector.initialization.schemes import Choice, choose, draw
from inspector.initialization.targets import Target, chosen, of_model
from inspector.reporting.report import Finding
from inspector.tracing.capture.isolate import random_state, seed_all
from inspector.tracing.subclass import largest, parts, wraps


@dataclass(frozen=True)
class Write:
    """One tensor that was written. `changed` tells whether its bytes differ from before."""

    target: Target
    law: Law
    changed: bool
    frozen: bool


@dataclass(frozen=True)
class Applied:
    """What `apply` wrote, in order; `layers` are the selected ones, `of` how many layers there are."""

    choice: Choice
    writes: tuple[Write, ...]
    layers: tuple[str, ...]
    of: int
    findings: tuple[Finding, ...] = ()

    @property
    def targets(self) -> list[Target]:
        return [write.target for write in self.writes]


def apply(
    model: nn.Module,
    scheme: str | Choice,
    layers: list[str] | None = None,
    seed: int = 0,
    bias: str | float = "auto",
    **options: float | str | None,
) -> Applied:
    """Initialise the selected layers of `model` in place. The random state is seeded, then put back.

    Without `layers`: all layers with a weight of two or more dimensions; embeddings, recurrent and norm
    layers only when named. Raises InspectError before anything is written.
    """
    choice = scheme if isinstance(scheme, Choice) else choose(scheme, bias, **options)
    everything = of_model(model)
    selected = chosen(everything, layers)
    jobs = [(target, law) for target in selected if (law := choice.law(target)) is not None]
    _check(jobs)
    with random_state(), torch.no_grad():
        seed_all(seed)
        writes = tuple(_write(target, law, choice) for target, law in jobs)
    return Applied(
        choice=choice,
        writes=writes,
        layers=tuple(dict.fromkeys(target.layer for target in selected)),
        of=len({target.layer for target in everything}),
        findings=(*_unchanged(writes), *_notes(writes), *_outside(everything, selected, writes)),
    )


def _check(jobs: list[tuple[Target, Law]]) -> None:
    if not jobs:
        raise InspectError("nothing would be written", "name other layers, or another `bias=` rule")
    for target, _ in jobs:
        assert target.module is not None
        tensor = parametrized.source(target.module, target.attribute)
        if tensor.is_meta:
            raise InspectError(f"{target.name} is on meta: there is nothing to write", "build it on the cpu")
        dtype = largest(parts(tensor)).dtype if wraps(tensor) else tensor.dtype
        if not dtype.is_floating_point or "float8" in str(dtype):
            raise InspectError(
                f"{target.name} is {str(dtype).removeprefix('torch.')}: torch.nn.init cannot draw it",
                "initialise the model before it is quantized, or leave the layer out with `layers=`",
            )


def _write(target: Target, law: Law, choice: Choice) -> Write:
    assert target.module is not None
    tensors = parametrized.written(target.module, target.attribute)
    before = [tensor.detach().clone() for tensor in tensors]
    parametrized.assign(target.module, target.attribute, partial(draw, law=law, target=target, choice=choice))
    after = parametrized.written(target.module, target.attribute)
    changed = any(not torch.equal(old, new.detach()) for old, new in zip(before, after))
    return Write(target, law, changed, frozen=not any(tensor.requires_grad for tensor in tensors))


def _unchanged(writes: tuple[Write, ...]) -> list[Finding]:
    """A random law that leaves the bytes as they were was not drawn, unless the seed was the same."""
    same = [w.target.name for w in writes if w.law.random and not w.changed]
    if not same:
        return []
    message = f"{len(same)} tensors already had the same bytes: they were initialised with this seed before"
    return [Finding("coverage", "skip", same[0], message, {"tensors": same})]


def _notes(writes: tuple[Write, ...]) -> list[Finding]:
    findings = []
    frozen = [write.target.name for write in writes if write.frozen]
    if frozen:
        message = f"{len(frozen)} frozen tensors (requires_grad False) were initialised too"
        findings.append(Finding("frozen", "warn", frozen[0], message, {"tensors": frozen}))
    tied = {write.target.name: list(write.target.aliases) for write in writes if write.target.aliases}
    if tied:
        name, names = next(iter(tied.items()))
        message = f"{len(tied)} tensors were written once and are used again: {name} is {', '.join(names)}"
        findings.append(Finding("tied", "warn", name, message, tied))
    return findings


def _outside(everything: list[Target], selected: list[Target], writes: tuple[Write, ...]) -> list[Finding]:
    """Weights of two or more dimensions that keep their values, which a reader might not expect."""
    written = {write.target.name for write in writes}
    shapes = {
        t.name: t for t in everything if t.name not in written and t.fans is not None and t.role != "bias"
    }
    left = [name for name, t in shapes.items() if t.role == "weight" or t.read().dim() > 1]
    if not left:
        return []
    shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
    message = f"{len(left)} tensors of two or more dimensions were left as they are: {shown}"
    return [Finding("coverage", "skip", left[0], message, {"tensors": left})]
