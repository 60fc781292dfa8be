"""From cuts to stages: every parameter name gets exactly one place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from inspector.backbones.walk import Resolution, Walk, above, join
from inspector.tracing import _torch


@dataclass(frozen=True)
class Stage:
    """A part of a backbone that is frozen or trained as one.

    `modules` are outermost paths in the order in which they run, `parameters` every name in it, bare
    ones (`cls_token`) and tied ones included, in the order of registration. `resolution` is that of its
    output: (56, 56), (8, 28, 28) for video, (197,) tokens; None when unknown.
    """

    index: int
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    resolution: Resolution | None

    @property
    def members(self) -> tuple[str, ...]:
        """The modules, then the bare parameters (`cls_token`) that lie in none of them."""
        below = tuple(f"{path}." for path in self.modules)
        return (*self.modules, *(name for name in self.parameters if not name.startswith(below)))


@dataclass(frozen=True)
class Backbone:
    """The stages in order; `rest` names the parameters in none (neck, final norm, head), `rule` says in
    one line what found them."""

    stages: tuple[Stage, ...]
    rest: tuple[str, ...]
    rule: str


@dataclass(frozen=True)
class Cuts:
    """What a rule found: the module paths that make each stage. What lies between them is filled in
    (see `placed`); with an empty first group, all that runs before the others is stage 0."""

    groups: tuple[tuple[str, ...], ...]
    rule: str


def partition(walk: Walk, cuts: Cuts, *, fill: bool = True) -> Backbone:
    """The stages of `cuts`. Without `fill` they hold what the groups name and nothing else."""
    opened = {walk.canonical(parent) for group in cuts.groups for path in group for parent in above(path)}
    atoms = _ordered(walk, list(_atoms(walk, opened, "")), cuts)
    places = placed(walk, atoms, cuts, fill)
    owner = {name: places[atom] for atom in atoms for name in walk.inside(atom)}
    used = set(owner.values()) if fill else range(len(cuts.groups))
    kept = [group for group in range(len(cuts.groups)) if group in used]
    modules = [_folded(walk, _members(places, kept, n), atoms, opened) for n in range(len(kept))]
    stages = tuple(
        Stage(
            n,
            modules[n],
            tuple(name for name in walk.parameters if owner[name] == group),
            _resolution(walk, modules[n], modules[n + 1] if fill and n + 1 < len(kept) else ()),
        )
        for n, group in enumerate(kept)
    )
    rest = tuple(name for name in walk.parameters if owner[name] is None)
    rule = cuts.rule if 0 in kept else cuts.rule.replace("stem, ", "")
    return Backbone(stages, rest, rule)


def _members(places: dict[str, int | None], kept: list[int], n: int) -> list[str]:
    """The atoms of the n-th group that has parameters, and of those without before it."""
    before = kept[n - 1] if n else -1
    return [atom for atom, group in places.items() if group is not None and before < group <= kept[n]]


def _atoms(walk: Walk, opened: set[str], path: str) -> Iterator[str]:
    """The parts that are never split, in the order of registration: what the groups name, and next to
    it or to a parent of it every module and bare parameter."""
    module = walk.modules[path]
    for name, parameter in _torch.parameters_of(module).items():
        if parameter is not None:
            yield join(path, name)
    for name, child in _torch.children_of(module).items():
        if child is not None:
            below = join(path, name)
            yield from _atoms(walk, opened, below) if walk.canonical(below) in opened else [below]


def _ordered(walk: Walk, atoms: list[str], cuts: Cuts) -> list[str]:
    """The atoms in the order in which they run. One that does nothing (a dropout), or that nothing reads
    (a mask token), stays behind its registered neighbour; a module of parameters that never runs (an
    auxiliary head) comes last."""
    named = {path for group in cuts.groups for path in group}
    moments: dict[str, float] = {}
    previous = -1.0
    for atom in atoms:
        moment = walk.when(atom)
        idle = moment is None and walk.ran and atom in walk.modules and atom not in named
        if idle and walk.inside(atom):
            moments[atom] = inf
        else:
            previous = moments[atom] = previous if moment is None else moment
    return sorted(atoms, key=moments.__getitem__)


def placed(walk: Walk, atoms: list[str], cuts: Cuts, fill: bool) -> dict[str, int | None]:
    """The group of each atom: what runs before the first one named is stage 0, what runs between two
    belongs to the later one (a transition, a pooling), what runs after the last to none."""
    given = {path: k for k, group in enumerate(cuts.groups) for path in group}
    shared = {walk.canonical(path): k for path, k in given.items()}
    named = {
        atom: given.get(atom, shared.get(walk.canonical(atom)))
        for atom in atoms
        if atom in given or walk.canonical(atom) in shared
    }
    if not fill:
        return {atom: named.get(atom) for atom in atoms}
    places: dict[str, int | None] = dict.fromkeys(atoms)
    following = None
    for atom in reversed(atoms):
        following = places[atom] = named.get(atom, following)
    for atom in atoms:
        if atom in named:
            break
        places[atom] = 0
    for atom in atoms:  # what prepares the image is in no stage
        if walk.inside(atom) or atom in named:
            break
        places[atom] = None
    return places


def _folded(walk: Walk, mine: list[str], atoms: list[str], opened: set[str]) -> tuple[str, ...]:
    """The modules among `mine`, a parent in place of its parts where all of them are."""
    others = set(atoms) - set(mine)
    whole = {path for path in opened if path and not any(a.startswith(f"{path}.") for a in others)}
    paths = (min((p for p in above(atom) if p in whole), key=len, default=atom) for atom in mine)
    return tuple(dict.fromkeys(path for path in paths if path in walk.modules))


def _resolution(walk: Walk, modules: tuple[str, ...], following: tuple[str, ...]) -> Resolution | None:
    """What the next stage reads first (a stem's class token has joined by then), else what this one
    leaves."""
    entered = (walk.enters_at(path) for path in following)
    left = (walk.leaves_at(path) for path in reversed(modules))
    return next((r for r in (*entered, *left) if r is not None), None)
