"""A pipeline as a whole: which of its ranks to simulate, and how long all of them take together.

Ranks with as many blocks between neither end of the model run the same operators. Of those the one with the
most microbatches in flight holds most, and stands for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.scaling.bound import Machine, hop
from inspector.scaling.bubble import Played, in_flight, play
from inspector.scaling.child import Request
from inspector.scaling.layout import Action
from inspector.scaling.run import Tell, simulate


@dataclass(frozen=True)
class Whole:
    """A pipeline. `stands`: for each place in it the place that was simulated for it. `played` None: no
    device, or the rate of a link is not known. `step` and `mfu`: bounds of all ranks together."""

    stands: tuple[int, ...]
    in_flight: tuple[int, ...]
    played: Played | None
    step: float | None = None
    mfu: float | None = None


def simulate_line(
    request: Request, ranks: Sequence[int] | None, tell: Tell
) -> tuple[list[dict[str, Any]], Whole]:
    """The summaries of ranks, and of the pipeline that they are of: the ranks that are asked for, else the
    first and the last, and those that stand for the rest."""
    layout = request.layout
    each = layout.world_size // layout.pipeline
    asked = sorted({0, layout.world_size - 1} if ranks is None else set(ranks))
    answers = dict(zip(asked, simulate(request, asked, tell)))
    order = orders(answers[asked[0]])
    stands = standing(answers[asked[0]]["pipeline"]["counts"], order)
    missing = sorted({place * each for place in stands} - set(answers))
    if missing:
        answers |= dict(zip(missing, simulate(request, missing, tell)))
    whole = played(request, [answers[place * each] for place in stands], stands, order)
    return [answers[rank] for rank in sorted(answers)], whole


def orders(answer: Mapping[str, Any]) -> list[list[Action]]:
    return [[Action(*action) for action in actions] for actions in answer["pipeline"]["order"]]


def standing(counts: Sequence[int], order: Sequence[Sequence[Action]]) -> tuple[int, ...]:
    """For each place in a pipeline the place to simulate. `counts`: blocks of each stage."""
    ends = {0, len(counts) - 1}
    groups: dict[Any, list[int]] = {}
    for place, actions in enumerate(order):
        stages = sorted({action.stage for action in actions})
        alike = tuple((counts[stage], stage if stage in ends else None) for stage in stages)
        groups.setdefault(alike, []).append(place)
    most = {place: max(group, key=lambda one: (in_flight(order[one]), -one)) for group in groups.values()
            for place in group}  # fmt: skip
    return tuple(most[place] for place in range(len(order)))


def played(
    request: Request, answers: Sequence[dict[str, Any]], stands: tuple[int, ...],
    order: Sequence[Sequence[Action]],
) -> Whole:  # fmt: skip
    """The pipeline of `answers`, one for each place."""
    held = tuple(map(in_flight, order))
    machine = request.machine()
    if machine is None:
        return Whole(stands, held, None)
    works = [answer["pipeline"]["work"] for answer in answers]
    times = [answer["times"] for answer in answers]
    hops = _hops(answers[0]["pipeline"]["hidden"], len(order), request, machine)
    numbers = [value for work in works for value in (*work["each"], work["before"], work["after"])]
    numbers += [value for row in times for value in (row["inside"], row["between"])] + list(hops.values())
    if None in numbers:
        return Whole(stands, held, None)
    took = _took(works, stands, order)
    line = play(
        order, took.__getitem__, lambda one, other: hops[one, other] or 0.0,
        [work["before"] for work in works],
    )  # fmt: skip
    ends = [end + work["after"] for end, work in zip(line.ends, works)]
    links = [row[name] for row in times for name in ("inside", "between")]
    step = max(*ends, *links)
    useful = [row["useful"] for row in times]
    mfu = None if None in useful or not step else sum(useful) / len(useful) / step
    return Whole(stands, held, line, step, mfu)


def _took(
    works: Sequence[Mapping[str, Any]], stands: tuple[int, ...], order: Sequence[Sequence[Action]]
) -> dict[Action, float]:
    """Seconds of every action: of ranks that were not simulated those of the one that stands for them, stage
    by stage in their order."""
    took: dict[Action, float] = {}
    for place, (work, stand) in enumerate(zip(works, stands)):
        own = sorted({action.stage for action in order[place]})
        other = sorted({action.stage for action in order[stand]})
        measured = dict(zip(order[stand], work["each"]))
        for action in order[place]:
            twin = Action(action.kind, other[own.index(action.stage)], action.microbatch)
            took[action] = measured[twin]
    return took


def _hops(
    nbytes: int, places: int, request: Request, machine: Machine
) -> dict[tuple[int, int], float | None]:
    """Seconds from each place in the pipeline to its neighbours; the first and the last are neighbours too,
    if a rank has several stages."""
    each = request.layout.world_size // places
    pairs = [(place, (place + step) % places) for place in range(places) for step in (1, -1)]
    return {(a, b): hop(nbytes, a * each, b * each, machine)[1] for a, b in pairs}
