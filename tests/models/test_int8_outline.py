"""A quantised model that is counted without values counts as the one that is quantised for real."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inspector.models import Recipe, Subject, resolve
from inspector.models.int8 import RULES, outline
from inspector.profiling.run import trace
from inspector.tracing.capture import capture
from inspector.tracing.capture.state import state_entries
from inspector.tracing.record import Trace

ENTRIES = [
    "quantized_resnet18@IMAGENET1K_FBGEMM_V1",  # weights by channel
    "quantized_mobilenet_v3_large@IMAGENET1K_QNNPACK_V1",  # by tensor, prepared as for training
    "quantized_shufflenet_v2_x0_5@IMAGENET1K_FBGEMM_V1",  # channels are shuffled: strides decide
]
ENGINES = [engine for engine in ("fbgemm", "qnnpack") if engine in torch.backends.quantized.supported_engines]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = request.param
    yield request.param
    torch.backends.quantized.engine = before


def counted(recipe: Recipe, built: nn.Module) -> Trace:
    subject = Subject.make(replace(recipe, construct=lambda: built, rebuilds=False), "cpu")
    return capture(built, subject.args, rules=recipe.rules_on("cpu"), device="cpu")


@pytest.mark.parametrize("spec", ENTRIES)
def test_the_outline_of_a_model_has_the_record_of_the_real_one(spec: str) -> None:
    recipe = resolve(spec)
    real = capture(recipe.build("cpu"), Subject.make(recipe, "cpu").args, device="cpu")
    drawn = counted(recipe, outline(recipe.construct))
    assert (drawn.ops, drawn.storages, drawn.state) == (real.ops, real.storages, real.state)
    assert (drawn.modules, drawn.runs) == (real.modules, real.runs)


def test_a_count_takes_the_outline() -> None:
    recipe = resolve(ENTRIES[0])

    def refused() -> nn.Module:
        raise AssertionError("built with values")

    drawn = replace(recipe, outline=lambda construct: outline(recipe.construct), construct=refused)
    model = Subject.make(drawn, "cpu", counted=True).model
    assert state_entries(model) == state_entries(recipe.build("cpu"))


def test_what_is_built_to_run_has_values() -> None:
    recipe = resolve(ENTRIES[0])
    subject = Subject.make(recipe, "cpu", seed=3)
    with torch.no_grad():
        output = subject.model(*subject.args)
        again = Subject.make(recipe, "cpu", seed=3).model(*subject.args)
    weight: Any = subject.model.layer1[0].conv1.weight  # type: ignore[union-attr,index]
    assert len(weight().int_repr().unique()) > 100
    assert output.isfinite().all()
    assert output.unique().numel() > 1
    assert torch.equal(output, again)


def test_a_constructor_that_asks_for_values_is_built_with_them() -> None:
    recipe = resolve(ENTRIES[0])

    def construct() -> nn.Module:
        model = recipe.construct()
        with torch.no_grad():
            assert model(torch.zeros(1, 3, 64, 64)).isfinite().all()
        return model

    model = replace(recipe, construct=construct).shapes()
    assert state_entries(model) == state_entries(recipe.build("cpu"))


@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_put_back(raises: bool) -> None:
    import torch.nn.utils.fusion as fusion
    from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver, default_observer

    def functions() -> list[Any]:
        packing = torch.ops.quantized
        observers = [kind.calculate_qparams for kind in (MinMaxObserver, PerChannelMinMaxObserver)]
        return [
            *observers, type(default_observer).__call__, nn.Module.__call__, fusion.fuse_conv_bn_weights,
            torch.quantize_per_tensor, torch.quantize_per_channel, packing.conv2d_prepack,
            packing.linear_prepack, torch.backends.quantized.engine,
        ]  # fmt: skip

    def construct() -> nn.Module:
        if raises:
            raise KeyError("mine")
        return resolve(ENTRIES[0]).construct()

    before = functions()
    try:
        outline(construct)
    except KeyError:
        assert raises
    assert functions() == before


def test_another_thread_quantises_with_values_meanwhile() -> None:
    from concurrent.futures import ThreadPoolExecutor

    x = torch.linspace(0, 1, 9)
    seen = []

    def construct() -> nn.Module:
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(torch.quantize_per_tensor, x, 0.125, 0, torch.quint8).result())
            seen.append(pool.submit(nn.Identity(), x).result())
        return nn.Sequential()

    outline(construct)
    assert seen[0].int_repr().tolist() == list(range(9))
    assert seen[1] is x


def test_an_input_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(Exception, match="channel"):
        trace(ENTRIES[0], "1x1x64x64")


# The rules, each beside the kernel whose result it gives.


def quantised(*shape: int, last: bool = False) -> Tensor:
    x = torch.quantize_per_tensor(torch.rand(shape), 0.01, 3, torch.quint8)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def alike(made: Any, real: Tensor) -> None:
    assert made is not NotImplemented
    assert (made.shape, made.stride(), made.dtype) == (real.shape, real.stride(), real.dtype)
    assert (made.q_scale(), made.q_zero_point()) == (real.q_scale(), real.q_zero_point())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("channels", "out", "size", "kernel", "stride", "padding", "dilation", "groups"),
    [
        (3, 8, (17, 16), (3, 3), (2, 2), (1, 1), (1, 1), 1),
        (8, 8, (9, 12), (3, 5), (1, 2), (1, 0), (1, 1), 8),
        (8, 12, (9, 9), (1, 1), (1, 1), (0, 0), (1, 1), 4),
        (4, 6, (15, 11), (3, 3), (1, 3), (2, 2), (2, 3), 2),
        (1, 1, (7, 7), (7, 7), (1, 1), (0, 0), (1, 1), 1),  # 1 x 1 of one channel is left
    ],
)
def test_a_convolution(
    engine: str, relu: bool, channels: int, out: int, size: Any, kernel: Any, stride: Any, padding: Any,
    dilation: Any, groups: int,
) -> None:  # fmt: skip
    weight = torch.quantize_per_tensor(torch.rand(out, channels // groups, *kernel), 0.1, 0, torch.qint8)
    geometry = map(list, (stride, padding, dilation))
    packed = torch.ops.quantized.conv2d_prepack(weight, None, *geometry, groups)
    name = "conv2d_relu" if relu else "conv2d"
    for x in (quantised(2, channels, *size), quantised(2, channels, *size, last=True)):
        real = getattr(torch.ops.quantized, name)(x, packed, 0.5, 1)
        alike(RULES[f"quantized.{name}"](x, packed, 0.5, 1), real)


def test_a_convolution_leaves_what_the_kernel_refuses() -> None:
    weight = torch.quantize_per_tensor(torch.rand(4, 3, 3, 3), 0.1, 0, torch.qint8)
    packed = torch.ops.quantized.conv2d_prepack(weight, None, [1, 1], [0, 0], [1, 1], 1)
    transposed = torch.ops.quantized.conv_transpose2d_prepack(
        torch.quantize_per_tensor(torch.rand(3, 4, 3, 3), 0.1, 0, torch.qint8),
        None, [1, 1], [0, 0], [0, 0], [1, 1], 1,
    )  # fmt: skip
    rule = RULES["quantized.conv2d"]
    for x, weights in (
        (quantised(1, 4, 8, 8), packed),
        (quantised(1, 3, 2, 8), packed),
        (torch.rand(1, 3, 8, 8), packed),
        (quantised(1, 3, 8, 8), transposed),
    ):
        assert rule(x, weights, 1.0, 0) is NotImplemented


@pytest.mark.parametrize("name", ["add", "add_relu", "hardswish"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 16, 3, 3), (2, 1, 5, 5), (2, 8, 1, 1), (1, 1, 1, 1)])
def test_an_operator_on_each_element(engine: str, name: str, last: bool, shape: Any) -> None:
    x = quantised(*shape, last=last)
    operands = (x,) if name == "hardswish" else (x, quantised(*shape, last=last))
    real = getattr(torch.ops.quantized, name)(*operands, 0.5, 1)
    made = RULES[f"quantized.{name}"](*operands, 0.5, 1)
    if made is NotImplemented:  # its order can be read in two ways
        assert x.is_contiguous()
        assert x.is_contiguous(memory_format=torch.channels_last)
        return
    assert (made.shape, made.stride(), made.dtype) == (real.shape, real.stride(), real.dtype)


def test_operands_that_differ_are_left_to_the_kernel() -> None:
    x = quantised(2, 8, 5, 7)
    for other in (quantised(1, 8, 5, 7), quantised(2, 8, 5, 7, last=True)):
        assert RULES["quantized.add"](x, other, 1.0, 0) is NotImplemented
    assert RULES["quantized.hardswish"](torch.rand(2, 8, 5, 7), 1.0, 0) is NotImplemented
