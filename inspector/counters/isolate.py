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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inspector.core.collection import paused
from inspector.core.errors import InspectError, first_line
from inspector.core.forking import nursery
from inspector.core.log import logger
from inspector.core.processes import Child, cores, installed_search, side_by_side
from inspector.core.version import installed
from inspector.counters.record import Count, Counter
from inspector.models import Model, Recipe, Subject, as_recipe
from inspector.models.adapters import PEFT
from inspector.models.build import available_bytes, build
from inspector.models.inputs import Inputs, as_inputs
from inspector.models.replica import replica
from inspector.profiling.run import compiler_left_out
from inspector.tracing.capture.isolate import random_state, seed_all
from inspector.tracing.record import Trace

DOUBLED, WORST_CASE = "a batch of 2", "worst case"
"""How the notes of a trace begin that ran on two samples, or that assumes the most boxes."""
_COPIES, _IMPORTS = 4, 2**30
"""How often a counter may hold the weights, and the bytes of what it imports."""
TIMEOUT = 600.0
"""Seconds that a counter may take by default."""


@dataclass(frozen=True)
class Outcome:
    """How one counter ended: with a count, or the reason why there is none.

    `status` is ok, failed, timed out or not installed. `seconds` are those of building the model (once for
    several counters, where that is possible) and counting, `peak_bytes` the largest resident size of the
    counter's own process (None in this one). `at_once` is how many may have run side by side, which makes
    each slower.
    """

    status: str
    count: Count | None = None
    message: str = ""
    version: str | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    at_once: int = 1


Ended = Generator[tuple[int, Outcome], None, None]
"""The index of each counter, and how it ended, as they end."""


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
    source: str = ""

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
            source=trace.source,
        )


def missing(counter: Counter) -> Outcome | None:
    """Whether the package of a counter is absent, without importing it."""
    if importlib.util.find_spec(counter.package) is not None:
        return None
    return Outcome("not installed", message=f"{counter.package} is not installed: {counter.install}")


def ask(
    counters: Sequence[Counter],
    question: Question,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> list[Outcome]:
    """Run these counters, of a spec several side by side. Never raises for what a counter does. `tell` hears
    which are left, and the share that is done."""
    outcomes = {index: _refused(counter, question) for index, counter in enumerate(counters)}
    left = [index for index, outcome in outcomes.items() if outcome is None]
    chosen = [counters[index] for index in left]
    running = {counter.name: None for counter in chosen}

    def progress() -> None:
        tell(f"counting with {', '.join(running)}", 1 - len(running) / max(1, len(chosen)))

    progress()
    here = question.spec is None
    with closing(_here(chosen, question) if here else _in_processes(chosen, question)) as ended:
        for place, outcome in ended:
            outcomes[left[place]] = outcome
            del running[chosen[place].name]
            progress()
    return [outcome for outcome in outcomes.values() if outcome is not None]


def _refused(counter: Counter, question: Question) -> Outcome | None:
    """Why a counter cannot run here, without trying; None where it can."""
    if counter.name != "ours" and question.state_bytes > (available_bytes() or question.state_bytes):
        size = f"{question.state_bytes / 2**30:.1f} GiB"
        return missing(counter) or Outcome(
            "failed", message=f"it needs real weights, and {size} do not fit in memory"
        )
    return missing(counter)


def _here(counters: Sequence[Counter], question: Question) -> Ended:
    """In this process, one after the other: counters replace functions of torch while they run."""
    assert question.recipe is not None
    for index, counter in enumerate(counters):
        logger.info("counting with %s", counter.name)
        yield index, answer(counter, question.recipe, question)


# In this process.


def answer(counter: Counter, recipe: Recipe, question: Question) -> Outcome:
    """Build (or copy) the model and count, without collections of garbage, which would walk over what others
    have left; what the counter raises becomes the outcome."""
    start = time.perf_counter()
    version = installed(counter.package)
    try:
        with harmless(), paused():
            seed_all(question.seed)
            subject = _subject(counter, recipe, question)
            count = counter.run(subject, question.phase if counter.trains else "forward")
    except Exception as error:  # any counter may raise anything on any model
        logger.info("%s failed", counter.name, exc_info=True)
        message = f"{type(error).__name__}: {first_line(error)}"
        return Outcome("failed", message=message, version=version, seconds=time.perf_counter() - start)
    return Outcome("ok", count, version=version, seconds=time.perf_counter() - start)


def _subject(counter: Counter, recipe: Recipe, question: Question) -> Subject:
    ours = counter.name == "ours"
    device = question.device if ours else "cpu"
    phase = question.phase if counter.trains else "forward"
    subject = Subject.make(recipe, device, question.inputs, phase, question.seed, question.batch, ours)
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


def _in_processes(counters: Sequence[Counter], question: Question) -> Ended:
    """Each in one of its own, as many at once as processors and memory allow. The working folder is not
    searched: a user's file called thop.py must not pass for thop."""
    at_once = _at_once(len(counters), question)
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // at_once)), **os.environ}["OMP_NUM_THREADS"]
    others = [counter for counter in counters if counter.name != "ours"]
    first = others[0] if len(others) > 1 and _shared(question) else None
    with tempfile.TemporaryDirectory(prefix="inspector-") as name, nursery(__name__) as forks:
        folder = Path(name)

        def start(counter: Counter) -> Child:
            asked = folder / f"{counter.name}.pt"
            torch.save({**vars(question), "counter": counter.name}, asked)
            if counter is first:
                forks.prepare(f"{__name__}:build_once", [str(asked)])
            return forks.child(
                f"{__name__}:work", [str(asked)], folder, counter.name,
                search=installed_search(), environment={"OMP_NUM_THREADS": threads},
            )  # fmt: skip

        starts = [partial(start, counter) for counter in counters]
        for index, child, seconds, in_time in side_by_side(starts, at_once, question.timeout):
            logger.info("%s printed: %s", counters[index].name, child.printed())
            outcome = _outcome(child, seconds, question.timeout if not in_time else None)
            yield index, replace(outcome, at_once=at_once)


def _shared(question: Question) -> bool:
    """Whether one build may serve all counters: a fork has what was built, and not the threads that code of
    others may have started meanwhile."""
    return question.source in ("torchvision", "timm") and PEFT not in question.model_args


def _at_once(counters: int, question: Question) -> int:
    """How many processes may run side by side. Each may hold the weights several times, and torch."""
    room = (available_bytes() or 0) // (_COPIES * question.state_bytes + _IMPORTS)
    return max(1, min(counters, cores(), room))


def _outcome(child: Child, seconds: float, timeout: float | None) -> Outcome:
    if timeout is not None:
        return Outcome("timed out", message=f"no answer in {timeout:g} s", seconds=seconds)
    plain = child.answer()
    if plain is None:
        return Outcome("failed", message=child.death(), seconds=seconds)
    count = plain.pop("count")
    return Outcome(**plain, count=Count.from_plain(count) if count else None)


@dataclass(frozen=True)
class _Built:
    """A model on the CPU for the counters of the question in `folder`, and the seconds that building took."""

    folder: Path
    model: nn.Module
    seconds: float


_built: _Built | None = None


def build_once(words: list[str]) -> None:
    """Build the model of a question in the process that the children are forked from: each has a copy of its
    own, as it writes. By one thread, because others would be missing in a fork."""
    global _built
    question, _ = _asked(words[0])
    assert question.spec is not None
    threads, start = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)
    try:
        with compiler_left_out(question.spec, question.model_args):
            model = build(as_recipe(question.spec, question.model_args).construct, "cpu", question.seed)
    finally:
        torch.set_num_threads(threads)
    _built = _Built(Path(words[0]).parent, model, time.perf_counter() - start)


def _asked(file: str) -> tuple[Question, Counter]:
    from inspector.counters import find

    content = torch.load(file, weights_only=False)
    counter = find(content.pop("counter"))
    return Question(**content), counter


def work(words: list[str]) -> dict[str, Any]:
    """What the child process does with the file of a question: the outcome as plain values."""
    question, counter = _asked(words[0])
    assert question.spec is not None
    ours = counter.package in ("inspector", "torch")  # else code of others runs
    built = _built if _built is not None and _built.folder == Path(words[0]).parent else None
    try:
        with compiler_left_out(question.spec, question.model_args) if ours else nullcontext():
            recipe = as_recipe(question.spec, question.model_args, question.call)
            if built is not None and counter.name != "ours":
                recipe = recipe.first(built.model, "cpu")
            outcome = answer(counter, recipe, question)
        if built is not None and counter.name != "ours" and outcome.seconds is not None:
            outcome = replace(outcome, seconds=outcome.seconds + built.seconds)
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
