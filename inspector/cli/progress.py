"""The bar of a command that takes long: on standard error, on a terminal only, and only once it has taken two
seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from time import monotonic
from typing import Any

from inspector.core.visible import visible, visible_lines

SLOW = 2.0
"""Seconds after which people want to see that something happens."""
_REFRESHES = 2
"""A second: what is measured meanwhile must not feel them."""


@contextmanager
def steps(title: str = "") -> Iterator[Callable[[str, float], None]]:
    """A bar that shows what is being done, and the share that is finished where a command tells it."""
    with _late(title) as update:
        yield lambda what, share: update(description=visible(what), total=1.0, completed=share)


@contextmanager
def training(title: str = "") -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar with loss, accuracy and images/s; the merged settings are printed before it."""
    with _late(title) as update:

        def tell(beat: dict[str, Any]) -> None:
            if "settings" in beat:
                print(visible_lines(beat["settings"]), file=sys.stderr)
            numbers = [f"loss {beat['loss']:.3f}"] if beat.get("loss") is not None else []
            numbers += [f"accuracy {beat['accuracy']:.1%}"] if beat.get("accuracy") is not None else []
            numbers += [f"{beat['rate']:.0f} images/s"] if beat.get("rate") else []
            update(
                description=beat.get("phase", ""),
                total=beat.get("of"),
                completed=beat.get("step") or 0,
                numbers=", ".join(numbers),
            )

        yield tell


@contextmanager
def _late(title: str) -> Iterator[Callable[..., None]]:
    """What changes the bar, which appears when `SLOW` is over: most commands are done by then, and rich need
    not be imported for them."""
    if not sys.stderr.isatty():
        yield lambda **change: None
        return
    bar = _Bar(title)
    timer = Timer(SLOW, bar.show)
    timer.daemon = True
    timer.start()
    try:
        yield bar.update
    finally:
        timer.cancel()
        bar.close()


class _Bar:
    """A bar that may not be there yet: it is told of changes by the command, and shown by a timer."""

    def __init__(self, title: str) -> None:
        self._state: dict[str, Any] = {"description": visible(title), "total": None, "numbers": ""}
        self._lock, self._closed = Lock(), False
        self._shown: Any = None
        self._begin = monotonic()

    def update(self, **change: Any) -> None:
        with self._lock:
            self._state |= change
            if self._shown is not None:
                self._shown.update(self._shown.task_ids[0], **self._state)

    def show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
        )
        with self._lock:
            if self._closed:
                return
            console = Console(stderr=True)
            shown = Progress(*columns, console=console, transient=True, refresh_per_second=_REFRESHES)
            shown.add_task(**self._state)
            shown.tasks[0].start_time = self._begin
            shown.start()
            self._shown = shown

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._shown is not None:
                self._shown.stop()
