"""inspector: how big a PyTorch model is, what it computes, and how we know.

The command line is `inspect`; the functions here return the same reports. The table of public names is the
stub beside this file (`__init__.pyi`), which type checkers and editors read too: each name is loaded at its
first use, because torch takes seconds to import. So is the table itself: the command line needs none.
"""

from functools import cache
from typing import Any


@cache
def _table() -> Any:
    import lazy_loader

    return lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name not in ("__all__", "__version__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    load, _, names = _table()
    return names if name == "__all__" else load(name)


def __dir__() -> list[str]:
    return list(_table()[1]())
