"""The version of inspector, part of every report and of every key of the cache; and those of packages."""

from __future__ import annotations

import os
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

__version__ = "0.1.0"


def installed(package: str) -> str | None:
    """The version of a package that is installed; None where it is not."""
    from importlib.metadata import PackageNotFoundError, version  # loads `email`: not at every start

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def marks(package: str) -> list[tuple[str, int, int]]:
    """What changes when a package is installed anew: the names, sizes and times of the folders and files on
    `sys.path` that hold its version. Nothing of it is read or imported; none where it is not installed."""
    name = re.compile(rf"{package}[-.].*(info|link|egg)|__editable__.*{package}.*", re.IGNORECASE)
    places = []
    for path in dict.fromkeys(sys.path):
        try:
            places += [Path(path or ".", entry) for entry in os.listdir(path or ".") if name.fullmatch(entry)]
        except OSError:  # a zip file, or nothing
            continue
    if (folder := package_folder(package)) is not None:
        places += [folder / "__init__.py", folder / "version.py"]
    return [stamp for place in places if (stamp := _stamp(place)) is not None]


def package_folder(package: str) -> Path | None:
    """Where a package is, which is not imported."""
    spec = PathFinder.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def stamps(folder: str | Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each Python file below a folder, in the order of their names."""
    lines, folders = [], [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.name.endswith(".py"):
                    content = entry.stat()
                    lines.append((os.path.relpath(entry.path, folder), content.st_size, content.st_mtime_ns))
    return sorted(lines)


def _stamp(place: Path) -> tuple[str, int, int] | None:
    try:
        content = place.stat()
    except OSError:
        return None
    return str(place), content.st_size, content.st_mtime_ns
