"""The hand-made trace, for the views."""

from tests.handmade import trace  # noqa: F401
