"""Faults that only the eval phase, or the way back from it, shows."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import Net, Tokens, checked, claim, frozen_at, images, net


class Adapted(nn.Module):
    """A linear layer with a low-rank update, which eval() merges into the weight where `merge` is set."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2, merge: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.a = nn.Parameter(torch.randn(rank, inputs))
        self.b = nn.Parameter(torch.randn(outputs, rank))
        self.merge, self.merged = merge, False

    def train(self, mode: bool = True) -> nn.Module:
        if self.merge and self.merged == mode:
            sign = -1 if mode else 1
            self.base.weight.data += sign * (self.b @ self.a).detach()
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) if self.merged else self.base(x) + x @ self.a.T @ self.b.T


class LowRank(Net):
    """The head is adapted: everything else is frozen."""

    def __init__(self, merge: bool = False) -> None:
        super().__init__()
        self.fc = Adapted(8, 5, merge=merge)


def _adapted(merge: bool) -> list[Finding]:
    model = net(cls=LowRank, merge=merge)
    claimed = claim(model, 4, patterns=["fc.base.*"])
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="parameters")
def adapter_merged_in_eval_mode() -> list[Finding]:
    """eval() adds the low-rank update to the frozen weight, train() subtracts it, and rounding stays."""
    return _adapted(merge=True)


@clean("freeze", "parameters", "moved")
def adapter_that_stays_apart() -> list[Finding]:
    """Low-rank adaptation by hand: the base is frozen, the two factors train."""
    return _adapted(merge=False)


@clean("freeze")
def adapters_of_peft() -> list[Finding]:
    """peft's LoRA, as it came: everything but the adapters is frozen. (Nothing, where peft is missing.)"""
    if importlib.util.find_spec("peft") is None:
        return []
    from peft import LoraConfig, get_peft_model

    model = net(cls=Tokens)
    config = LoraConfig(r=2, target_modules=["linear1", "linear2", "head"])
    adapted = get_peft_model(model, config)
    return checked(adapted, claim(adapted, at=None))


@clean("freeze")
def lazy_layers_that_have_run() -> list[Finding]:
    """Lazy modules after their first forward, hooks and all."""
    model = nn.Sequential(
        nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3)
    ).eval()
    with torch.no_grad():
        model(images())
    claimed = claim(model, at=None, patterns=["1.*", "2.*"])
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="buffers")
def statistics_of_the_eval_forward() -> list[Finding]:
    """A calibration buffer of the frozen part follows the data in eval mode only."""

    class Calibrated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                self.seen = torch.maximum(self.seen, x.detach().abs().max())
            return x * self.scale

    return frozen_at(net(norm=lambda n: Calibrated()), 1)


@fault("freeze", check="parameters")
def weight_rounded_by_the_eval_forward() -> list[Finding]:
    """An eval hook quantises the frozen weight in place."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)

    def quantise(module: nn.Module, args: Any) -> None:
        if not module.training:
            module.weight.data = (module.weight.data * 64).round() / 64

    model.conv1.register_forward_pre_hook(quantise)
    return checked(model, claimed)


@fault("freeze", check="parameters")
def checkpoint_that_rounds() -> list[Finding]:
    """A state_dict hook casts the live weights to half precision before it saves them."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)

    def halve(module: nn.Module, *args: Any) -> None:
        for parameter in module.parameters():
            parameter.data = parameter.data.half().float()

    model.register_state_dict_pre_hook(halve)
    return checked(model, claimed)


@fault("freeze", check="train_mode")
def norms_wake_after_the_eval_phase() -> list[Finding]:
    """A train() that keeps the frozen norms in eval mode the first time only."""

    class Forgetful(Net):
        calls = 0

        def train(self, mode: bool = True) -> nn.Module:
            super().train(mode)
            self.calls = self.calls + 1
            if mode and self.calls < 3:
                self.bn1.eval()
            return self

    model = net(cls=Forgetful)
    claimed = claim(model, at=1)
    model.conv1.requires_grad_(False)
    model.bn1.requires_grad_(False)
    model.train()
    return checked(model, claimed)


@fault("freeze", check="gradients")
def unfrozen_on_the_way_back() -> list[Finding]:
    """eval() freezes everything, and the next train() makes everything require grad."""

    class Toggling(Net):
        def train(self, mode: bool = True) -> nn.Module:
            if self.training != mode:
                self.requires_grad_(mode)
            return super().train(mode)

    model = net(cls=Toggling).train()
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="prefix_output")
def unregistered_statistic_used_in_eval() -> list[Finding]:
    """A mean that is no buffer follows the data in train mode and is subtracted in eval mode."""

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torch.zeros(8, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return x - self.mean
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=(0, 2, 3)).view(8, 1, 1)
            return x

    return frozen_at(net(norm=lambda n: Centred()), 1)


@clean("freeze")
def train_that_keeps_norms_asleep() -> list[Finding]:
    """The idiom of detection libraries: train() is overridden, and puts the frozen norms back."""

    class Careful(Net):
        def train(self, mode: bool = True) -> nn.Module:
            super().train(mode)
            self.bn1.eval()
            return self

    model = net(cls=Careful).train()
    model.conv1.requires_grad_(False)
    model.bn1.requires_grad_(False)
    return checked(model, claim(model, at=None))


@clean("freeze")
def model_that_needs_its_targets() -> list[Finding]:
    """A model that cannot run in eval mode on what it trains on."""

    class Losses(Net):
        def forward(self, x: Tensor) -> Any:
            if not self.training:
                raise ValueError("no targets in eval mode")
            return super().forward(x)

    return frozen_at(net(cls=Losses), 2)
