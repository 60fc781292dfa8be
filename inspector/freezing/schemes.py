"""How projects count frozen stages, and what one project's N is in the others'.

maskrcnn     maskrcnn-benchmark, `_freeze_backbone`: stages range(N); 1 is the stem.
detectron2   `MODEL.BACKBONE.FREEZE_AT`: 1 is the stem, 2 the first stage too. Its Swin freezes the
             patch embedding at 0 already, absolute positions at 1, the first stage at 2.
mmdet        `frozen_stages`: -1 is none, 0 the stem.
torchvision  `trainable_backbone_layers`: how many stages from the top stay trainable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inspector.core.errors import InspectError
from inspector.core.naming import nearest


@dataclass(frozen=True)
class Scheme:
    """One project's way of counting: from its N to the number of frozen stages, and back."""

    name: str
    meaning: str
    frozen: Callable[[int, int], int]  # (its N, number of stages) -> stages frozen from the stem on
    written: Callable[[int, int], int]  # (stages frozen, number of stages) -> its N


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("maskrcnn", "stages range(N)", lambda n, total: n, lambda frozen, total: frozen),
        Scheme("detectron2", "FREEZE_AT, 1 = stem", lambda n, total: n, lambda frozen, total: frozen),
        Scheme(
            "mmdet",
            "frozen_stages, -1 = none, 0 = stem",
            lambda n, total: n + 1,
            lambda frozen, total: frozen - 1,
        ),
        Scheme(
            "torchvision",
            "trainable layers from the top",
            lambda n, total: total - n,
            lambda frozen, total: total - frozen,
        ),
    )
}
_DETECTRON2_SWIN = Scheme(
    "detectron2",
    "FREEZE_AT of its Swin: 0 and 1 = patch embedding, -1 = none",
    lambda n, total: n if n > 1 else n + 1 if n < 1 else 1,
    lambda frozen, total: frozen if frozen > 1 else frozen - 1,
)


def scheme(name: str, swin: bool = False) -> Scheme:
    """The scheme called `name`; raises InspectError with the nearest."""
    if not isinstance(name, str) or name not in SCHEMES:
        raise InspectError(
            f"no freezing scheme is called {name!r}",
            nearest(str(name), SCHEMES, f"use one of: {', '.join(SCHEMES)}"),
        )
    return _DETECTRON2_SWIN if swin and name == "detectron2" else SCHEMES[name]


def frozen_stages(at: int, name: str, total: int, swin: bool = False) -> int:
    """How many of `total` stages N freezes. An N out of range raises InspectError with the range:
    detectron2 itself silently freezes everything there."""
    counting = scheme(name, swin)
    if not isinstance(at, int) or isinstance(at, bool):
        raise InspectError(f"FREEZE.AT is {at!r}, not a whole number", "write `at=2`, or FREEZE.AT 2")
    frozen = counting.frozen(at, total)
    if not 0 <= frozen <= total:
        counted = f", as {name} counts" if name != "maskrcnn" else ""
        ends = sorted((counting.written(0, total), counting.written(total, total)))
        raise InspectError(
            f"`at={at}` is not from {ends[0]} to {ends[1]}{counted}: the model has {total} stages",
            "list them: inspect stages MODEL",
        )
    return frozen


def equivalents(frozen: int, total: int, swin: bool = False) -> list[dict[str, object]]:
    """A row for each scheme: its N for the same frozen stages, and what N means there."""
    countings = [scheme(name, swin) for name in SCHEMES]
    return [{"scheme": c.name, "n": c.written(frozen, total), "meaning": c.meaning} for c in countings]
