"""What share of the scores of an attention its mask leaves.

A causal flag tells it, or the mask itself: where that is True or, added to the scores, above -10,000. On meta
a mask has no values; most are made of sizes alone, and those are computed again on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inspector.tracing.capture.kernels import aside
from inspector.tracing.capture.replay import replayed
from inspector.tracing.formulas.traffic import tensors
from inspector.tracing.record import Op

if TYPE_CHECKING:
    from inspector.tracing.capture.recorder import Recorder

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
MASKED = -10_000.0
"""The softmax of what this is added to is 0 in every dtype; models write minus infinity, a dtype's lowest
value, -1e9 or -1e4."""


def share_left(recorder: Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """For a call of `scaled_dot_product_attention`: None where the values of its mask are not known."""
    given = {**dict(zip(_NAMES, args)), **kwargs}
    if given.get("is_causal"):  # row i sees i + 1 keys
        length, source = given["query"].shape[-2], given["key"].shape[-2]
        seen = sum(min(row, source) for row in range(1, length + 1))
        return seen / (length * source) if length * source else 1.0
    mask = given.get("attn_mask")
    if not isinstance(mask, Tensor):
        return recorder.density
    return _read(mask) if mask.device.type != "meta" else _worked_out(recorder, mask)


def unread(ops: Sequence[Op]) -> tuple[str, ...]:
    """What to say where the masks of some attentions are known and those of others are not."""
    shares = {op.density for op in ops if op.macs}
    if None not in shares or not shares - {None, 1.0}:
        return ()
    why = "some masks depend on values that meta does not have"
    return (f"{why}: how many scores they leave is not known, and no MACs under masks are given",)


def _read(mask: Tensor) -> float | None:
    try:
        with aside(), torch.no_grad():
            once = mask[tuple(slice(0, 1) if step == 0 else slice(None) for step in mask.stride())]
            left = once if once.dtype is torch.bool else once > MASKED
            return int(left.count_nonzero()) / once.numel() if once.numel() else 1.0
    except (RuntimeError, NotImplementedError):  # a nested or otherwise special tensor
        return None


def _worked_out(recorder: Recorder, mask: Tensor) -> float | None:
    """Layers share their mask: a share stands as long as nothing writes to the mask's storage."""
    spec = recorder.spec(mask)
    place = (spec, mask.stride())
    share, until = recorder.mask_shares.get(place, (None, None))
    if until is None or _written(recorder.raw[until:], spec.storage):
        values = replayed(recorder.raw, recorder.storages, spec, mask.stride())
        share = None if values is None else _read(values)
    recorder.mask_shares[place] = share, len(recorder.raw)
    return share


def _written(calls: Sequence[Any], storage: int) -> bool:
    return any(
        storage == spec.storage
        for call in calls
        for i in call.operator.written
        if i < len(call.args)
        for spec in tensors(call.args[i])
    )
