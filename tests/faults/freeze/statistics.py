"""Faults of state that a forward in train mode changes: statistics, power iterations, weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import Net, checked, claim, frozen_at, naive, net


@fault("freeze", check="buffers")
def unfrozen_statistics() -> list[Finding]:
    """requires_grad=False alone: the frozen batch norms keep updating their statistics."""
    model = net()
    naive(model, claim(model, norm="train"))
    return checked(model, claim(model, norm="train"))


@fault("freeze", check="train_mode")
def eval_undone_by_train() -> list[Finding]:
    """The frozen batch norms were put in eval mode once; the next model.train() undoes it."""
    model = net()
    claimed = claim(model)
    naive(model, claimed)
    for path in claimed.norms:
        model.get_submodule(path).eval()
    return checked(model, claimed)


@fault("freeze", check="buffers")
def shared_batch_norm() -> list[Finding]:
    """One batch norm under two names, frozen under the second by requires_grad alone."""
    model = net()
    model.layer3[1] = model.layer2[1]
    claimed = claim(model, at=None, patterns=["layer3.1.*"], norm="train")
    naive(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="buffers")
def spectral_norm_moves() -> list[Finding]:
    """spectral_norm (a parametrization) iterates its vectors in train mode, although frozen."""
    model = net()
    nn.utils.parametrizations.spectral_norm(model.conv1)
    claimed = claim(model, norm="train", at=1)
    naive(model, claimed)
    model.bn1.eval()
    return checked(model, claimed)


@fault("freeze", check="prefix_output")
def spectral_norm_hook_moves() -> list[Finding]:
    """The older spectral_norm (a hook) changes the frozen layer's output from step to step."""
    model = net(norm=lambda n: nn.Identity())
    nn.utils.spectral_norm(model.conv1)
    claimed = claim(model, norm="train", at=1)
    naive(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="parameters")
def forward_overwrites_weight() -> list[Finding]:
    """The frozen layer standardises its weight in place in each forward."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)

    def standardise(module: nn.Module, args: Any) -> None:
        module.weight.data = module.weight.data * 0.99

    model.conv1.register_forward_pre_hook(standardise)
    return checked(model, claimed)


class Codebook(nn.Module):
    """A quantizer whose codes follow the data by a moving average, in a buffer that is reassigned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("codes", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.codes = 0.9 * self.codes + 0.1 * x.detach().mean(dim=(0, 2, 3))
        return x * self.scale


@fault("freeze", check="buffers")
def moving_average_buffer() -> list[Finding]:
    """A codebook of the frozen part follows the data."""
    model = net(norm=lambda n: Codebook())
    claimed = claim(model, at=1)
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def statistics_only() -> list[Finding]:
    """--norm eval: weight and bias of the batch norms train."""
    model = net()
    claimed = claim(model, norm="eval")
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def frozen_batch_norm_as_found() -> list[Finding]:
    """torchvision's FrozenBatchNorm2d and requires_grad=False, verified as they came."""
    from torchvision.ops import FrozenBatchNorm2d

    model = net(norm=FrozenBatchNorm2d)
    model.conv1.requires_grad_(False)
    model.layer1[0].requires_grad_(False)
    return checked(model, claim(model, at=None))


@clean("freeze")
def spectral_norm_rests() -> list[Finding]:
    """Both forms of spectral_norm in the frozen part."""
    model = net()
    nn.utils.parametrizations.spectral_norm(model.conv1)
    nn.utils.spectral_norm(model.layer1[0])
    return frozen_at(model, 2)


@clean("freeze")
def weight_norm_rests() -> list[Finding]:
    """Both forms of weight_norm, frozen and trainable."""
    model = net()
    nn.utils.parametrizations.weight_norm(model.conv1)
    nn.utils.parametrizations.weight_norm(model.layer2[0])
    return frozen_at(model, 2)


@clean("freeze")
def buffer_made_in_the_forward() -> list[Finding]:
    """A buffer that the first forward registers."""

    class Masked(Net):
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "mask"):
                self.register_buffer("mask", torch.ones(16, 16))
            return super().forward(x * self.mask)

    return frozen_at(net(cls=Masked), 2)
