"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from inspector.core.errors import InspectError


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write `content` to `path` through a temporary sibling, so that no reader sees half a file.
    Text is written as UTF-8.

    Raises InspectError when the folder is missing or not writable.
    """
    import tempfile  # loads `random`: not at every start

    target = Path(path).expanduser()
    data = content.encode() if isinstance(content, str) else content
    if target.is_dir():
        raise InspectError(f"cannot write {target}: it is a folder", "name a file inside it")
    if target.exists() and not target.is_file():  # /dev/stdout, a named pipe
        target.write_bytes(data)
        return target
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise InspectError(
            f"cannot write {target}: {error.strerror or error}",
            "choose a path in an existing folder that you may write to",
        ) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
