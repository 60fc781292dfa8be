"""The JSON contract, byte-identical for equal reports."""

from inspector.reporting.parts import Content
from inspector.reporting.schema import as_text, to_dict

SUFFIXES = (".json",)
RAW = True


def render(report: Content) -> str:
    return as_text(to_dict(report)) + "\n"
