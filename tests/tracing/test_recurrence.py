"""Recurrent layers cost the same on every device, step by step, operator by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from inspector.profiling.views.totals import totals
from inspector.tracing.capture import ForwardError, capture
from inspector.tracing.record import Trace

PHASES = ("forward", "train")


def counted(model: nn.Module, x: torch.Tensor, phase: str, device: str) -> Trace:
    return capture(model, (x.to(device),), phase=phase, device=device)


def work(trace: Trace) -> Counter[Any]:
    """What ran, in any order; in place or not is the same."""
    return Counter(
        (
            op.name.removesuffix("_"),
            op.phase,
            tuple(spec.shape for spec in op.outputs),
            (op.macs, op.pointwise_flops, op.activations, op.bytes_read, op.bytes_written),
        )
        for op in trace.ops
    )


def test_bytes_of_a_recurrent_layer() -> None:
    # 20 steps of a batch of 3, 8 features, 16 hidden units, 4 bytes each.
    zeros = 3 * 16 * 4  # the first hidden state
    # The whole input meets its weights once: 60 x 8 by 8 x 16, and a bias of 16.
    entering = (60 * 8 + 8 * 16 + 16) * 4 + 60 * 16 * 4
    hidden = (3 * 16 + 16 * 16 + 16) * 4 + 3 * 16 * 4  # a step: 3 x 16 by 16 x 16, and a bias
    add, tanh = (48 + 48 + 48) * 4, (48 + 48) * 4
    stacked = 2 * 960 * 4 + 2 * 48 * 4  # the outputs, and the last state
    total = zeros + entering + 20 * (hidden + add + tanh) + stacked
    assert total == 63_232
    for device in ("meta", "cpu"):
        trace = counted(nn.RNN(8, 16), torch.zeros(20, 3, 8), "forward", device)
        assert totals(trace)["bytes_moved"] == total, device


def test_training_flops_of_a_recurrent_layer() -> None:
    # 60 rows of 16 hidden units: 960 elements, 48 a step.
    forward = 60 * 16 * (8 + 16)
    # Gradients of both weights; that of the hidden state, but not of the first one, nor of the input.
    backward = 60 * 16 * (8 + 16) + 19 * 3 * 16 * 16
    pointwise = 4 * 960  # two biases, the sum of the halves, tanh
    pointwise += 3 * 960 + 2 * 960  # tanh_backward; the sums of both biases' gradients
    # Joined: 20 gradients of w_hh and of b_hh, but one of w_ih and b_ih; the state's from its output and
    # from the next step (19), and of the last one from both outputs.
    pointwise += 19 * (16 * 16 + 16) + 20 * 48
    for device in ("meta", "cpu"):
        sums = totals(counted(nn.RNN(8, 16), torch.zeros(20, 3, 8), "train", device))
        assert (sums["macs"], sums["pointwise_flops"]) == (forward + backward, pointwise), device


KINDS: dict[str, Any] = {
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "projected": (nn.LSTM, {"proj_size": 3}),
}
SHAPES: dict[str, Any] = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True, "dropout": 0.1},
    "batch_first": {"batch_first": True},
    "unbiased": {"bias": False},
}


class Packed(nn.Module):
    """A layer that gets its sequences packed, of 5, 4, 4 and 2 steps."""

    def __init__(self, layer: nn.Module, batch_first: bool) -> None:
        super().__init__()
        self.layer, self.batch_first = layer, batch_first

    def forward(self, x: torch.Tensor) -> Any:
        packed = pack_padded_sequence(x, torch.tensor([5, 4, 4, 2]), batch_first=self.batch_first)
        outputs, last = self.layer(packed)
        return pad_packed_sequence(outputs, batch_first=self.batch_first)[0], last


def layers() -> Iterator[tuple[str, nn.Module, torch.Tensor]]:
    for kind, (layer, options) in KINDS.items():
        for shape, more in SHAPES.items():
            x = torch.zeros(4, 5, 6) if "batch_first" in more else torch.zeros(5, 4, 6)
            yield f"{kind} {shape}", layer(6, 7, **options, **more), x
            yield f"{kind} {shape} packed", Packed(layer(6, 7, **options, **more), "batch_first" in more), x
    for cell in (nn.RNNCell, nn.GRUCell, nn.LSTMCell):
        yield cell.__name__, cell(6, 7), torch.zeros(4, 6)
        yield f"{cell.__name__} unbiased", cell(6, 7, bias=False), torch.zeros(4, 6)


@pytest.mark.parametrize("phase", PHASES)
def test_meta_runs_what_the_cpu_runs(phase: str) -> None:
    for name, model, x in layers():
        meta, cpu = (counted(model, x, phase, device) for device in ("meta", "cpu"))
        assert work(meta) == work(cpu), name
        assert totals(meta)["unknown_ops"] == 0, name


def test_no_sequence_at_all_is_refused_on_every_device() -> None:
    for device in ("meta", "cpu"):
        with pytest.raises(ForwardError, match="Expected sequence length to be larger than 0"):
            counted(nn.RNN(6, 7), torch.zeros(0, 4, 6), "forward", device)


class Called(nn.Module):
    """The function itself, called by position or by name."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.named = named
        self.cell = nn.GRUCell(6, 7)

    def forward(self, x: torch.Tensor) -> Any:
        state = x.new_zeros(1, x.shape[1], 7)
        weights = [*self.cell.parameters()]
        if self.named:
            return torch.gru(
                input=x, hx=state, params=weights, has_biases=True, num_layers=1, dropout=0.0, train=False,
                bidirectional=False, batch_first=False,
            )  # fmt: skip
        return torch.gru(x, state, weights, True, 1, 0.0, False, False, False)


@pytest.mark.parametrize("named", [False, True])
def test_a_function_that_is_called_directly_counts_as_the_layer(named: bool) -> None:
    x = torch.zeros(5, 4, 6)
    layer = totals(counted(nn.GRU(6, 7), x, "train", "cpu"))
    for device in ("meta", "cpu"):
        called = totals(counted(Called(named), x, "train", device))
        assert {k: called[k] for k in ("macs", "flops", "bytes_moved")} == {
            k: layer[k] for k in ("macs", "flops", "bytes_moved")
        }, device


class Again(nn.Module):
    """A layer that the backward runs again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(6, 7)

    def forward(self, x: torch.Tensor) -> Any:
        return checkpoint(lambda x: self.layer(x)[0], x, use_reentrant=False)


def test_a_layer_in_a_checkpoint_runs_the_same_steps_again() -> None:
    x = torch.zeros(5, 4, 6)
    again = [totals(counted(Again(), x, "train", device))["macs"] for device in ("meta", "cpu")]
    once = totals(counted(nn.LSTM(6, 7), x, "train", "cpu"))["macs"]
    # The forward once more, 5 x 4 rows of 28 gates from 6 + 7 features.
    assert again == [once + 5 * 4 * 28 * (6 + 7)] * 2


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(6, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


def test_a_scripted_layer_counts_as_the_plain_one() -> None:
    x = torch.zeros(5, 4, 6)
    plain, scripted = (
        totals(counted(model, x, "train", "cpu")) for model in (Tagger(), torch.jit.script(Tagger()))
    )
    for metric in ("macs", "pointwise_flops", "unknown_ops"):
        assert scripted[metric] == plain[metric], metric


def test_the_functions_of_torch_are_put_back() -> None:
    before = torch.lstm, torch.gru, "lstm" in vars(torch._VF)
    counted(nn.LSTM(6, 7), torch.zeros(5, 4, 6), "train", "meta")
    with pytest.raises(ForwardError):
        counted(nn.LSTM(6, 7), torch.zeros(5, 4, 5), "forward", "meta")
    assert (torch.lstm, torch.gru, "lstm" in vars(torch._VF)) == before
    assert torch.backends.mkldnn.enabled


class Turned(nn.Module):
    """Changes a shape in place, twice in the same way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = (x + 1).transpose_(0, 1), (x + 1).transpose_(0, 1)
        return a @ b.t_()


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_shape_that_changes_in_place_changes_every_time(device: str) -> None:
    for _ in range(2):  # what an earlier pass remembers must not hide it either
        trace = counted(Turned(), torch.zeros(3, 5), "forward", device)
        assert totals(trace)["macs"] == 5 * 3 * 5
