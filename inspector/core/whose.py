"""Whose process this is: our own (the command line's, or one that was started for it or for the library), or
one in which a program calls inspector."""

_ours = False


def own_process() -> None:
    """The process is ours: no other code in it sees what is imported, or when."""
    global _ours
    _ours = True


def is_ours() -> bool:
    """Whether `own_process` was called."""
    return _ours
