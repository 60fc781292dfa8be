"""The pytest plugin, run on example projects."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import inspector
import inspector.regress.sweep.live
import inspector.reporting.formats.table
from inspector.regress.plugin import _ROWS, _SENT, _Gather
from tests.regress.hand import row, table

pytestmark = pytest.mark.once

# pytester unloads what is first imported inside of it, and torch cannot be loaded twice.
inspector.profile("alexnet")

pytest_plugins = "pytester"

PLUGIN = "inspector.regress.plugin"
NET = """
    import pytest
    from torch import nn

    WIDTH = 16

    def net():
        # 27 weights and a bias for each channel; 8 x 8 pixels.
        return nn.Conv2d(3, WIDTH, 3, padding=1)
"""


@pytest.fixture
def run(pytester: pytest.Pytester):
    """pytest on the example project, with the plugin whether or not the package is installed."""
    installed = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
    more = [] if installed else ["-p", PLUGIN]

    def runs(*words: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(*more, "-p", "no:cacheprovider", "--strict-markers", *words)

    return runs


def test_a_model_within_its_limits_passes_and_its_numbers_can_be_read(pytester, run) -> None:
    pytester.makepyfile(
        NET
        + """
    @pytest.mark.inspect(max_params="448", max_macs=27648)
    def test_net(inspect_model):
        report = inspect_model(net(), "1x3x8x8")
        assert report.metrics["params"].value == 28 * 16
        assert report.metrics["macs"].value == 27 * 16 * 64
"""
    )
    run().assert_outcomes(passed=1)


def test_a_limit_that_is_exceeded_fails_and_is_shown_with_the_value(pytester, run) -> None:
    pytester.makepyfile(
        NET
        + """
    @pytest.mark.inspect(max_params=447)
    def test_net(inspect_model):
        inspect_model(net(), "1x3x8x8")
"""
    )
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*.py::test_net: params is 448, its limit 447",
            "metric*limit*value*change*",
            "params*447*448*+1 (+0.224%)",
            "accept: raise max_params in the mark",
        ],
    )


BASELINE = (
    NET
    + """
    @pytest.mark.inspect(baseline="models.json")
    @pytest.mark.parametrize("stride", [1, 2])
    def test_net(inspect_model, stride):
        model = net()
        model.stride = (stride, stride)
        inspect_model(model, "1x3x8x8")
"""
)


def test_a_baseline_is_written_when_asked_for_and_then_holds(pytester, run) -> None:
    file = pytester.makepyfile(BASELINE)
    result = run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*no file *models.json*"])
    result = run("--inspect-update-baseline")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["inspect: updated *models.json: *test_net[[]1]*test_net[[]2]*"])
    baseline = pytester.path / "models.json"
    rows = json.loads(baseline.read_text())["tables"]["models"]
    assert [row["macs"] for row in rows] == [27 * 16 * 64, 27 * 16 * 16]
    run().assert_outcomes(passed=2)
    file.write_text(file.read_text().replace("WIDTH = 16", "WIDTH = 24"))
    before = baseline.read_bytes()
    result = run()
    result.assert_outcomes(failed=2)
    # 27 weights and a bias for each of 8 more channels, on 64 pixels.
    result.stdout.fnmatch_lines(
        [
            "*.py::test_net[[]1]: *is *, its limit *, and * more",
            "macs*27,648*41,472*+13,824 (+50%)",
            "changed: (the model itself): 16 to 24 channels (+13.82 k MACs, +224 parameters)",
            f"accept: pytest '{file.name}::test_net[[]1]' --inspect-update-baseline",
        ]
    )
    result.stdout.no_fnmatch_line("*INCOMPARABLE*")
    assert baseline.read_bytes() == before


def test_a_worker_of_xdist_leaves_the_baseline_to_the_controller(pytester, run) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(BASELINE)
    run("--inspect-update-baseline", "-n", "1").assert_outcomes(passed=2)
    rows = json.loads((pytester.path / "models.json").read_text())["tables"]["models"]
    assert [row["macs"] for row in rows] == [27 * 16 * 64, 27 * 16 * 16]


def test_the_rows_of_two_workers_are_merged_in_one_order(tmp_path: Path) -> None:
    file = str(tmp_path / "models.json")
    contents = [table([row(name, params=number)]) for number, name in enumerate("abc")]

    def written(*workers: list[Any]) -> str:
        gather = _Gather(SimpleNamespace(stash={_ROWS: {}}))  # type: ignore[arg-type]
        for rows in workers:
            gather.pytest_testnodedown(SimpleNamespace(workeroutput={_SENT: {file: rows}}))
        gather.pytest_testnodedown(SimpleNamespace())  # a worker that died
        gather.pytest_sessionfinish()
        text = Path(file).read_text()
        Path(file).unlink()
        return text

    one, two = written(contents[:1], contents[1:]), written(contents[:0:-1], contents[:1])
    assert one == two
    assert [r["model"] for r in json.loads(one)["tables"]["models"]] == ["a", "b", "c"]


def test_rows_of_other_tests_stay_in_the_baseline(pytester, run) -> None:
    pytester.makepyfile(BASELINE)
    run("--inspect-update-baseline").assert_outcomes(passed=2)
    baseline = pytester.path / "models.json"
    before = baseline.read_bytes()
    run("--inspect-update-baseline", "-k", "2").assert_outcomes(passed=1, deselected=1)
    assert baseline.read_bytes() == before


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("@pytest.mark.inspect(max_params=1)\n    def test_net(): pass", "*needs the fixture inspect_model*"),
        (
            "@pytest.mark.inspect(max_params=1)\n    def test_net(inspect_model): pass",
            "*gave no model to inspect_model*",
        ),
        (
            "@pytest.mark.inspect(params=1)\n    def test_net(inspect_model): inspect_model(net(), '3x8x8')",
            "*takes no 'params'*",
        ),
        (
            "@pytest.mark.inspect(max_parms=1)\n    def test_n(inspect_model): inspect_model(net(), '3x8x8')",
            "*'parms' names no metric*",
        ),
    ],
)
def test_a_mark_that_checks_nothing_does_not_pass(pytester, run, body: str, said: str) -> None:
    pytester.makepyfile(NET + f"\n    {body}\n")
    result = run()
    assert result.ret == 1
    result.stdout.fnmatch_lines([said])


def test_a_broken_baseline_is_not_overwritten(pytester, run) -> None:
    pytester.makepyfile(BASELINE)
    baseline = pytester.path / "models.json"
    baseline.write_text("half a fi")
    result = run("--inspect-update-baseline")
    assert result.ret != 0
    assert baseline.read_text() == "half a fi"


def test_a_test_without_the_mark_may_count_models(pytester, run) -> None:
    pytester.makepyfile(NET + "\n    def test_net(inspect_model):\n        inspect_model(net(), '1x3x8x8')\n")
    run().assert_outcomes(passed=1)
