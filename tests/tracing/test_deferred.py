"""torch's compiler is left out of counting in a process of our own: nothing but the time may tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from inspect import getsource, signature
from itertools import product
from typing import Any

import pytest
import torch

import inspector
from inspector.core import whose
from inspector.tracing import _deferred
from inspector.tracing.capture.isolate import random_state

MODELS = ("resnet18", "vit_b_16", "swin_t", "ssdlite320_mobilenet_v3_large", "raft_small")
PROGRAM = """
import json, sys
from inspector.core.whose import own_process
from inspector.tracing._deferred import loaded
import inspector
own_process()
path = list(sys.meta_path)
"""


def run(program: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM + program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def trained() -> str:
    """What two steps of each optimizer leave of a model, byte for byte."""
    import hashlib

    from torchvision.models import resnet18

    made = hashlib.sha256()
    for optimizer in ("SGD", "Adam", "AdamW"):
        torch.manual_seed(0)
        model = resnet18(num_classes=4).train()
        steps = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(2):
            steps.zero_grad()
            model(torch.randn(2, 3, 32, 32)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            steps.step()
        for tensor in model.state_dict().values():
            made.update(tensor.numpy().tobytes())
    return made.hexdigest()


@pytest.fixture(scope="module")
def without() -> Any:
    """What a process of our own counts and trains without the compiler."""
    return run(f"""
import torch
from inspector.profiling.run import compiler_left_out
torch.set_num_threads(1)
traces = {{}}
for name in {MODELS!r}:
    traces[name] = inspector.trace(name).to_json()
    assert not loaded(), name
{getsource(trained)}
with compiler_left_out("resnet18", {{}}):
    made = trained()
print(json.dumps({{"traces": traces, "trained": made, "loaded": loaded()}}))
""")


def test_the_counts_are_those_with_the_compiler(without: Any) -> None:
    """Whole traces, operator by operator; here they are counted beside the compiler."""
    for name, text in without["traces"].items():
        expected = json.loads(inspector.trace(name).to_json())
        counted = json.loads(text)
        for trace in (expected, counted):
            del trace["environment"]
        assert counted == expected, name


def test_training_steps_give_the_bytes_that_they_give_with_the_compiler(without: Any) -> None:
    import torch._dynamo

    assert (without["loaded"], _deferred.loaded()) == (False, True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with random_state():
            assert without["trained"] == trained()
    finally:
        torch.set_num_threads(threads)


def test_afterwards_the_compiler_is_as_ever() -> None:
    program = """
import torch
before = inspector.trace("resnet18")
trained = inspector.trace("resnet18", "2x3x32x32", phase="train")
assert not loaded()
names = "torch._dynamo", "torch._dynamo.utils", "torch.fx.experimental.symbolic_shapes"
assert not set(names) & set(sys.modules)
assert sys.meta_path == path
assert "_dynamo" not in vars(torch)
calls = []
def backend(graph, inputs):
    calls.append(len(graph.graph.nodes))
    return graph
def double(x):
    return torch.add(x, x)
made = torch.compile(double, backend=backend)(torch.ones(2, device="meta"))
assert loaded() and len(calls) == 1 and made.shape == (2,)
import torch._dynamo, torch._dynamo.utils, torch.fx.experimental.symbolic_shapes
modules = torch._dynamo, torch._dynamo.utils, torch.fx.experimental.symbolic_shapes
assert all(module.__file__ for module in modules)
from torchvision.ops import roi_align
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") is True
again = inspector.trace("resnet18")
assert again.ops == before.ops
print(json.dumps(len(again.ops)))
"""
    assert run(program) > 50


def test_what_is_asked_beyond_the_answers_gets_the_compiler() -> None:
    program = """
from inspector.tracing._deferred import deferred
with deferred():
    import torch
    assert not loaded()
    import torch._dynamo.config as config
    assert loaded() and config is sys.modules["torch._dynamo.config"] is torch._dynamo.config
    assert config.__spec__.name == "torch._dynamo.config" and config.__spec__.loader is not None
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
assert ShapeEnv.__module__ == "torch.fx.experimental.symbolic_shapes"
assert sys.meta_path == path
print("true")
"""
    assert run(program) is True


def test_it_can_be_turned_off_and_is_off_in_the_processes_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _deferred._ALL:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(whose, "_ours", True)
    with _deferred.deferred():
        assert isinstance(sys.modules[_deferred.COMPILER], _deferred._StandIn)
        assert not _deferred.loaded()
    monkeypatch.setenv(_deferred.SWITCH, "0")
    with _deferred.deferred():
        assert _deferred.COMPILER not in sys.modules
    monkeypatch.delenv(_deferred.SWITCH)
    monkeypatch.setattr(whose, "_ours", False)
    with _deferred.deferred(), _deferred.in_kernel(torch.ops.aten.relu.default, [torch.ones(1)]):
        assert _deferred.COMPILER not in sys.modules


VALUES: dict[type, tuple[Any, ...]] = {bool: (True, False), int: (0, 1, 7)}
SHAPES = (3, 4, (3, 4), [3, 4], torch.Size((3, 4)), (4, 3), ())


@pytest.mark.parametrize("name", _deferred.of_plain_values())
def test_each_answer_is_the_real_ones(name: str) -> None:
    from torch.fx.experimental import symbolic_shapes

    kinds, answer = _deferred.of_plain_values()[name]
    real = getattr(symbolic_shapes, name, None)
    if real is None:
        pytest.skip(f"this torch has no {name}")
    values = [value for kind in kinds for value in VALUES.get(kind, ())]
    pairs = list(product(values, values)) if name in ("sym_and", "sym_or") else [(value,) for value in values]
    pairs = list(product(SHAPES, SHAPES)) if name == "sym_eq" else pairs
    for arguments in pairs:
        plain = answer(*arguments)
        if plain is NotImplemented:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch wants to drop some
            expected = real(*arguments)
        assert (type(plain), plain) == (type(expected), expected)


def test_a_break_of_a_graph_is_nothing_where_nothing_is_compiled() -> None:
    import torch._dynamo

    assert torch._dynamo.graph_break() is None is _deferred._graph_break()  # type: ignore[func-returns-value]
    assert torch._dynamo.graph_break("here") is None is _deferred._graph_break("here")  # type: ignore
    assert signature(torch._dynamo.graph_break).parameters.keys() == {"msg"}


def test_a_mark_is_the_function_until_the_compiler_is_there() -> None:
    def double(x: Any) -> Any:
        return 2 * x

    marked = _deferred._disable(double, wrapping=False)
    assert marked(4) == 8  # by now, the tests have imported the compiler: it is its own mark
    assert _deferred._disable(double).__wrapped__ is double
