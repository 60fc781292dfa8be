"""What leaves meta in the middle of a pass: a number, an index, a copy for the CPU.

Many such values follow from sizes alone (the mask of an image without padding), or from inputs that stayed on
the CPU. Those are computed; where nothing tells them, the operator fails as it does without us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inspector.tracing._deferred import in_kernel
from inspector.tracing._torch import tree_leaves, tree_map
from inspector.tracing.capture.kernels import aside
from inspector.tracing.capture.replay import replayed
from inspector.tracing.capture.rules import joined

if TYPE_CHECKING:
    from inspector.tracing.capture.pricing import Operator
    from inspector.tracing.capture.recorder import Recorder

_SMALL = 2**24
"""Bytes of a storage that is kept: token ids, sizes, masks, an image."""
_ALL = 2**28
"""Bytes of all that are kept."""
_INDEXED = ("aten.index", "aten.index_put", "aten.index_put_", "aten._unsafe_index_put")


def keep(recorder: Recorder, storage: torch.UntypedStorage, place: int) -> None:
    """Copy a small storage on the CPU when it is first seen: what comes from it can be worked out."""
    if recorder.device != "meta" or storage.device.type != "cpu" or storage.nbytes() > _SMALL:
        return
    if sum(held.numel() for held, _ in recorder.kept.values()) < _ALL:
        with aside():
            held = torch.empty(0, dtype=torch.uint8).set_(storage).clone()
        recorder.kept[place] = held, len(recorder.raw)


def keep_values(recorder: Recorder, tensor: Tensor, values: Tensor) -> None:
    """Remember what `tensor`, which is on meta and new, would hold elsewhere: `values` on the CPU."""
    storage = values.untyped_storage()
    if tensor.device.type != "meta" or type(values) is not Tensor or not 0 < storage.nbytes() <= _SMALL:
        return
    whole = storage.nbytes() == values.numel() * values.dtype.itemsize == tensor.untyped_storage().nbytes()
    if whole and (values.dtype, values.stride()) == (tensor.dtype, tensor.stride()):
        keep(recorder, storage, recorder.spec(tensor).storage)


def run(
    recorder: Recorder, func: Any, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """The result of an operator, on meta in a way that works there."""
    try:
        with in_kernel(func, args):
            result = func(*args, **kwargs)
    except RuntimeError as error:
        return _worked_out(recorder, error, func, operator, args, kwargs)
    if recorder.device == "meta" and _strayed(result) and _on_meta((*args, *kwargs.values())):
        moved = joined(operator.written, args, kwargs)
        return result if moved is None else func(*moved[0], **moved[1])
    return result


def _strayed(result: Any) -> bool:
    """Whether it is on the CPU: some operators (a convolution) put it where their first argument is, and do
    not look at the others. Autograd then wants a gradient there."""
    first = result[0] if isinstance(result, (list, tuple)) and result else result
    return isinstance(first, Tensor) and first.device.type == "cpu"


def _worked_out(
    recorder: Recorder,
    error: RuntimeError,
    func: Any,
    operator: Operator,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """The result of an operator that raised `error`: on meta from its values where they are known, else with
    its tensors that stayed on the CPU moved to the others. Raises `error` where neither helps."""
    if recorder.device != "meta":
        raise error
    if args and isinstance(args[0], Tensor):
        result = _from_values(recorder, func, operator, args, kwargs)
        if result is not NotImplemented:
            return result
    moved = joined(operator.written, args, kwargs)
    if moved is None:
        raise error
    return func(*moved[0], **moved[1])


def readable(recorder: Recorder, tensor: Tensor) -> Tensor:
    """Its values where they are known, else the tensor."""
    values = _values(recorder, tensor) if recorder.device == "meta" else None
    return tensor if values is None else values


def _from_values(
    recorder: Recorder, func: Any, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    name = operator.name
    if name in _INDEXED and args[0].device.type == "meta":
        return _indexed(recorder, func, args, kwargs)
    if name == "aten._local_scalar_dense" and _asserted(recorder, args[0]):
        values = _values(recorder, args[0])
        return True if values is None else values.item()
    if name == "aten._to_copy" and _leaves(args[0], kwargs) and _values(recorder, args[0]) is None:
        # it is read on the device where the pass stands, which has no values
        return func(*args, **{k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")})
    if operator.written or not _on_meta((*args, *kwargs.values())):
        return NotImplemented
    try:
        values = tree_map(partial(_value, recorder), (list(args), dict(kwargs)))
        with aside(), torch.no_grad():
            return func(*values[0], **values[1])
    except (_Unknown, RuntimeError):
        return NotImplemented


class _Unknown(Exception):
    """A tensor has no values."""


def _value(recorder: Recorder, value: Any) -> Any:
    values = _values(recorder, value) if isinstance(value, Tensor) else value
    if values is None and value is not None:
        raise _Unknown
    return values


def _on_meta(values: Sequence[Any]) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.device.type == "meta" for leaf in tree_leaves(values))


def _values(recorder: Recorder, tensor: Tensor) -> Tensor | None:
    if tensor.device.type != "meta":
        return tensor
    spec = recorder.spec(tensor)
    calls = recorder.raw
    kept, renewed = recorder.kept, recorder.renewed
    return replayed(calls, recorder.storages, spec, tensor.stride(), len(calls), kept, renewed)


def _asserted(recorder: Recorder, tensor: Tensor) -> bool:
    """Whether a check reads it (`torch._check_tensor_all`): what cannot be checked is taken to hold."""
    storage = recorder.spec(tensor).storage
    index = recorder.storages[storage][3] if storage >= 0 else None
    return index is not None and recorder.raw[index].operator.name == "aten._is_all_true"


def _leaves(tensor: Tensor, kwargs: Mapping[str, Any]) -> bool:
    device = kwargs.get("device")
    return tensor.device.type == "meta" and device is not None and torch.device(device).type == "cpu"


def _indexed(recorder: Recorder, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """With the places of a mask in its stead."""
    target, indices, *rest = args
    places: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            places.append(index if index is None else index.to("meta"))
            continue
        values = _values(recorder, index)
        if values is None:
            return NotImplemented
        with aside():
            places += [column.to("meta") for column in values.nonzero(as_tuple=True)]
    moved = [one.to("meta") if isinstance(one, Tensor) else one for one in rest]
    return func(target, places, *moved, **kwargs)
