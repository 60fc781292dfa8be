"""Weights in fewer bits: bytes by hand, and against layers that libraries have quantised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.profiling.views.bounds import Roof, bound
from inspector.profiling.views.serving import serving
from inspector.profiling.weights import SCHEMES, in_fewer_bits, scheme
from inspector.tracing.capture.state import state_entries
from inspector.tracing.record import Trace

pytestmark = pytest.mark.once

ROWS, COLUMNS = 128, 256


def stored(layer: nn.Module) -> int:
    return sum(entry.nbytes for entry in state_entries(layer))


def test_schemes_by_hand() -> None:
    numbers = ROWS * COLUMNS
    assert SCHEMES["int8"].nbytes(ROWS, COLUMNS) == numbers + 4 * ROWS
    assert SCHEMES["int4"].nbytes(ROWS, COLUMNS) == numbers // 2 + ROWS * 2 * (2 + 2)  # 2 groups of 128
    assert scheme("int4:group=64").nbytes(ROWS, COLUMNS) == numbers // 2 + ROWS * 4 * (2 + 2)
    # Codes, float16 scales, zeros of 4 bits, the group of each input as int32.
    assert SCHEMES["gptq"].nbytes(ROWS, COLUMNS) == numbers // 2 + ROWS * 2 * 2 + ROWS * 2 // 2 + 4 * COLUMNS
    assert scheme("int4").nbytes(1, 130) == 65 + 2 * 4  # a group that is not full has a scale too


def test_nf4_is_what_bitsandbytes_keeps() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(
        COLUMNS, ROWS, bias=False, quant_type="nf4", compress_statistics=False, compute_dtype=torch.bfloat16
    )
    layer.load_state_dict({"weight": torch.randn(ROWS, COLUMNS)})
    layer.to("cpu")
    assert stored(layer) == SCHEMES["nf4"].nbytes(ROWS, COLUMNS)


def test_int8_is_what_bitsandbytes_keeps() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear8bitLt(COLUMNS, ROWS, bias=False, has_fp16_weights=False)
    layer.to("cpu")
    layer(torch.randn(1, COLUMNS).bfloat16())
    assert stored(layer) == SCHEMES["int8"].nbytes(ROWS, COLUMNS)


def test_fp8_is_what_torchao_keeps() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    layer = nn.Sequential(nn.Linear(COLUMNS, ROWS, bias=False)).bfloat16()
    quantization.quantize_(layer, quantization.Float8WeightOnlyConfig())
    assert stored(layer) == SCHEMES["fp8"].nbytes(ROWS, COLUMNS)


class Net(nn.Module):
    """Two blocks of a Linear, and a head outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 64) for _ in range(2)])
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def moved(trace: Trace) -> int:
    return sum(op.bytes_read + op.bytes_written for op in trace.ops)


def test_only_matrices_of_the_blocks_change_and_only_in_bytes() -> None:
    trace = inspector.trace(Net(), "3x64")
    fewer = in_fewer_bits(trace, scheme("int8"))
    changed = {entry.name: entry.nbytes for entry in fewer.state if entry.stored}
    assert changed == {"blocks.0.weight": 64 * 64 + 4 * 64, "blocks.1.weight": 64 * 64 + 4 * 64}
    assert moved(trace) - moved(fewer) == 2 * (64 * 64 * 4 - 64 * 64 - 4 * 64)
    assert [op.macs for op in fewer.ops] == [op.macs for op in trace.ops]
    sizes = {storage.nbytes for storage in fewer.storages if storage.role == "parameter"}
    assert 64 * 64 + 4 * 64 in sizes
    assert 64 * 64 * 4 not in sizes


def mixtral() -> Any:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).eval()


def test_of_experts_those_that_are_read_are_read_in_fewer_bits() -> None:
    trace = inspector.trace(mixtral(), phase="decode", context=4)
    before, after = (serving(t)["weights_read"] for t in (trace, in_fewer_bits(trace, scheme("int8"))))
    # Of each layer q and o of 32 x 32, k and v of 16 x 32; of 2 of 8 experts gate and up of 96 x 32 and down
    # of 32 x 48. From 4 bytes to 1, and 4 for each output.
    attention, outputs = 2 * 32 * 32 + 2 * 16 * 32, 2 * 32 + 2 * 16
    expert, of_expert = 96 * 32 + 32 * 48, 96 + 32
    saved = 2 * (3 * (attention + 2 * expert) - 4 * (outputs + 2 * of_expert))
    assert before - after == saved


def test_a_transposed_linear_layer_is_one() -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    config = transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    trace = inspector.trace(transformers.GPT2LMHeadModel(config).eval(), phase="decode", context=4)
    fewer = in_fewer_bits(trace, scheme("int8"))
    # Of each block 32 x 96, 32 x 32, 32 x 128 and 128 x 32 numbers; outputs 96, 32, 128 and 32.
    saved = 2 * (3 * 32 * (96 + 32 + 128 + 128) - 4 * (96 + 32 + 128 + 32))
    assert serving(trace)["weights_read"] - serving(fewer)["weights_read"] == saved


def test_a_scheme_that_applies_to_nothing_is_refused() -> None:
    trace = inspector.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "1x3x8x8")
    with pytest.raises(inspector.InspectError, match="no Linear layer in repeated blocks"):
        in_fewer_bits(trace, scheme("int8"))


@pytest.mark.parametrize(("name", "peak"), [("w8a8", "int8"), ("w8a8-fp8", "fp8")])
def test_products_in_eight_bits_read_eight_bits_and_have_a_peak_of_their_own(name: str, peak: str) -> None:
    trace = inspector.trace(Net(), "3x64")
    fewer = in_fewer_bits(trace, scheme(name))
    # Of each block's matrix as for int8; of its 3 rows of 64 numbers a byte each, and a scale a row.
    assert moved(trace) - moved(fewer) == 2 * (64 * 64 * 4 - 64 * 64 - 4 * 64 + 3 * 64 * 4 - 3 * 64 - 3 * 4)
    assert sum(op.macs or 0 for op in fewer.ops) == 3 * (2 * 64 * 64 + 64 * 10)
    slow = Roof({"fp32": 10.0, peak: 1000.0}, 1e12)
    seconds = [bound(op, slow).seconds for op in fewer.ops if op.macs]
    assert seconds == pytest.approx([2 * 3 * 64 * 64 / 1000, 2 * 3 * 64 * 64 / 1000, 2 * 3 * 64 * 10 / 10])


def test_an_int8_product_of_torch_has_its_peak() -> None:
    class Product(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch._int_mm(x, y)

    trace = inspector.trace(Product(), ["int8[32,64]", "int8[64,32]"])
    (seconds,) = [bound(op, Roof({"fp32": 1.0, "int8": 8.0}, 1e12)).seconds for op in trace.ops if op.macs]
    assert seconds == pytest.approx(2 * 32 * 64 * 32 / 8)


@pytest.mark.parametrize("text", ["int3", "int4:group=0", "int4:64", "int8:group=64", ""])
def test_what_is_no_scheme_is_refused(text: str) -> None:
    with pytest.raises(inspector.InspectError):
        scheme(text)
