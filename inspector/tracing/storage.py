"""Which tensors share memory."""

from __future__ import annotations

from torch import Tensor
from torch.nn.parameter import is_lazy

from inspector.tracing.subclass import PLAIN, largest, parts, wraps


def storage_id(tensor: Tensor) -> int | None:
    """The identity of a tensor's memory, as long as that lives; of a wrapper's, that of its largest part.
    None where it has none of its own (sparse tensors, lazy ones)."""
    if type(tensor) not in PLAIN:
        if is_lazy(tensor):
            return None
        if wraps(tensor):
            tensor = largest(parts(tensor))
    try:
        return id(tensor.untyped_storage())  # torch keeps one Python object for a storage
    except (NotImplementedError, RuntimeError):
        return None


def memory_id(tensor: Tensor) -> int:
    """`storage_id`, or that of the tensor itself where it has no storage."""
    storage = storage_id(tensor)
    return id(tensor) if storage is None else storage


def same_values_id(tensor: Tensor) -> object:
    """Equal for two tensors that see the same elements: storage, offset and number of elements."""
    storage = storage_id(tensor)
    if storage is None or not tensor.numel():
        return id(tensor)
    return storage, tensor.storage_offset(), tensor.numel()


def without_values(tensor: Tensor) -> bool:
    """Whether nobody can read a tensor's elements: it is on meta, or a fake tensor."""
    return tensor.device.type == "meta" or type(tensor).__name__ == "FakeTensor"
