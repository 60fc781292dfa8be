"""The collector is paused where it finds nothing, and left out at the end where nobody misses it."""

from __future__ import annotations

import gc
import subprocess
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType

import pytest

from inspector.core.collection import leave, paused

pytestmark = pytest.mark.once


def test_a_pause_ends_also_after_an_exception() -> None:
    def fail() -> None:
        with paused():
            assert not gc.isenabled()
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert gc.isenabled()
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_objects_of_compiled_modules_of_others_are_collected_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append(1))
    module = ModuleType("someones")
    module.__spec__ = ModuleSpec("someones", ExtensionFileLoader("someones", "someones.so"))
    kept = {name: sys.modules[name] for name in ("sys", "gc")}
    monkeypatch.setattr(sys, "modules", {**kept, "someones": module})
    leave()
    assert not calls
    monkeypatch.setattr(sys, "modules", kept)
    leave()
    assert calls


def test_a_command_that_loads_the_compiler_ends_without_a_word() -> None:
    """triton's bindings print what has not been collected."""
    words = [sys.executable, "-W", "ignore", "-m", "inspector", "stages", "resnet18"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
