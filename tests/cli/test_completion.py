"""What a shell completes, and that it does not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inspector.cli.completion import (
    definitions,
    in_bash,
    model_names,
    module_names,
    registered,
)
from inspector.core import cache

pytestmark = pytest.mark.once
ROOT = Path(__file__).parents[2]


def test_the_names_are_those_that_torchvision_and_timm_list() -> None:
    from torchvision.models import list_models

    assert registered("torchvision") == sorted(list_models())
    timm = pytest.importorskip("timm")
    assert registered("timm") == sorted(timm.list_models())
    assert registered("no_such_package") == []


def _asked(words: list[str], cwd: Path) -> tuple[list[str], str]:
    """What is answered to bash for these words of which the last is not finished, and what was loaded."""
    script = (
        "import sys; from inspector.cli.main import main\n"
        "try: main([])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "_INSPECT_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split(), done.stderr.strip()


def test_a_shell_gets_models_and_torch_is_not_loaded(net_file: Path) -> None:
    # bash breaks words at : and replaces what comes after it.
    assert _asked(["inspect", "profile", "resnet1"], net_file.parent) == (
        ["resnet101", "resnet152", "resnet18"], "[]"
    )  # fmt: skip
    assert _asked(["inspect", "profile", "your_net.py", ":"], net_file.parent)[0] == ["Net", "build"]
    assert _asked(["inspect", "profile", "your_net.py", ":", "b"], net_file.parent)[0] == ["build"]
    assert _asked(["inspect", "profile", "--phase", "=", "tr"], net_file.parent)[0] == ["train"]
    words = ["inspect", "stages", "your_net.py", ":", "Net", "--stage", "h"]
    assert _asked(words, net_file.parent)[0] == ["head"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_keep_their_words_whole(net_file: Path, shell: str, monkeypatch, capsys) -> None:
    from inspector.cli.main import main

    monkeypatch.chdir(net_file.parent)
    for name, value in {
        "_INSPECT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "inspect profile your_net.py:b",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main([])
    out = capsys.readouterr().out
    assert "your_net.py" in out
    assert out.rstrip("\n'()\"").endswith("build")
    assert "Net" not in out


def test_specs_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("class A: pass\ndef _b(): pass\ndef example_inputs(): pass\n")
    (tmp_path / "broken.py").write_text("class")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{}")
    (tmp_path / "hub" / "models--ORG--NAME").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_names("alexn") == ["alexnet"]
    assert model_names("torchvision:alexn") == ["torchvision:alexnet"]
    assert model_names("net") == ["net.py:A"]  # one file: what it defines
    assert model_names("broken") == ["broken.py:"]
    assert set(model_names("")) > {"alexnet", "net.py:", "broken.py:", "hf:"}
    assert model_names("hf:") == ["hf:ORG/NAME", "hf:small"]
    assert model_names("hf:s") == ["hf:small"]
    assert model_names("nowhere/x") == []
    assert definitions("broken.py") == []


def _line(model: str | None, *words: str) -> Any:
    return SimpleNamespace(params={"model": model}, args=list(words))


def test_modules_are_those_of_the_last_run_else_of_the_class(inspect, net_file: Path) -> None:
    spec = f"{net_file}:Net"
    assert module_names(_line(spec), "") == ["conv", "norm", "head"]  # of its __init__
    assert module_names(_line(None, spec), "conv n") == ["conv norm"]
    assert module_names(_line("resnet18"), "") == []
    assert inspect("profile", "resnet18", "--depth", "0")[0] == 0
    assert module_names(_line("resnet18"), "layer1.0.c") == ["layer1.0.conv1", "layer1.0.conv2"]
    assert inspect("cache", "--clear")[0] == 0
    assert module_names(_line("resnet18"), "") == []


def test_names_that_cannot_be_read_or_written_do_no_harm(inspect, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "inspector" / "names.json"
    file.parent.mkdir()
    file.write_text("{torn")
    assert cache.names_of("net") == []
    cache.remember_names("net", ["a"])
    assert cache.names_of("net") == ["a"]
    for number in range(cache.MODELS):
        cache.remember_names(f"net{number}", ["b"])
    assert cache.names_of("net") == []  # the oldest went
    assert cache.names_of("net0") == ["b"]
    file.unlink()
    file.mkdir()
    assert inspect("stages", "alexnet", "--stage", "features", "--stage", "classifier")[0] == 0


def test_words_without_a_break_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COMP_WORDS", "inspect\nprofile\na:b\nc")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert in_bash(lambda: print("cx\ncy") or 0) == 0
    assert capsys.readouterr().out == "cx\ncy\n"
