"""Which module of a model runs: every call of every module, from its start to its end.

`nn.Module.__call__` is wrapped meanwhile. torch's global module hooks cost as much and see less: they
get no keyword arguments, and miss calls that end with SystemExit or Ctrl-C. Hooks on the modules themselves
would switch off torch's fused transformer paths.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from inspector.tracing import _torch


@dataclass(slots=True)
class ModuleCall:
    """One call of a module; `output` is there when it has ended, or `error` where it raised."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    error: BaseException | None = None


Listener = Callable[[ModuleCall], object]


class Shared:
    """A module that is registered in several places, and so has several `paths`."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths = paths
        self._near: dict[str, list[str]] = {}

    def near(self, running: str) -> list[str]:
        """Its path in the module at `running`, which calls it; if it has none there, the one that shares the
        longest beginning with `running`. Several where a sequence or list holds it several times: their order
        is that of the calls. Of several names that are no numbers the first."""
        if running not in self._near:
            inside = [path for path in self.paths if path and path.rpartition(".")[0] == running]
            shared = [_shared_parts(path, running) for path in self.paths]
            nearest = inside or [p for p, parts in zip(self.paths, shared) if parts == max(shared)]
            home = nearest[0].rpartition(".")[0]
            here = [path for path in nearest if path.rpartition(".")[0] == home]
            ordered = all(path.rpartition(".")[2].isdigit() for path in here)
            self._near[running] = here if ordered else here[:1]
        return self._near[running]


def _shared_parts(path: str, other: str) -> int:
    parts = 0
    for a, b in zip(path.split("."), other.split(".")):
        if a != b:
            break
        parts += 1
    return parts


Places = Mapping[int, "str | Shared"]
"""The id of each module with its path, or with all of them."""


def paths_of(model: nn.Module) -> dict[int, str]:
    """The id of each module of `model` with its first path ("" for the model itself)."""
    return {id(module): path for path, module in model.named_modules()}


def places_of(paths: list[tuple[str, nn.Module]]) -> dict[int, str | Shared]:
    """The id of each module among `all_paths` with its path, or with all of them where it has several."""
    places: dict[int, list[str]] = {}
    for path, module in paths:
        places.setdefault(id(module), []).append(path)
    return {key: Shared(tuple(several)) if several[1:] else several[0] for key, several in places.items()}


def all_paths(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every path with its module, each before what it holds; a module inside itself is passed over."""
    paths = []
    around = set()

    def walk(path: str, module: nn.Module) -> None:
        paths.append((path, module))
        children = _torch.children_of(module)
        if not children:
            return
        around.add(id(module))
        for name, child in children.items():
            if child is not None and id(child) not in around:
                walk(f"{path}.{name}" if path else name, child)
        around.remove(id(module))

    walk("", model)
    return paths


@contextmanager
def module_calls(
    places: Places,
    enter: Listener | None = None,
    leave: Listener | None = None,
    caller: Callable[[], str] = str,
) -> Iterator[None]:
    """Tell `enter` and `leave` of this thread's calls of the modules in `places` (from `places_of`, or
    `paths_of` to be told the first path always).

    Each `enter` is followed by one `leave`, whatever ends the call, and those of inner modules lie between.
    A `forward` that is called directly, without the module, is not seen. May be nested.

    A module with several paths is told by the path in the module that calls it (see `Shared.near`); where
    there are several, the calls take turns. `caller` gives the path of the caller where no module
    runs: what a checkpoint computes again belongs to the module whose backward asks for it.
    """
    thread, original = threading.get_ident(), nn.Module.__call__
    running: str | None = None
    turns: dict[int, int] | None = None  # of each shared module that the running one has called

    def chosen(shared: Shared, module: nn.Module) -> str:
        nonlocal turns
        turns = {} if turns is None else turns
        near = shared.near(caller() if running is None else running)
        turn = turns[id(module)] = turns.get(id(module), -1) + 1
        return near[turn % len(near)]

    def __call__(module: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal running, turns
        path = places.get(id(module))
        if path is None or threading.get_ident() != thread:
            return original(module, *args, **kwargs)
        if isinstance(path, Shared):
            path = chosen(path, module)
        outer, running, turns = (running, turns), path, None
        call = ModuleCall(path, module, args, kwargs)
        if enter is not None:
            enter(call)
        try:
            call.output = original(module, *args, **kwargs)
            return call.output
        except BaseException as error:
            call.error = error
            raise
        finally:
            running, turns = outer
            if leave is not None:
                leave(call)
            call.error = None  # its traceback holds this frame: a cycle would keep every tensor alive

    nn.Module.__call__ = __call__  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
