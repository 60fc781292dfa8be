"""Planted faults of initialisation, each a mistake that people make, and clean models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from inspector.initialization.apply import apply
from inspector.initialization.builds import builds
from inspector.initialization.checks import SEED
from inspector.initialization.checks.twice import Filled, written_twice
from inspector.initialization.expect import auto, expect
from inspector.initialization.schemes import choose
from inspector.initialization.targets import chosen, of_model
from inspector.initialization.writes import written
from inspector.reporting.checks import examine
from inspector.reporting.report import Finding

from . import clean, fault


class Net(nn.Module):
    """Three convolutions and a head whose fans all differ, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 3)
        self.conv2 = nn.Conv2d(24, 80, 3)
        self.norm = nn.BatchNorm2d(80)
        self.head = nn.Linear(80, 40)


def net(scheme: str = "c2_xavier_fill", seed: int = 0, **options: Any) -> Net:
    """A correctly initialised `Net`."""
    model = Net()
    apply(model, scheme, seed=seed, **options)
    return model


def judged(
    model: nn.Module, scheme: str = "c2_xavier_fill", layers: list[str] | None = None, **options: Any
) -> list[Finding]:
    """The findings of --expect."""
    if scheme == "auto":
        return auto(of_model(model)).findings
    choice = choose(scheme, **options)
    selected = chosen(of_model(model), layers, everything=scheme == "default")
    return expect(selected, choice).findings


@torch.no_grad()
def drawn(tensor: Tensor, seed: int = 1) -> Tensor:
    """The tensor drawn right: kaiming_uniform a=1."""
    torch.manual_seed(seed)
    return nn.init.kaiming_uniform_(tensor, a=1)


@fault("init", check="gain")
def a_is_0_instead_of_1() -> list[Finding]:
    """nn.init.kaiming_uniform_(w) without a=1: its default is a=0."""
    model = net()
    torch.manual_seed(1)
    nn.init.kaiming_uniform_(model.conv2.weight)
    return judged(model)


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


@fault("init", check="written_twice")
def tied_tensor_drawn_twice() -> list[Finding]:
    """Two names of one tensor, and a loop over the modules draws it for each."""

    def run() -> nn.Module:
        first, second = nn.Linear(32, 32), nn.Linear(32, 32)
        second.weight = first.weight
        model = nn.Sequential(first, second)
        for layer in model:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
        return model

    writes = written(run)
    return written_twice(Filled(writes.result, writes))


@fault("init", check="seed_ignored")
def own_generator_ignores_the_seed() -> list[Finding]:
    """A generator with a fixed seed of its own: every run starts from the same weights."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Linear(32, 32)
        nn.init.kaiming_uniform_(model.weight, generator=torch.Generator().manual_seed(42))
        return model

    return examine(SEED, builds(build, 0))


@fault("init", check="reproducible")
def numpy_is_not_seeded() -> list[Finding]:
    """Weights from np.random.default_rng(): no seed reaches it."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Linear(32, 32)
        values = np.random.default_rng().normal(size=(32, 32)).astype("float32")
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(values))
        return model

    return examine(SEED, builds(build, 0))


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


@fault("init", check="law")
def tails_are_cut() -> list[Finding]:
    """A normal law whose draws beyond two standard deviations were clamped."""
    model = net("kaiming_normal")
    with torch.no_grad():
        std = math.sqrt(2 / (24 * 9))
        model.conv2.weight.clamp_(-2 * std, 2 * std)
    return judged(model, "kaiming_normal")


@fault("init", check="uninitialised")
def memory_that_nothing_wrote() -> list[Finding]:
    """torch.empty: old integers and pointers, which read as denormal numbers and as huge ones."""
    model = net()
    garbage = torch.arange(24 * 80 * 9, dtype=torch.int32)
    garbage[::7] = 0x7E967699  # 1e38
    with torch.no_grad():
        model.conv2.weight.copy_(garbage.view(torch.float32).view(80, 24, 3, 3))
    return judged(model)


@fault("init", check="uninitialised")
def one_value_is_nan() -> list[Finding]:
    """A single NaN, which auto must see too."""
    model = net()
    with torch.no_grad():
        model.head.weight[7, 7] = math.nan
    return judged(model, "auto")


@fault("init", check="constant")
def a_constant_weight() -> list[Finding]:
    """All weights equal: every unit of the layer learns the same."""
    model = net()
    nn.init.constant_(model.head.weight, 0.01)
    return judged(model)


@fault("init", check="gain")
def std_is_3_percent_small() -> list[Finding]:
    """A standard deviation 3% too small, which only a large tensor shows."""
    layer = nn.Linear(512, 512)
    torch.manual_seed(0)
    nn.init.normal_(layer.weight, std=0.97 * math.sqrt(2 / 512))
    return judged(layer, "kaiming_normal")


@fault("init", check="gain")
def gain_is_missing() -> list[Finding]:
    """xavier_uniform_ without calculate_gain("relu")."""
    model = net("xavier_uniform")
    return judged(model, "xavier_uniform", gain=math.sqrt(2))


@fault("init", check="gain")
def residual_branch_is_scaled_by_its_depth() -> list[Finding]:
    """GPT-2's 1/sqrt(2 x depth) on a layer that is no residual branch."""
    layer = nn.Linear(256, 256)
    torch.manual_seed(0)
    nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * 12))
    return judged(layer, "normal")


@fault("init", check="copies")
def half_of_the_outputs_are_zero() -> list[Finding]:
    """The first half of the output channels is zero: a partial load."""
    model = net()
    with torch.no_grad():
        model.conv2.weight[:40] = 0
    return judged(model)


@fault("init", check="law")
def half_of_the_inputs_are_zero() -> list[Finding]:
    """The first half of the input channels is zero: a partial load."""
    model = net()
    with torch.no_grad():
        model.conv2.weight[:, :12] = 0
    return judged(model)


@fault("init", check="law")
def half_of_it_is_drawn_anew() -> list[Finding]:
    """New output channels with another law than the old ones."""
    model = net()
    torch.manual_seed(1)
    with torch.no_grad():
        model.conv2.weight[40:].normal_(0, 0.02)
    return judged(model)


@fault("init", check="copies")
def channels_are_copied() -> list[Finding]:
    """A layer widened by repeating its channels: the copies never part."""
    model = net()
    with torch.no_grad():
        model.conv2.weight[40:] = drawn(torch.empty(80, 24, 3, 3))[:40]
        model.conv2.weight[:40] = model.conv2.weight[40:]
    return judged(model)


@fault("init", check="dtype")
def orthogonal_rounded_through_bfloat16() -> list[Finding]:
    """Orthogonal in float32, saved as bfloat16, loaded back: W W^T is no longer I."""
    layer = nn.Linear(128, 128)
    apply(layer, "orthogonal")
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16().float())
    return judged(layer, "orthogonal")


@fault("init", check="gain")
def orthogonal_with_another_gain() -> list[Finding]:
    """gain=sqrt(2) where 1 was claimed."""
    layer = nn.Linear(64, 96)
    apply(layer, "orthogonal", gain=math.sqrt(2))
    return judged(layer, "orthogonal")


@fault("init", check="gain")
def a_is_0_in_bfloat16() -> list[Finding]:
    """a=0 for a=1 on torch's coarse bfloat16 grid."""
    layer = nn.Linear(64, 48).bfloat16()
    torch.manual_seed(0)
    nn.init.kaiming_uniform_(layer.weight)
    return judged(layer, "kaiming_uniform")


def applied(model: nn.Module, scheme: str, **options: Any) -> list[Finding]:
    """Apply, then verify what was written."""
    done = apply(model, scheme, **options)
    return [*expect(done.targets, done.choice).findings, *done.findings]


@clean("init")
def resnet18_as_torchvision_builds_it() -> list[Finding]:
    """Convolutions by kaiming_normal fan_out with ReLU, the head by torch's default."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    convolutions = judged(model, "kaiming_normal", ["conv*", "*.downsample.0"], mode="fan_out")
    return convolutions + judged(model, "default", ["fc", "bn*"])


@clean("init")
def resnet50_with_kaiming_uniform() -> list[Finding]:
    """54 layers, applied and verified."""
    return applied(torchvision.models.resnet50(), "kaiming_uniform", bias="zeros")


@clean("init")
def low_precision_models() -> list[Finding]:
    """bfloat16 and float16, drawn by torch in the dtype itself."""
    found = []
    for dtype in (torch.bfloat16, torch.float16):
        for scheme in ("kaiming_uniform", "kaiming_normal", "xavier_uniform", "normal", "default"):
            found += applied(torchvision.models.resnet18().to(dtype), scheme)
    return found


@clean("init")
def transposed_and_depthwise_layers() -> list[Finding]:
    """Where torch's fans are not the effective ones."""
    model = nn.Sequential(
        nn.ConvTranspose2d(16, 64, 4, stride=2), nn.Conv2d(64, 64, 3, groups=64), nn.Conv1d(64, 96, 5)
    )
    return [f for mode in ("fan_in", "fan_out") for f in applied(model, "kaiming_normal", mode=mode)]


@clean("init")
def tiny_layers() -> list[Finding]:
    """64 elements tell no two laws apart: inconclusive, not wrong."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1), nn.Linear(1, 1), nn.Conv2d(1, 2, 1))
    return [f for scheme in ("kaiming_uniform", "xavier_normal", "default") for f in applied(model, scheme)]


@clean("init")
def tied_weights() -> list[Finding]:
    """An embedding whose weight is the head's: written once."""
    embedding, head = nn.Embedding(512, 64), nn.Linear(64, 512, bias=False)
    head.weight = embedding.weight
    return applied(nn.Sequential(embedding, nn.Linear(64, 64), head), "xavier_uniform")


@clean("init")
def weight_norm_old_and_new() -> list[Finding]:
    """The product has the law, not its factors."""
    new = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 48, 3))
    old = torch.nn.utils.weight_norm(nn.Linear(96, 64))
    return applied(nn.Sequential(new, old), "kaiming_uniform")


@clean("init")
def spectral_norm_old_and_new() -> list[Finding]:
    """The weight before the division has the law."""
    new = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 48, 3))
    old = torch.nn.utils.spectral_norm(nn.Linear(96, 64))
    return applied(nn.Sequential(new, old), "kaiming_normal")


@clean("init")
def vit_b_16_under_auto() -> list[Finding]:
    """Eight laws in one model, all known."""
    torch.manual_seed(0)
    return judged(torchvision.models.vit_b_16(image_size=32), "auto")


@clean("init")
def recurrent_and_attention_defaults() -> list[Finding]:
    """U(+-1/sqrt(hidden)), xavier in_proj with zero biases, N(0, 1) with a padding row."""
    torch.manual_seed(0)
    model = nn.ModuleList(
        [
            nn.LSTM(64, 96, num_layers=2, proj_size=32),
            nn.GRUCell(16, 64),
            nn.MultiheadAttention(64, 4, add_bias_kv=True),
            nn.MultiheadAttention(64, 4, kdim=48, vdim=40),
            nn.Embedding(300, 16, padding_idx=0),
            nn.Bilinear(12, 20, 40),
            nn.GroupNorm(4, 16),
        ]
    )
    return judged(model, "default")


@clean("init")
def trained_weights_under_auto() -> list[Finding]:
    """What training leaves fits no law, and that is no fault."""
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter).exp()
    return judged(model, "auto")


@clean("init")
def orthogonal_and_truncated() -> list[Finding]:
    """Wide, tall and square; trunc_normal with a cut that bites and one that never does."""
    model = nn.Sequential(nn.Linear(64, 128), nn.Conv2d(8, 100, 3), nn.Linear(256, 256))
    return [
        *applied(model, "orthogonal", gain=1.5),
        *applied(model, "trunc_normal"),
        *applied(model, "trunc_normal", std=1.5),
    ]
