"""Running a counter where it can do no harm.

A spec is counted in a process of its own, with a time-out: whatever the counter patches, leaks or
breaks ends with it. A live module is copied, and counted in this process, with the functions of torch
that counters replace, and the random state, put back.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inspector.core.errors import InspectError, first_line
from inspector.core.log import logger
from inspector.core.processes import Child
from inspector.core.version import installed
from inspector.counters.record import Count, Counter
from inspector.models import Model, Recipe, Subject, as_recipe
from inspector.models.build import available_bytes
from inspector.models.inputs import Inputs, as_inputs
from inspector.models.replica import replica
from inspector.tracing.capture.isolate import random_state, seed_all
from inspector.tracing.record import Trace

DOUBLED, WORST_CASE = "a batch of 2", "worst case"
"""How the notes of a trace begin that ran on two samples, or that assumes the most boxes."""
TIMEOUT = 600.0
"""Seconds that a counter may take by default."""


@dataclass(frozen=True)
class Outcome:
    """How one counter ended: with a count, or the reason why there is none.

    `status` is ok, failed, timed out or not installed. `seconds` are those of building the model and
    counting, `peak_bytes` the largest resident size of the counter's own process (None in this one).
    """

    status: str
    count: Count | None = None
    message: str = ""
    version: str | None = None
    seconds: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Question:
    """What every counter is asked: the model, as a spec or a live one, and what it runs on."""

    spec: str | None
    model_args: dict[str, Any]
    recipe: Recipe | None
    inputs: Inputs | None
    phase: str
    device: str  # ours was counted there; all others run on the CPU
    seed: int
    batch: int
    timeout: float
    state_bytes: int = 0  # of parameters and buffers
    call: str = "forward"

    @staticmethod
    def of(
        model: Model,
        inputs: Any,
        trace: Trace,
        seed: int,
        model_args: Mapping[str, Any] | None,
        timeout: float,
    ) -> Question:
        """The question that our `trace` has answered."""
        return Question(
            spec=model if isinstance(model, str) else None,
            model_args=dict(model_args or {}),
            recipe=None if isinstance(model, str) else as_recipe(model, None, trace.call),
            inputs=as_inputs(inputs) if inputs is not None else None,
            phase=trace.phase,
            device=trace.device,
            seed=seed,
            batch=2 if any(note.startswith(DOUBLED) for note in trace.notes) else 1,
            timeout=timeout,
            state_bytes=sum(entry.nbytes for entry in trace.state),
            call=trace.call,
        )


def missing(counter: Counter) -> Outcome | None:
    """Whether the package of a counter is absent, without importing it."""
    if importlib.util.find_spec(counter.package) is not None:
        return None
    return Outcome("not installed", message=f"{counter.package} is not installed: {counter.install}")


def ask(counter: Counter, question: Question) -> Outcome:
    """Run one counter. Never raises for what the counter does."""
    absent = missing(counter)
    if absent is not None:
        return absent
    if counter.name != "ours" and question.state_bytes > (available_bytes() or question.state_bytes):
        size = f"{question.state_bytes / 2**30:.1f} GiB"
        return Outcome("failed", message=f"it needs real weights, and {size} do not fit in memory")
    logger.info("counting with %s", counter.name)
    if question.spec is not None:
        return _in_a_process(counter, question)
    assert question.recipe is not None
    return answer(counter, question.recipe, question)


# In this process.


def answer(counter: Counter, recipe: Recipe, question: Question) -> Outcome:
    """Build (or copy) the model and count; what the counter raises becomes the outcome."""
    start = time.perf_counter()
    version = installed(counter.package)
    try:
        with harmless():
            seed_all(question.seed)
            subject = _subject(counter, recipe, question)
            count = counter.run(subject, question.phase if counter.trains else "forward")
    except Exception as error:  # any counter may raise anything on any model
        logger.info("%s failed", counter.name, exc_info=True)
        message = f"{type(error).__name__}: {first_line(error)}"
        return Outcome("failed", message=message, version=version, seconds=time.perf_counter() - start)
    return Outcome("ok", count, version=version, seconds=time.perf_counter() - start)


def _subject(counter: Counter, recipe: Recipe, question: Question) -> Subject:
    device = question.device if counter.name == "ours" else "cpu"
    phase = question.phase if counter.trains else "forward"
    subject = Subject.make(recipe, device, question.inputs, phase, question.seed, question.batch)
    if recipe.rebuilds:
        return subject
    copy = replica(subject.model)
    if any(tensor.is_meta for tensor in (*copy.parameters(), *copy.buffers())):
        return replace(subject, model=copy.to_empty(device=device))
    return replace(subject, model=copy.to(device) if device != "meta" else copy)


@contextmanager
def harmless() -> Iterator[None]:
    """Put back what counters change in torch, also after an exception; what they print goes to stderr."""
    places = (torch, nn.functional, torch.Tensor, nn.Module)
    before = [(place, dict(vars(place))) for place in places]
    training = torch.is_grad_enabled()
    try:
        with random_state(), warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_grad_enabled(training)
        for place, saved in before:
            _restore(place, saved)


def _restore(place: Any, saved: dict[str, Any]) -> None:
    now = dict(vars(place))
    for name, value in now.items():
        if place is torch.Tensor and name not in saved:
            delattr(place, name)  # what was inherited before
        elif name in saved and value is not saved[name] and callable(saved[name]):
            setattr(place, name, saved[name])


# In a process of its own.


def _in_a_process(counter: Counter, question: Question) -> Outcome:
    """The working folder is not searched: a user's file called thop.py must not pass for thop."""
    search = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="inspector-") as name:
        asked = Path(name) / "question.pt"
        torch.save({**vars(question), "counter": counter.name}, asked)
        function, home = f"{__name__}:work", str(Path(__file__).parents[2])
        with Child(function, [str(asked)], Path(name), "counter", search=[*search, home]) as child:
            in_time = child.wait(question.timeout)
        seconds = time.perf_counter() - start
        logger.info("%s printed: %s", counter.name, child.printed())
        if not in_time:
            return Outcome("timed out", message=f"no answer in {question.timeout:g} s", seconds=seconds)
        plain = child.answer()
        if plain is None:
            return Outcome("failed", message=child.death(), seconds=seconds)
    count = plain.pop("count")
    return Outcome(**plain, count=Count.from_plain(count) if count else None)


def work(words: list[str]) -> dict[str, Any]:
    """What the child process does with the file of a question: the outcome as plain values."""
    from inspector.counters import find

    content = torch.load(words[0], weights_only=False)
    counter = find(content.pop("counter"))
    question = Question(**content)
    assert question.spec is not None
    try:
        recipe = as_recipe(question.spec, question.model_args, question.call)
        outcome = answer(counter, recipe, question)
    except InspectError as error:
        outcome = Outcome("failed", message=error.message)
    plain = {**vars(outcome), "count": vars(outcome.count) if outcome.count else None}
    return {**plain, "peak_bytes": _peak_bytes()}


def _peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
