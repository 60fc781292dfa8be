"""Plain values written as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError

DEPTH = 50
"""How deep values may nest."""
ENTRIES = 100_000
"""How many entries a text may hold, each alias written out: ten lines of aliases can stand for 10**10."""

BITS = 1024
"""Of a whole number: the largest float has as many, and Python refuses to print one of 15,000."""


def yaml_value(text: str, place: str) -> Any:
    """The value of a YAML text. Raises InspectError that says where it stands (`input 'a:=[1'`)."""
    try:
        return _value(text)
    except _NotYaml as error:
        raise InspectError(
            f"{place}: the value is not YAML", "quote strings with special characters"
        ) from error


def yaml_file(file: str | Path, hint: str) -> Any:
    """The value of a YAML file. Raises InspectError where it cannot be read, with `hint` where it is not
    YAML."""
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InspectError(f"cannot read {file}: there is no such file", "name a YAML file") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InspectError(f"cannot read {file}: {error}", "name a YAML file") from error
    try:
        return _value(text)
    except _NotYaml as error:
        why = " ".join(str(error).split())
        raise InspectError(f"{file} is not YAML: {why}", hint) from error


class _NotYaml(Exception):
    """No YAML, or no value that we take."""


def _value(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
            if twice is not None and twice != "<<":
                raise _NotYaml(f"{twice!r} stands twice in one mapping")
            return super().construct_mapping(node, deep)

    try:
        value = yaml.load(text, Loader)
    except _NotYaml:
        raise
    except Exception as error:  # besides its own error PyYAML raises others: ValueError for month 13
        raise _NotYaml(str(error) or type(error).__name__) from error
    _bounded(value, iter(range(ENTRIES)), 0)
    return value


def _bounded(value: Any, left: Any, depth: int) -> None:
    """Raise _NotYaml for values that hold themselves, nest too deep, or repeat one another without end."""
    if isinstance(value, int) and value.bit_length() > BITS:
        raise _NotYaml(f"it holds a whole number of more than {BITS} bits")
    entries = [*value, *value.values()] if isinstance(value, dict) else value
    if not isinstance(entries, (list, tuple, set)):
        return
    if depth > DEPTH:
        raise _NotYaml(f"it nests more than {DEPTH} deep")
    for entry in entries:
        if next(left, None) is None:
            raise _NotYaml(f"it holds more than {ENTRIES:,} entries")
        _bounded(entry, left, depth + 1)
