"""What the text of a spec tells before anything is imported."""

from __future__ import annotations


def library(model: str) -> tuple[str, ...]:
    """The library that builds the model of a spec, as far as the spec alone tells."""
    source, colon, _ = model.partition(":")
    source = source if colon else "" if "." in model else "torchvision"
    return (source,) if source in ("torchvision", "timm") else ()
