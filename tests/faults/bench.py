"""Planted faults of the benchmark: each makes a number wrong that would be believed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from inspector.benchmarking import steps
from inspector.benchmarking.checks import CHECKS, Case
from inspector.benchmarking.precisions import PRECISIONS, Precision
from inspector.benchmarking.probe import probe
from inspector.benchmarking.record import Group, Row
from inspector.benchmarking.run import Bench, Options
from inspector.benchmarking.timing import Visit
from inspector.models.inputs import Inputs, InputSpec
from inspector.profiling import flags
from inspector.reporting.checks import examine
from inspector.reporting.report import Finding
from tests.faults import clean, fault

SECONDS = 0.05


class Net(nn.Module):
    """A small convolutional classifier: (N, 3, 8, 8) to (N, 10)."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(self.drop(x.mean(dim=(2, 3))))


def inputs(batch: int) -> Inputs:
    return Inputs((InputSpec((batch, 3, 8, 8)),))


def findings(
    model: nn.Module,
    mode: str = "infer",
    names: tuple[str, ...] = ("fp32", "amp-bf16"),
    kind: type[Bench] = Bench,
    peaks: dict[str, float] | None = None,
    strict: bool = False,
) -> list[Finding]:
    torch.manual_seed(0)
    made = kind(model, inputs, lambda mode, batch: 27 * 8 * 64 * batch, peaks or {}, Options(seconds=SECONDS))
    made.run([PRECISIONS[name] for name in names], [mode], [2])
    return [finding for group in made.groups for finding in judged(group, strict)]


def judged(group: Group, strict: bool = False) -> list[Finding]:
    return examine(CHECKS, Case(group, strict))


class SetsTF32(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = getattr(torch.backends.cudnn, "conv", None)
        if hasattr(conv, "fp32_precision"):
            conv.fp32_precision = "tf32"
        else:
            torch.backends.cudnn.allow_tf32 = True
        return super().forward(x)


@fault("bench", check="effective_precision")
def tf32_turned_on_by_the_model() -> list[Finding]:
    """The model's forward switches TF32 on for convolutions, as an import of some libraries does."""
    with flags.precision("ieee"):
        return findings(SetsTF32(), names=("fp32",))


def _ten_bits(value: torch.Tensor) -> torch.Tensor:
    """Rounded to TF32's mantissa of 10 bits."""
    bits = value.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@fault("bench", check="effective_precision")
def convolutions_in_tf32() -> list[Finding]:
    """The flags say IEEE and the convolution rounds its inputs to TF32 all the same."""

    def conv(x: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if x.dtype is torch.float32:
            x, weight = _ten_bits(x), _ten_bits(weight)
        return functional.conv2d(x, weight, *args, **kwargs)

    row = Row(PRECISIONS["fp32"], "infer", 1, probe=probe("cpu", torch.float32, None, conv=conv))
    return judged(Group("infer", 1, [row]))


@fault("bench", check="synchronise")
def missing_synchronise() -> list[Finding]:
    """The host's clock is read when the work has been queued, not when it is done."""
    row = Row(PRECISIONS["fp32"], "infer", 1)
    row.visits = [Visit((0.010,) * 10, host=0.002, device=0.100) for _ in range(8)]
    return judged(Group("infer", 1, [row]))


class Shrinks(Bench):
    def step(self, precision: Precision, mode: str, batch: int) -> steps.Step:
        made = super().step(precision, mode, batch)
        if precision.name != "fp32":
            made.args = tuple(value[:1] for value in made.args)
        return made


@fault("bench", check="same_batch")
def smaller_batch_in_one_row() -> list[Finding]:
    """One row silently gets half of the samples, as a retry after running out of memory does."""
    return findings(Net(), kind=Shrinks)


class OtherValues(Bench):
    def step(self, precision: Precision, mode: str, batch: int) -> steps.Step:
        made = super().step(precision, mode, batch)
        if precision.name != "fp32":
            made.args = tuple(torch.zeros_like(value) for value in made.args)
        return made


@fault("bench", check="same_batch")
def other_values_in_one_row() -> list[Finding]:
    """One row runs on zeros, on which a device draws less power and clocks higher."""
    return findings(Net(), kind=OtherValues)


@fault("bench", check="peak")
def faster_than_the_device() -> list[Finding]:
    """The count or the clock is wrong: more than the device's peak is reached."""
    return findings(Net(), peaks={"fp32": 1e-9, "bf16": 1e-9})


def _large(model: Net) -> Net:
    with torch.no_grad():
        model.head.weight.fill_(3e4)
        model.norm.bias.fill_(10.0)
    return model


@fault("bench", check="overflow")
def overflow_in_the_head() -> list[Finding]:
    """The head's sums pass 65504, the largest finite FP16 number."""
    return findings(_large(Net()), names=("fp32", "fp16"), strict=True)


class InfiniteGradient(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        if x.requires_grad:
            x.register_hook(lambda grad: grad * float("inf"))
        return x


@fault("bench", check="grad_scaler")
def every_step_skipped() -> list[Finding]:
    """Gradients are never finite: GradScaler skips all steps, and nothing is trained."""
    return findings(InfiniteGradient(), mode="train", names=("fp32", "amp-fp16"))


class LeftInTrain(Bench):
    def step(self, precision: Precision, mode: str, batch: int) -> steps.Step:
        made = super().step(precision, mode, batch)
        made.model.train()
        return made


@fault("bench", check="mode")
def inference_in_train_mode() -> list[Finding]:
    """The benchmark forgot eval(): batch norms use the batch, dropout drops."""
    return findings(Net(), kind=LeftInTrain)


class Moves(Bench):
    def step(self, precision: Precision, mode: str, batch: int) -> steps.Step:
        made = super().step(precision, mode, batch)
        inner = made.call

        def call(x: torch.Tensor) -> Any:
            x.to("meta")  # the only other device that every machine has
            return inner(x)

        made.call = call
        return made


@fault("bench", check="transfer")
def inputs_moved_inside_the_clock() -> list[Finding]:
    """The batch is copied to the device inside the timed step."""
    return findings(Net(), kind=Moves)


@clean("bench", "effective_precision", "same_batch", "mode", "transfer")
def small_network_inference() -> list[Finding]:
    """A convolutional network in every precision of a CPU."""
    return findings(Net(), names=("fp32", "amp-fp16", "fp16", "amp-bf16", "bf16"), strict=True)


@clean("bench", "peak", "grad_scaler")
def small_network_training() -> list[Finding]:
    """The same, trained, on a device with a peak beyond reach."""
    peaks = {"fp32": 1e9, "fp16": 1e9, "bf16": 1e9}
    return findings(Net(), "train", ("fp32", "amp-fp16", "amp-bf16", "bf16"), peaks=peaks, strict=True)


@clean("bench")
def network_with_dropout() -> list[Finding]:
    """Random numbers in train mode are no drift."""
    return findings(Net(dropout=0.5), "train", strict=True)


@clean("bench")
def network_with_resting_norm() -> list[Finding]:
    """A batch norm that stays in eval mode on purpose while the rest trains."""
    model = Net()
    model.norm.train = lambda mode=True: model.norm  # type: ignore[method-assign, assignment]
    model.norm.eval()
    return findings(model, "train", strict=True)


@clean("bench", "synchronise")
def clock_that_waits() -> list[Finding]:
    """The host's clock is read after the work: it has run a little longer than the GPU."""
    row = Row(PRECISIONS["fp32"], "infer", 1)
    row.visits = [Visit((0.010,) * 10, host=0.1002, device=0.100) for _ in range(8)]
    return judged(Group("infer", 1, [row]))


@clean("bench", "overflow")
def zero_head() -> list[Finding]:
    """A head that starts at zero: the output is zero in every precision, and no drift is claimed."""
    model = Net()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return findings(model, strict=True)
