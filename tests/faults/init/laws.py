"""Faults of the distribution: another gain, fan, law or bias, or none at all."""

from __future__ import annotations

import math

import torch
from torch import nn

from inspector.initialization.apply import apply
from inspector.reporting.report import Finding
from tests.faults import fault
from tests.faults.init.nets import Net, judged, net


@fault("init", check="gain")
def a_is_0_instead_of_1() -> list[Finding]:
    """nn.init.kaiming_uniform_(w) without a=1: its default is a=0."""
    model = net()
    torch.manual_seed(1)
    nn.init.kaiming_uniform_(model.conv2.weight)
    return judged(model)


@fault("init", check="gain")
def a_is_0_in_bfloat16() -> list[Finding]:
    """a=0 for a=1 on torch's coarse bfloat16 grid."""
    layer = nn.Linear(64, 48).bfloat16()
    torch.manual_seed(0)
    nn.init.kaiming_uniform_(layer.weight)
    return judged(layer, "kaiming_uniform")


@fault("init", check="gain")
def gain_is_missing() -> list[Finding]:
    """xavier_uniform_ without calculate_gain("relu")."""
    model = net("xavier_uniform")
    return judged(model, "xavier_uniform", gain=math.sqrt(2))


@fault("init", check="gain")
def std_is_3_percent_small() -> list[Finding]:
    """A standard deviation 3% too small, which only a large tensor shows."""
    layer = nn.Linear(512, 512)
    torch.manual_seed(0)
    nn.init.normal_(layer.weight, std=0.97 * math.sqrt(2 / 512))
    return judged(layer, "kaiming_normal")


@fault("init", check="gain")
def residual_branch_is_scaled_by_its_depth() -> list[Finding]:
    """GPT-2's 1/sqrt(2 x depth) on a layer that is no residual branch."""
    layer = nn.Linear(256, 256)
    torch.manual_seed(0)
    nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * 12))
    return judged(layer, "normal")


@fault("init", check="gain")
def orthogonal_with_another_gain() -> list[Finding]:
    """gain=sqrt(2) where 1 was claimed."""
    layer = nn.Linear(64, 96)
    apply(layer, "orthogonal", gain=math.sqrt(2))
    return judged(layer, "orthogonal")


@fault("init", check="fan")
def fan_out_for_fan_in() -> list[Finding]:
    """mode="fan_out" where fan_in was meant."""
    model = net()
    torch.manual_seed(1)
    nn.init.kaiming_uniform_(model.conv2.weight, a=1, mode="fan_out")
    return judged(model)


@fault("init", check="fan")
def transposed_convolution_with_swapped_fans() -> list[Finding]:
    """A transposed convolution initialised as if its weight were [out, in, k, k]."""
    layer = nn.ConvTranspose2d(16, 64, 4)
    torch.manual_seed(0)
    nn.init.kaiming_normal_(layer.weight.transpose(0, 1), mode="fan_in")
    return judged(layer, "kaiming_normal")


@fault("init", check="fan")
def depthwise_with_the_effective_fan() -> list[Finding]:
    """fan_out divided by the groups, as EfficientNet's authors do, where torch's fan_out was claimed."""
    layer = nn.Conv2d(256, 256, 5, groups=256)
    torch.manual_seed(0)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / 25))
    return judged(layer, "c2_msra_fill", bias="keep")


@fault("init", check="law")
def xavier_for_kaiming() -> list[Finding]:
    """xavier_uniform_ where fan_in and fan_out differ."""
    model = net()
    torch.manual_seed(1)
    nn.init.xavier_uniform_(model.conv2.weight)
    return judged(model)


@fault("init", check="law")
def normal_for_uniform_of_equal_std() -> list[Finding]:
    """The right standard deviation, the wrong distribution."""
    model = net()
    torch.manual_seed(1)
    nn.init.normal_(model.conv2.weight, std=1 / math.sqrt(24 * 9))
    return judged(model)


@fault("init", check="atoms")
def tails_are_cut() -> list[Finding]:
    """A normal law whose draws beyond two standard deviations were clamped."""
    model = net("kaiming_normal")
    with torch.no_grad():
        std = math.sqrt(2 / (24 * 9))
        model.conv2.weight.clamp_(-2 * std, 2 * std)
    return judged(model, "kaiming_normal")


@fault("init", check="coverage")
def one_layer_is_skipped() -> list[Finding]:
    """A layer is not reached by the initialisation and keeps torch's default, a = sqrt(5)."""
    model = net()
    torch.manual_seed(1)
    model.conv2 = nn.Conv2d(24, 80, 3)
    return judged(model, "kaiming_uniform")


@fault("init", check="coverage")
def apply_never_called() -> list[Finding]:
    """init_weights exists, and nobody calls it: the whole model has torch's default."""
    torch.manual_seed(0)
    return judged(Net(), "c2_msra_fill")


@fault("init", check="bias")
def bias_is_not_zeroed() -> list[Finding]:
    """The weight is written, the bias keeps torch's uniform default."""
    model = net()
    torch.manual_seed(0)
    nn.init.uniform_(model.head.bias, -0.1118, 0.1118)
    return judged(model)


@fault("init", check="bias")
def bias_has_another_constant() -> list[Finding]:
    """A detector's prior of -4.595 on the wrong layer."""
    model = net()
    nn.init.constant_(model.conv1.bias, -4.595)
    return judged(model)


@fault("init", check="bias")
def bias_zero_where_the_default_is_random() -> list[Finding]:
    """All biases are zero, and torch's default was claimed."""
    torch.manual_seed(0)
    model = Net()
    nn.init.zeros_(model.conv2.bias)
    return judged(model, "default")
