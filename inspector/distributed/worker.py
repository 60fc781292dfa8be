"""One rank: check what can be checked before, train, check the rest, and leave files for the launcher.

Files in the job's folder, of rank R: `beatR.json` (where it is), `evidenceR.json`, `errorR.json` (what it
raised), `refusedR.json` (input that cannot be trained on), `stackR.txt` (on request); in `output`:
`checkpoint.pt`, `log.txt` (rank 0), `log.rankR.txt`, `config.yaml`.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist
from torch import nn

from inspector.core.errors import InspectError, first_line
from inspector.core.files import write_whole
from inspector.core.log import Formatter, logger
from inspector.distributed import checkpoint, evidence, gradients
from inspector.distributed.deterministic import deterministic
from inspector.distributed.drawn import Drawn
from inspector.distributed.group import connect, gathered
from inspector.distributed.job import Job, Place
from inspector.distributed.loop import Trainer
from inspector.models.subject import Recipe
from inspector.tracing.capture.isolate import random_state

Prepare = Callable[[nn.Module], None]
LOST = re.compile(r"closed by peer|reset by peer|Broken pipe|Connection refused|DistNetwork|DistBackend|NCCL")
"""What a rank raises when another has died."""
LAST_LINES = 8
"""Lines of a traceback that the report shows."""
LAUNCHER = 30.0
"""Seconds after the deadline that the launcher has to stop its workers."""


def main(folder: Path, recipe: Recipe, prepare: Prepare, build: Callable[[], nn.Module]) -> None:
    """Run the job of `folder` on this rank. Raises what the training raises, after writing it down."""
    job = Job.read(folder)
    place = Place.of(os.environ, job.device)
    with _watched(folder, job, place) as beat:
        trainer = _trainer(job, place, recipe, prepare, build)
        run = _Run(folder, job, place, trainer, beat)
        backend = trainer.node.DDP.BACKEND
        if backend == "auto":
            backend = "nccl" if place.device.startswith("cuda") else "gloo"
        connect(place, backend, 2 * float(trainer.node.DDP.STALL) + 60)
        with random_state(), deterministic(place.device) as missing:
            run.seen["nondeterministic"] = missing
            run()
        dist.destroy_process_group()  # after an error it would wait for ranks that are gone


def _trainer(
    job: Job, place: Place, recipe: Recipe, prepare: Prepare, build: Callable[[], nn.Module]
) -> Trainer:
    module, _, name = job.trainer.partition(":")
    kind: type[Trainer] = getattr(importlib.import_module(module), name)
    return kind(job, place, recipe, prepare, build)


class _Run:
    """The phases of one start of one rank."""

    def __init__(
        self, folder: Path, job: Job, place: Place, trainer: Trainer, beat: Callable[..., None]
    ) -> None:
        self.folder, self.job, self.place, self.trainer, self.beat = folder, job, place, trainer, beat
        self.file = Path(job.output) / "checkpoint.pt"
        self.seen: dict[str, Any] = {"rank": place.rank, "world": place.world}
        self.steps = trainer.node.SOLVER.STEPS
        self.begun, self.busy = time.perf_counter(), 0.0

    def __call__(self) -> None:
        marker = self.folder / "killing.json"
        if self.place.attempt and marker.exists():
            self._after_kill(json.loads(marker.read_text()))
        else:
            self._train()

    def _train(self) -> None:
        trainer, place = self.trainer, self.place
        self.beat("build")
        logger.info(
            "rank %d of %d on %s; settings:\n%s", place.rank, place.world, place.device, self.job.config
        )
        trainer.setup()
        go_on = self.job.resume or self._interrupted()
        if go_on:
            trainer.load(self.file)
            self.seen["resumed_at"] = trainer.step
            self.seen["unrestored"] = {"names": evidence.unrestored(trainer, self.file)}
        self.seen["deaths"] = place.attempt
        self.seen["before"] = evidence.before(trainer)
        if not go_on and not self._checked_before():
            self._leave()
            return
        self.beat("train", step=trainer.step)
        drawn = Drawn(self.steps, trainer.step, self.job.seed)
        with evidence.writes(trainer) as places:
            trainer.run(self.steps, self._tell, self.file, drawn)
        self.beat("examine", step=trainer.step)
        self.seen["drawn"], self.seen["wrote"] = drawn.seen, sorted(places)
        self.seen["fingerprint"] = {"sums": evidence.fingerprint(trainer)}
        self.seen["after"] = evidence.after(trainer)
        self._stop_and_go_on()

    def _interrupted(self) -> bool:
        """Whether this start follows another of this run that wrote a checkpoint, and was not at its end."""
        if not self.place.attempt:
            return False
        mine = (self.folder / "saved").exists() and checkpoint.load(self.file)["step"] < self.steps
        return bool(gathered(mine)[0])  # rank 0 wrote both, perhaps on another machine

    def _checked_before(self) -> bool:
        """The checks that need no training; False when training would hang or raise."""
        trainer, seen = self.trainer, self.seen
        self.beat("checks: set-up")
        lengths = gathered(seen["before"]["steps_per_epoch"])
        if len(set(lengths)) > 1 or not lengths[0]:
            return False
        self.beat("checks: unused parameters")
        trainer.refresh()
        seen["unused"] = {"names": gradients.unused(trainer)}
        left = any(gathered(seen["unused"]["names"]))
        if left and not trainer.node.DDP.FIND_UNUSED:
            return False
        self.beat("checks: gradients")
        seen["gradients"] = gradients.compared(trainer)
        self.beat("checks: fixed batch")
        seen["fixed_batch"] = evidence.fixed_batch(trainer)
        seen["interrupted_save"] = evidence.interrupted_save(trainer, self.folder)
        self.beat("checks: speed of one process")
        seen["bare_seconds"] = evidence.bare_seconds(trainer)
        self._leave()  # where the training raises, what was seen before it says why
        trainer.begin()
        return True

    def _tell(self, trainer: Trainer, loss: float) -> None:
        last = trainer.record.validations[-1] if trainer.record.validations else {}
        progress = {"step": trainer.step, "of": self.steps, "loss": loss, "accuracy": last.get("accuracy")}
        self.beat("train", **progress, rate=trainer.images_per_second())
        if last.get("step") == trainer.step and self.place.rank == 0:
            (self.folder / "saved").touch()
        if trainer.step == self._middle() and self.place.rank == 0 and self.file.exists():
            shutil.copyfile(self.file, self.folder / "middle.pt")

    def _middle(self) -> int:
        """The last step before the end that has a checkpoint; 0 for none."""
        every = self.trainer.node.SOLVER.VALIDATE_EVERY
        return (self.steps - 1) // every * every

    def _stop_and_go_on(self) -> None:
        """Resume from the middle, in this process, or in one that is started after this was killed."""
        middle = self.folder / "middle.pt"
        ready = any(gathered(middle.exists() and self._middle() > 0))
        self._leave()
        if not ready or self.seen.get("resumed_at"):
            return
        if not self.job.kill or self.place.attempt:
            self.beat("checks: resume")
            self._resumed("in the same process")
            self._leave()
            return
        self.beat("checks: kill")
        again = self._again(middle)
        again.run(again.step + 1)
        if self.place.rank == 0:
            kill: dict[str, Any] = {
                "rank": self.place.world - 1,
                "at": again.step,
                "expected": again.step - 1,
                "busy": self._busy(),
            }
            write_whole(self.folder / "killing.json", json.dumps(kill))
        dist.barrier()
        if self.place.rank == self.place.world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        again.run(self.steps)  # waits for the dead rank until the agent stops it

    def _after_kill(self, kill: dict[str, Any]) -> None:
        self.beat("checks: resume after the kill")
        self.seen = json.loads((self.folder / f"evidence{self.place.rank}.json").read_text())
        self.seen["deaths"] = self.place.attempt - 1  # less the one that was meant
        self.busy = kill.pop("busy")
        step = self._resumed("in new processes, after one was killed")
        self.seen["killed"] = {**kill, "step": step, "attempt": self.place.attempt}
        self._leave()

    def _busy(self) -> float:
        """Seconds of training and checks so far, in all starts."""
        return self.busy + time.perf_counter() - self.begun

    def _again(self, file: Path) -> Trainer:
        trainer = type(self.trainer)(
            self.job, self.place, self.trainer.recipe, self.trainer.prepare, self.trainer.build
        )
        trainer.setup()
        trainer.load(file)
        return trainer

    def _resumed(self, where: str) -> int:
        trainer = self._again(self.folder / "middle.pt")
        start = trainer.step
        self.seen["unrestored"] = {"names": evidence.unrestored(trainer, self.folder / "middle.pt")}
        trainer.run(self.steps)
        self.seen["resumed"] = {
            "sums": evidence.fingerprint(trainer),
            "from": start,
            "where": where,
            "losses": trainer.record.losses,
        }
        return start

    def _leave(self) -> None:
        """Write this rank's evidence; rank 0 also writes that of all."""
        self.seen["busy"] = self._busy()
        write_whole(self.folder / f"evidence{self.place.rank}.json", json.dumps(self.seen))
        everyone = gathered(self.seen)
        if self.place.rank == 0:
            write_whole(self.folder / "evidence.json", json.dumps(everyone))


@contextmanager
def _watched(folder: Path, job: Job, place: Place) -> Iterator[Callable[..., None]]:
    """Logs, heartbeats, stack dumps on request and at the deadline; what is raised is written down."""
    rank = place.rank
    before = list(logger.handlers)
    handlers = _log(job, place)
    stack = (folder / f"stack{rank}.txt").open("a")
    beats = _Beats(folder / f"beat{rank}.json")
    _dump_on_request(stack)
    if job.deadline:  # with a launcher, only for the case that it is gone
        left = max(job.deadline - time.time(), 1.0) + (LAUNCHER if job.launched else 0.0)
        faulthandler.dump_traceback_later(left, exit=True, file=stack if job.launched else sys.stderr)
    try:
        if (folder / f"error{rank}.json").exists() or list(folder.glob("refused*.json")):
            raise SystemExit(1)  # started again after an error that would only come back
        yield beats
        beats("done")
    except InspectError as error:
        content = {"message": error.message, "hint": error.hint, "rank": rank}
        write_whole(folder / f"refused{rank}.json", json.dumps(content))
        raise
    except Exception as error:
        lines = traceback.format_exc().strip().splitlines()
        failure: dict[str, Any] = {
            "rank": rank,
            "time": time.time(),
            "phase": beats.last.get("phase"),
            "step": beats.last.get("step"),
            "error": f"{type(error).__name__}: {first_line(error)}",
            "traceback": lines[-LAST_LINES:],
        }
        if place.attempt == 0 and (folder / "killing.json").exists():
            raise  # the neighbour of the one that was killed
        kind = "lost" if LOST.search(failure["error"]) else "error"
        write_whole(folder / f"{kind}{rank}.json", json.dumps(failure))
        logger.error("rank %d: %s", rank, failure["error"])
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        _no_dump_on_request()
        stack.close()
        for handler in handlers:
            handler.close()
        logger.handlers[:] = before


class _Beats:
    """Tells the launcher where this rank is: a file that is overwritten in place."""

    def __init__(self, file: Path) -> None:
        self.handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.last: dict[str, Any] = {}

    def __call__(self, phase: str, **more: Any) -> None:
        self.last = {"phase": phase, "time": time.time(), "pid": os.getpid(), **more}
        text = json.dumps(self.last).encode()
        os.pwrite(self.handle, text + b" " * max(0, 400 - len(text)), 0)


def _log(job: Job, place: Place) -> list[logging.Handler]:
    """Every rank to its own file; rank 0 on standard error, too."""
    name = "log.txt" if place.rank == 0 else f"log.rank{place.rank}.txt"
    handlers: list[logging.Handler] = [logging.FileHandler(Path(job.output) / name)]
    handlers[0].setLevel(logging.INFO)
    for handler in [h for h in logger.handlers if not isinstance(h, logging.FileHandler)]:
        logger.removeHandler(handler)
    if place.rank == 0:
        handlers.append(logging.StreamHandler())
        handlers[1].setLevel(logging.INFO if job.verbose else logging.WARNING)
    for handler in handlers:
        handler.setFormatter(Formatter())
        logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    return handlers


def _dump_on_request(stack: IO[str]) -> None:
    if hasattr(faulthandler, "register") and threading.current_thread() is threading.main_thread():
        faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)


def _no_dump_on_request() -> None:
    if hasattr(faulthandler, "unregister"):
        faulthandler.unregister(signal.SIGUSR1)
