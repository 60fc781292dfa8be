"""Which module runs: every call is entered and left once, whatever ends it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from inspector.tracing.capture import ForwardError, capture
from inspector.tracing.capture.modules import ModuleCall, module_calls, paths_of

X = torch.ones(1, 2)


class Log:
    """What happened, in order: ">path" at an entry, "<path" at an exit, "!" after the error."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.calls: list[ModuleCall] = []

    def enter(self, call: ModuleCall) -> None:
        self.events.append(f">{call.path}")
        self.calls.append(call)

    def leave(self, call: ModuleCall) -> None:
        self.events.append(f"<{call.path}" + ("!" if call.error is not None else ""))


class Raising(nn.Module):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Any, scale: Any = None) -> Any:
        raise self.error("stop")


class Twice(nn.Module):
    """Calls itself once more, and one shared layer under its first name."""

    def __init__(self) -> None:
        super().__init__()
        self.a = self.b = nn.ReLU()

    def forward(self, x: Any, again: bool = True) -> Any:
        return self(self.b(x), again=False) if again else self.a.forward(x)


def watched(model: nn.Module, *args: Any, **kwargs: Any) -> Log:
    log = Log()
    with module_calls(paths_of(model), log.enter, log.leave):
        model(*args, **kwargs)
    return log


def test_inner_calls_lie_between_entry_and_exit_of_outer_ones() -> None:
    log = watched(nn.Sequential(nn.ReLU(), nn.Tanh()), X)
    assert log.events == [">", ">0", "<0", ">1", "<1", "<"]


def test_shared_and_reentrant_modules_are_told_by_their_first_path() -> None:
    # `forward` called directly is not a call of the module.
    assert watched(Twice(), X).events == [">", ">a", "<a", ">", "<", "<"]


def test_a_call_has_its_arguments_by_name_and_its_output() -> None:
    log = watched(Twice(), x=X)
    assert log.calls[0].kwargs == {"x": X}
    assert torch.equal(log.calls[0].output, X)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_every_call_is_left_when_the_model_raises(error: type[BaseException]) -> None:
    model, log = nn.Sequential(nn.ReLU(), nn.Sequential(Raising(error))), Log()
    with pytest.raises(error), module_calls(paths_of(model), log.enter, log.leave):
        model(X)
    assert log.events == [">", ">0", "<0", ">1", ">1.0", "<1.0!", "<1!", "<!"]


def test_an_error_that_the_model_catches_leaves_its_callers_running() -> None:
    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = Raising(ValueError), nn.ReLU()

        def forward(self, x: Any) -> Any:
            try:
                return self.bad(x)
            except ValueError:
                return self.good(x)

    assert watched(Catching(), X).events == [">", ">bad", "<bad!", ">good", "<good", "<"]


def test_watches_nest_and_are_gone_afterwards() -> None:
    original, outer = nn.Module.__call__, Log()
    model = nn.ReLU()
    with module_calls(paths_of(model), outer.enter, outer.leave):
        assert watched(model, X).events == [">", "<"]
    assert outer.events == [">", "<"]
    assert nn.Module.__call__ is original


def test_other_threads_and_other_models_are_not_watched() -> None:
    model, log = nn.ReLU(), Log()
    with module_calls(paths_of(model), log.enter, log.leave):
        thread = threading.Thread(target=model, args=(X,))
        thread.start()
        thread.join()
        nn.Tanh()(X)
    assert log.events == []


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_failure_names_the_module_and_all_that_it_was_given(error: type[BaseException]) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Raising(error)

        def forward(self, x: Any) -> Any:
            return self.inner(x, scale=x[0])

    with pytest.raises(ForwardError) as caught:
        capture(Outer(), (torch.ones(1, 2, device="meta"),))
    failure = caught.value.trace.failure
    assert failure is not None
    assert (failure.module, failure.inputs) == ("inner", ("float32[1,2]", "float32[2]"))
