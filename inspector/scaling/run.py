"""Ranks, each simulated in a process of its own, side by side."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.processes import Child
from inspector.scaling.child import Request

Tell = Callable[[str, float], None]
_POLL = 0.05
_CHILD = "inspector.scaling.child:main"


def simulate(request: Request, ranks: Sequence[int], tell: Tell) -> list[dict[str, Any]]:
    """The summary of each rank. Raises InspectError with what stopped the first that failed."""
    with tempfile.TemporaryDirectory(prefix="inspector-scale-") as name:
        folder = Path(name)
        file = folder / "request.pickle"
        request.write(file)
        children: list[Child] = []
        try:
            for rank in ranks:
                children.append(Child(_CHILD, [str(file), str(rank)], folder, f"rank{rank}"))
            _wait(children, tell)
            return [_answer(child, rank) for child, rank in zip(children, ranks)]
        finally:
            for child in children:
                child.end()


def each(
    requests: Sequence[Request], tell: Callable[[int], None], at_once: int
) -> list[dict[str, Any] | InspectError]:
    """The summary of rank 0 of each request, or what stopped it; `at_once` run side by side. `tell` hears how
    many have ended."""
    answers: dict[int, dict[str, Any] | InspectError] = {}
    with tempfile.TemporaryDirectory(prefix="inspector-scale-") as name:
        folder = Path(name)
        waiting, running = list(range(len(requests))), dict[int, Child]()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    number = waiting.pop(0)
                    file = folder / f"request{number}.pickle"
                    requests[number].write(file)
                    running[number] = Child(_CHILD, [str(file), "0"], folder, f"mesh{number}")
                for number, child in list(running.items()):
                    if child.code is not None:
                        answers[number] = _answer_or_error(running.pop(number))
                        child.end()
                        tell(len(answers))
                time.sleep(_POLL)
        finally:
            for child in running.values():
                child.end()
    return [answers[number] for number in range(len(requests))]


def _answer_or_error(child: Child) -> dict[str, Any] | InspectError:
    try:
        return _answer(child, 0)
    except InspectError as error:
        return error


def _wait(children: Sequence[Child], tell: Tell) -> None:
    ended = -1
    while (now := sum(child.code is not None for child in children)) < len(children):
        if now != ended:
            ended = now
            tell("simulating ranks", ended / len(children))
        time.sleep(_POLL)


def _answer(child: Child, rank: int) -> dict[str, Any]:
    answer = child.answer() if child.code == 0 else None
    if answer is None:
        raise InspectError(
            f"rank {rank} could not be simulated: {child.death()}", "try a smaller batch or model"
        )
    if "error" in answer:
        message, hint = answer["error"]
        raise InspectError(message, hint)
    return answer  # type: ignore[no-any-return]
