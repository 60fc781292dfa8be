"""Do two tensors hold one draw? A seed before each layer, or a layer that was copied, makes it so."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.initialization.examine import Evidence
from inspector.initialization.structure import PREFIX, one_draw, same_values
from inspector.reporting.checks import check, failed, passed
from inspector.reporting.report import Finding


@check
def same_draw(drawn: list[Evidence]) -> Iterator[Finding]:
    """No two random tensors hold the same draw, be it scaled, negated or in another order: no seed was set
    before each layer, and no layer was copied."""
    usable = [e for e in drawn if e.varied]
    samples = [e.sample for e in usable if e.sample is not None]
    names = [e.target.name for e in usable]
    said: set[int] = set()
    for first, second, ratio in one_draw([e.values.detach().flatten()[:PREFIX] for e in usable]):
        said.add(second)
        yield failed(f"starts with the very draw of {names[first]}{_scaled(ratio)}; {_CAUSE}", names[second],
                     same_as=names[first], ratio=ratio)  # fmt: skip
    for first, second in same_values(samples):
        if second not in said:
            message = f"holds the values of {names[first]} in another order"
            yield failed(message, names[second], same_as=names[first])
            said.add(second)
    if len(usable) > 1 and not said:
        yield passed(f"{len(usable)} random tensors hold {len(usable)} different draws")


_CAUSE = "was a seed set before each layer, or the layer copied?"


def _scaled(ratio: float) -> str:
    sign = ", negated" if ratio < 0 else ""
    return sign if abs(abs(ratio) - 1) < 1e-3 else f"{sign}, scaled by {abs(ratio):.4g}"
