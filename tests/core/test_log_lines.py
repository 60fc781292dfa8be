"""What other libraries write about themselves stays out of a command's standard error; all else stays in."""

from __future__ import annotations

import logging

import pytest

from inspector.core import log

pytestmark = pytest.mark.once


def test_only_the_known_lines_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    chosen = logging.getLogger("torch.utils._pytree")
    before = list(chosen.filters)
    try:
        log.without_libraries_own_lines()
        chosen.warning("%s is an Enum subclass and is now natively supported", "Kind")
        chosen.warning("something about your model")
    finally:
        for name in log._ABOUT_LIBRARIES:
            one = logging.getLogger(name)
            one.filters = [entry for entry in one.filters if not isinstance(entry, log._Without)]
    assert [record.getMessage() for record in caplog.records] == ["something about your model"]
    assert chosen.filters == before
