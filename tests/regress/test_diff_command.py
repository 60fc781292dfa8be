"""`inspect diff` as a user and as CI meet it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import inspector
from tests.regress.hand import eight_states, finding, metric, row, single, table

pytestmark = pytest.mark.once


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """BASE and HEAD with all eight states."""
    paths = tmp_path / "base.json", tmp_path / "head.json"
    for path, content in zip(paths, eight_states()):
        path.write_text(json.dumps(content))
    return paths


def written(file: Path, content: Any) -> Path:
    file.write_text(json.dumps(content))
    return file


def test_the_report_is_written_before_the_exit_with_1(inspect, files, tmp_path: Path, monkeypatch) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    made = [tmp_path / name for name in ("d.json", "d.xml", "d.md", "d.csv", "d.html", "d.txt")]
    words = [word for file in made for word in ("--output", str(file))]
    code, out, err = inspect("diff", *files, *words)
    assert (code, out) == (1, "")
    assert err.startswith("FAILED: ")  # a log shows why, where the report is in files
    assert "\nFAIL  regressed: regressed: params 1,000 to 1,500, +500 (+50%); macs 2,000 to 3,000" in err
    assert err.count("\nFAIL  ") == 4  # a line for each model
    assert all(file.stat().st_size for file in made)
    assert json.loads(made[0].read_text())["verdict"] == "fail"
    assert summary.read_text().rstrip("\n") == made[2].read_text().rstrip("\n")


def test_equal_reports_exit_with_0(inspect, files) -> None:
    code, out, _ = inspect("diff", files[0], files[0])
    assert code == 0
    assert "REGRESSED" not in out


def test_a_budget_on_equal_reports_exits_with_1(inspect, files) -> None:
    assert inspect("diff", files[0], files[0], "--max", "params=1k")[0] == 0
    code, out, _ = inspect("diff", files[0], files[0], "--max", "params=0.9k")
    assert code == 1
    assert "over the budget of 900" in out


@pytest.mark.parametrize("command", ["profile", "params", "freeze", "init", "bench", "ddp", "stages"])
def test_reports_of_every_command_are_compared(inspect, tmp_path: Path, command: str) -> None:
    good = single(command, {"macs": metric(5)}, [finding("frozen", "pass")])
    bad = single(command, {"macs": metric(6)}, [finding("frozen", "fail")])
    base, head = written(tmp_path / "b.json", good), written(tmp_path / "h.json", bad)
    code, out, _ = inspect("diff", base, head, "--format", "csv")
    assert code == 1
    assert out.count("\nregressed,True,") == 2


def test_two_runs_of_freeze_and_init_and_params_differ_in_nothing(
    inspect, net_file: Path, tmp_path: Path
) -> None:
    for words in (
        ["params", f"{net_file}:build"],
        ["init", f"{net_file}:build", "--scheme", "kaiming_normal", "--seed", "0"],
        ["freeze", f"{net_file}:build", "--pattern", "conv*", "--input", "2x3x8x8", "--no-ddp"],
    ):
        made = [tmp_path / "one.json", tmp_path / "two.json"]
        for file in made:
            assert inspect(*words, "-o", file)[0] == 0, words
        code, out, _ = inspect("diff", *made, "--format", "json")
        assert code == 0
        assert {r["state"] for r in json.loads(out)["tables"]["rows"]} == {"ok"}


class TestALiveModel:
    @pytest.fixture
    def base(self, inspect, net_file: Path, tmp_path: Path) -> Path:
        file = tmp_path / "net.json"
        assert inspect("profile", f"{net_file}:build", "--input", "1x3x8x8", "-o", file)[0] == 0
        return file

    def test_a_widened_model_exits_with_1_and_the_layer_is_named(self, inspect, net_file, base) -> None:
        # conv: 16 more channels x 27 weights x 64 pixels; head: 10 x 16 more. norm: 32 parameters.
        code, out, _ = inspect(
            "diff", base, f"{net_file}:build", "--model-arg", "width=32", "--format", "json"
        )
        content = json.loads(out)
        assert code == 1
        assert [(w["module"], w["macs"], w["params"], w["what"]) for w in content["tables"]["where"]] == [
            ("conv", 16 * 27 * 64, 16 * 27 + 16, "16 to 32 channels"),
            ("head", 160, 160, "16 to 32 input features"),
            ("norm", 0, 32, "shape 16 to 32"),
        ]
        macs = next(r for r in content["tables"]["rows"] if r["metric"] == "macs")
        assert macs["delta"] == 16 * 27 * 64 + 160
        assert macs["why"] == "conv: 16 to 32 channels, 2 layers follow"
        code, out, _ = inspect("diff", base, f"{net_file}:build", "--model-arg", "width=32")
        assert out.startswith("FAILED: ")
        where, rows = out.index("where it changed"), out.index("changes, worst first")
        assert where < rows  # the answer first
        assert "conv      +27.81 k          +640  16 to 32 channels, 2 layers follow" in out
        assert "norm " not in out
        assert "\nok " not in out
        assert "ok; --all lists them)" in out
        out = inspect("diff", base, f"{net_file}:build", "--model-arg", "width=32", "--all")[1]
        assert "\nnorm " in out
        assert "\nok " in out

    def test_the_same_model_is_counted_on_the_inputs_of_base(self, inspect, net_file, base) -> None:
        code, out, _ = inspect("diff", base, f"{net_file}:build")
        assert code == 0
        assert "12 ok" in out

    def test_another_input_does_not_pass_as_the_same(self, inspect, net_file, base) -> None:
        code, out, _ = inspect("diff", base, f"{net_file}:build", "--input", "1x3x16x16")
        assert code == 1
        assert "inputs: float32[1,3,8,8] and float32[1,3,16,16]" in out

    def test_what_cannot_be_made_again_says_so(self, inspect, files, base, tmp_path: Path) -> None:
        code, _, err = inspect("diff", base)
        assert code == 2
        assert "name HEAD" in err
        bench = written(tmp_path / "bench.json", single("bench"))
        code, _, err = inspect("diff", bench, "resnet18")
        assert code == 2
        assert "inspect bench resnet18 -o head.json" in err


class TestRevisions:
    @pytest.fixture
    def repository(self, files, tmp_path: Path, monkeypatch) -> Path:
        monkeypatch.chdir(tmp_path)
        for words in (
            ["init", "-q"],
            ["add", "base.json"],
            ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "base"],
        ):
            subprocess.run(["git", *words], check=True)
        return tmp_path

    def test_a_file_is_read_as_it_was(self, inspect, repository) -> None:
        (repository / "base.json").write_text("changed since")
        code, out, _ = inspect("diff", "git:HEAD:base.json", "head.json", "--format", "csv")
        assert code == 1
        assert "regressed,True,regressed,params,1000,1500" in out
        assert inspect("diff", "git:HEAD:base.json", "git:HEAD:base.json")[0] == 0

    @pytest.mark.parametrize(
        ("text", "message", "hint"),
        [
            ("git:none:base.json", "cannot read git:none:base.json", "git fetch origin none"),
            ("git:HEAD:xyz", "does not exist in 'HEAD'", "commit it there first"),
            ("git:HEAD:bse.json", "does not exist in 'HEAD'", "did you mean base.json?"),
            ("git:HEAD", "'git:HEAD' names no file", "e.g. git:HEAD:base.json"),
            ("git:main:", "'git:main:' names no file", "e.g. git:main:base.json"),
            ("git::x", "'git::x' names no revision", "e.g. git:main:x"),
            ("git:--help:x", "names no revision", "e.g. git:main:x"),
        ],
    )
    def test_what_is_not_there_is_an_error(
        self, inspect, repository, text: str, message: str, hint: str
    ) -> None:
        code, _, err = inspect("diff", text, "head.json")
        assert code == 2
        first, second = err.splitlines()
        assert first.startswith("error: ")
        assert message in first
        assert second.startswith("hint: ")
        assert hint in second

    def test_history_is_not_rewritten(self, inspect, repository) -> None:
        code, _, err = inspect("diff", "git:HEAD:base.json", "head.json", "--update-baseline")
        assert code == 2
        assert "cannot be written" in err


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "not json",
        lambda text: "\xff",
        lambda text: text.replace("inspector.report/2", "inspector.report/3"),
        lambda text: text.replace("inspector.report/2", "another/1"),
        lambda text: text.replace('"value": 5', '"value": NaN'),
        lambda text: text.replace('"value": 5', '"value": "five"').replace('"exact"', '"certain"'),
        lambda text: text.replace('"value": 5', '"value": true'),
        lambda text: text.replace('"metrics"', '"numbers"'),
        lambda text: text.replace('"tables": {}', '"tables": []'),
        lambda text: text.replace('"columns": {}', '"columns": []'),
        lambda text: text.replace('"findings": []', '"findings": [1]'),
        lambda text: "[" * 100_000,
    ],
)
def test_a_bad_baseline_exits_with_2_and_changes_nothing(inspect, tmp_path: Path, change) -> None:
    good = json.dumps(single(metrics={"macs": metric(5)}))
    base, head = tmp_path / "base.json", tmp_path / "head.json"
    base.write_text(change(good), encoding="latin-1")
    head.write_text(good)
    before = base.read_bytes()
    for words in ([base, head], [head, base], [base, head, "--update-baseline"]):
        code, out, err = inspect("diff", *words)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert "hint: " in err
    assert base.read_bytes() == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content["tables"]["models"].append(content["tables"]["models"][0]),
        lambda content: content["tables"]["models"][0].pop("lower_bound"),
        lambda content: content["tables"]["models"][0].update(params="1000", macs=[1]),
        lambda content: content["tables"]["layers"][0].pop("macs"),
        lambda content: content["tables"]["layers"][0].update(model="unheard of"),
        lambda content: content["tables"].pop("models"),
    ],
)
def test_a_bad_table_exits_with_2(inspect, tmp_path: Path, spoil) -> None:
    content, _ = eight_states()
    spoil(content)
    code, _, err = inspect("diff", written(tmp_path / "b.json", content), tmp_path / "b.json")
    assert code == 2
    assert "does not follow it" in err


@pytest.mark.parametrize(
    "words",
    [
        ["none.json", "none.json"],
        ["BASE", "HEAD", "--tolerance", "macs"],
        ["BASE", "HEAD", "--tolerance", "macs=lots"],
        ["BASE", "HEAD", "--tolerance", "macs=-1%"],
        ["BASE", "HEAD", "--max", "params=5%"],
        ["BASE", "HEAD", "--max", "parms=5"],
        ["BASE", "HEAD", "--fail-on", "bad"],
        ["BASE", "HEAD", "--effect", "0%"],
        ["BASE", "HEAD", "--format", "yaml"],
        ["BASE", "HEAD", "-o", "none/x.json"],
        ["BASE", "no_such_model"],
        ["BASE", "HEAD", "-o", "x.json", "-o", "y.nothing"],
    ],
)
def test_bad_words_are_one_line_and_a_hint(inspect, files, words: list[str]) -> None:
    code, out, err = inspect(
        "diff", *({"BASE": files[0], "HEAD": files[1]}.get(word, word) for word in words)
    )
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "\nhint: " in err


class TestUpdatingTheBaseline:
    def test_every_changed_row_is_taken_and_the_others_stay_as_they_are(
        self, inspect, files, tmp_path
    ) -> None:
        base, head = files
        old = {r["model"]: r for r in json.loads(base.read_text())["tables"]["models"]}
        code, _, err = inspect("diff", base, head, "--update-baseline")
        assert code == 1  # invalid is still invalid
        assert f"updated {base}: " in err
        new = {r["model"]: r for r in json.loads(base.read_text())["tables"]["models"]}
        assert list(new) == ["ok", "improved", "regressed", "invalid", "incomparable", "noisy", "new"]
        assert new["regressed"]["params"] == 1500
        assert new["invalid"] == old["invalid"]
        assert new["ok"] == old["ok"]
        layers = json.loads(base.read_text())["tables"]["layers"]
        assert [one["shape"] for one in layers] == ["20x10x5x1", "10x50"]

    def test_afterwards_nothing_differs_and_nothing_is_written_again(self, inspect, tmp_path: Path) -> None:
        base = written(tmp_path / "b.json", table([row("a", params=1), row("b", params=1)]))
        head = written(tmp_path / "h.json", table([row("a", params=2), row("b", params=1)]))
        assert inspect("diff", base, head, "--update-baseline")[0] == 0
        before = base.read_bytes()
        code, _, err = inspect("diff", base, head, "--update-baseline")
        assert code == 0
        assert "nothing to update" in err
        assert base.read_bytes() == before
        assert inspect("diff", base, head)[0] == 0

    def test_one_report_is_taken_whole(self, inspect, tmp_path: Path) -> None:
        base = written(tmp_path / "b.json", single(metrics={"macs": metric(5)}))
        head = written(tmp_path / "h.json", single(metrics={"macs": metric(6)}))
        assert inspect("diff", base, head, "--update-baseline")[0] == 0
        assert json.loads(base.read_text()) == json.loads(head.read_text())

    def test_a_budget_that_is_exceeded_stays_exceeded(self, inspect, tmp_path: Path) -> None:
        base = written(tmp_path / "b.json", single(metrics={"macs": metric(5)}))
        head = written(tmp_path / "h.json", single(metrics={"macs": metric(6)}))
        assert inspect("diff", base, head, "--update-baseline", "--max", "macs=5")[0] == 1

    def test_the_first_baseline_is_head(self, inspect, files, tmp_path: Path) -> None:
        new = tmp_path / "new.json"
        assert inspect("diff", new, files[1], "--update-baseline")[0] == 0
        assert json.loads(new.read_text()) == json.loads(files[1].read_text())


def test_python_compares_reports_and_files(files) -> None:
    found = inspector.diff(files[0], files[1], tolerance=["params=60%"], max=["params=2000"])
    assert found.verdict == "fail"
    assert found.metrics["regressed"].value == 1  # macs; params +50% are within 60%
    small = inspector.profile("resnet18")
    assert inspector.diff(small, small).verdict == "pass"
    assert inspector.diff(small, "resnet18").verdict == "pass"


def test_a_baseline_of_what_cannot_be_counted_guards_nothing_and_fails(
    inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither side knows the inputs: a gate that compares nothing must not be green."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Conv2d(3, 4, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = inspect("table", "net.py:build", "-o", "base.json")
    assert (code, out) == (1, "")
    assert "has no default input" in err
    code, out, _ = inspect("diff", "base.json")
    assert code == 1
    assert "nothing could be compared" in out
    inspect("table", "net.py:build", "resnet18", "-o", "both.json")
    code, out, _ = inspect("diff", "both.json")  # what is known to fail fails no comparison of others
    assert code == 0
