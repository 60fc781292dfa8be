"""What float32 products may round their inputs to: torch's precision flags, set, read back, restored.

Torch 2.9 and newer have one `fp32_precision` for each backend and operator beside the older `allow_tf32`.
Whoever reads an older flag that disagrees with a new one gets an error, and torch itself reads them
(`torch.backends.cudnn.flags()`, `torch.compile`): both are set, the older ones first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from inspector.core.errors import InspectError

_LEAVES = (
    "",
    "cuda.matmul",
    "cudnn",
    "cudnn.conv",
    "cudnn.rnn",
    "mkldnn",
    "mkldnn.matmul",
    "mkldnn.conv",
    "mkldnn.rnn",
)
_OLDER = ("cuda.matmul.allow_tf32", "cudnn.allow_tf32")
_REDUCTIONS = (
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
)
_MATMUL = "float32_matmul_precision"


def _holder(path: str) -> Any:
    holder: Any = torch.backends
    for name in path.split(".") if path else ():
        holder = getattr(holder, name, None)
    return holder


def _names() -> list[str]:
    """The flags that decide, as dotted names below torch.backends."""
    if not hasattr(torch.backends, "fp32_precision"):
        return [*_OLDER, _MATMUL]
    names = [*_OLDER]
    for path in _LEAVES:
        if hasattr(_holder(path), "fp32_precision"):
            names.append(f"{path}.fp32_precision".lstrip("."))
    return names


def _get(name: str) -> Any:
    if name == _MATMUL:
        return torch.get_float32_matmul_precision()
    path, _, attribute = name.rpartition(".")
    try:
        return getattr(_holder(path), attribute)
    except RuntimeError:  # an older flag that disagrees with the new ones
        return None


def _set(name: str, value: Any) -> None:
    if name == _MATMUL:
        torch.set_float32_matmul_precision(value)
        return
    path, _, attribute = name.rpartition(".")
    setattr(_holder(path), attribute, value)


def _wanted(name: str, kind: str) -> Any:
    """TF32 is a format of CUDA: the CPU's library stays exact in every row, and so does the general flag,
    which torch 2.15 keeps in one place with the library's own."""
    exact = kind == "ieee" or "mkldnn" in name or name == "fp32_precision"
    if name == _MATMUL:
        return "highest" if exact else "high"
    if name.endswith("allow_tf32"):
        return not exact
    return "ieee" if exact else "tf32"


def read() -> dict[str, Any]:
    """Every flag that decides about float32 products, and those of sums in half precision, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: _get(name) for name in (*_names(), *_REDUCTIONS)}


@contextmanager
def precision(kind: str) -> Iterator[None]:
    """Set every flag to `kind`, "ieee" (round nothing) or "tf32", and read it back; afterwards all are as
    they were. Raises InspectError when torch did not accept it."""
    flags = read()
    before = {name: flags[name] for name in _names()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about each way to set the other's flags
            for name in before:
                _set(name, _wanted(name, kind))
            refused = [name for name in before if _get(name) != _wanted(name, kind)]
        if refused:
            message = f"torch did not accept {kind} for {', '.join(refused)}"
            raise InspectError(message, "report this with: inspect env")
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _restore(before)


def _restore(before: dict[str, Any]) -> None:
    """The general flags first: setting them sets those below them."""
    for name, value in before.items():
        if value is not None:
            _set(name, value)
    for name, value in before.items():
        if value is not None and _get(name) != value:
            _set(name, value)


def leaked(before: dict[str, Any], wanted: str) -> list[str]:
    """The flags whose value is no longer that of `before`, or is not `wanted`, each as "name is value".
    "none", without a value of its own, is as "ieee" here, where the general flag is that."""
    return [
        f"{name} is {value}"
        for name, value in read().items()
        if value is not None
        and (_same(value) != _same(before.get(name)) or _same(value) != _same(_expected(name, wanted, value)))
    ]


def _expected(name: str, kind: str, value: Any) -> Any:
    return value if name in _REDUCTIONS else _wanted(name, kind)


def _same(value: Any) -> Any:
    return "ieee" if value == "none" else value
