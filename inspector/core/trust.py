"""Code from the hub: it runs where a person says so, never because a file that came with a model does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspector.core.errors import InspectError

TRUST = "trust_remote_code"
"""Among `model_args`: whether code that lies beside a configuration may run."""


def refuse_in_file(model_args: Mapping[str, Any], place: object) -> None:
    """Raise InspectError where arguments read from a file would let code run."""
    if model_args.get(TRUST):
        raise InspectError(
            f"{place} may not say {TRUST}", 'say it yourself: `model_args={"trust_remote_code": True}`'
        )
