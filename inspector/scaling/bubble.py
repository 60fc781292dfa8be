"""How long the ranks of a pipeline work and wait for each other, from the order of their actions.

Each rank works off its own list. A forward waits for that of the stage before, a backward for that of the
stage after, and both for the time that the tensor takes over the link. Nothing else makes a rank wait, so the
end is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inspector.scaling.layout import BACKWARD, FORWARD, Action


@dataclass(frozen=True)
class Played:
    """Seconds at which each rank ends, and in which it works."""

    ends: tuple[float, ...]
    busy: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return max(self.ends)

    @property
    def bubble(self) -> float:
        """The share of all ranks' time in which they wait."""
        whole = self.seconds * len(self.ends)
        return 1 - sum(self.busy) / whole if whole else 0.0


def play(
    order: Sequence[Sequence[Action]], took: Callable[[Action], float], hop: Callable[[int, int], float],
    starts: Sequence[float],
) -> Played:  # fmt: skip
    """Work off the actions of all ranks, of which each begins at its time in `starts`. `took`: seconds of an
    action, `hop`: seconds from one rank to another. Raises ValueError if the ranks wait for each other."""
    rank_of = {action.stage: rank for rank, actions in enumerate(order) for action in actions}
    last = max(rank_of)
    done: dict[Action, float] = {}
    clocks, next_of = list(starts), [0] * len(order)
    left = sum(map(len, order))
    while left:
        before = left
        for rank, actions in enumerate(order):
            while next_of[rank] < len(actions):
                action = actions[next_of[rank]]
                ready = _ready(action, last, done, rank_of, hop)
                if ready is None:
                    break
                clocks[rank] = done[action] = max(clocks[rank], ready) + took(action)
                next_of[rank] += 1
                left -= 1
        if left == before:
            raise ValueError("the ranks of this pipeline wait for each other")
    busy = tuple(sum(took(action) for action in actions) for actions in order)
    return Played(tuple(clocks), busy)


def _ready(
    action: Action, last: int, done: Mapping[Action, float], rank_of: Mapping[int, int],
    hop: Callable[[int, int], float],
) -> float | None:  # fmt: skip
    """When the input of an action is there; None if not yet."""
    if action.kind == FORWARD:
        if action.stage == 0:
            return 0.0
        source = Action(FORWARD, action.stage - 1, action.microbatch)
    elif action.stage == last:
        source = Action(FORWARD, last, action.microbatch)
    else:
        source = Action(BACKWARD, action.stage + 1, action.microbatch)
    if source not in done:
        return None
    sender, receiver = rank_of[source.stage], rank_of[action.stage]
    return done[source] + (hop(sender, receiver) if sender != receiver else 0.0)


def in_flight(actions: Sequence[Action]) -> int:
    """The most microbatches whose forward has run and whose backward has not, in all stages of a rank."""
    most = now = 0
    for action in actions:
        now += 1 if action.kind == FORWARD else -1
        most = max(most, now)
    return most
