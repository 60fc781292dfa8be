"""`inspect table`: rows that are right, whatever fails, stops or comes in parallel."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from inspector.core.errors import InspectError
from inspector.profiling.meter import metered
from inspector.regress.sweep import pool as table_sweep
from inspector.regress.sweep import workers
from inspector.regress.sweep.entries import entries
from inspector.regress.sweep.row import Entry, digest
from inspector.regress.sweep.table import table

pytestmark = pytest.mark.once


def rows(text: str) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in json.loads(text)["tables"]["models"]}


def test_the_numbers_are_those_that_torchvision_publishes(inspect) -> None:
    from torchvision.models import get_model_weights

    code, out, err = inspect("table", "resnet18", "mobilenet_v3_small", "--format", "json")
    assert (code, err) == (0, "")
    for name, row in rows(out).items():
        published = get_model_weights(name).DEFAULT.meta
        assert row["params"] == published["num_params"]
        assert round(row["macs"] / 1e9, 3) == published["_ops"]


def test_stages_and_layers_sum_to_the_model(inspect) -> None:
    _, out, _ = inspect("table", "resnet18", "--format", "json")
    tables, row = json.loads(out)["tables"], rows(out)["resnet18"]
    assert row["stages"] == 5  # the stem and four
    for part in ("layers", "stages"):
        assert sum(line["macs"] for line in tables[part]) == row["macs"]
        assert sum(line["params"] for line in tables[part]) == row["params"]
    assert sum(line["calls"] for line in tables["ops"]) == row["ops"]
    first = tables["layers"][0]
    # 7 x 7 x 3 weights for each of 64 channels, each used at 112 x 112 places.
    assert (first["path"], first["shape"], first["params"], first["macs"]) == (
        "conv1", "64x3x7x7", 9408, 9408 * 112 * 112,
    )  # fmt: skip


def test_the_state_digest_is_of_names_shapes_and_dtypes(net_file: Path) -> None:
    lines = [
        "conv.bias (16,) torch.float32",
        "conv.weight (16, 3, 3, 3) torch.float32",
        "head.bias (10,) torch.float32",
        "head.weight (10, 16) torch.float32",
        "norm.bias (16,) torch.float32",
        "norm.num_batches_tracked () torch.int64",
        "norm.running_mean (16,) torch.float32",
        "norm.running_var (16,) torch.float32",
        "norm.weight (16,) torch.float32",
    ]
    row = table(f"{net_file}:build", inputs=["1x3x8x8"]).tables["models"].records()[0]
    assert (row["state_keys"], row["state_digest"]) == (9, digest(lines))


class TestWhatIsAsked:
    def test_globs_lists_and_sources(self, tmp_path: Path) -> None:
        file = tmp_path / "models.yaml"
        file.write_text(
            "- resnet18\n"
            "- model: vgg1[16]\n"
            "- {model: net.py:build, name: wide, model_args: {width: 32}, input: 1x3x8x8, phase: train}\n"
            "- {model: net.py:build, model_args: {width: 8}}\n"
        )
        found = entries(["resnet1*", str(file)])
        assert [entry.name for entry in found] == [
            "resnet101", "resnet152", "resnet18", "vgg11", "vgg16", "wide", "net.py:build(width=8)",
        ]  # fmt: skip
        assert found[5] == Entry("wide", "net.py:build", ("1x3x8x8",), {"width": 32}, "train")

    def test_all_of_torchvision(self) -> None:
        from torchvision.models import list_models

        assert [entry.spec for entry in entries([], all="torchvision")] == list_models()

    @pytest.mark.parametrize(
        "text",
        [
            "nothing: [",
            "{}",
            "[]",
            "- 5",
            "- {name: a}",
            "- {model: resnet18, inputs: 1x3x8x8}",
            "- {model: resnet18, input: []}",
            "- {model: resnet18, input: 5}",
            "- {model: resnet18, model_args: 5}",
            "- {model: resnet18, phase: backward}",
            "- {model: 'resnet*', name: one}",
            "- {model: resnet18, name: a}\n- {model: resnet34, name: a}",
            "- 'resnot*'",
        ],
    )
    def test_a_bad_list_is_one_line_and_a_hint(self, inspect, tmp_path: Path, text: str) -> None:
        file = tmp_path / "models.yaml"
        file.write_text(text)
        code, out, err = inspect("table", file)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert "\nhint: " in err

    @pytest.mark.parametrize(
        "words",
        [
            ["none.yaml"],
            ["'no_such*'"],
            ["--all", "everything"],
            ["resnet18", "--measure", "speed"],
            ["resnet18", "--measure", "latency", "--device", "meta"],
            ["resnet18", "--resume"],
            ["resnet18", "--append"],
            ["resnet18", "--append", "-o", "x.md"],
            ["resnet18", "--phase", "sideways"],
        ],
    )
    def test_bad_words_too(self, inspect, words: list[str]) -> None:
        code, out, err = inspect("table", *words)
        assert (code, out) == (2, "")
        assert "hint: " in err


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Models that work, raise, and kill their process."""
    file = tmp_path / "zoo.py"
    file.write_text(
        "import os, warnings\n"
        "import torch\n"
        "from torch import nn\n"
        "def good(): return nn.Linear(4, 5)\n"
        "def noisy():\n"
        "    print('building')\n"
        "    warnings.warn('old')\n"
        "    return nn.Linear(4, 6)\n"
        "def bad(): raise KeyError('no such layer')\n"
        "def wrong(): return nn.Linear(7, 5)\n"
        "def leaves(): raise SystemExit(3)\n"
        "def dies(): os._exit(9)\n"
        "def example_inputs(): return torch.zeros(2, 4)\n"
    )
    return file


def specs(zoo: Path, *names: str) -> list[str]:
    return [f"{zoo}:{name}" for name in names]


def test_a_model_that_fails_is_a_row_with_its_error_and_not_the_end(inspect, zoo: Path) -> None:
    models = specs(zoo, "good", "bad", "wrong", "leaves", "none", "noisy")
    code, out, err = inspect("table", *models, "--format", "json")
    found = rows(out)
    assert (code, err) == (1, "building\n")  # once: what is run is what is listed
    assert [bool(row["error"]) for row in found.values()] == [False, True, True, True, True, False]
    assert "no such layer" in found[models[1]]["error"]
    assert found[models[1]]["macs"] is None
    assert found[models[0]]["macs"] == 2 * 4 * 5
    assert found[models[5]]["macs"] == 2 * 4 * 6
    assert json.loads(out)["metrics"]["failed"]["value"] == 4


def test_where_meta_cannot_run_a_model_it_is_built_again_on_the_cpu(tmp_path: Path) -> None:
    file = tmp_path / "asks.py"
    file.write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Asks(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x if x.sum().item() == x.sum().item() else x[:1])\n"
        "def asks(): return Asks(4, 5)\n"
        "def lazy(): return nn.Sequential(nn.LazyLinear(5), nn.BatchNorm1d(5))\n"
        "def example_inputs(): return torch.zeros(2, 4)\n"
    )
    asks, lazy = table([f"{file}:asks", f"{file}:lazy"]).tables["models"].records()
    assert (asks["device"], asks["error"], asks["macs"], asks["params"]) == ("cpu", "", 2 * 4 * 5, 4 * 5 + 5)
    assert (lazy["error"], lazy["macs"], lazy["params"]) == ("", 2 * 4 * 5, 4 * 5 + 5 + 10)


def test_processes_give_what_one_gives_and_outlive_a_model_that_kills_its_own(zoo: Path, capsys) -> None:
    models = specs(zoo, "good", "dies", "bad", "noisy")
    found = {row["model"]: row for row in table(models, jobs=2).tables["models"].records()}
    assert list(found) == models
    assert found[models[0]]["macs"] == 2 * 4 * 5
    assert "process died" in found[models[1]]["error"]
    assert "no such layer" in found[models[2]]["error"]
    assert "building" in capsys.readouterr().err
    alone = {row["model"]: row for row in table([models[0], models[3]]).tables["models"].records()}
    assert {name: found[name] for name in alone} == alone


def test_a_process_that_dies_is_replaced_and_what_it_took_is_tried_again_alone(zoo: Path) -> None:
    been = "__file__ + '.been'"
    once = f"def once():\n    if not os.path.exists({been}): open({been}, 'w'); os._exit(9)\n"
    zoo.write_text(f"{zoo.read_text()}{once}    return nn.Linear(4, 7)\n")
    asked = [Entry(name, spec) for name, spec in zip("abc", specs(zoo, "once", "good", "dies"))]
    found = [counted for _, counted in workers.counted(asked, None, 0, 1) if counted]
    assert [counted.row["macs"] for counted in found] == [40]  # by a second process; the third died as well
    (zoo.parent / "zoo.py.been").unlink()
    assert [counted.row["macs"] for counted in table_sweep.sweep(asked[:2], jobs=2)] == [56, 40]


def test_processes_end_with_an_interrupt(zoo: Path) -> None:
    begun = "open(__file__ + '.pid', 'w').write(str(os.getpid()))"
    zoo.write_text(f"{zoo.read_text()}def waits():\n    {begun}\n    import time; time.sleep(99)\n")
    asked = [Entry(name, spec) for name, spec in zip("ab", specs(zoo, "good", "waits"))]
    file = zoo.parent / "zoo.py.pid"

    def interrupt(what: str, share: float) -> None:
        while not (file.exists() and file.read_text()):
            time.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table_sweep.sweep(asked, jobs=2, tell=interrupt)
    assert not psutil.pid_exists(int(file.read_text()))


class TestResuming:
    def test_rows_that_are_known_are_not_counted_again(self, zoo: Path, tmp_path, monkeypatch) -> None:
        asked = entries(specs(zoo, "good", "bad", "noisy"))
        journal, counted = tmp_path / "journal", []
        count = table_sweep.count

        def until(entry: Entry, *how: Any) -> Any:
            counted.append(entry.name.rpartition(":")[2])
            if len(counted) == 3:
                raise KeyboardInterrupt
            return count(entry, *how)

        monkeypatch.setattr(table_sweep, "count", until)
        with pytest.raises(KeyboardInterrupt):
            table_sweep.sweep(asked, journal=journal)
        with journal.open("a") as file:
            file.write('{"row": {"model"')  # what a crash leaves
        found = table_sweep.sweep(asked, journal=journal, resume=True)
        # good is known; bad failed, so it is tried again; noisy never came.
        assert counted == ["good", "bad", "noisy", "bad", "noisy"]
        assert [row.row["macs"] if not row.error else None for row in found] == [40, None, 48]
        assert not journal.exists()

    def test_the_journal_of_another_question_is_refused(self, zoo: Path, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        journal.write_text('{"entries": []}\n')
        with pytest.raises(InspectError, match="another sweep"):
            table_sweep.sweep(entries(specs(zoo, "good")), journal=journal, resume=True)
        assert journal.exists()

    def test_a_sweep_that_ends_leaves_the_report_alone(self, inspect, zoo: Path, tmp_path: Path) -> None:
        output = tmp_path / "base.json"
        assert inspect("table", *specs(zoo, "good"), "-o", output, "--resume")[0] == 0
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
            "base.json", "zoo.py",
        ]  # fmt: skip


def test_the_same_table_twice_is_the_same_file(inspect, zoo: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    for file in (one, two):
        assert inspect("table", *specs(zoo, "good", "noisy"), "-o", file)[0] == 0
    assert one.read_bytes() == two.read_bytes()
    assert "platform" not in json.loads(one.read_text())["environment"]


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "html"])
def test_people_read_it_in_every_form(inspect, zoo: Path, form: str) -> None:
    code, out, _ = inspect("table", *specs(zoo, "good", "bad"), "--format", form)
    assert code == 1
    assert ":good" in out
    assert "40" in out
    assert "no such layer" in out


class TestMeasuring:
    def test_latency_and_memory_are_measured_in_turn(self, inspect, zoo: Path, tmp_path: Path) -> None:
        output = tmp_path / "t.json"
        words = [*specs(zoo, "good", "noisy"), "--measure", "latency,memory", "--rounds", "2", "-o", output]
        assert inspect("table", *words)[0] == 0
        content = json.loads(output.read_text())
        for row in content["tables"]["models"]:
            assert 0 < row["latency"] < 1
            assert 0 < row["cpu_time"] < 1
            # Linear on 2 x 4: 10 or 12 float32 results, and nothing else outlives the step's operators.
            assert row["peak_memory"] >= 4 * 10
        assert content["environment"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
        order = [r["model"].rpartition(":")[2] for r in sorted(content["tables"]["rounds"], key=_start)]
        assert order == ["good", "noisy", "noisy", "good"]
        assert inspect("table", *words, "--append")[0] == 0
        assert len(json.loads(output.read_text())["tables"]["rounds"]) == 8
        code, _, err = inspect("table", *words[:2], *words[2:], "--append", "--input", "3x4")
        assert code == 2
        assert "same spec, inputs" in err

    def test_the_peak_is_of_what_is_alive_at_once(self) -> None:
        x = torch.zeros(1000, 1000)

        def step() -> torch.Tensor:
            y = x * x  # 4 MB
            z = y * y  # 4 MB more, both alive
            del y
            return z * z  # in the place of y

        with metered("cpu") as peak:
            step()
        assert 8_000_000 <= peak.whole < 8_100_000

    def test_two_checkouts_that_add_a_round_each_in_turn_are_compared(
        self, zoo: Path, tmp_path, inspect
    ) -> None:
        sides = [tmp_path / "base.json", tmp_path / "head.json"]
        program = (
            "import sys, time; from inspector.cli.main import main;"
            "[main(['table', sys.argv[1], '--measure', 'latency', '--rounds', '1', '--append', '-o', side])"
            " for _ in range(12) for side in sys.argv[2:]]"
        )
        subprocess.run([sys.executable, "-c", program, f"{zoo}:good", *map(str, sides)], check=True)
        code, out, _ = inspect("diff", *sides, "--only", "cpu_time", "--format", "json", "--fail-on", "none")
        change = json.loads(out)["tables"]["rows"][0]
        assert code == 0
        assert "of 12 pairs" in change["why"]
        assert change["state"] in ("ok", "noisy", "improved", "regressed")


def _start(line: dict[str, Any]) -> float:
    return float(line["start"])


def test_a_table_is_counted_again_by_diff(inspect, zoo: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.json"
    inspect("table", *specs(zoo, "good", "noisy"), "-o", base)
    code, out, _ = inspect("diff", base)
    assert code == 0
    zoo.write_text(zoo.read_text().replace("nn.Linear(4, 6)", "nn.Linear(4, 8)"))
    code, out, _ = inspect("diff", base, "--format", "json")
    assert code == 1
    assert [(w["macs"], w["what"]) for w in json.loads(out)["tables"]["where"]] == [
        (2 * 4 * 2, "6 to 8 features")
    ]
    assert inspect("diff", base, f"{zoo}:good")[0] == 0  # this row alone
    code, _, err = inspect("diff", base, f"{zoo}:goof")
    assert code == 2
    assert "good" in err
    assert inspect("diff", base, "--update-baseline")[0] == 0
    assert inspect("diff", base)[0] == 0
