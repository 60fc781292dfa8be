"""The user's own model: `path/to/file.py:ATTR` or `package.module:ATTR`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect as introspection
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from torch import nn

from inspector.core.errors import InspectError, first_line
from inspector.core.naming import nearest
from inspector.models.inputs import Inputs, as_inputs
from inspector.models.subject import Recipe


def recipe(spec: str, model_args: Mapping[str, Any]) -> Recipe:
    """ATTR is an nn.Module, or a class or function that returns one; `model_args` reach the call."""
    place, _, attribute = spec.rpartition(":")
    if not place:
        place, attribute = spec, ""
    with _importable(place):
        module = _load(place)
    target = _find(module, place, attribute)
    if isinstance(target, nn.Module):
        if model_args:
            raise InspectError(
                f"{spec} is a finished model: `model_args=` cannot reach it",
                "name the class or a function that builds it",
            )
        return Recipe(spec, "python", lambda: target, _examples(module), rebuilds=False)
    if not callable(target):
        raise InspectError(
            f"{spec} is a {type(target).__name__}, not an nn.Module, a class or a function",
            _models_in(module),
        )
    _check_arguments(spec, target, model_args)

    def construct() -> nn.Module:
        with _importable(place):
            try:
                return target(**model_args)
            except SystemExit as error:
                raise InspectError(
                    f"{spec} exited: SystemExit({error.code!r})", "make it return a model"
                ) from error

    return Recipe(spec, "python", construct, _examples(module))


def from_module(model: nn.Module, name: str | None = None) -> Recipe:
    """A live model, as the Python API gets it."""
    return Recipe(name or type(model).__name__, "python", lambda: model, rebuilds=False)


@contextmanager
def _importable(place: str) -> Iterator[None]:
    """The file's own folder (or the working folder, for a package) can be imported from."""
    folder = Path(place).expanduser().resolve().parent if place.endswith(".py") else Path.cwd()
    path = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path


def _load(place: str) -> ModuleType:
    try:
        return load_file(place) if place.endswith(".py") else importlib.import_module(place)
    except InspectError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(error.name + ".")):
            raise InspectError(
                f"no module is called {place!r}",
                "write path/to/file.py:NAME or package.module:NAME",
            ) from error
        raise InspectError(
            f"{place} needs a package that is not installed: {error.name}",
            f"install {error.name}, or fix the import",
        ) from error
    except (Exception, SystemExit) as error:
        raise InspectError(
            f"{place} raises on import: {type(error).__name__}: {first_line(error)}",
            f"make 'python -c \"import ...\"' of it work first{_line_of(error, place)}",
        ) from error


def _line_of(error: BaseException, place: str) -> str:
    lines = []
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename.endswith(Path(place).name):
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return f" (line {lines[-1]})" if lines else ""


def load_file(place: str) -> ModuleType:
    file = Path(place).expanduser()
    if not file.is_file():
        raise InspectError(f"no file at {place}", "write path/to/file.py:NAME")
    name = f"inspected_{file.stem}"
    loader = _Uncached(name, str(file.resolve())) if file.suffix == ".py" else None
    spec = importlib.util.spec_from_file_location(name, file.resolve(), loader=loader)
    if spec is None or spec.loader is None:
        raise InspectError(f"{place} is not a Python file", "write path/to/file.py:NAME")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Uncached(SourceFileLoader):
    """Compiles the file as it is now. Python's cache misses an edit within the same second that keeps the
    size, and leaves a folder beside the user's file."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        return self.source_to_code(self.get_data(self.path), self.path)


def _find(module: ModuleType, place: str, attribute: str) -> Any:
    if not attribute:
        raise InspectError(f"{place}: which model?", f"write {place}:NAME; {_models_in(module)}")
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            hint = nearest(part, _candidates(target) or _callables(target), _models_in(module))
            raise InspectError(f"{place} has no {attribute!r}", hint)
        target = getattr(target, part)
    return target


def _callables(place: Any) -> list[str]:
    """What a package offers that it imports from elsewhere."""
    named = getattr(place, "__dict__", {}).items()
    return [name for name, value in named if callable(value) and not name.startswith("_")]


def _candidates(place: Any) -> list[str]:
    """Models, model classes and functions that a file, or a class in it, itself defines."""
    home = place.__name__ if isinstance(place, ModuleType) else getattr(place, "__module__", None)
    names = []
    for name, value in getattr(place, "__dict__", {}).items():
        own = getattr(value, "__module__", None) == home
        model_class = isinstance(value, type) and issubclass(value, nn.Module)
        if isinstance(value, nn.Module) or (
            own and not name.startswith("_") and (model_class or introspection.isfunction(value))
        ):
            names.append(name)
    return names


def _models_in(module: ModuleType) -> str:
    names = _candidates(module)
    return f"it has: {', '.join(names)}" if names else "it defines no models or functions"


def _check_arguments(spec: str, target: Any, model_args: Mapping[str, Any]) -> None:
    try:
        signature = introspection.signature(target)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**model_args)
    except TypeError as error:
        call = " ".join(f"{spec}{signature}".split())
        raise InspectError(
            f"{call}: {error}", 'pass arguments with `model_args={"name": "value"}`'
        ) from error


def _examples(module: ModuleType) -> Any:
    """The file's `example_inputs()`, where it defines one: it returns whatever `as_inputs` takes."""
    maker = getattr(module, "example_inputs", None)

    def defaults(model: nn.Module, phase: str) -> Inputs | None:
        if maker is None:
            return None
        hint = "return a tensor, a tuple, a dict by keyword, ((...), {...}) for both, or a list as ['x=1x8']"
        try:
            made = maker()
        except (Exception, SystemExit) as error:
            message = f"example_inputs() raised {type(error).__name__}: {first_line(error)}"
            raise InspectError(message, hint) from error
        if made is None:
            raise InspectError("example_inputs() returned None", hint)
        return as_inputs(made)

    return defaults
