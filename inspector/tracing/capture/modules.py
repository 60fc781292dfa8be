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


def paths_of(model: nn.Module) -> dict[int, str]:
    """The id of each module of `model` with its first path ("" for the model itself)."""
    return {id(module): path for path, module in model.named_modules()}


@contextmanager
def module_calls(
    paths: Mapping[int, str], enter: Listener | None = None, leave: Listener | None = None
) -> Iterator[None]:
    """Tell `enter` and `leave` of this thread's calls of the modules in `paths` (see `paths_of`).

    Each `enter` is followed by one `leave`, whatever ends the call, and those of inner modules lie between.
    A `forward` that is called directly, without the module, is not seen. May be nested.
    """
    thread, original = threading.get_ident(), nn.Module.__call__

    def __call__(module: Any, *args: Any, **kwargs: Any) -> Any:
        path = paths.get(id(module))
        if path is None or threading.get_ident() != thread:
            return original(module, *args, **kwargs)
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
            if leave is not None:
                leave(call)
            call.error = None  # its traceback holds this frame: a cycle would keep every tensor alive

    nn.Module.__call__ = __call__  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
