"""What torchrun starts: `python -m inspector.distributed.start FOLDER`. It ends with its launcher from its
first moment on; what a rank needs is imported after that, which takes seconds."""

from __future__ import annotations

import atexit
import os
import sys
from importlib import import_module
from pathlib import Path

from inspector.core.processes import PARENT, end_with
from inspector.distributed.job import Job


def main(words: list[str]) -> int:
    """The entry point of a started process."""
    if Job.read(Path(words[0])).launched:
        end_with(int(os.environ[PARENT]))  # the launcher's agent, which ends with the launcher
    code: int = import_module("inspector.distributed.rank").main(words)
    return code


def forked(words: list[str]) -> None:
    """The same in a fork, which already ends with its launcher. A fork ends without what was registered for
    the end of a process; a user's trainer may have done so."""
    code: int = import_module("inspector.distributed.rank").main(words)
    atexit._run_exitfuncs()
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
