"""What a module wanted and what it got, in words, and the inputs that would fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from inspector.tracing._torch import ConvNd, NormBase
from inspector.tracing.capture.pricing import Call
from inspector.tracing.describe import DTYPES
from inspector.tracing.record import TensorSpec


class Mismatch(NamedTuple):
    """`wanted` and `got` in words; `dtype` is the one that fits, `axis` and `size` say which size of the
    input's `shape` must be what. `batch`: it has all dimensions but the first."""

    wanted: str
    got: str
    dtype: str = ""
    axis: int | None = None
    size: int = 0
    shape: tuple[int, ...] = ()
    batch: bool = False

    def __str__(self) -> str:
        return f"{self.wanted}, got {self.got}"


def mismatch(module: nn.Module, values: Iterable[Any], message: str) -> Mismatch | None:
    """What is wrong with the first tensor among `values` for `module`; of a module of the user's own class,
    what torch's `message` says. None where neither tells."""
    tensor = next((value for value in values if isinstance(value, Tensor)), None)
    if tensor is None:
        return _features(message)
    wrong = _dtype(module, tensor) or _shape(module, tensor) or _features(message)
    wrong = wrong or _unpacked(tensor, message)
    return wrong and wrong._replace(shape=tuple(tensor.shape))


def _dtype(module: nn.Module, tensor: Tensor) -> Mismatch | None:
    got = DTYPES[tensor.dtype]
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return Mismatch("whole numbers (int64)", got, "int64") if tensor.is_floating_point() else None
    own = [weight for weight in module.parameters(recurse=False) if weight.is_floating_point()]
    if not own or own[0].dtype is tensor.dtype:
        return None
    wanted = DTYPES[own[0].dtype]
    return Mismatch(wanted, got, wanted)


def _shape(module: nn.Module, tensor: Tensor) -> Mismatch | None:
    if isinstance(module, ConvNd):
        spatial = len(module.kernel_size)
        if tensor.dim() not in (spatial + 1, spatial + 2):
            return _dimensions(tensor, spatial + 2)
        return _size(tensor, tensor.dim() - spatial - 1, module.in_channels, "channels")
    if isinstance(module, NormBase):
        named = re.search(r"([23])d$", type(module).__name__)
        if named and tensor.dim() != int(named[1]) + 2:
            return _dimensions(tensor, int(named[1]) + 2)
        return _size(tensor, 1, module.num_features, "channels")
    if isinstance(module, nn.GroupNorm):
        return _size(tensor, 1, module.num_channels, "channels")
    if isinstance(module, nn.Linear):
        return _size(tensor, tensor.dim() - 1, module.in_features, "features")
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return _size(tensor, tensor.dim() - 1, module.normalized_shape[-1], "features")
    if isinstance(module, nn.RNNBase):
        return _size(tensor, tensor.dim() - 1, module.input_size, "features")
    if isinstance(module, nn.MultiheadAttention):
        return _size(tensor, tensor.dim() - 1, module.embed_dim, "features")
    return None


def _dimensions(tensor: Tensor, wanted: int) -> Mismatch:
    return Mismatch(f"{wanted} dimensions", str(tensor.dim()), batch=wanted == tensor.dim() + 1)


def _unpacked(tensor: Tensor, message: str) -> Mismatch | None:
    """`n, c, h, w = x.shape` of an image without a batch."""
    match = re.search(r"not enough values to unpack \(expected (\d+), got (\d+)\)", message)
    return _dimensions(tensor, int(match[1])) if match and int(match[2]) == tensor.dim() else None


def _size(tensor: Tensor, axis: int, wanted: int, what: str) -> Mismatch | None:
    if not 0 <= axis < tensor.dim():
        return Mismatch(f"{axis + 1} dimensions or more", str(tensor.dim()))
    got = tensor.shape[axis]
    return Mismatch(f"{wanted} {what}", str(got), axis=axis, size=wanted) if got != wanted else None


def _features(message: str) -> Mismatch | None:
    match = re.search(r"shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", message)
    return Mismatch(f"{match[2]} features", match[1]) if match else None


def fitting(inputs: Sequence[str], wrong: Mismatch) -> tuple[str, ...]:
    """The inputs of a call, as texts, as they would fit: the dtype of those with floats, or the size of
    those with the shape that the module got."""

    def fit(text: str) -> str:
        match = re.fullmatch(r"((?:\w+=)?)(\w+)\[([\d,]*)\]", text)
        if match is None:
            return text
        name, dtype, sizes = match[1], match[2], match[3].split(",")
        same = match[3] == ",".join(map(str, wrong.shape))
        if wrong.batch and len(sizes) == len(wrong.shape) and "float" in dtype:
            return f"{name}{dtype}[1,{match[3]}]"
        if wrong.dtype and (same or "float" in dtype):
            dtype = wrong.dtype
        if wrong.axis is not None and same:
            sizes[wrong.axis] = str(wrong.size)
        return f"{name}{dtype}[{','.join(sizes)}]"

    return tuple(map(fit, inputs))


_ONE_DTYPE = {
    "aten.mm": (0, 1), "aten.bmm": (0, 1), "aten.mv": (0, 1), "aten.dot": (0, 1), "aten.addmm": (1, 2, 0),
    "aten.baddbmm": (1, 2, 0), "aten.addmv": (1, 2, 0), "aten.convolution": (0, 1, 2),
}  # fmt: skip
"""Operators that take tensors of one dtype only, and which (the input, the weight, the bias): on meta they
take any."""
_NOT_NARROWER = {"aten.native_layer_norm": 2, "aten.native_group_norm": 1, "aten.native_batch_norm": 1}
"""Operators whose weight, at this position, may be wider than the input and not narrower."""
_STRICT = {*_ONE_DTYPE, *_NOT_NARROWER, "aten.embedding"}


class OnlyOnMeta(RuntimeError):
    """The module at `path` was called with what meta takes and no other device does."""

    def __init__(self, path: str, wrong: Mismatch) -> None:
        super().__init__("only the meta device accepts such a call")
        self.path = path
        self.wrong = wrong


def only_on_meta(calls: Iterable[Call]) -> OnlyOnMeta | None:
    """The error of the first call that no device can run although meta did."""
    seen: set[Any] = set()
    for call in calls:
        name = call.operator.name
        if name not in _STRICT or call.signature in seen:
            continue
        seen.add(call.signature)
        wrong = _refused(name, call.args)
        if wrong is not None:
            return OnlyOnMeta(call.path, wrong)
    return None


def _refused(name: str, args: Sequence[Any]) -> Mismatch | None:
    """What other devices would refuse."""
    if name == "aten.embedding":
        index = args[1]
        floats = index.dtype.startswith(("float", "bfloat"))
        return Mismatch("whole numbers (int64)", index.dtype, "int64", shape=index.shape) if floats else None
    positions = _ONE_DTYPE.get(name) or (0, _NOT_NARROWER[name])
    specs = [args[i] for i in positions if i < len(args)]
    tensors = [spec for spec in specs if isinstance(spec, TensorSpec)]
    shape = tensors[0].shape
    may_differ = name in _NOT_NARROWER and tensors[0].dtype != "float32"
    if len({spec.dtype for spec in tensors}) > 1 and not may_differ:
        return Mismatch(tensors[1].dtype, tensors[0].dtype, tensors[1].dtype, shape=shape)
    if name == "aten.convolution" and _transposed(args) and shape[1] != tensors[1].shape[0]:
        channels = tensors[1].shape[0]
        return Mismatch(f"{channels} channels", str(shape[1]), axis=1, size=channels, shape=shape)
    return None


def _transposed(args: Sequence[Any]) -> bool:
    return len(args) > 6 and args[6] is True
