"""The kernels that a device chooses: against torch's own header, its own autocast, and by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from inspector.core.errors import InspectError
from inspector.tracing.capture import ForwardError, capture
from inspector.tracing.capture.kernels import _LOWER, _TO_FLOAT_BY_DTYPE, _WIDEST, Kernels
from inspector.tracing.capture.setting import Setting
from inspector.tracing.record import Trace

HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"


def listed(macro: str) -> set[str]:
    """The operators that a list of torch's header names, without those of named dimensions."""
    text = re.search(rf"#define {macro}\(_\)(.*?)(?:\n\n|\Z)", HEADER.read_text(), re.DOTALL)
    assert text is not None
    pairs = re.findall(r"_\((\w+)(?:,\s*(\w+))?\)", text[1])
    names = {f"{name}.{overload}" if overload else name for name, overload in pairs}
    return {name for name in names if "imname" not in name}


@pytest.mark.skipif(not HEADER.is_file(), reason="this torch comes without its headers")
@pytest.mark.parametrize(
    ("macro", "ours"),
    [
        ("AT_FORALL_LOWER_PRECISION_FP", _LOWER["cuda"]),
        ("AT_FORALL_FP32_SET_OPT_DTYPE", _TO_FLOAT_BY_DTYPE),
        ("AT_FORALL_PROMOTE", _WIDEST["cuda"]),
    ],
)
def test_the_lists_of_autocast_are_those_of_torch(macro: str, ours: str) -> None:
    assert listed(macro) == set(ours.split())


class Function(nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


def recorded(model: nn.Module, x: torch.Tensor, phase: str, device: str, attention: str = "math") -> Trace:
    lowered = Kernels(device, attention, "bfloat16")
    return capture(model, (x.to("meta"),), phase=phase, setting=Setting(kernels=lowered))


FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "linear": lambda x, w: functional.linear(x, w),
    "matmul": lambda x, w: x @ w,
    "einsum": lambda x, w: torch.einsum("ij,jk->ik", x, w),
    "layer_norm": lambda x, w: functional.layer_norm(x @ w, (8,)),
    "softmax": lambda x, w: (x @ w).softmax(-1),
    "sum": lambda x, w: (x @ w).sum(),
    "cat": lambda x, w: torch.cat([x @ w, x]),
    "mse": lambda x, w: functional.mse_loss(x @ w, x),
    "cross_entropy": lambda x, w: functional.cross_entropy(x @ w, torch.zeros_like(x)),
    "gelu": lambda x, w: functional.gelu(x @ w),
    "attention": lambda x, w: functional.scaled_dot_product_attention(
        (x @ w).view(1, 1, 8, 8), x.view(1, 1, 8, 8), x.view(1, 1, 8, 8)
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_on_meta_gives_the_dtypes_of_torchs_own_on_a_cpu(name: str) -> None:
    x = torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = FUNCTIONS[name](x, torch.ones(8, 8)).dtype
    trace = recorded(Function(FUNCTIONS[name]), x, "forward", "cpu")
    assert trace.ops[-1].outputs[0].dtype == str(expected).removeprefix("torch.")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("linear", "bfloat16"),
        ("gelu", "bfloat16"),  # in no list: as its input is
        ("layer_norm", "float32"),
        ("softmax", "float32"),
        ("sum", "float32"),
        ("attention", "bfloat16"),
    ],
)
def test_autocast_on_cuda_keeps_norms_and_softmax_in_float32(name: str, dtype: str) -> None:
    trace = recorded(Function(FUNCTIONS[name]), torch.randn(8, 8), "forward", "cuda")
    assert trace.ops[-1].outputs[0].dtype == dtype


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_a_weight_is_cast_once_while_autocast_lasts(phase: str) -> None:
    # torch keeps the copies of parameters until autocast ends, without gradients too.
    trace = recorded(Function(lambda x, w: (x @ w) @ w), torch.randn(8, 8), phase, "cuda")
    copies = [op for op in trace.ops if op.group == "autocast" and op.phase == "forward"]
    assert len(copies) == 2  # x and w


def test_the_backward_casts_gradients_back() -> None:
    trace = recorded(Function(FUNCTIONS["linear"]), torch.randn(8, 8), "train", "cuda")
    gradient = next(s for s in trace.storages if s.role == "gradient")
    assert gradient.nbytes == 4 * 64  # float32, as the parameter is


def test_float64_is_left_alone() -> None:
    trace = recorded(Function(lambda x, w: x @ x), torch.randn(8, 8, dtype=torch.float64), "forward", "cuda")
    assert trace.ops[-1].outputs[0].dtype == "float64"


def attention_of(dtype: torch.dtype, width: int = 16, mask: bool = False, **kernels: str) -> list[str]:
    """The attention operators of a training step, heads of `width`."""

    def attend(x: torch.Tensor) -> torch.Tensor:
        allowed = torch.ones(8, 8, dtype=torch.bool, device=x.device) if mask else None
        return functional.scaled_dot_product_attention(x, x, x, allowed)

    model = nn.Module()
    model.forward = attend  # type: ignore[method-assign]
    x = torch.empty(2, 4, 8, width, dtype=dtype, device="meta", requires_grad=True)
    trace = capture(model, (x,), phase="train", setting=Setting(kernels=Kernels(**kernels)))
    return [op.name.removeprefix("aten.") for op in trace.ops if "attention" in op.name]


def test_half_precision_runs_flash_attention() -> None:
    flash = "_scaled_dot_product_flash_attention"
    assert attention_of(torch.bfloat16) == [flash, f"{flash}_backward"]
    assert attention_of(torch.float16, width=13) == [flash, f"{flash}_backward"]  # padded to 16


def test_float32_and_masks_run_the_memory_efficient_kernel() -> None:
    efficient = "_scaled_dot_product_efficient_attention"
    assert attention_of(torch.float32) == [efficient, f"{efficient}_backward"]
    assert attention_of(torch.bfloat16, mask=True) == [efficient, f"{efficient}_backward"]


def test_what_no_fused_kernel_takes_runs_in_parts() -> None:
    assert attention_of(torch.float32, width=13) == []
    assert attention_of(torch.bfloat16, attention="math") == []


def test_macs_do_not_depend_on_the_kernel() -> None:
    model = nn.MultiheadAttention(16, 2, batch_first=True)

    def macs(attention: str) -> int:
        x = torch.empty(2, 8, 16, device="meta")
        setting = Setting(kernels=Kernels("cuda", attention))
        trace = capture(model, (x, x, x), {"need_weights": False}, phase="train", setting=setting)
        assert all(op.known for op in trace.ops)
        return sum(op.macs or 0 for op in trace.ops)

    assert macs("fused") == macs("math")


def test_nothing_stays_registered() -> None:
    recorded(Function(FUNCTIONS["linear"]), torch.randn(8, 8), "train", "cuda")
    assert torch._C._dispatch_get_registrations_for_dispatch_key("AutocastPrivateUse1") == []
    x = torch.empty(8, 8, device="meta")
    assert functional.linear(x, x).dtype is torch.float32
    broken = Function(lambda x, w: x @ torch.ones(3, 3, device="meta"))
    with pytest.raises(ForwardError):
        recorded(broken, torch.randn(8, 8), "forward", "cuda")
    assert torch._C._dispatch_get_registrations_for_dispatch_key("AutocastPrivateUse1") == []


def test_unknown_attention_is_refused() -> None:
    with pytest.raises(InspectError, match="unknown attention 'flash'"):
        Kernels("cuda", "flash")


def test_a_dtype_is_that_of_weights_and_inputs_and_the_model_keeps_its_own() -> None:
    model = nn.Linear(4, 4)
    trace = capture(model, (torch.empty(2, 4, device="meta"),), setting=Setting(dtype="float16"))
    assert trace.ops[-1].outputs[0].dtype == "float16"
    assert {entry.dtype for entry in trace.state} == {"float16"}
    assert sum(entry.nbytes for entry in trace.state) == 2 * 20
    assert trace.inputs == ("float16[2,4]",)
    assert model.weight.dtype is torch.float32


def test_a_checkpointed_module_runs_again_and_is_itself_afterwards() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    x = torch.empty(2, 4, device="meta")
    trace = capture(model, (x,), phase="train", setting=Setting(checkpoints=("1",)))
    assert [op.phase for op in trace.ops if op.name == "aten.tanh"] == ["forward", "backward"]
    assert "forward" not in model[1].__dict__
