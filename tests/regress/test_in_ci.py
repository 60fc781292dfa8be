"""What CI runs: the composite action, step by step in a scratch repository, and the pre-commit hook."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent.parent
COUNT = "Count the models on base and head"
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.conv(x).mean(dim=(2, 3)))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: a model, and the model with 24 instead of 16 channels."""
    folder = tmp_path / "repository"
    folder.mkdir()
    commit = ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qam", "x"]
    for number, text in enumerate((NET, NET.replace("16", "24"))):
        (folder / "net.py").write_text(text)
        (folder / "models.yaml").write_text("- {model: net.py:Net, input: 1x3x32x32}\n")
        for words in (["init", "-q"] if not number else ["status", "-s"], ["add", "."], commit):
            subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.skipif(not shutil.which("bash") or os.name == "nt", reason="the action's steps are bash")
def test_the_action_fails_and_writes_summary_annotations_and_report(repository: Path, tmp_path: Path) -> None:
    action = yaml.safe_load((ROOT / ".github/actions/inspect/action.yml").read_text())
    work, summary, output = (tmp_path / name for name in ("work", "summary.md", "output"))
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "MODELS": "models.yaml", "BASE": "HEAD~1", "SETUP": "",
        "OPTIONS": "", "WORK": str(work), "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output),
    }  # fmt: skip
    bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
    scripts = [s["run"] for s in action["runs"]["steps"] if s.get("name") in ("Compare", COUNT)]
    done = [
        subprocess.run(
            [*bash, script.replace("python -m", f"{sys.executable} -m")],
            cwd=repository,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        for script in scripts
    ]
    assert [step.returncode for step in done] == [0, 1], done
    # 16 channels x 27 weights x 1024 pixels and 160 of the head, half as many again.
    assert "net.py:Net: regressed: macs 442,528 to 663,792" in done[1].stdout
    assert done[1].stdout.startswith("::error ")
    assert "16 to 24 channels" in summary.read_text()
    report = Path(output.read_text().strip().removeprefix("report="))
    assert json.loads(report.read_text())["verdict"] == "fail"
    assert subprocess.run(["git", "diff", "--quiet"], cwd=repository, check=False).returncode == 0


def test_the_pre_commit_hook_is_the_diff_of_a_committed_table(
    inspect, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, *words = hook["entry"].split()
    assert (program, hook["language"], hook["pass_filenames"]) == ("inspect", "python", False)
    monkeypatch.chdir(repository)
    assert inspect("table", "models.yaml", "-o", "models.json")[0] == 0
    assert inspect(*words, "models.json")[0] == 0
    (repository / "net.py").write_text(NET.replace("16", "32"))
    code, out, _ = inspect(*words, "models.json")
    assert code == 1
    assert "24 to 32 channels" in out
