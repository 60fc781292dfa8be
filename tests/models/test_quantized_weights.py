"""Quantised models of torchao and bitsandbytes: the float model's counts, the packed bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.benchmarking.numerics import Numerics
from inspector.reporting.report import Report
from inspector.tracing.formulas import cost
from inspector.tracing.record import TensorSpec

DEVICES = ["meta", "cpu"]


def values(report: Report) -> dict[str, Any]:
    return {name: metric.value for name, metric in report.metrics.items()}


# torchao: 256 to 128 to 64, four rows: 4 * (32,768 + 8,192) MACs.

MACS = 163_840
PARAMS = 41_152
BIASES = 128 + 64


def torchao(config: str, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64)).to(dtype).eval()
    try:
        quantization.quantize_(model, getattr(quantization, config)(**options))
    except (AttributeError, ImportError) as error:  # another version, or a kernel package that is not there
        pytest.skip(str(error))
    return model


def held(model: nn.Module) -> int:
    """The bytes of all inner tensors, by torchao's own attributes."""
    total = 0
    for layer in (model[0], model[2]):  # type: ignore[index]
        weight = layer.weight
        for name in weight.__tensor_flatten__()[0]:
            inner = getattr(weight, name)
            total += inner.numel() * inner.element_size()
        total += layer.bias.numel() * layer.bias.element_size()
    return total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("config", "dtype", "code"),
    [
        ("Int8WeightOnlyConfig", torch.float32, "int8"),
        ("Int8WeightOnlyConfig", torch.bfloat16, "int8"),
        ("Int8DynamicActivationInt8WeightConfig", torch.float32, "int8"),
        ("Int8DynamicActivationIntxWeightConfig", torch.float32, "int8"),
        ("IntxWeightOnlyConfig", torch.float32, "int8"),
        ("Float8WeightOnlyConfig", torch.bfloat16, "float8_e4m3fn"),
    ],
)
def test_torchao_counts_as_the_float_model_does(
    config: str, dtype: torch.dtype, code: str, device: str
) -> None:
    model = torchao(config, dtype)
    counted = values(inspector.profile(model, (torch.ones(4, 256, dtype=dtype),), device=device))
    assert counted["params"] == PARAMS
    assert counted["macs"] == MACS
    assert counted["unknown_ops"] == 0
    # One byte for each weight, and at least a scale for each row of at most four bytes.
    codes, item = 32_768 + 8_192, dtype.itemsize
    assert codes + item * BIASES < counted["param_bytes"] <= codes * 1.2 + item * BIASES
    assert counted["param_bytes"] == held(model)
    state = inspector.params(model).to_frame("state").set_index("name")
    assert state["dtype"].tolist() == [code, str(dtype)[6:]] * 2


def test_int8_rows_have_a_float32_scale_and_an_int8_zero_point() -> None:
    model = torchao("Int8WeightOnlyConfig")
    if not hasattr(model[0].weight, "zero_point"):  # type: ignore[index]
        pytest.skip("this torchao keeps no zero point")
    # 32,768 + 8,192 codes, 4 + 1 bytes for each of 128 + 64 rows, float32 biases.
    assert values(inspector.params(model))["param_bytes"] == 40_960 + 5 * BIASES + 4 * BIASES


@pytest.mark.parametrize("device", DEVICES)
def test_float8_activations_and_weights_multiply_scaled(device: str) -> None:
    # GIVEN what Float8DynamicActivationFloat8WeightConfig makes where the GPU can multiply it
    inference = pytest.importorskip("torchao.float8.inference")
    workflows = pytest.importorskip("torchao.quantization.quantize_.workflows")
    rows, plain = pytest.importorskip("torchao.quantization").PerRow(), inference.Float8MMConfig()
    model = torchao("Float8WeightOnlyConfig", torch.bfloat16)
    options = {"granularity": rows, "mm_config": plain}
    wanted = workflows.QuantizeTensorToFloat8Kwargs(**options)
    for layer in (model[0], model[2]):  # type: ignore[index]
        weight = workflows.Float8Tensor.from_hp(
            torch.ones(layer.out_features, layer.in_features, dtype=torch.bfloat16),
            act_quant_kwargs=wanted,
            **options,
        )
        layer.weight = nn.Parameter(weight, requires_grad=False)
    report = inspector.profile(model, (torch.ones(4, 256, dtype=torch.bfloat16),), device=device)
    assert values(report)["macs"] == MACS
    assert values(report)["unknown_ops"] == 0
    # A byte for each weight, a float32 scale for each row, biases of two bytes.
    assert values(report)["param_bytes"] == 40_960 + 4 * BIASES + 2 * BIASES
    ops = report.to_frame("ops").set_index("op")
    assert ops.loc["aten._scaled_mm", "calls"] == 2


def test_int4_tiles_are_counted_on_meta_without_a_gpu() -> None:
    # GIVEN 128 x 1024 weights as tinygemm packs them: 8 to an int32, scale and zero for each 32 of a row
    quantization = pytest.importorskip("torchao.quantization")
    if not hasattr(quantization, "Int4TilePackedTo4dTensor"):
        pytest.skip("this torchao packs otherwise")
    codes = torch.zeros(128 // 8, 1024 // (8 * 16), 32, 8 // 2, dtype=torch.int32)
    scales = torch.zeros(1024 // 32, 128, 2, dtype=torch.bfloat16)
    model = nn.Linear(1024, 128, dtype=torch.bfloat16)
    weight = quantization.Int4TilePackedTo4dTensor(codes, scales, [1, 32], torch.Size([128, 1024]))
    model.weight = nn.Parameter(weight, requires_grad=False)
    report = inspector.profile(model, (torch.ones(4, 1024, dtype=torch.bfloat16),), device="meta")
    counted = values(report)
    assert counted["params"] == 128 * 1024 + 128
    assert counted["param_bytes"] == 128 * 1024 // 2 + 32 * 128 * 2 * 2 + 2 * 128
    assert counted["macs"] == 4 * 1024 * 128
    assert counted["unknown_ops"] == 0
    # The product reads x, codes and scales and writes y, all but the codes of two bytes.
    moved = report.to_frame("ops").set_index("op").loc["aten._weight_int4pack_mm", "bytes"]
    assert moved == 2 * 4 * 1024 + 65_536 + 2 * 8_192 + 2 * 4 * 128


def test_memory_of_a_quantised_model_is_less_than_a_third() -> None:
    x = (torch.ones(4, 256),)
    plain = values(inspector.memory(nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64)), x))
    found = values(inspector.memory(torchao("Int8WeightOnlyConfig"), x))
    assert found["peak_parameters"] < plain["peak_parameters"] / 3


def test_table_and_diff_see_the_packed_bytes(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "def plain():\n"
        "    return nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64)).eval()\n"
        "def int8():\n"
        "    from torchao.quantization import Int8WeightOnlyConfig, quantize_\n"
        "    model = plain()\n"
        "    quantize_(model, Int8WeightOnlyConfig())\n"
        "    return model\n"
    )
    table = inspector.table([f"{file}:plain", f"{file}:int8"], inputs=["4x256"]).to_frame("models")
    assert table["params"].tolist() == [PARAMS, PARAMS]
    assert table["macs"].tolist() == [MACS, MACS]
    assert table["param_bytes"][0] == 4 * PARAMS
    assert table["param_bytes"][1] == held(torchao("Int8WeightOnlyConfig"))
    assert table["state_digest"].nunique() == 2
    base, head = (inspector.profile(f"{file}:{name}", "4x256") for name in ("plain", "int8"))
    changes = inspector.diff(base, head).to_frame("rows").set_index("metric")
    assert changes.loc["param_bytes", "state"] == "improved"


# bitsandbytes: 64 to 128 (quantised) to 10 (float): 8,192 + 128 + 1,280 + 10 parameters, 4 rows.

BNB_PARAMS = 9_610
BNB_MACS = 4 * 64 * 128 + 4 * 128 * 10
REST = 4 * (128 + 1_280 + 10)
"""Bytes of the bias and the float layer."""


def bitsandbytes(layer: str, quantised: bool = True, **options: Any) -> nn.Module:
    package = pytest.importorskip("bitsandbytes")
    model = nn.Sequential(getattr(package.nn, layer)(64, 128, **options), nn.Linear(128, 10))
    return model.to("cpu") if quantised else model


FOUR_BIT = 8_192 // 2
NESTED = 8_192 // 64 + 4 * (16 + 1 + 1 + 256)
"""A uint8 scale for each block of 64, the 16 codes, and of the scales: the mean, one scale for all 128 of
them (a block is 256), 256 codes."""
FLAT = 4 * (8_192 // 64 + 16)
"""A float32 scale for each block of 64, and the 16 codes."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("code", ["nf4", "fp4"])
@pytest.mark.parametrize(("nested", "beside"), [(True, NESTED), (False, FLAT)])
def test_linear4bit_counts_the_weight_that_its_codes_stand_for(
    device: str, code: str, nested: bool, beside: int
) -> None:
    model = bitsandbytes("Linear4bit", quant_type=code, compress_statistics=nested).eval()
    counted = values(inspector.profile(model, (torch.ones(4, 64),), device=device))
    assert counted["params"] == BNB_PARAMS
    assert counted["trainable_params"] == BNB_PARAMS - 8_192
    assert counted["param_bytes"] == FOUR_BIT + beside + REST
    assert counted["macs"] == BNB_MACS
    assert counted["unknown_ops"] == 0
    # code * scale for each weight, both biases; of nested scales code * scale + mean for each. A processor
    # with AVX512-BF16 packs the codes anew at the first call: two numbers of a byte taken apart and put
    # together, four operations for each of 4,096 bytes.
    packs = device == "cpu" and pytest.importorskip("bitsandbytes.functional").has_avx512bf16()
    packing = 4 * 4_096 if packs else 0
    assert counted["pointwise_flops"] == 8_192 + 4 * 128 + 4 * 10 + (2 * 128 if nested else 0) + packing


def test_linear4bit_in_training_multiplies_for_the_float_layer_only() -> None:
    # x needs no gradient, the codes have none: the float layer's weight and input gradients remain.
    model = bitsandbytes("Linear4bit")
    counted = values(inspector.profile(model, (torch.ones(4, 64),), phase="train"))
    assert counted["forward_macs"] == BNB_MACS
    assert counted["backward_macs"] == 2 * 4 * 128 * 10


def test_the_ledger_of_linear4bit_agrees_with_its_state_dict() -> None:
    report = inspector.params(bitsandbytes("Linear4bit"))
    weight = report.to_frame("state").set_index("name").loc["0.weight"]
    assert (weight["shape"], weight["numel"], weight["dtype"]) == ("128x64", 8_192, "uint8")
    assert weight["stored"].startswith("fp4 as uint8[4096,1] + ")
    (check,) = [finding for finding in report.findings if finding.check == "state_dict"]
    assert check.status == "pass"
    assert "5 hold how a quantised parameter is read" in check.message
    assert report.verdict == "none"


def test_storage_in_another_dtype_changes_no_count() -> None:
    model = bitsandbytes("Linear4bit", quant_storage=torch.bfloat16)
    counted = values(inspector.params(model))
    assert counted["params"] == BNB_PARAMS
    assert counted["param_bytes"] == FOUR_BIT + NESTED + REST


@pytest.mark.parametrize("layer", ["Linear4bit", "Linear8bitLt"])
def test_before_quantisation_the_weight_is_a_float(layer: str) -> None:
    counted = values(inspector.params(bitsandbytes(layer, quantised=False)))
    assert counted["params"] == BNB_PARAMS
    assert counted["param_bytes"] == 4 * BNB_PARAMS


def test_linear4bit_before_quantisation_fails_as_in_torch(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(inspector.InspectError, match="Linear4bit"):
        inspector.profile(bitsandbytes("Linear4bit", quantised=False), (torch.ones(4, 64),))
    # A file's model is not quantised behind its back on the way to the CPU.
    file = tmp_path / "net.py"
    file.write_text("import bitsandbytes\ndef build():\n    return bitsandbytes.nn.Linear4bit(64, 128)\n")
    with pytest.raises(inspector.InspectError, match="Linear4bit"):
        inspector.profile(f"{file}:build", "4x64", device="cpu")


INT8 = 8_192 + 4 * 128
"""A byte for each weight and a float32 scale for each row."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_linear8bit_counts_before_and_after_its_first_forward(device: str, ran: bool, phase: str) -> None:
    model = bitsandbytes("Linear8bitLt", has_fp16_weights=False).eval()
    if ran:
        model(torch.ones(4, 64))  # moves codes and scales from the parameter into the module
    weight, state = model[0].weight, model[0].state  # type: ignore[index]
    before = weight.CB, weight.SCB, dict(vars(state)), weight.data.clone()
    counted = values(inspector.profile(model, (torch.ones(4, 64),), device=device, phase=phase))
    assert counted["params"] == BNB_PARAMS
    assert counted["param_bytes"] == INT8 + REST
    assert counted["macs"] - counted.get("backward_macs", 0) == BNB_MACS
    assert counted.get("backward_macs", 0) == (0 if phase == "forward" else 2 * 4 * 128 * 10)
    assert counted["unknown_ops"] == 0
    # AND the model is as it was
    assert model[0].weight is weight  # type: ignore[index]
    assert model[0].state is state  # type: ignore[index]
    assert weight.CB is before[0]
    assert weight.SCB is before[1]
    assert vars(state) == before[2]
    assert torch.equal(weight.data, before[3])


def test_linear8bit_with_a_float_weight_quantises_in_the_forward() -> None:
    model = bitsandbytes("Linear8bitLt")
    counted = values(inspector.profile(model, (torch.ones(4, 64),)))
    assert counted["params"] == counted["trainable_params"] == BNB_PARAMS
    assert counted["param_bytes"] == 4 * BNB_PARAMS
    assert counted["macs"] == BNB_MACS
    assert counted["unknown_ops"] == 0


def test_linear8bit_with_outliers_multiplies_each_column_once() -> None:
    model = bitsandbytes("Linear8bitLt", has_fp16_weights=False, threshold=6.0).eval()
    report = inspector.profile(model, (torch.full((4, 64), 7.0),))
    assert values(report)["macs"] == BNB_MACS
    assert values(report)["unknown_ops"] == 0


@pytest.mark.parametrize(("layer", "beside"), [("Embedding4bit", 4 * (100 + 16)), ("Embedding8bit", 4 * 100)])
def test_quantised_embeddings(layer: str, beside: int) -> None:
    package = pytest.importorskip("bitsandbytes")
    model = getattr(package.nn, layer)(100, 64).to("cpu")
    counted = values(inspector.profile(model, (torch.zeros(2, 8, dtype=torch.int64),)))
    assert counted["params"] == 6_400
    assert counted["param_bytes"] == (3_200 if "4" in layer else 6_400) + beside
    assert counted["unknown_ops"] == 0


def test_lora_on_four_bits_trains_the_adapters_only() -> None:
    peft = pytest.importorskip("peft")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = bitsandbytes("Linear4bit").children()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.fc(x))

    model = peft.get_peft_model(Net(), peft.LoraConfig(r=8, target_modules=["fc"]))
    counted = values(inspector.profile(model, (torch.ones(4, 64),)))
    # Adapters: 64 to 8 and 8 to 128.
    assert counted["trainable_params"] == 64 * 8 + 8 * 128
    assert counted["params"] == BNB_PARAMS + 64 * 8 + 8 * 128
    assert counted["macs"] == BNB_MACS + 4 * (64 * 8 + 8 * 128)
    assert counted["param_bytes"] == FOUR_BIT + NESTED + REST + 4 * (64 * 8 + 8 * 128)


def test_bitsandbytes_has_no_float64_truth_to_drift_from() -> None:
    # Its float64 outputs differ from run to run: a drift from them would be a number that means nothing.
    truth = Numerics.make(bitsandbytes("Linear4bit"), (torch.ones(4, 64),), {}, "infer")
    assert truth.reference is None
    assert "bitsandbytes" in truth.why


# Kernels that need a GPU, by their signatures: 3 rows, 64 to 128.

X, Y = TensorSpec((3, 64), "bfloat16"), TensorSpec((3, 128), "bfloat16")
PRODUCT = 3 * 64 * 128


def scale(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "float32")


@pytest.mark.parametrize(
    ("name", "args", "pointwise"),
    [
        # (q - zero) * scale for each of the weights.
        (
            "aten._weight_int4pack_mm",
            (X, TensorSpec((16, 4, 32, 4), "int32"), 32, TensorSpec((2, 128, 2), "bfloat16")),
            2 * 64 * 128,
        ),
        # The rows to int8 (4 each), a scale for each output.
        (
            "aten._dyn_quant_matmul_4bit",
            (X, TensorSpec((5_120,), "uint8"), 32, 64, 128),
            4 * 3 * 64 + 3 * 128,
        ),
        ("torchao.int_matmul", (X, TensorSpec((64, 128), "int8")), 0),
        ("torchao.int_scaled_matmul", (X, TensorSpec((64, 128), "int8"), scale(3, 1)), 3 * 128),
        # Row and column scale, and the bias.
        (
            "bitsandbytes.int8_scaled_mm",
            (X, TensorSpec((128, 64), "int8"), scale(3), scale(128), scale(128), torch.bfloat16),
            3 * 3 * 128,
        ),
        ("bitsandbytes.int8_linear_matmul", (X, TensorSpec((128, 64), "int8")), 0),
        ("aten._sparse_semi_structured_linear", (X, TensorSpec((128, 32), "bfloat16"), scale(128)), 0),
        ("torchao.float8_linear_cpu", (X, scale(3, 1), X, scale(128, 1), None, torch.bfloat16), 2 * 3 * 128),
    ],
)
def test_a_kernel_counts_the_float_product(name: str, args: tuple[Any, ...], pointwise: int) -> None:
    found = cost(name, Y, args, {})
    assert found is not None
    assert found == (PRODUCT, pointwise, 3 * 128)


# A configuration that asks for quantised weights is built without, and says so.


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq, 4 bits"),
        ({"quant_method": "fp8"}, "fp8"),
        (None, ""),
    ],
)
def test_a_quantization_config_is_left_out_aloud(
    tmp_path: Path, asked: dict[str, Any] | None, words: str
) -> None:
    pytest.importorskip("transformers")
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "vocab_size": 50,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config | ({"quantization_config": asked} if asked else {})))
    for report in (inspector.profile(f"hf:{file}"), inspector.params(f"hf:{file}")):
        said = [f.message for f in report.findings if "quantization_config" in f.message]
        assert len(said) == bool(asked)
        assert all(f"({words})" in message and "unquantised" in message for message in said)
