"""Plain values written as YAML."""

from __future__ import annotations

from typing import Any

from inspector.core.errors import InspectError


def yaml_value(text: str, place: str) -> Any:
    """The value of a YAML text. Raises InspectError that says where it stands (`input 'a:=[1'`)."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InspectError(
            f"{place}: the value is not YAML", "quote strings with special characters"
        ) from error
