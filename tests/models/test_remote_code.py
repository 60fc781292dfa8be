"""Code that comes with a configuration: it runs where a person says so, and nowhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

import inspector  # noqa: E402
from inspector.core.errors import InspectError  # noqa: E402
from inspector.models import resolve  # noqa: E402
from tests.small_hub import SmallHub  # noqa: E402

pytestmark = pytest.mark.once

CONFIG = {
    "model_type": "own_net", "width": 4, "architectures": ["OwnNet"],
    "auto_map": {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnNet"},
}  # fmt: skip
CONFIGURATION = """
from transformers import PretrainedConfig


class OwnConfig(PretrainedConfig):
    model_type = "own_net"

    def __init__(self, width=2, **kwargs):
        self.width = width
        super().__init__(**kwargs)
"""
MODELING = """
import os
from torch import nn
from transformers import PreTrainedModel
from .configuration_own import OwnConfig

open(os.environ["RAN"], "w").close()


class OwnNet(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = nn.Linear(config.width, 3)
        self.post_init()

    def forward(self, x):
        return self.layer(x)
"""
FILES: dict[str, Any] = {
    "config.json": CONFIG, "configuration_own.py": CONFIGURATION, "modeling_own.py": MODELING,
}  # fmt: skip
TRUSTED = {"trust_remote_code": True}


def forget() -> None:
    """The modules of code that transformers imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is there when the code has run. Copies of the code, and what transformers remembers of it,
    end with the test."""
    dynamic = pytest.importorskip("transformers.dynamic_module_utils")
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    mapping = transformers.AutoModel._model_mapping
    monkeypatch.setattr(mapping, "_extra_content", dict(mapping._extra_content))
    forget()
    yield tmp_path / "ran"
    forget()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "own").mkdir()
    for name, content in FILES.items():
        (tmp_path / "own" / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return f"hf:{tmp_path}/own"


def refused(spec: str, **model_args: Any) -> InspectError:
    with pytest.raises(InspectError) as caught:
        resolve(spec, model_args).build("meta")
    assert "\n" not in caught.value.message
    return caught.value


def test_a_configuration_that_needs_it_says_so(hub: SmallHub, folder: str, ran: Path) -> None:
    hub.add("org/own", FILES)
    for spec in (folder, "hf:org/own"):
        error = refused(spec)
        assert (
            "needs code of its own (configuration_own.py, modeling_own.py), which is not run" in error.message
        )
        assert "trust_remote_code" in (error.hint or "")
    assert not ran.exists()
    assert not hub.asked("GET", ".py")


def test_the_command_line_names_its_option(hub: SmallHub, inspect: Any, ran: Path) -> None:
    hub.add("org/own", FILES)
    code, out, err = inspect("profile", "hf:org/own")
    assert (code, out) == (2, "")
    assert err.splitlines()[1] == "hint: read it first, then pass --trust-remote-code"


def test_trusted_code_of_a_folder_builds_the_model(folder: str, ran: Path) -> None:
    report = inspector.profile(folder, "1x4", model_args=TRUSTED)
    assert report.metrics["params"].value == 4 * 3 + 3
    assert report.metrics["macs"].value == 4 * 3
    assert ran.exists()
    assert any("was run (configuration_own.py, modeling_own.py)" in f.message for f in report.findings)


def test_trusted_code_of_the_hub_is_that_of_the_commit(hub: SmallHub, ran: Path) -> None:
    first = hub.add("org/own", FILES)
    hub.add("org/own", {**FILES, "modeling_own.py": MODELING.replace("config.width, 3", "config.width, 7")})
    old = resolve(f"hf:org/own@{first}", TRUSTED).build("meta")
    new = resolve("hf:org/own", TRUSTED).build("meta")
    assert sum(p.numel() for p in old.parameters()) == 4 * 3 + 3
    assert sum(p.numel() for p in new.parameters()) == 4 * 7 + 7
    assert not hub.asked("GET", ".safetensors")


def test_its_configuration_takes_model_arguments(hub: SmallHub, ran: Path) -> None:
    hub.add("org/own", FILES)
    wide = resolve("hf:org/own", {**TRUSTED, "width": 9}).build("meta")
    assert sum(p.numel() for p in wide.parameters()) == 9 * 3 + 3
    assert "has no field 'widht'" in refused("hf:org/own", **TRUSTED, widht=9).message


def test_the_option_reaches_it_and_off_is_off(hub: SmallHub, inspect: Any, ran: Path) -> None:
    hub.add("org/own", FILES)
    code, out, _ = inspect("profile", "hf:org/own", "--input", "1x4", "--trust-remote-code", "--depth", "0")
    assert code == 0
    assert "OwnNet" in out
    ran.unlink()
    assert "needs code of its own" in refused("hf:org/own", trust_remote_code=False).message
    assert not ran.exists()


def test_code_that_fails_is_one_line(hub: SmallHub, ran: Path) -> None:
    for broken in ("import no_such_package_at_all\n", "1 / 0\n", "def(\n"):
        hub.add("org/broken", {**FILES, "configuration_own.py": broken + CONFIGURATION})
        assert refused("hf:org/broken", **TRUSTED).hint
    hub.add("org/absent", {"config.json": CONFIG})
    assert refused("hf:org/absent", **TRUSTED).hint


def test_it_is_for_the_hub_only(inspect: Any) -> None:
    for spec in ("resnet18", "torchvision:resnet18", "timm:resnet18"):
        code, out, err = inspect("profile", spec, "--trust-remote-code")
        assert (code, out) == (2, "")
        assert f"{spec} brings no code from the hub" in err
        assert "leave --trust-remote-code out" in err


def test_a_file_cannot_say_it(hub: SmallHub, inspect: Any, tmp_path: Path, ran: Path) -> None:
    hub.add("org/own", FILES)
    settings, models = tmp_path / "settings.yaml", tmp_path / "models.yaml"
    settings.write_text("MODEL: {NAME: 'hf:org/own', ARGS: {trust_remote_code: true}}\n")
    models.write_text("- {model: 'hf:org/own', input: 1x4, model_args: {trust_remote_code: true}}\n")
    for words in (["profile", "--config", settings], ["table", models]):
        code, out, err = inspect(*words)
        assert (code, out) == (2, "")
        assert "may not say trust_remote_code" in err
        assert "--trust-remote-code" in err
    assert not ran.exists()


def test_a_table_needs_it_again_when_it_is_compared(
    hub: SmallHub, inspect: Any, tmp_path: Path, ran: Path
) -> None:
    hub.add("org/own", FILES)
    base = tmp_path / "base.json"
    words = ["table", "hf:org/own", "torchvision:squeezenet1_1", "--trust-remote-code", "-o", base]
    (tmp_path / "own.yaml").write_text("- {model: 'hf:org/own', input: 1x4}\n- torchvision:squeezenet1_1\n")
    words[1:3] = [tmp_path / "own.yaml"]
    assert inspect(*words)[0] == 0
    ran.unlink()
    code, _, err = inspect("diff", base)
    assert code == 2
    assert "may not say trust_remote_code" in err
    assert not ran.exists()
    assert inspect("diff", base, "--trust-remote-code")[0] == 0
