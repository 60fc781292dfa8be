"""What torchrun starts: `python -m inspector.distributed.start FOLDER`. It ends with its launcher from its
first moment on; what a rank needs is imported after that, which takes seconds."""

from __future__ import annotations

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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
