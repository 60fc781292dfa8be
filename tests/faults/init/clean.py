"""Models that are initialised right: layers, dtypes, ties and parametrizations of the field."""

from __future__ import annotations

import torch
import torchvision
from torch import nn

from inspector.reporting.report import Finding
from tests.faults import clean
from tests.faults.init.nets import applied, judged, net


@clean("init")
def resnet18_as_torchvision_builds_it() -> list[Finding]:
    """Convolutions by kaiming_normal fan_out with ReLU, the head by torch's default."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    convolutions = judged(model, "kaiming_normal", ["conv*", "*.downsample.0"], mode="fan_out")
    return convolutions + judged(model, "default", ["fc", "bn*"])


@clean(
    "init",
    *"uninitialised bias constant copies dtype coverage fan gain law".split(),
    *"padding atoms spread outliers".split(),
)
def resnet50_with_kaiming_uniform() -> list[Finding]:
    """54 layers, applied and verified."""
    return applied(torchvision.models.resnet50(), "kaiming_uniform", bias="zeros")


@clean("init")
def low_precision_models() -> list[Finding]:
    """bfloat16 and float16, drawn by torch in the dtype itself."""
    found = []
    for dtype in (torch.bfloat16, torch.float16):
        for scheme in ("kaiming_uniform", "normal", "default"):
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
