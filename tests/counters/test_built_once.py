"""The counters of one question share what is imported and built: each has a copy of its own all the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector.core import forking
from inspector.core.forking import Forked, Nursery, nursery
from inspector.counters import find, isolate
from inspector.counters.isolate import Outcome, Question, ask
from inspector.models import as_recipe
from inspector.profiling.run import trace

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux alone"),
]

ROOT = str(Path(__file__).parents[2])
SPEC, INPUT = "squeezenet1_1", "1x3x64x64"
WORK = """
import hashlib, os, torch
from inspector.counters import isolate
from inspector.models import as_recipe
from inspector.tracing._deferred import loaded

def digest(model):
    made = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        made.update(name.encode() + tensor.numpy().tobytes())
    return made.hexdigest()

def spoil(words):
    question, counter = isolate._asked(words[0])
    recipe = as_recipe(question.spec).first(isolate._built.model, "cpu")
    subject = isolate._subject(counter, recipe, question)
    model, own = subject.model, isolate._built.model
    first = {"shared": model is own, "digest": digest(model), "input": subject.args[0].sum().item()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.zero_()
    model.register_forward_hook(lambda *_: None)
    again = recipe.build("cpu", question.seed)
    return {**first, "hooks": sum(hooks), "spoilt": digest(model), "again": digest(again)}

def count(words):
    return {"outcome": isolate.work(words), "compiler": loaded(), "built": isolate._built is not None}

def threads(words):
    return [torch.get_num_threads(), len(os.listdir(f"/proc/{os.getppid()}/task"))]
"""


@pytest.fixture
def forks(tmp_path: Path) -> Iterator[Nursery]:
    """As the command line starts it, beside that of all tests, which has imported the compiler."""
    (tmp_path / "work.py").write_text(WORK)
    token = forking._nursery.set(None)
    with nursery("inspector.counters.isolate", "inspector.models.torchvision:imported") as made:
        yield made
    forking._nursery.reset(token)


def child(forks: Nursery, folder: Path, function: str, *words: str) -> Any:
    name = f"{function}-{len(list(folder.iterdir()))}"
    made = forks.child(f"work:{function}", words, folder, name, search=[str(folder), ROOT])
    assert isinstance(made, Forked)
    assert made.wait(120)
    assert made.code == 0, made.printed()
    return made.answer()


def asked(folder: Path, counter: str, phase: str = "forward") -> str:
    file = folder / f"{counter}.pt"
    torch.save({**vars(question(phase)), "counter": counter}, file)
    return str(file)


def question(phase: str = "forward") -> Question:
    return Question.of(SPEC, INPUT, trace(SPEC, INPUT, phase=phase), 3, None, 120)


def test_each_counter_has_an_intact_model_of_its_own(forks: Nursery, tmp_path: Path) -> None:
    file = asked(tmp_path, "thop")
    before = child(forks, tmp_path, "threads")
    forks.prepare("inspector.counters.isolate:build_once", [file])
    first = child(forks, tmp_path, "spoil", file)
    second = child(forks, tmp_path, "spoil", file)
    assert first == second
    assert first["shared"] is True
    assert first["hooks"] == 0
    assert first["again"] == first["digest"] != first["spoilt"]  # a second build is another model
    assert {key: first[key] for key in ("digest", "input")} == built_here(file)
    assert child(forks, tmp_path, "threads") == before


def built_here(file: str) -> dict[str, Any]:
    """What a counter that builds by itself has."""
    names: dict[str, Any] = {}
    exec(WORK, names)
    told, counter = isolate._asked(file)
    subject = isolate._subject(counter, as_recipe(SPEC), told)
    return {"digest": names["digest"](subject.model), "input": subject.args[0].sum().item()}


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_counts_without_the_compiler_and_of_a_shared_model_are_those_of_a_counter_by_itself(
    forks: Nursery, tmp_path: Path, phase: str
) -> None:
    expected = ask_each_alone(phase)
    files = {name: asked(tmp_path, name, phase) for name in expected}
    forks.prepare("inspector.counters.isolate:build_once", [files["thop"]])
    for name, outcome in expected.items():
        assert outcome.count is not None, outcome.message
        answered = child(forks, tmp_path, "count", files[name])
        assert answered["built"] is True
        assert answered["compiler"] is False, name
        counted = answered["outcome"]
        assert counted["status"] == "ok", counted["message"]
        assert counted["count"] == json.loads(json.dumps(vars(outcome.count)))
        assert counted["seconds"] > 0


def ask_each_alone(phase: str) -> dict[str, Outcome]:
    """One counter at a time has nothing to share; the nursery of all tests has the compiler."""
    return {name: ask([find(name)], question(phase))[0] for name in ("ours", "thop", "fvcore", "torch")}


def test_only_what_runs_no_code_of_others_is_built_once(tmp_path: Path) -> None:
    whole = question()
    assert isolate._shared(whole)
    assert not isolate._shared(replace(whole, model_args={"peft": {"kind": "lora"}}))
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\n\n\ndef build():\n    return nn.Linear(3, 2)\n")
    spec = f"{file}:build"
    assert not isolate._shared(Question.of(spec, "1x3", trace(spec, "1x3"), 0, None, 120))


def test_a_model_that_was_built_for_another_question_is_not_taken(forks: Nursery, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    forks.prepare("inspector.counters.isolate:build_once", [asked(elsewhere, "thop")])
    other = replace(question(), spec="mobilenet_v3_small")
    file = tmp_path / "torch.pt"
    torch.save({**vars(other), "counter": "torch"}, file)
    answered = child(forks, tmp_path, "count", str(file))
    assert answered["built"] is True
    assert answered["outcome"]["count"]["params"] == 2_542_856  # torchvision's own figure for it
