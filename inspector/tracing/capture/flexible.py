"""FlexAttention: one fused operator, its score and mask functions included, forward and backward.

torch runs it as one kernel on a GPU; without a compiler it writes the scores out, and on the CPU it has no
backward. Recorded is the kernel, on every device. MACs are those of dense attention; the share of the scores
that the block mask leaves stands beside them, as for a causal mask. It is taken from the mask function,
score by score, not from the blocks that a kernel computes in whole.

Source: Dong et al. 2024, "Flex Attention: A Programming Model for Generating Optimized Attention Kernels".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inspector.tracing import _torch
from inspector.tracing._torch import TorchDispatchMode
from inspector.tracing.capture.kernels import aside

if TYPE_CHECKING:
    from inspector.tracing.capture.recorder import Recorder

MODULE = "torch.nn.attention.flex_attention"
_LIMIT = 2**30
"""Scores of a mask beyond which its share is not worked out: some seconds."""
_CHUNK = 2**24
_UNKNOWN = "{}: how many of its scores it leaves is not known, and no MACs under masks are given"


@contextmanager
def on_any_device() -> Iterator[None]:
    """Let `flex_attention` take tensors of every device, with gradients too, and without its advice to
    compile: what runs is never its own eager form."""
    module = sys.modules.get(MODULE)
    changes = {_torch.FLEX_DEVICES: lambda *_: None, _torch.FLEX_UNCOMPILED: True}
    before = {name: vars(module)[name] for name in changes if name in vars(module)} if module else {}
    try:
        for name in before:
            setattr(module, name, changes[name])
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def flex_attention(
    recorder: Recorder,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor],
    block_mask: tuple[Any, ...],
    scale: float,
    kernel_options: dict[str, Any],
    score_buffers: tuple[Any, ...] = (),
    mask_buffers: tuple[Any, ...] = (),
) -> tuple[Tensor, ...]:
    """Record one attention. Shapes: query (B, Hq, L, E), key (B, Hkv, S, E), value (B, Hkv, S, Ev)."""
    rest = (score_mod, block_mask, scale, kernel_options, score_buffers, mask_buffers)
    call = _Call(recorder, func, rest)
    call.weigh(query, key)
    with recorder.leaving(call.share(query, key)):
        if torch.is_grad_enabled():
            return _Attention.apply(call, query, key, value, *call.captured)  # type: ignore[no-any-return]
        return call.forward(query, key, value)


@dataclass
class _Call:
    """One call, and what its functions cost: `work` and `backward_work` are MACs and pointwise FLOPs, None
    where an operator in them has no formula. `captured` are the tensors that they hold."""

    recorder: Recorder
    func: Any
    rest: tuple[Any, ...]
    work: tuple[int, int] | None = (0, 0)
    backward_work: tuple[int, int] | None = (0, 0)
    captured: list[Tensor] = field(default_factory=list)

    @property
    def masked(self) -> bool:
        return self.rest[1][-1] is not getattr(sys.modules.get(MODULE), "noop_mask", None)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        score_mod, block_mask, *others = self.rest
        if query.device.type == "meta":  # the functions may hold tensors of other devices
            score_mod, block_mask, others[2:] = _score, (*block_mask[:-1], _all), ((), ())

        def run() -> Any:
            with torch.no_grad():
                return self.func(query, key, value, score_mod, block_mask, *others)

        args = (query, key, value, self.work, self.masked, self.captured)
        return self.recorder.note(self.func, args, run)  # type: ignore[no-any-return]

    def backward(self, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        query, key, value, *captured = saved
        func = torch.ops.higher_order.flex_attention_backward
        args = (grads[0], query, key, value, self.backward_work, captured)
        return self.recorder.note(func, args, lambda: self._gradients(saved, grads))  # type: ignore[no-any-return]

    def _gradients(self, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """In the layout of what they belong to, as the kernel gives them."""
        wanted = [place for place, tensor in enumerate(saved) if place < 3 or tensor.requires_grad]
        results: list[Any] = [None] * len(saved)
        for place in wanted:
            results[place] = torch.empty_like(saved[place])
        if saved[0].device.type != "meta":
            with torch.enable_grad():
                leaves = [*(tensor.detach().requires_grad_() for tensor in saved[:3]), *saved[3:]]
                outputs = _torch.attention_in_parts(*leaves[:3], *self.rest)
                outs, seeds = zip(*((o, grad) for o, grad in zip(outputs, grads) if grad is not None))
                into = [leaves[place] for place in wanted]
                values = torch.autograd.grad(outs, into, seeds, allow_unused=True)
            for place, value in zip(wanted, values):
                results[place].zero_() if value is None else results[place].copy_(value)
        return results

    def weigh(self, query: Tensor, key: Tensor) -> None:
        """Run the two functions on all scores, unrecorded, to learn what they cost and what they hold."""
        train = torch.is_grad_enabled()
        score_mod, block_mask, _, _, score_buffers, mask_buffers = self.rest
        sizes = (*query.shape[:3], key.shape[2])
        seen = _Seen()
        with aside(), _torch.index_by_tensors(), self.recorder.rehearsal() as probe, seen:
            scores = torch.empty(sizes, device=query.device).requires_grad_(train)
            places = [torch.arange(size, device=query.device) for size in sizes]
            seen.made.update(map(id, (scores, *places)))
            start = len(probe.raw)
            if self.masked:
                _every_score(block_mask[-1], (), mask_buffers)(*places, *mask_buffers)
            result = _every_score(score_mod, (0,), score_buffers)(scores, *places, *score_buffers)
            end = len(probe.raw)
            self.captured = list(seen.captured.values())
            wanted = [tensor for tensor in (scores, *self.captured) if tensor.requires_grad]
            if train and result.requires_grad:
                seed = torch.empty_like(result)
                start_of_backward = len(probe.raw)
                torch.autograd.grad(result, wanted, seed, allow_unused=True)
                self.backward_work = probe.work(start_of_backward)
        self.work = probe.work(start, end)

    def share(self, query: Tensor, key: Tensor) -> float | None:
        """The share of the scores that the mask leaves; None, with a note, where it cannot be known."""
        if not self.masked:
            return 1.0
        _, block_mask, *_, mask_buffers = self.rest
        mask, batch_and_heads = block_mask[-1], tuple(block_mask[2].shape[:2])
        sizes = (*batch_and_heads, query.shape[2], key.shape[2])
        kept = self.recorder.shares.get((mask, sizes)) if not mask_buffers else None
        if kept is None:
            kept = _share(mask, sizes, mask_buffers, query.device)
            self.recorder.shares[mask, sizes] = kept
        if isinstance(kept, str):
            self.recorder.notes[_UNKNOWN.format(kept)] = None
            return None
        return kept


class _Attention(torch.autograd.Function):
    """Joins the gradients of queries, keys, values and captured tensors to the graph."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.set_materialize_grads(False)
        results = call.forward(*tensors[:3])
        ctx.save_for_backward(*tensors, *results[:2])
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, _, _ = ctx.saved_tensors
        return None, *ctx.call.backward(tensors, grads)


class _Seen(TorchDispatchMode):
    """Collects the tensors that operators read and that no operator inside made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[int] = set()
        self.captured: dict[int, Tensor] = {}
        self._kept: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in _torch.tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and id(leaf) not in self.made:
                self.captured[id(leaf)] = leaf
        result = func(*args, **(kwargs or {}))
        self._kept.append(result)  # an id is taken as long as its object lives
        self.made.update(id(leaf) for leaf in _torch.tree_leaves(result) if isinstance(leaf, Tensor))
        return result


def _every_score(function: Any, prefix: tuple[int, ...], buffers: Sequence[Any]) -> Callable[..., Tensor]:
    mapped: Callable[..., Tensor] = _torch.over_all_scores(
        function, prefix=prefix, suffix=(None,) * len(buffers)
    )
    return mapped


def _share(mask: Any, sizes: Sequence[int], buffers: Sequence[Any], device: torch.device) -> float | str:
    """The share of the scores that `mask` lets through, or why it is not known."""
    batch, heads, length, source = sizes
    total = batch * heads * length * source
    if not total:
        return 1.0
    if total > _LIMIT:
        return f"a block mask of {total} scores is too large to evaluate"
    where = "cpu" if device.type == "meta" else device
    left, rows = 0, max(1, _CHUNK // (batch * heads * source))
    try:
        with aside(), torch.no_grad(), _torch.index_by_tensors():
            places = [torch.arange(size, device=where) for size in sizes]
            for chunk in places[2].split(rows):
                kept = _every_score(mask, (), buffers)(*places[:2], chunk, places[3], *buffers)
                left += int(kept.count_nonzero())
    except (RuntimeError, NotImplementedError):
        return "a block mask depends on values that meta does not have (count on the CPU to read them)"
    return left / total


def _score(score: Tensor, *_: Any) -> Tensor:
    return score


def _all(batch: Tensor, *_: Any) -> Tensor:
    return batch.new_ones((), dtype=torch.bool)
