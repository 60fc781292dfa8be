"""Ranks, each simulated in a process of its own, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.forking import nursery
from inspector.core.processes import Child, side_by_side
from inspector.scaling.child import Request

Tell = Callable[[str, float], None]
_MODULE = "inspector.scaling.child"
_CHILD = f"{_MODULE}:main"


def simulate(request: Request, ranks: Sequence[int], tell: Tell) -> list[dict[str, Any]]:
    """The summary of each rank. Raises InspectError with what stopped the first that failed."""
    with tempfile.TemporaryDirectory(prefix="inspector-scale-") as name, nursery(_MODULE) as forks:
        folder = Path(name)
        file = folder / "request.pickle"
        request.write(file)

        def start(rank: int) -> Child:
            return forks.child(_CHILD, [str(file), str(rank)], folder, f"rank{rank}")

        answers = {}
        tell("simulating ranks", 0)
        starts = [partial(start, rank) for rank in ranks]
        with closing(side_by_side(starts, len(starts))) as ended:
            for index, child, *_ in ended:
                answers[index] = _answer(child, ranks[index])
                tell("simulating ranks", len(answers) / len(ranks))
        return [answers[index] for index in range(len(ranks))]


def each(
    requests: Sequence[Request], tell: Callable[[int], None], at_once: int
) -> list[dict[str, Any] | InspectError]:
    """The summary of rank 0 of each request, or what stopped it; `at_once` run side by side. `tell` hears how
    many have ended."""
    answers: dict[int, dict[str, Any] | InspectError] = {}
    with tempfile.TemporaryDirectory(prefix="inspector-scale-") as name, nursery(_MODULE) as forks:
        folder = Path(name)

        def start(number: int) -> Child:
            file = folder / f"request{number}.pickle"
            requests[number].write(file)
            return forks.child(_CHILD, [str(file), "0"], folder, f"mesh{number}")

        starts = [partial(start, number) for number in range(len(requests))]
        with closing(side_by_side(starts, at_once)) as ended:
            for number, child, *_ in ended:
                answers[number] = _answer_or_error(child)
                tell(len(answers))
    return [answers[number] for number in range(len(requests))]


def _answer_or_error(child: Child) -> dict[str, Any] | InspectError:
    try:
        return _answer(child, 0)
    except InspectError as error:
        return error


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
