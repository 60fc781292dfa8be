"""torch's compiler is left out of a pass that compiles nothing.

Building and counting a model of torchvision on meta imports `torch._dynamo` and sympy, more than half of the
start of `inspect profile resnet50`, and uses neither (benchmarks/compiler_import.md has the facts). Inside
`deferred()` stand-ins take the place of three modules. What they answer is what torch's own code answers
while nothing is compiled; asked for anything else, they make way for the real module first. A stand-in never
answers code of others: `deferred()` is for torch's and torchvision's own code, in a process of our own, and
`in_kernel()` for the single operators of another model.

`INSPECTOR_DEFER_COMPILER=0` turns all of it off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, MethodType, ModuleType
from typing import Any

from inspector.core.whose import is_ours

SWITCH = "INSPECTOR_DEFER_COMPILER"
COMPILER = "torch._dynamo"
"""The package behind torch.compile. Its first import takes seconds, and may run operators of its own."""
_UTILITIES, _SHAPES = f"{COMPILER}.utils", "torch.fx.experimental.symbolic_shapes"
_ALL = (COMPILER, _UTILITIES, _SHAPES)


def loaded() -> bool:
    """Whether the compiler itself has been imported."""
    return COMPILER in sys.modules and not isinstance(sys.modules[COMPILER], _StandIn)


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, torch's compiler is imported when something needs it, and not before. No effect in a process
    that is not ours, where the switch is off, or where the compiler is there already."""
    if not is_ours() or os.environ.get(SWITCH, "1") == "0":
        yield
        return
    stand_ins = {name: module for name, module in _stand_ins().items() if name not in sys.modules}
    if COMPILER not in stand_ins:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        _make_way(_ALL)
        sys.meta_path.remove(finder)


def in_kernel(func: Any, values: Iterable[Any]) -> AbstractContextManager[None]:
    """`deferred()` while an operator of torch's own runs on plain tensors: in a pass over a model of others,
    the only code that is torch's alone."""
    if not is_ours() or COMPILER in sys.modules or func.namespace != "aten":
        return nullcontext()
    from torch import Tensor

    from inspector.tracing.subclass import PLAIN

    plain = all(type(value) in PLAIN for value in values if isinstance(value, Tensor))
    return deferred() if plain else nullcontext()


class _StandIn(ModuleType):
    """A module that knows a few answers, and makes way for the real one when it is asked for more."""

    def __init__(self, name: str, answers: Mapping[str, Any]) -> None:
        super().__init__(name)
        vars(self).update(answers)
        if name == COMPILER:
            self.__path__: list[str] = []  # its other modules are imported by way of `_Finder`

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what is asked of every module there is
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(_real(self.__name__), name)


class _Finder(MetaPathFinder, Loader):
    """The modules inside the package that stands aside: the real package is imported first."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if not name.startswith(f"{COMPILER}.") or loaded():
            return None
        _real(COMPILER)
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.module = _real(spec.name)
        self.spec = self.module.__spec__
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already."""
        module.__spec__ = self.spec


def _make_way(names: Iterable[str]) -> None:
    for name in names:
        stand_in = sys.modules.get(name)
        if isinstance(stand_in, _StandIn):
            del sys.modules[name]
            package, _, own = name.rpartition(".")
            if vars(sys.modules.get(package, stand_in)).get(own) is stand_in:
                delattr(sys.modules[package], own)


def _real(name: str) -> ModuleType:
    """The real module, imported where it is not there yet; the compiler needs all three."""
    _make_way((_SHAPES,) if name == _SHAPES else _ALL)
    return import_module(name)


def _disable(function: Any = None, recursive: bool = True, **more: Any) -> Any:
    """`torch._dynamo.disable`: a mark for the compiler. The function as it is until that is imported; then
    as the compiler marks it."""
    if not isinstance(function, (FunctionType, MethodType)):
        return _real(COMPILER).disable(function, recursive, **more)
    marked: list[Callable[..., Any]] = []

    def plain(*args: Any, **kwargs: Any) -> Any:
        if not loaded():
            return function(*args, **kwargs)
        if not marked:
            marked.append(sys.modules[COMPILER].disable(function, recursive, **more))
        return marked[0](*args, **kwargs)

    return wraps(function)(plain) if more.get("wrapping", True) else plain


def _graph_break(msg: str = "") -> None:
    """`torch._dynamo.graph_break`, which every step of an optimizer calls: where nothing is compiled, nothing
    happens."""


def _is_compile_supported(device_type: Any) -> Any:
    return _real(_UTILITIES).is_compile_supported(device_type)


def _of_plain(name: str, kinds: frozenset[type], answer: Callable[..., Any]) -> Callable[..., Any]:
    """A function of symbolic shapes: `answer` for values of these kinds, the real one for all others."""

    def of_plain(*values: Any, **more: Any) -> Any:
        if values and not more and kinds.issuperset(map(type, values)):
            plain = answer(*values)
            if plain is not NotImplemented:
                return plain
        return getattr(_real(_SHAPES), name)(*values, **more)

    return of_plain


def _equal(one: Any, two: Any) -> Any:
    """Whether two numbers, or two shapes of numbers, are equal."""
    if type(one) is int and type(two) is int:
        return one == two
    if type(one) is not int and type(two) is not int and {int}.issuperset(map(type, (*one, *two))):
        return tuple(one) == tuple(two)
    return NotImplemented


def of_plain_values() -> dict[str, tuple[frozenset[type], Callable[..., Any]]]:
    """What functions of `torch.fx.experimental.symbolic_shapes` return for values without symbols, and of
    which kinds; a test compares them with the real ones."""
    from torch import Size

    truth, number = frozenset({bool}), frozenset({int})
    same = dict.fromkeys(
        ("expect_true", "guard_or_false", "guard_or_true", "guard_size_oblivious", "statically_known_true"),
        (truth, lambda value: value),
    )
    return {
        **same,
        "sym_and": (truth, lambda *values: all(values)),
        "sym_or": (truth, lambda *values: any(values)),
        "sym_eq": (number | {tuple, list, Size}, _equal),
        "is_nested_int": (number, lambda value: False),
        "guarding_hint_or_throw": (truth | number, lambda value: value),
        "has_guarding_hint": (truth | number, lambda value: True),
        "_advise_is_size": (number, lambda value: None),
    }


@cache
def _stand_ins() -> dict[str, ModuleType]:
    shapes = {name: _of_plain(name, *plain) for name, plain in of_plain_values().items()}
    answers: dict[str, dict[str, Any]] = {
        COMPILER: {"disable": _disable, "graph_break": _graph_break},
        _UTILITIES: {"is_compile_supported": _is_compile_supported},
        _SHAPES: shapes,
    }
    return {name: _StandIn(name, known) for name, known in answers.items()}
