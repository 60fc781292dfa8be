"""An inspection leaves no trace on the model, the random state or torch's flags."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import inspector
from inspector.tracing.capture import ForwardError


class Stateful(nn.Module):
    """Everything a forward may change: statistics, counters, caches, buffers, embeddings."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4, max_norm=0.1)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.utils.spectral_norm(nn.Linear(4, 3))
        self.register_buffer("seen", torch.zeros(1))
        self.calls = 0
        self.cache: dict[str, Any] = {}
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.fails = fails

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen += 1
        self.cache["last"] = ids
        x = self.drop(self.norm(self.embed(ids)))
        self.newest = x
        if self.fails:
            raise ValueError("broken on purpose")
        return self.head(x) * self.frozen + random.random() + float(numpy.random.rand())


def fingerprint(model: nn.Module) -> dict[str, Any]:
    state = {k: v.numpy().tobytes() for k, v in model.state_dict().items()}
    return {
        "state": state,
        "grads": [p.grad for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "identity": [id(t) for t in (*model.parameters(), *model.buffers())],
        "training": [m.training for m in model.modules()],
        "devices": [t.device for t in (*model.parameters(), *model.buffers())],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "calls": model.calls,
        "cache": dict(model.cache),
    }


def surroundings() -> dict[str, Any]:
    cuda = torch.backends.cuda
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "python": random.getstate(),
        "numpy": numpy.random.get_state()[1].tobytes(),
        "grad": torch.is_grad_enabled(),
        "fastpath": torch.backends.mha.get_fastpath_enabled(),
        "sdp": (
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        ),
        "mkldnn": torch._C._get_mkldnn_enabled(),
        "cudnn": torch._C._get_cudnn_enabled(),
        "engine": torch.backends.quantized.engine,
        "multithreading": torch.autograd.is_multithreading_enabled(),
        "dtype": torch.get_default_dtype(),
        "call": nn.Module.__call__,
        "register": (nn.Module.register_parameter, nn.Module.register_buffer),
        "load": nn.Module.load_state_dict,
        "attention": F.scaled_dot_product_attention,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_a_live_model_is_the_same_afterwards(
    phase: str, device: str | None, training: bool, fails: bool
) -> None:
    model = Stateful(fails).train(training)
    ids = torch.tensor([1, 2, 3])
    model.norm.eval()
    before, around = fingerprint(model), surroundings()
    if fails:
        with pytest.raises(ForwardError, match="broken on purpose"):
            inspector.trace(model, ids, phase=phase, device=device)
    else:
        inspector.trace(model, ids, phase=phase, device=device)
    assert fingerprint(model) == before
    assert surroundings() == around


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "spec",
    ["resnet18", "regnet_y_400mf", "fasterrcnn_mobilenet_v3_large_320_fpn", "quantized_resnet18@DEFAULT"],
)
def test_building_from_a_spec_keeps_random_state_and_flags(spec: str) -> None:
    around = surroundings()
    inspector.trace(spec)
    assert surroundings() == around


def test_user_hooks_still_run_and_stay() -> None:
    model, seen = nn.Sequential(nn.Linear(2, 2)), []
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    inspector.trace(model, torch.ones(1, 2))
    assert seen == [1]
    assert handle.id in model[0]._forward_hooks


def test_inputs_are_not_changed() -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(1)

    x = torch.zeros(3)
    inspector.trace(InPlace(), x, device="cpu")
    assert x.tolist() == [0, 0, 0]


def test_a_user_function_mode_is_still_active_afterwards() -> None:
    with torch.device("meta"):
        inspector.trace(nn.Linear(2, 2), torch.ones(1, 2))
        assert torch.empty(1).device.type == "meta"
