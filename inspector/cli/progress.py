"""The bar of a command that takes long: on standard error, and on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from inspector.core.visible import visible, visible_lines


@contextmanager
def steps() -> Iterator[Callable[[str, float], None]]:
    """A bar that shows what is being done and the share that is finished."""
    if not sys.stderr.isatty():
        yield lambda what, share: None
        return
    with _bar(total=1.0) as update:
        yield lambda what, share: update(description=visible(what), completed=share)


@contextmanager
def training() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar with loss, accuracy and images/s; the merged settings are printed before it."""

    def settings(beat: dict[str, Any]) -> None:
        if "settings" in beat:
            print(visible_lines(beat["settings"]), file=sys.stderr)

    if not sys.stderr.isatty():
        yield settings
        return
    with _bar(total=None) as update:

        def tell(beat: dict[str, Any]) -> None:
            settings(beat)
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
def _bar(total: float | None) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total, numbers="")
        yield lambda **change: bar.update(task, **change)
