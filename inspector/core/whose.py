"""Whose process this is: the command line's own, or one in which a program calls inspector."""

_ours = False


def own_process() -> None:
    """The process is the command line's: no other code in it sees what is imported, or when."""
    global _ours
    _ours = True


def is_ours() -> bool:
    """Whether `own_process` was called."""
    return _ours
