"""The kernels that a device chooses where the meta device takes another form.

On meta torch runs the portable form of everything: attention in its parts, dropout with a mask of floats,
no autocast. Memory and bandwidth need what the device runs. Each choice is made where torch makes it: by
a kernel above autograd, at a dispatch key that no device here uses (AutocastPrivateUse1), included for this
thread only while the choices are on, and deregistered afterwards.

Sources: ATen/autocast_mode.h and aten/src/ATen/autocast_mode.cpp (what autocast casts, and its cache of
weights), ATen/native/Dropout.cpp (the fused kernel of CUDA), ATen/native/transformers/cuda/sdp_utils.cpp
(which attention kernel takes what), all of torch 2.8 to 2.15.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from inspector.core.errors import InspectError
from inspector.tracing import _torch

ATTENTION = ("fused", "math")
_KEY = _torch.DispatchKey.AutocastPrivateUse1
_KEYS = _torch.DispatchKeySet(_KEY)
_aten = torch.ops.aten

_LOWER = {
    "cuda": """_convolution _convolution.deprecated conv1d conv2d conv3d conv_tbc conv_transpose1d
        conv_transpose2d.input conv_transpose3d.input convolution prelu addmm addmv addr matmul einsum mm mv
        linalg_vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot _thnn_fused_lstm_cell
        _thnn_fused_gru_cell lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
        _scaled_dot_product_flash_attention scaled_dot_product_attention""",
    "cpu": """_convolution.deprecated conv1d conv1d.padding conv2d conv2d.padding conv3d conv3d.padding
        conv_tbc conv_transpose1d conv_transpose2d.input conv_transpose3d.input prelu addmm _addmm_activation
        matmul mm linalg_vecdot linear addbmm baddbmm bmm _native_multi_head_attention mkldnn_rnn_layer
        scaled_dot_product_attention""",
}
_WIDEST = {
    "cuda": "addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add",
    "cpu": "stack cat index_copy",
}
_TO_FLOAT_BY_DTYPE = """prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm
    linalg_matrix_norm linalg_matrix_norm.str_ord sum sum.dim_IntList"""
_NOT_ON_META = {"cuda": "_cudnn_rnn cudnn_convolution cudnn_convolution_transpose", "cpu": "mkldnn_rnn_layer"}
_BANNED = "binary_cross_entropy"


@dataclass(frozen=True)
class Kernels:
    """Whose choices to make: `device` cuda or cpu, `attention` fused or math, `autocast` the dtype that
    autocast lowers to ("bfloat16", "float16"; None: off), `major` the first figure of the card's compute
    capability, where it is known."""

    device: str = "cuda"
    attention: str = "fused"
    autocast: str | None = None
    major: int | None = None

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise InspectError(f"unknown attention {self.attention!r}", f"use one of: {', '.join(ATTENTION)}")


On = Callable[[], AbstractContextManager[Any]]


@contextmanager
def choosing(kernels: Kernels | None, name: Callable[[str], AbstractContextManager[Any]]) -> Iterator[On]:
    """Register the choices; gives the context in which they hold (the forward, and its recomputation).

    `name(group)` names what runs inside for the record. One pass at a time may be inside.
    """
    if kernels is None:
        yield nullcontext
        return
    library, others = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    try:
        others.fallback(torch.library.fallthrough_kernel, _KEY.name)
        choices: dict[str, Any] = {"dropout": _dropout} if kernels.device == "cuda" else {}
        if kernels.attention == "fused":
            choices["scaled_dot_product_attention"] = _attention(kernels)
        casts = _Autocast(kernels, name) if kernels.autocast else None
        for operator in {*choices, *(casts.operators() if casts else ())}:
            library.impl(operator, _kernel(operator, choices.get(operator), casts), _KEY.name)

        @contextmanager
        def on() -> Iterator[None]:
            excluded = _torch.key_is_excluded(_KEY)  # as keys of autocast are
            _torch.set_key_excluded(_KEY, False)
            try:
                with _torch.include_key(_KEY):
                    yield
            finally:
                _torch.set_key_excluded(_KEY, excluded)
                if casts:
                    casts.cache.clear()  # as torch does at the end of the outermost autocast

        yield on
    finally:
        _torch.unregister(library)()
        _torch.unregister(others)()


@contextmanager
def aside() -> Iterator[None]:
    """What runs inside is not recorded, and in torch's portable form."""
    with _torch.unseen(), _torch.exclude_keys(_KEYS):
        yield


def _kernel(operator: str, choice: Any, casts: _Autocast | None) -> Callable[..., Any]:
    """The operator with its arguments cast, by the chosen kernel where that takes them."""
    packet, _, overload = operator.partition(".")
    function = getattr(getattr(_aten, packet), overload or "default")
    cast = casts.policy(operator) if casts else None

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _torch.exclude_keys(_KEYS):
            if cast is not None:
                args, kwargs = cast(args, kwargs)
            result = choice(*args, **kwargs) if choice is not None else NotImplemented
            return function(*args, **kwargs) if result is NotImplemented else result

    return kernel


class _Autocast:
    """What autocast does to the arguments of each operator, with its cache of weights: a parameter is
    cast once and the copy stays until autocast ends."""

    def __init__(self, kernels: Kernels, name: Callable[[str], AbstractContextManager[Any]]) -> None:
        self.device = kernels.device
        self.dtype: torch.dtype = getattr(torch, str(kernels.autocast))
        self.name = name
        self.cache: dict[int, tuple[Tensor, Tensor]] = {}
        self.lower = set(_LOWER[self.device].split())
        self.widest = set(_WIDEST[self.device].split())
        self.by_dtype = set(_TO_FLOAT_BY_DTYPE.split()) if self.device == "cuda" else set()

    def operators(self) -> list[str]:
        """Every operator that this torch's own autocast knows on the device."""
        registrations = _torch.registrations_for_key(f"Autocast{self.device.upper()}")
        names = [name.removeprefix("aten::") for name in registrations if name.startswith("aten::")]
        left_out = {*_NOT_ON_META[self.device].split(), _BANNED}
        return [name for name in names if name not in left_out]

    def policy(self, operator: str) -> Callable[[Any, Any], tuple[Any, Any]] | None:
        if operator not in self.operators():
            return None
        if operator in self.lower:
            return lambda args, kwargs: self._all(args, kwargs, self.dtype)
        if operator in self.widest:
            return lambda args, kwargs: self._all(args, kwargs, _widest(args, kwargs, self.dtype))
        if operator in self.by_dtype:
            return lambda args, kwargs: (args, _summed_in_float(args, kwargs))
        return lambda args, kwargs: self._all(args, kwargs, torch.float32)

    def _all(self, args: Any, kwargs: Any, dtype: torch.dtype) -> tuple[Any, Any]:
        return (
            tuple(self._cast(value, dtype) for value in args),
            {name: self._cast(value, dtype) for name, value in kwargs.items()},
        )

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._cast(entry, dtype) for entry in value)
        if not _eligible(value) or value.dtype is dtype:
            return value
        keeps = dtype is self.dtype and value.dtype is torch.float32 and value.requires_grad and value.is_leaf
        if not keeps or _torch.is_view(value)():
            return self._copy(value, dtype)
        if id(value) not in self.cache:
            self.cache[id(value)] = value, self._copy(value, dtype)
        return self.cache[id(value)][1]

    def _copy(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        with self.name(AUTOCAST):
            return value.to(dtype)


AUTOCAST = "autocast"
"""The group of the copies that autocast makes."""


def _eligible(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype is not torch.float64


def _widest(args: Any, kwargs: Any, lowest: torch.dtype) -> torch.dtype:
    """float32 if any tensor has it, else the dtype of autocast."""
    flat = [entry for value in (*args, *kwargs.values()) for entry in _entries(value)]
    return torch.float32 if any(_eligible(v) and v.dtype is torch.float32 for v in flat) else lowest


def _entries(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


def _summed_in_float(args: Any, kwargs: Any) -> Any:
    """Reductions give float32 without a copy of their argument, unless a dtype is asked for."""
    asked = kwargs.get("dtype") is not None or any(isinstance(value, torch.dtype) for value in args)
    half = bool(args) and _eligible(args[0]) and args[0].dtype is not torch.float32
    return {**kwargs, "dtype": torch.float32} if half and not asked else kwargs


def _dropout(input: Tensor, p: float, train: bool) -> Any:
    """CUDA keeps a mask of booleans, where the portable form keeps one of the input's dtype."""
    fused = train and 0 < p < 1 and input.numel() > 0
    return _aten.native_dropout.default(input, p, train)[0] if fused else NotImplemented


def _attention_on_cuda(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    cudnn: bool = False,
) -> Any:
    """`cudnn`'s kernel for half precision where it is preferred; FlashAttention for half precision without a
    mask, else the memory-efficient kernel, else the math form (NotImplemented)."""
    if not _four_equal_dims(query, key, value):
        return NotImplemented
    width, half = query.shape[-1], query.dtype in (torch.float16, torch.bfloat16)
    same_heads = query.shape[1] == key.shape[1] == value.shape[1]
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    if cudnn and half and width == value.shape[-1] <= 128 and width % 8 == 0 and (same_heads or enable_gqa):
        boolean = attn_mask is not None and attn_mask.dtype is torch.bool
        bias = _additive(attn_mask, query) if attn_mask is not None and boolean else attn_mask
        return _torch.cudnn_attention(query, key, value, bias, trains, dropout_p, is_causal, scale=scale)[0]
    if half and attn_mask is None and width == value.shape[-1] <= 256 and (same_heads or enable_gqa):
        scale = scale if scale is not None else width**-0.5  # of the width before padding
        padded = [_padded(tensor, 8) for tensor in (query, key, value)]
        outputs = _torch.flash_attention(*padded, dropout_p, is_causal, False, scale=scale)
        return outputs[0][..., :width]
    aligned = 8 if half else 4
    if not same_heads or width % aligned or value.shape[-1] % aligned:
        return NotImplemented
    if query.dtype is torch.float64:
        return NotImplemented
    bias = _bias(attn_mask, query, key)
    return _torch.efficient_attention(query, key, value, bias, trains, dropout_p, is_causal, scale=scale)[0]


def _attention_on_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """The CPU's FlashAttention takes a mask that needs no gradient, and no dropout."""
    alike = _four_equal_dims(query, key, value) and query.shape[-1] == value.shape[-1]
    if not alike or dropout_p > 0 or (attn_mask is not None and attn_mask.requires_grad):
        return NotImplemented
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = _additive(attn_mask, query)
    return _torch.flash_attention_on_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]


def _attention(kernels: Kernels) -> Callable[..., Any]:
    if kernels.device == "cpu":
        return _attention_on_cpu
    return partial(_attention_on_cuda, cudnn=_prefers_cudnn(kernels.major))


def _prefers_cudnn(major: int | None) -> bool:
    """Data-centre cards of compute capability 9 and 10 take cuDNN's attention first, from cuDNN 9.15.1 on:
    check_prefer_cudnn_attention in sdp_utils.cpp."""
    refused = os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1"
    return major in (9, 10) and (torch.backends.cudnn.version() or 0) > 91500 and not refused


def _four_equal_dims(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return query.dim() == key.dim() == value.dim() == 4 and query.shape[-1] == key.shape[-1]


def _padded(tensor: Tensor, multiple: int) -> Tensor:
    missing = -tensor.shape[-1] % multiple
    return torch.nn.functional.pad(tensor, (0, missing)) if missing else tensor


def _bias(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask as the kernel reads it: added, and expanded to every head."""
    if mask is None:
        return None
    mask = _additive(mask, query) if mask.dtype is torch.bool else mask
    mask = _padded(mask, 16)[..., : key.shape[2]]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])


def _additive(mask: Tensor, query: Tensor) -> Tensor:
    """0 where attention is allowed, -infinity elsewhere: a copy of the mask in the query's dtype."""
    closed = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=mask.device)
    return torch.where(mask, 0.0, closed)
