"""Compare precisions: what half precision buys, and what it costs in accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inspector.benchmarking.precisions import SWITCHES, Precision, choose, combined
from inspector.benchmarking.run import Bench, Options
from inspector.benchmarking.sections import report
from inspector.core import devices
from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.models import Model, Recipe, as_recipe
from inspector.models.device import OTHERS, gpu_name, real_device
from inspector.models.inputs import Inputs, as_inputs, materialise
from inspector.models.small import with_batch
from inspector.models.subject import refuse_meta, trainable
from inspector.profiling.run import trace
from inspector.profiling.views.totals import totals
from inspector.reporting.report import Report
from inspector.tracing.values import batch_size

MODES = ("infer", "train")
CPU_BATCH, GPU_BATCH = 4, 64
Tell = Callable[[str, float], None]


def bench(
    model: Model,
    inputs: Any = None,
    *,
    precisions: Sequence[str] | None = None,
    amp: bool = False,
    modes: Sequence[str] | None = None,
    batches: Sequence[int] | None = None,
    device: str | None = None,
    channels_last: bool = False,
    compile: bool = False,
    cuda_graph: bool = False,
    combine: bool = False,
    threads: int | None = None,
    seconds: float = 20.0,
    strict: bool = False,
    require_gpu: bool = False,
    model_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    call: str | None = None,
    tell: Tell = lambda what, share: None,
) -> Report:
    """Time `model` in several precisions, interleaved in this process, and measure their drift.

    model: a spec ("resnet50", "file.py:build"), built on the CPU from `seed`, or an nn.Module, which is
        copied and stays untouched.
    inputs: as `inspector.tracing` takes them; a first dimension of 1 becomes the batch.
    precisions: of fp32, tf32, amp-fp16, fp16, amp-bf16, bf16, fp8 (Linear layers, inference alone); the
        first of them in this order is the base of every speed-up. None: all on a GPU (`amp`: fp32, tf32,
        autocast and fp8), fp32 and amp-bf16 on a CPU.
    modes: of "infer" and "train" (one SGD step), both by default. `batches`: 64 on a GPU, 4 on a CPU.
    device: "cuda", "cuda:1", "cpu", "xpu" or "mps"; None takes the accelerator if there is one.
    channels_last, compile, cuda_graph: run every row so. `combine`: each row without them, with each, and
        with each combination; the fastest is named with its drift.
    threads: of the CPU; None leaves torch's number. `seconds`: time budget of one mode at one batch.
    call: the method to run in place of the forward.
    strict: overflow fails the report. `require_gpu`: no GPU is an error.

    tell: called with what is being measured and the share of the work that is done.

    Raises InspectError for what cannot be done. A row that cannot be measured is absent with its reason. A
    KeyboardInterrupt has what was measured until then as its `report`.
    """
    if require_gpu:
        _require_gpu(device)
    device = real_device(device, others=OTHERS)
    rows, phases = choose(precisions, amp, device), _modes(modes)
    rows = _ways(
        rows, {"channels_last": channels_last, "compile": compile, "cuda_graph": cuda_graph}, combine
    )
    if not device.startswith("cuda") and cuda_graph:
        raise InspectError("CUDA graphs need a CUDA device", "leave out `cuda_graph=`")
    options = Options(device, seconds, seed)
    recipe = as_recipe(model, model_args, call)
    session = Session(recipe, inputs, options, batches, weights=weights, threads=threads, strict=strict)
    session.bench.tell = tell
    try:
        return session.run(rows, phases)
    except KeyboardInterrupt as interrupt:
        interrupt.report = session.report(interrupted=True)  # type: ignore[attr-defined]
        raise


class Session:
    """One call of `bench` in parts, so that an interrupt can still report what was measured."""

    def __init__(
        self,
        recipe: Recipe,
        inputs: Any,
        options: Options,
        batches: Sequence[int] | None,
        *,
        weights: str | Path | None = None,
        threads: int | None = None,
        strict: bool = False,
    ) -> None:
        if threads is not None and threads < 1:
            raise InspectError(f"cannot run with {threads} threads", "pass `threads=1` or more")
        if not options.seconds > 0:
            raise InspectError(f"cannot measure in {options.seconds:g} seconds", "pass e.g. `seconds=20`")
        if recipe.only_on is not None:
            raise InspectError(f"{recipe.name} is quantized: it has one precision", "name the float model")
        self.recipe, self.weights, self.threads, self.strict = recipe, weights, threads, strict
        chosen = as_inputs(inputs) if inputs is not None else None
        model = trainable(recipe, chosen, options.seed, weights)
        refuse_meta(model)
        self.batches, of = _batches(recipe, model, chosen, batches, options.device)
        self.inputs = of(self.batches[0])
        name = gpu_name(options.device)
        entry = devices.find(name) if name is not None else None
        peaks = dict(entry.peaks) if entry is not None else {}
        self.bench = Bench(model, of, _counter(recipe, model, of), peaks, options)

    def run(self, precisions: Sequence[Precision], modes: Sequence[str]) -> Report:
        """Measure, and make the report."""
        with _thread_count(self.threads):
            self.bench.run(precisions, modes, self.batches)
            return self.report()

    def report(self, interrupted: bool = False) -> Report:
        """What has been measured so far."""
        return report(
            self.bench,
            self.recipe,
            self.inputs,
            strict=self.strict,
            random_weights=self.recipe.rebuilds and self.weights is None,
            interrupted=interrupted,
        )


def _require_gpu(device: str | None) -> None:
    if not torch.cuda.is_available() or (device is not None and not device.startswith("cuda")):
        raise InspectError(
            f'`require_gpu=True`, but `device="{device}"`'
            if torch.cuda.is_available()
            else "there is no CUDA device on this machine",
            "use a machine with an NVIDIA GPU and driver (see: inspect env), or leave out `require_gpu=`",
        )


def _ways(rows: Sequence[Precision], wanted: Mapping[str, bool], combine: bool) -> list[Precision]:
    """Every row with the switches that are wanted, or with each combination of them."""
    switches = tuple(name for name in SWITCHES if wanted[name])
    if not combine:
        return [replace(row, switches=switches) for row in rows]
    if not switches:
        raise InspectError("there is nothing to combine", "add `compile=True` or `channels_last=True`")
    return list(combined(rows, switches))


def _modes(modes: Sequence[str] | None) -> list[str]:
    wanted = [modes] if isinstance(modes, str) else list(modes or MODES)
    for mode in wanted:
        if mode not in MODES:
            raise InspectError(f"no mode is called {mode!r}", "use infer or train")
    return [mode for mode in MODES if mode in wanted]


def _batches(
    recipe: Recipe, model: nn.Module, chosen: Inputs | None, batches: Sequence[int] | None, device: str
) -> tuple[list[int], Callable[[int], Inputs]]:
    """The batches to measure, and the inputs for one of them."""
    inputs = recipe.inputs(model, chosen)
    own = batch_size(*materialise(inputs, model, "meta"))
    for batch in batches or ():
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise InspectError(f"a batch of {batch} cannot be measured", "pass `batches=[1, 8, 64]`")
    if own == 1:
        wanted = list(dict.fromkeys(batches or [CPU_BATCH if device == "cpu" else GPU_BATCH]))
        return wanted, lambda batch: with_batch(inputs, batch)
    if own == 0:
        raise InspectError("the input holds no sample", 'give at least one: `inputs="1x3x224x224"`')
    if batches and list(batches) != [own]:
        raise InspectError(
            f"the input has {own} samples, but `batches=` asks for other numbers",
            "give the input a first dimension of 1, or leave out `batches=`",
        )
    return [own], lambda batch: inputs


def _counter(
    recipe: Recipe, model: nn.Module, of: Callable[[int], Inputs]
) -> Callable[[str, int], int | None]:
    """MACs of one step, from the trace; None where operators are unknown or the trace fails."""

    @cache
    def macs(mode: str, batch: int) -> int | None:
        try:
            pass_ = trace(recipe, of(batch), phase="train" if mode == "train" else "forward", device="meta")
        except InspectError as error:
            logger.info("MACs of %s are unknown: %s", recipe.name, error.message)
            return None
        sums = totals(pass_)
        return None if sums["unknown_ops"] else sums["macs"]

    return macs


@contextmanager
def _thread_count(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)
