"""Running a counter where it can harm nothing.

A spec is counted in a process of its own, with a time-out: whatever the counter patches, leaks or
breaks ends with it. A live module is copied, and counted in this process, with the functions of torch
that counters replace, and the random state, put back.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
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

from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.counters.record import Count, Counter
from inspector.models import Model, Recipe, Subject, as_recipe
from inspector.models.build import available_bytes
from inspector.models.inputs import Inputs, as_inputs, first_line
from inspector.models.replica import replica
from inspector.tracing.capture.isolate import random_state, seed_all
from inspector.tracing.record import Trace

DOUBLED, WORST_CASE = "a batch of 2", "worst case"
"""How the notes of a trace begin that ran on two samples, or that assumes the most boxes."""
TIMEOUT = 600.0
"""Seconds that a counter may take, unless told otherwise."""


@dataclass(frozen=True)
class Outcome:
    """What became of one counter: a count, or the reason why there is none.

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

    @staticmethod
    def of(
        model: Model,
        inputs: Any,
        found: Trace,
        seed: int,
        model_args: Mapping[str, Any] | None,
        timeout: float,
    ) -> Question:
        """The question that our trace `found` has answered."""
        spec = isinstance(model, str)
        return Question(
            spec=model if isinstance(model, str) else None,
            model_args=dict(model_args or {}),
            recipe=None if spec else as_recipe(model),
            inputs=as_inputs(inputs) if inputs is not None else None,
            phase=found.phase,
            device=found.device,
            seed=seed,
            batch=2 if any(note.startswith(DOUBLED) for note in found.notes) else 1,
            timeout=timeout,
            state_bytes=sum(entry.nbytes for entry in found.state),
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
        return Outcome("failed", message=f"it needs real weights, and {size} do not fit into memory")
    logger.info("counting with %s", counter.name)
    if question.spec is not None:
        return _in_a_process(counter, question)
    assert question.recipe is not None
    return answer(counter, question.recipe, question)


# In this process.


def answer(counter: Counter, recipe: Recipe, question: Question) -> Outcome:
    """Build (or copy) the model and count; what the counter raises becomes the outcome."""
    start = time.perf_counter()
    version = _version(counter.package)
    try:
        with harmless():
            seed_all(question.seed)
            subject = _subject(counter, recipe, question)
            count = counter.run(subject, question.phase if counter.trains else "forward")
    except Exception as error:  # any counter may raise anything on any model
        logger.info("%s failed", counter.name, exc_info=True)
        said = f"{type(error).__name__}: {first_line(error)}"
        return Outcome("failed", message=said, version=version, seconds=time.perf_counter() - start)
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


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


@contextmanager
def harmless() -> Iterator[None]:
    """Put back what counters change in torch, also after an exception; what they print is no result."""
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

_PROGRAM = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [sys.argv[1]];"
    "from inspector.counters.isolate import work; work(sys.argv[2], sys.argv[3])"
)
"""The working folder is not searched: a file of the user's that is called thop.py is not thop."""


def _in_a_process(counter: Counter, question: Question) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="inspector-") as folder:
        asked, said = Path(folder) / "question.pt", Path(folder) / "outcome.json"
        torch.save({**vars(question), "counter": counter.name}, asked)
        home = str(Path(__file__).parents[2])
        words = [sys.executable, "-c", _PROGRAM, home, str(asked), str(said)]
        start = time.perf_counter()
        code, words_said = _run(words, Path(folder) / "said.txt", question.timeout)
        took = time.perf_counter() - start
        logger.info("%s said: %s", counter.name, words_said)
        if code is None:
            return Outcome("timed out", message=f"no answer in {question.timeout:g} s", seconds=took)
        if not said.exists():
            return Outcome("failed", message=_death(code, words_said), seconds=took)
        content = json.loads(said.read_text(encoding="utf-8"))
    count = content.pop("count")
    return Outcome(**content, count=Count.from_plain(count) if count else None)


def _run(words: list[str], output: Path, timeout: float) -> tuple[int | None, str]:
    """The exit code (None: out of time) and what was printed. Nothing that was started stays."""
    with output.open("wb") as stream:  # not a pipe: what a child leaves running would keep it open
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            code: int | None = child.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
    return code, output.read_text(encoding="utf-8", errors="replace").strip()


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child with all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except AttributeError:  # Windows has no process groups
        child.kill()
    child.wait()


def _death(code: int, words_said: str) -> str:
    if code < 0:
        return f"its process was killed by signal {-code} (9: out of memory, perhaps)"
    lines = words_said.splitlines()
    return f"its process ended with {code}: {lines[-1] if lines else 'no word'}"


def work(asked: str, said: str) -> None:
    """What the process of its own does."""
    from inspector.counters import find
    from inspector.models import resolve

    content = torch.load(asked, weights_only=False)
    counter = find(content.pop("counter"))
    question = Question(**content)
    assert question.spec is not None
    try:
        recipe = resolve(question.spec, question.model_args)
        outcome = answer(counter, recipe, question)
    except InspectError as error:
        outcome = Outcome("failed", message=error.message)
    outcome = replace(outcome, peak_bytes=_peak_bytes())
    plain = {**vars(outcome), "count": outcome.count.to_plain() if outcome.count else None}
    Path(said).write_text(json.dumps(plain), encoding="utf-8")


def _peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
