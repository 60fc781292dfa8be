"""What forward and gradient hooks see of each layer with weights in one training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from inspector.tracing import _torch
from inspector.tracing._torch import ConvNd, tree_leaves

FP16_TINY = 2.0**-24
"""Smallest positive float16; less is lost, unless the loss is scaled up."""
LOSS_SCALE = 2.0**16
"""The scale that torch.amp.GradScaler starts with."""
BATCH_VALUES = 4
"""Of two values batch normalisation makes +1 and -1, whatever they are: its gradient is rounding noise,
times 300 (1/sqrt(eps)) where they are close. Layers before such a one are not judged by gradient."""

_LAYERS = (
    ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase,
    nn.RNNCellBase, nn.MultiheadAttention,
)  # fmt: skip


@dataclass
class Layer:
    """What the hooks saw of one layer's first call: its output (std about the mean, largest |x|, whether
    all samples `repeats`) and the gradient of it (std, share of the non-zero elements that are `tiny`
    in float16, and `lost` in it under the usual loss scale). `zero`: all its weights are zero."""

    module: str
    type: str
    zero: bool
    std: float | None
    peak: float
    repeats: bool
    calls: int = 0
    arrived: bool = False
    gradient: float | None = None
    tiny: float = 0.0
    lost: float = 0.0
    flags: list[str] = field(default_factory=list)


class Probe:
    """Forward hooks on the layers with weights, and gradient hooks on what they return."""

    def __init__(self) -> None:
        self.forward = True
        self.seen: dict[str, Layer] = {}
        self.zeros: list[str] = []
        self.starved: dict[str, int] = {}
        self._uncalled: dict[str, list[str]] = {}

    def watch(self, model: nn.Module) -> None:
        """Hook the layers, and the modules that may use the weights of a layer without calling it
        (torchvision's Swin attention, the out_proj of MultiheadAttention)."""
        self.zeros = [name for name, weight in model.named_parameters() if _silences(name, weight)]
        for path, module in model.named_modules():
            if isinstance(module, _torch.BatchNorm):
                module.register_forward_pre_hook(self._normalised(path))
            if _is_layer(module):
                module.register_forward_hook(self._called(path, module))
            elif _own_weights(module):
                inner = [
                    f"{path}.{name}" if path else name
                    for name, child in module.named_children()
                    if _is_layer(child)
                ]
                if inner:
                    self._uncalled[path] = inner
                    module.register_forward_hook(self._called(path, module))

    def layers(self) -> list[Layer]:
        """In the order of execution, without containers that called all of their layers."""
        return [
            layer
            for path, layer in self.seen.items()
            if path not in self._uncalled or any(inner not in self.seen for inner in self._uncalled[path])
        ]

    def _called(self, path: str, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            value = next((leaf for leaf in tree_leaves(output) if is_signal(leaf)), None)
            if value is None:
                return
            layer = self.seen.get(path)
            if layer is None:
                same = value.dim() > 1 and value.shape[0] > 1 and repeats(value.detach())
                kind, peak = type(module).__name__, float(value.detach().abs().max())
                layer = self.seen[path] = Layer(path, kind, _is_zero(module), std_of(value), peak, same)
            if self.forward:
                layer.calls += 1
            if value.requires_grad and not layer.arrived and (layer.calls == 1 or not self.forward):
                layer.arrived = True  # under reentrant checkpointing only the second forward has a graph
                value.register_hook(lambda gradient: _take(layer, gradient))

        return hook

    def _normalised(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            value = args[0] if args and isinstance(args[0], Tensor) and args[0].dim() > 1 else None
            if value is not None and module.training and value.shape[1]:
                count = value.numel() // value.shape[1]
                if count < BATCH_VALUES and self.forward:
                    self.starved.setdefault(path, len(self.seen))

        return hook


def _take(layer: Layer, gradient: Tensor) -> None:
    layer.gradient = std_of(gradient)
    sizes = gradient.detach().abs()
    sizes = sizes[sizes > 0]
    if sizes.numel():
        layer.tiny = float((sizes < FP16_TINY).double().mean())
        layer.lost = float((sizes < FP16_TINY / LOSS_SCALE).double().mean())


def _is_layer(module: nn.Module) -> bool:
    """A layer with a weight of two or more dimensions: torch's own, or a leaf module of another library."""
    return isinstance(module, _LAYERS) or (_own_weights(module) and not list(module.children()))


def _own_weights(module: nn.Module) -> bool:
    return any(weight is not None and weight.dim() > 1 for weight in _torch.parameters_of(module).values())


def _is_zero(module: nn.Module) -> bool:
    """Whether all weights are zero, in a layer that starts as no function of its input."""
    weights = [weight for weight in module.parameters() if weight.dim() > 1]
    return bool(weights) and not any(bool(weight.detach().any()) for weight in weights)


def _silences(name: str, weight: Tensor) -> bool:
    """Whether a parameter starts at zero and multiplies: what is behind it gets no gradient at first.
    Tokens, position tables and biases are added, not multiplied."""
    last = name.rpartition(".")[2]
    factor = any(word in last for word in ("weight", "gamma", "scale", "alpha", "gate"))
    return factor and weight.numel() > 0 and not bool(weight.detach().any())


def is_signal(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def std_of(value: Tensor) -> float | None:
    """Population std about the mean in float64; None for fewer than two elements."""
    return float(value.detach().double().std(correction=0)) if value.numel() > 1 else None


def repeats(value: Tensor) -> bool:
    """Whether all samples of a batch are exactly equal."""
    return bool((value == value[:1]).all())
