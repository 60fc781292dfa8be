"""A counter may patch, leak, raise, hang or die: the user's model and the other counters never notice."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import inspector.counters.report as api
from inspector.core.processes import cores
from inspector.counters import find
from inspector.counters.isolate import Outcome, Question, ask, harmless
from inspector.counters.record import Count, Counter
from inspector.counters.report import reconcile
from inspector.models import Subject
from inspector.profiling.run import trace

pytestmark = pytest.mark.once

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    model.register_forward_hook(lambda module, inputs, output: None)
    return model.train()


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "hooks": [[list(getattr(m, kind).values()) for kind in HOOKS] for m in model.modules()],
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "buffers": [name for name, _ in model.named_buffers()],
        "versions": [tensor._version for tensor in (*model.parameters(), *model.buffers())],
        "grads": [parameter.grad for parameter in model.parameters()],
        "ids": [id(parameter) for parameter in model.parameters()],
    }


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    states = before.pop("state"), after.pop("state")
    return (
        before == after
        and list(states[0]) == list(states[1])
        and all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    )


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_state_dict_hooks_and_modes_of_the_users_model_are_untouched(phase: str) -> None:
    model = net()
    before, random = snapshot(model), torch.get_rng_state()
    report = reconcile(model, "2x3x4x4", phase=phase)
    assert set(report.to_frame("counters")["counter"][:4]) == {"ours", "thop", "fvcore", "torch"}
    assert same(before, snapshot(model))
    assert torch.equal(random, torch.get_rng_state())


def leaves_everything_behind(subject: Subject, phase: str) -> Count:
    """A counter that does all that real ones have done, and then raises."""
    model = subject.model
    model.register_buffer("total_ops", torch.zeros(1))
    model.register_forward_hook(lambda module, inputs, output: None)
    functional.relu = functional.gelu
    torch.matmul = torch.mm
    torch.Tensor.matmul = torch.Tensor.mm  # type: ignore[method-assign]
    nn.Module.__call__ = nn.Module.forward  # type: ignore[method-assign]
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    with torch.no_grad():
        next(model.parameters()).zero_()
    model.eval()
    raise ValueError("the counter broke\nin two lines")


BROKEN = Counter("thop", "MAC", "", "", leaves_everything_behind, lambda trace, count: [], "torch")


def test_a_counter_that_breaks_everything_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    before = snapshot(model)
    functions = functional.relu, torch.matmul, torch.Tensor.matmul, nn.Module.__call__, torch.get_rng_state()
    monkeypatch.setattr(api, "find", lambda name: BROKEN if name == "thop" else find(name))
    report = reconcile(model, "2x3x4x4", counters=["thop", "torch"])
    rows = report.to_frame("counters").set_index("counter")
    assert rows.loc["thop", "status"] == "failed"
    assert rows.loc["thop", "message"] == "ValueError: the counter broke"
    assert rows.loc["torch", "unexplained"] == 0
    assert any(f.subject == "thop" and "the counter broke" in f.message for f in report.findings)
    assert same(before, snapshot(model))
    assert torch.is_grad_enabled()
    assert functions[:4] == (functional.relu, torch.matmul, torch.Tensor.matmul, nn.Module.__call__)
    assert "matmul" not in vars(torch.Tensor)
    assert torch.equal(functions[4], torch.get_rng_state())


def test_what_a_counter_prints_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    with harmless():
        print("[INFO] Register zero_ops()")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "[INFO] Register zero_ops()\n")


def test_a_counter_that_is_not_installed_says_how_to_get_it() -> None:
    absent = replace(find("torchinfo"), package="a_package_that_nobody_has")
    (outcome,) = ask([absent], Question.of(net(), "2x3x4x4", trace(net(), "2x3x4x4"), 0, None, 60))
    assert outcome.status == "not installed"
    assert (
        outcome.message == "a_package_that_nobody_has is not installed: pip install a_package_that_nobody_has"
    )


def test_a_model_whose_weights_do_not_fit_is_a_row_and_not_the_end_of_the_machine() -> None:
    with torch.device("meta"):
        model = nn.Linear(2**20, 2**21)  # 8 TiB
    report = reconcile(model, "1x1048576", counters=["thop"])
    rows = report.to_frame("counters").set_index("counter")
    assert list(rows["status"]) == ["ok", "failed"]
    assert rows.loc["ours", "macs"] == 2**41
    assert rows.loc["thop", "message"] == "it needs real weights, and 8192.0 GiB do not fit in memory"


def test_a_model_on_meta_is_counted_with_arbitrary_values() -> None:
    with torch.device("meta"):
        model = nn.Linear(4, 3)
    rows = reconcile(model, "2x4", counters=["thop", "fvcore"]).to_frame("counters")
    assert list(rows["macs"]) == [24, 24, 24]
    assert model.weight.is_meta


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    file = tmp_path / "odd.py"
    file.write_text(
        "import os, subprocess, sys, time, torch\n"
        "from torch import nn\n\n\n"
        "class Dies(nn.Module):\n"
        "    def forward(self, x):\n"
        "        if x.device.type != 'meta':\n"
        "            print('last words', file=sys.stderr, flush=True)\n"
        "            os._exit(7)\n"
        "        return x @ x\n\n\n"
        "class Hangs(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(10, 2)\n\n"
        "    def forward(self, x):\n"
        "        if x.device.type != 'meta':\n"
        "            subprocess.Popen(['sleep', '600'])\n"
        "            time.sleep(600)\n"
        "        return self.layer(x)\n"
    )
    return file


def asked(spec: str, inputs: str, timeout: float) -> Outcome:
    return ask([find("thop")], Question.of(spec, inputs, trace(spec, inputs), 0, None, timeout))[0]


def test_a_counter_whose_process_dies_is_a_row(odd: Path) -> None:
    outcome = asked(f"{odd}:Dies", "3x3", 120)
    assert (outcome.status, outcome.count) == ("failed", None)
    assert outcome.message == "its process ended with 7: last words"


def test_counters_side_by_side_keep_their_order_and_tell_how_far_they_are(odd: Path) -> None:
    spec, told = f"{odd}:Dies", []
    question = Question.of(spec, "3x3", trace(spec, "3x3"), 0, None, 120)
    outcomes = ask(
        [find("thop"), find("ours")], question, tell=lambda what, share: told.append((what, share))
    )
    assert [outcome.status for outcome in outcomes] == ["failed", "ok"]
    assert told[0] == ("counting with thop, ours", 0)
    assert [share for _, share in told] == [0, 0.5, 1]
    assert [outcome.at_once for outcome in outcomes] == [min(2, cores())] * 2


def test_seconds_of_counters_that_ran_side_by_side_are_said_to_be_long(
    odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inspector.counters.isolate.cores", lambda: 2)
    report = reconcile(f"{odd}:Dies", "3x3", counters=["ours"])
    assert "side by side" not in str(report)
    report = reconcile(f"{odd}:Dies", "3x3", counters=["thop"])
    assert "2 counters ran side by side: alone, each takes less time than it says" in str(report)


def test_a_counter_that_hangs_is_a_row_after_its_time(odd: Path) -> None:
    start = time.monotonic()
    outcome = asked(f"{odd}:Hangs", "1x10", 10)  # it also starts a process, which is ended, too
    assert time.monotonic() - start < 60
    assert (outcome.status, outcome.message) == ("timed out", "no answer in 10 s")


def test_a_file_of_the_users_does_not_pose_as_a_counter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thop.py").write_text("raise SystemExit('this is not thop')\n")
    (tmp_path / "small.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Linear(10, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    outcome = asked("small.py:build", "1x10", 120)
    assert outcome.count is not None, outcome.message
    assert outcome.count.value == 20
    assert outcome.peak_bytes is not None
    assert 1e8 < outcome.peak_bytes < 1e10
