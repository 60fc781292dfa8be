"""What share of the scores of an attention its mask leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspector.tracing.capture.recorder import Recorder

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def share_left(recorder: Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """For a call of `scaled_dot_product_attention`; under a causal mask row i sees i + 1 keys."""
    given = {**dict(zip(_NAMES, args)), **kwargs}
    if not given.get("is_causal"):
        return recorder.density
    length, source = given["query"].shape[-2], given["key"].shape[-2]
    seen = sum(min(row, source) for row in range(1, length + 1))
    return seen / (length * source) if length * source else 1.0
