"""The peak of a step, derived by hand. Bytes without rounding (`exact`), float32: 4 bytes an element."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inspector.footprint import OPTIMIZER_STEP, Memory, Plan, simulate
from inspector.footprint.tables import bars_frame, composition_frame, modules_frame, timeline_frame
from inspector.tracing.capture import capture
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.capture.setting import Setting
from inspector.tracing.record import Trace


def traced(model: nn.Module, *shape: int, phase: str = "train", grad: bool = False, **setting: Any) -> Trace:
    x = torch.empty(shape, device="meta", requires_grad=grad)
    return capture(model, (x,), phase=phase, setting=Setting(**{"kernels": Kernels(), **setting}))


def exact(trace: Trace, optimizer: str = "sgd", **more: bool) -> Memory:
    return simulate(trace, Plan.of(trace, optimizer, exact=True, **more))


def parts(memory: Memory) -> dict[str, int]:
    return composition_frame(memory).to_frame().set_index("category")["bytes"].to_dict()


def mlp() -> nn.Sequential:
    """Weights of 8,000,000 and 4,000,000 bytes."""
    return nn.Sequential(nn.Linear(1000, 2000, bias=False), nn.ReLU(), nn.Linear(2000, 500, bias=False))


def test_the_peak_of_an_mlp_in_training() -> None:
    # Batch 10: x 40,000, hidden 80,000, output y 20,000 bytes. The peak is the last product, the gradient
    # of the first weight: weights 12,000,000, their gradients 12,000,000, x, y, y's gradient 20,000 and the
    # gradient of the hidden layer, 80,000. The hidden layer itself went with the backward of the ReLU.
    memory = exact(traced(mlp(), 10, 1000))
    assert memory.allocated == 12_000_000 + 12_000_000 + 40_000 + 20_000 + 20_000 + 80_000
    assert parts(memory) == {
        "parameters": 12_000_000,
        "gradients": 12_000_000,
        "activations": 20_000,
        "temporaries": 80_000,
        "inputs": 60_000,
    }


def test_inference_holds_one_layer_at_a_time() -> None:
    # x, the first product and its ReLU live at once: 12,000,000 + 40,000 + 2 * 80,000.
    assert exact(traced(mlp(), 10, 1000, phase="forward")).allocated == 12_200_000


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [
        ("sgd", 2),  # weights and gradients: the rule of two
        ("momentum", 3),
        ("adam", 5),  # two averages, and the root of the second, of all parameters at once
        ("adamw", 5),
    ],
)
def test_the_optimizers_step_holds_copies_of_the_weights(optimizer: str, copies: int) -> None:
    # Batch 1: the other bytes (x 4,000, y 2,000 and its gradient) are few, and exact.
    memory = exact(traced(mlp(), 1, 1000), optimizer)
    if optimizer == "sgd":  # nothing more than the backward's end: the peak is there
        assert memory.allocated == 2 * 12_000_000 + 4_000 + 2_000 + 2_000 + 8_000
    elif optimizer == "momentum":
        assert memory.allocated == 3 * 12_000_000 + 4_000 + 2_000 + 2_000 + 8_000
    else:
        assert memory.allocated == copies * 12_000_000 + 4_000 + 2_000 + 2_000
        assert memory.peak_at == OPTIMIZER_STEP
    assert parts(memory).get("optimizer state", 0) == {"sgd": 0, "momentum": 1}.get(optimizer, 2) * 12_000_000


def test_states_of_8_bits_are_a_byte_an_element_and_scales() -> None:
    # 2,000,000 and 1,000,000 elements: a byte each, and 4 bytes for every block of 256:
    # 2,000,000 / 256 = 7,812.5, 1,000,000 / 256 = 3,906.25. Two states.
    memory = exact(traced(mlp(), 1, 1000), "adamw8bit")
    assert parts(memory)["optimizer state"] == 2 * (2_000_000 + 4 * 7813 + 1_000_000 + 4 * 3907)


def test_a_small_parameter_keeps_float32_states_under_8_bits() -> None:
    memory = exact(traced(nn.Linear(10, 10, bias=False), 1, 10), "adam8bit")
    assert parts(memory)["optimizer state"] == 2 * 400


def test_master_weights_are_float32_copies_of_half_weights() -> None:
    # bfloat16: weights and gradients 6,000,000 each, master weights 12,000,000, Adam on them 24,000,000.
    memory = exact(traced(mlp(), 1, 1000, dtype="bfloat16"), "adam", master_weights=True)
    found = parts(memory)
    assert (found["parameters"], found["gradients"]) == (6_000_000, 6_000_000)
    assert (found["master weights"], found["optimizer state"]) == (12_000_000, 24_000_000)


@pytest.mark.parametrize(("inplace", "activations"), [(False, 2), (True, 1)])
def test_a_relu_in_place_makes_nothing(inplace: bool, activations: int) -> None:
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.ReLU(inplace))
    memory = exact(traced(model, 50, 100, phase="forward"))
    assert memory.allocated == 40_000 + 20_000 + activations * 20_000


class Blocks(nn.Module):
    """Three blocks of three tanh, each of which keeps its result for the backward."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh()) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def test_activations_are_kept_for_the_backward() -> None:
    # In units of x: x, nine results (the last is the output, which the loop holds), the output's gradient.
    # The second backward has the gradient that it gets and the one that it makes: 1 + 9 + 1 + 2.
    assert exact(traced(Blocks(), 10, 25, grad=True)).allocated == 13 * 1000


def test_checkpointed_blocks_keep_their_inputs_only() -> None:
    # x, the inputs of blocks two and three, the output, its gradient: 5. Block three is computed again: 3
    # more. Its second backward holds two of those, and two gradients: 5 + 2 + 2.
    checkpoints = tuple(f"blocks.{number}" for number in range(3))
    assert exact(traced(Blocks(), 10, 25, grad=True, checkpoints=checkpoints)).allocated == 9 * 1000


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, 64)
        self.head = nn.Linear(64, 1000, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x))


def test_a_tied_weight_is_one_parameter_with_one_gradient() -> None:
    # 1000 x 64 floats are 256,000 bytes. The head's gradient comes first, as the transpose of a product; it
    # shares its memory with that, so autograd adds the embedding's gradient out of place: the weight, both
    # gradients and their sum live at once. Tokens: 5 int64. Logits and their gradient: 5 x 1000 floats.
    x = torch.empty(1, 5, dtype=torch.int64, device="meta")
    trace = capture(Tied(), (x,), phase="train", setting=Setting(kernels=Kernels()))
    memory = exact(trace)
    assert memory.allocated == 256_000 * 4 + 40 + 2 * 20_000
    found = parts(memory)
    assert (found["parameters"], found["gradients"], found["temporaries"]) == (256_000, 256_000, 512_000)


class Branches(nn.Module):
    """A branch of 100 times the input, dropped before one of 50 times is made."""

    def forward(self, x: Tensor) -> Tensor:
        side = x.repeat(1, 100).sum()
        return x.repeat(1, 50) + side


def test_a_freed_branch_does_not_count_twice() -> None:
    # x 1,000; either x, 100,000 and the sum 4, or x, 4, 50,000 and the result 50,000.
    assert exact(traced(Branches(), 10, 25, phase="forward")).allocated == 1_000 + 4 + 100_000


class TwoUses(nn.Module):
    """A tensor used twice, by operators that keep nothing."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.exp()
        return y.neg() + y.neg()


def test_gradients_of_several_uses_are_added_in_place() -> None:
    # In units of x: x, y (kept by exp), the output and its gradient, and a gradient for each use: 6. Their
    # sum takes the place of the first; the record, made under a mode that forbids that, has a seventh.
    trace = traced(TwoUses(), 10, 25, grad=True)
    added = next(i for i, op in enumerate(trace.ops) if op.group == "gradient accumulation")
    alive = [s for s in trace.storages if (s.birth or 0) <= added and (s.death is None or s.death >= added)]
    assert sum(storage.nbytes for storage in alive) == 7 * 1000
    assert exact(trace).allocated == 6 * 1000


def test_attention_keeps_no_scores_when_fused() -> None:
    # Two heads, 64 tokens of 16: the scores are 2 * 64 * 64 floats, 32,768 bytes, in the math form.
    model = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    fused, math = (
        exact(traced(model, 1, 64, 32, kernels=Kernels("cuda", attention))) for attention in ("fused", "math")
    )
    assert math.allocated - fused.allocated >= 32_768


def test_dropout_keeps_booleans_on_cuda_and_floats_on_a_cpu() -> None:
    # 250 elements: input 1000, output 1000, gradient of the output 1000, of the input 1000; the mask.
    peaks = {
        device: exact(traced(nn.Dropout(0.5), 10, 25, grad=True, kernels=Kernels(device)))
        for device in ("cuda", "cpu")
    }
    assert peaks["cuda"].allocated == 4 * 1000 + 250
    assert peaks["cpu"].allocated == 4 * 1000 + 1000


def test_rounding_and_cublas_are_part_of_a_gpus_peak() -> None:
    # Inference of one product: weight 40,000 -> 40,448 (79 * 512), x and y 400 -> 512 each, and one
    # handle's workspace of 8,519,680 bytes, which has its own segment of 10 MiB.
    trace = traced(nn.Linear(100, 100, bias=False), 1, 100, phase="forward")
    memory = simulate(trace, Plan.of(trace))
    assert memory.allocated == 40_448 + 512 + 512 + 8_519_680
    assert memory.requested == 40_000 + 400 + 400 + 8_519_680
    assert memory.reserved == 2 * 2**20 + 20 * 2**20


def test_the_reports_tables_add_up_to_the_peak() -> None:
    trace = traced(mlp(), 10, 1000)
    memory = simulate(trace, Plan.of(trace, "adamw"))
    assert sum(composition_frame(memory)["bytes"]) == memory.allocated
    assert sum(modules_frame(memory, 1)["bytes"]) == memory.allocated
    timeline = timeline_frame(trace, memory, points=5)
    assert len(timeline) == 5
    assert max(timeline["bytes"]) == memory.allocated
    assert bars_frame(timeline, rows=3, width=10)["timeline"][-1] == "█" * 10
