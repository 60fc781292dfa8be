"""The memory that convolutions and the backward of attention take for themselves while they run.

Each amount says where it comes from. *Derived*: torch's sources allocate it, so it is counted.
*Bound*: cuDNN chooses; the range is what the algorithms need at least and at most. *Calibrated*: measured on
the card (see `calibration`).

cuDNN. torch asks cuDNN's heuristics for a list of engines (benchmark=False), runs the first that works, and
takes the workspace from its allocator for that call alone (ATen/native/cudnn/Conv_v8.cpp). There is no limit
on the size, and no rule that NVIDIA publishes for the choice: the upper end is that of the most demanding
family that takes this shape, precision and layout (cuDNN API reference, cudnnConvolutionFwdAlgo_t and its
backward counterparts, which also say that an implicit GEMM needs none: the lower end is 0):

- implicit GEMM with precomputed indices: one 4-byte offset for each element of a filter.
- explicit GEMM: the matrix of all patches.
- copies in NHWC: tensor cores want that layout and channels in multiples of 16 bytes, cuDNN converts what
  has another (cuDNN developer guide, Tensor Transformations).
- Winograd, not fused, filters of 3x3 and 5x5: transforms of input, output and filter. A tile of m x m outputs
  takes (m + k - 1)^2 numbers (Lavin and Gray 2016); m = 2 takes most for each output.
- FFT in tiles of 32x32 (16x16x16 for volumes): half spectra of input, output and filter; NCHW alone.

Winograd and FFT work without stride and dilation; they hold float32 whatever the model holds.

Attention's backward. FlashAttention (flash_attn/flash_api.cpp, mha_bwd): dQ summed in float32 with the length
rounded to 128 and the width to 32 (64 above 128), the sums of dO * O, and dK and dV of every query head
where heads share keys. Memory-efficient (attention_backward.cu, mem_eff_attention/kernel_backward.h): dQ in
float32 tiles, for half precision wider than 128 also dK and dV, and delta; in float32 delta is computed from
a product of the output's size. cuDNN (cudnn-frontend, scaled_dot_product_flash_attention.h): dQ in float32 or
dP in half precision up to 256 MiB. Gradients made contiguous first are not in it: the record has no strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, NamedTuple

from inspector.tracing.record import ITEM_BYTES, Op, TensorSpec

if TYPE_CHECKING:
    from inspector.footprint.calibration import Calibration

CONVOLUTIONS = {"aten.convolution", "aten.convolution_backward"}
DERIVED, BOUND, CALIBRATED = "derived", "bound", "calibrated"
CUDNN, ATTENTION = "cuDNN", "attention backward"
_TENSOR_CORES = {"float16": 7, "bfloat16": 8, "float32": 8}
"""The first major compute capability whose tensor cores take it: float32 as TF32, which torch allows for
convolutions unless `torch.backends.cudnn.allow_tf32` says otherwise."""
_DIMENSIONS = ({3}, {4}, {5})
_TRANSFORMED = ("float16", "float32")
_DP_LIMIT = 256 * 2**20


class Workspace(NamedTuple):
    """Bytes at least and at most, whose (`CUDNN`, `ATTENTION`), of which kind, and from which source.

    Of several for one operator, one is taken."""

    low: int
    high: int
    owner: str
    kind: str
    source: str


@dataclass(frozen=True)
class Rules:
    """Whose kernels run: `major` is the first figure of the card's compute capability (None: any card),
    `channels_last` the layout of the model's convolutions, `calibration` what was measured on the card."""

    major: int | None = None
    channels_last: bool = False
    calibration: Calibration | None = None

    def workspaces(self, op: Op) -> list[Workspace]:
        """What `op` may take beside its inputs and outputs; nothing for most operators."""
        if op.name in CONVOLUTIONS:
            bounds = self.bounds(op.name, op.inputs, op.outputs)
            measured = self.calibration.of(op, bounds, self.channels_last) if self.calibration else None
            return [measured] if measured else bounds
        kernel = op.name.removeprefix("aten._scaled_dot_product_")
        backward = _BACKWARDS.get(kernel)
        return [backward(op)] if backward is not None else []

    def bounds(
        self, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> list[Workspace]:
        """What each family of cuDNN's algorithms needs at most; nothing where torch does not ask cuDNN."""
        tensors = (*inputs[:2], *outputs[:1]) if name == "aten.convolution" else inputs[:3]
        if (
            not all(spec.numel for spec in tensors)
            or {len(spec.shape) for spec in tensors} not in _DIMENSIONS
        ):
            return []  # empty, or filters that are kept packed: no kernel of cuDNN takes those
        convolution = _Convolution.of(name, inputs, outputs)
        if convolution.dtype not in ("float64", *_TENSOR_CORES) or self._is_native(convolution):
            return []
        needs = {
            "implicit GEMM, indices": 4 * prod(convolution.weight.shape[1:]),
            "explicit GEMM": convolution.patches(),
        }
        first = _TENSOR_CORES.get(convolution.dtype)
        if not self.channels_last and first is not None and (self.major is None or self.major >= first):
            needs["copies in NHWC"] = convolution.copies()
        if convolution.dtype in _TRANSFORMED and convolution.kernel in ((3, 3), (5, 5)):
            needs["Winograd"] = convolution.winograd()
        if not self.channels_last and convolution.dtype in ("float64", *_TRANSFORMED):
            needs["FFT in tiles"] = convolution.fft()
        return [Workspace(0, high, CUDNN, kind, BOUND) for kind, high in needs.items() if high]

    def _is_native(self, convolution: _Convolution) -> bool:
        """Depthwise in NCHW: torch's own kernel, but for float16 of 32 channels or more
        (use_cudnn_depthwise in ATen/native/Convolution.cpp)."""
        depthwise = convolution.groups > 1 and convolution.weight.shape[1] == 1
        large_half = convolution.dtype == "float16" and convolution.groups >= 32
        return depthwise and not self.channels_last and not large_half


@dataclass(frozen=True)
class _Convolution:
    """`x` (N, C, ...) and `y` (N, K, ...) with filters `weight` (K, C / groups, ...): those of the
    convolution, whether its forward runs or a gradient. A transposed one is the gradient by the input of one
    with x and y exchanged."""

    x: TensorSpec
    y: TensorSpec
    weight: TensorSpec

    @staticmethod
    def of(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> _Convolution:
        if name == "aten.convolution":
            (x, weight), y = inputs[:2], outputs[0]
        else:
            y, x, weight = inputs[:3]
        transposed = y.shape[1] != weight.shape[0] or x.shape[1] % weight.shape[1] != 0
        return _Convolution(y, x, weight) if transposed else _Convolution(x, y, weight)

    @property
    def dtype(self) -> str:
        return self.x.dtype

    @property
    def groups(self) -> int:
        return max(1, self.x.shape[1] // self.weight.shape[1])

    @property
    def kernel(self) -> tuple[int, ...]:
        return _two_or_more(self.weight.shape[2:])

    def patches(self) -> int:
        """Bytes of the matrix that an explicit product reads: every patch of every sample."""
        numel = prod(self.x.shape[:2]) * prod(self.weight.shape[2:]) * prod(self.y.shape[2:])
        return numel * ITEM_BYTES[self.dtype]

    def copies(self) -> int:
        """Bytes of input, output and filter with channels in multiples of 16 bytes."""
        item = ITEM_BYTES[self.dtype]
        whole = 16 // item
        tensors = sum(
            spec.shape[0] * _up(spec.shape[1], whole) * prod(spec.shape[2:]) for spec in (self.x, self.y)
        )
        filters, channels, *rest = self.weight.shape
        return item * (tensors + _up(filters, whole) * _up(channels, whole) * prod(rest))

    def winograd(self) -> int:
        return self._transforms(2, (self.kernel[0] + 1) ** 2, 4)

    def fft(self) -> int:
        """0 where a filter has one element, which is a plain product, or does not fit in a tile."""
        dims = len(self.kernel)
        tile = 32 if dims == 2 else 16
        if prod(self.kernel) == 1 or max(self.kernel) > tile or dims > 3:
            return 0
        numbers = tile ** (dims - 1) * (tile // 2 + 1)
        real = 8 if self.dtype == "float64" else 4
        return self._transforms(tile - max(self.kernel) + 1, numbers, 2 * real)

    def _transforms(self, step: int, numbers: int, item: int) -> int:
        """Bytes of the transforms of input, output and filter, in tiles of `step` outputs along each
        dimension that take `numbers` of `item` bytes; 0 where the stride or dilation is more than one."""
        inside, outside = (_two_or_more(spec.shape[2:]) for spec in (self.x, self.y))
        if any(o < i - k + 1 for i, o, k in zip(inside, outside, self.kernel)):
            return 0
        tiles = self.x.shape[0] * prod(ceil(max(i, o) / step) for i, o in zip(inside, outside))
        filters = self.weight.shape[0] * self.weight.shape[1]
        return item * numbers * (tiles * (self.x.shape[1] + self.y.shape[1]) + filters)


def _two_or_more(sizes: Sequence[int]) -> tuple[int, ...]:
    """torch gives cuDNN a sequence as an image of one row."""
    return (1, *sizes) if len(sizes) == 1 else tuple(sizes)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class _Attention:
    """Sizes of a backward: (N, H, L, E) of the queries, H and L of the keys, bytes of an element."""

    batch: int
    heads: int
    queries: int
    width: int
    key_heads: int
    keys: int
    item: int

    @staticmethod
    def of(op: Op) -> _Attention:
        query, key = op.inputs[1:3]
        batch, heads, queries, width = query.shape
        key_heads, keys = key.shape[1:3]
        return _Attention(batch, heads, queries, width, key_heads, keys, ITEM_BYTES[query.dtype])

    @property
    def each(self) -> int:
        return self.batch * self.heads

    def expanded(self) -> int:
        """Bytes of dK and dV of every query head, where heads share keys."""
        shared = self.heads != self.key_heads
        return 2 * self.each * self.keys * self.width * self.item if shared else 0


def _flash(op: Op) -> Workspace:
    sizes = _Attention.of(op)
    rows, width = _up(sizes.queries, 128), _up(sizes.width, 8)
    width = _up(width, 32 if width <= 128 else 64)
    nbytes = 4 * sizes.each * rows * (width + 1) + sizes.expanded()
    return Workspace(nbytes, nbytes, ATTENTION, "FlashAttention", DERIVED)


def _efficient(op: Op) -> Workspace:
    """dQ in float32, each element once or in tiles of 128x128 with a lock; with it delta. In float32 the
    product of which delta is the sum, and that sum, go before dQ comes."""
    sizes = _Attention.of(op)
    half, delta = sizes.item < 4, 4 * sizes.each * sizes.queries
    tiles = ceil(sizes.queries / 128) * ceil(sizes.width / 128)
    most = sizes.each * tiles * (4 * 128 * 128 + 16)
    if half and sizes.width > 128:
        splits = min(ceil(sizes.keys / 64), max(1, 200 // sizes.each))
        most += 2 * 4 * sizes.each * splits * _up(sizes.keys, 128) * _up(sizes.width, 128)
    least = 4 * sizes.each * sizes.queries * sizes.width
    product = 0 if half else op.inputs[4].nbytes + delta
    low, high = (max(nbytes, product) + delta for nbytes in (least, most))
    return Workspace(low, high, ATTENTION, "memory-efficient", DERIVED)


def _cudnn(op: Op) -> Workspace:
    sizes = _Attention.of(op)
    sums = 4 * sizes.each * sizes.queries
    scores = 2 * sizes.each * _up(sizes.queries, 64) * _up(sizes.keys, 64)
    most = sums + max(4 * sizes.each * sizes.queries * sizes.width, min(scores, _DP_LIMIT)) + sizes.expanded()
    return Workspace(0, most, ATTENTION, "cuDNN", BOUND)


_BACKWARDS = {
    "flash_attention_backward": _flash,
    "efficient_attention_backward": _efficient,
    "cudnn_attention_backward": _cudnn,
}
