"""The page as a report: what is in it, what is absent and why, and that it only looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.core.errors import InspectError
from inspector.reporting.formats.html.charts import html
from inspector.reporting.report import Metric, Report
from inspector.reporting.schema import plain_content
from inspector.tracing.capture import ForwardError


class Net(nn.Module):
    """Two tied layers, a frozen one, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6)
        self.norm.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(torch.relu(self.first(x))))


def said(report: Report, check: str) -> list[str]:
    return [finding.message for finding in report.findings if finding.check == check]


def titles(report: Report) -> list[str]:
    return [section.title for section in report.sections]


@pytest.fixture(scope="module")
def page() -> Report:
    return inspector.page(Net(), "4x6", stages=[["first", "second"], ["norm"]])


def test_its_numbers_are_those_of_profile(page: Report) -> None:
    profile = inspector.profile(Net(), "4x6")
    assert page.metrics == profile.metrics
    assert page.header == profile.header
    # two products of [4,6] x [6,6]; one tied weight of 36, norm 6 + 6
    assert (page.metrics["macs"].value, page.metrics["params"].value) == (2 * 4 * 36, 36 + 12)


def test_it_has_every_part(page: Report) -> None:
    assert titles(page) == [
        "modules", "memory", "operators", "operator calls", "parameters and buffers",
        "ledger", "stages",
    ]  # fmt: skip
    assert [(chart.kind, chart.section or chart.after) for chart in page.charts] == [
        ("icicle", "modules"), ("scatter", "operator calls"), ("area", "memory"), ("graph", "modules"),
    ]  # fmt: skip


def test_a_profile_is_the_same_page_with_fewer_parts(page: Report) -> None:
    profile = inspector.profile(Net(), "4x6")
    (icicle,) = profile.more_charts()
    assert icicle.frame == page.charts[0].frame
    assert "areas" not in profile.written("html")
    assert 'class="boxes"' in profile.written("html")


def test_the_graph_is_drawn_from_its_tables(page: Report) -> None:
    graph = page.charts[3]
    assert graph.frame == page.tables["architecture"]
    assert graph.edges == page.tables["edges"]
    # x goes to first, then relu, second, norm; the relu is the model's own.
    assert graph.frame["module"] == ["first", None, "second", "norm"]
    assert graph.frame["operators"] == ["", "relu", "", ""]
    assert graph.frame["macs"] == [4 * 36, 0, 4 * 36, 0]
    assert list(zip(graph.edges["source"], graph.edges["target"])) == [
        (None, 0), (0, 1), (1, 2), (2, 3), (3, None),
    ]  # fmt: skip
    assert set(graph.edges["shape"]) == {"4x6"}


def test_areas_of_tied_layers_are_the_total_of_the_model(page: Report) -> None:
    areas = page.charts[0].frame.to_frame().set_index("path")
    assert areas["parameters"].to_dict() == {"": 48, "first": 36, "second": 0, "norm": 12}
    assert "A tied parameter is drawn once" in page.charts[0].note


def test_stages_say_what_is_frozen(page: Report) -> None:
    stages = page.to_frame("stages")
    assert stages[["params", "frozen", "state"]].values.tolist() == [[36, 0, "trains"], [12, 12, "frozen"]]


def test_a_model_frozen_by_inspector_shows_it() -> None:
    model = torch.nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with inspector.freeze(model, patterns=["0.*"], inputs="2x3"):
        stages = inspector.page(model, "2x3", stages=[["0"], ["1"]]).to_frame("stages")
    assert stages["state"].tolist() == ["frozen", "trains"]


def test_memory_is_that_of_the_storages(page: Report) -> None:
    # float32: the weight 36, norm 6 + 6; buffers 6 + 6 and an int64; input 4 x 6
    timeline = page.to_frame("timeline")
    assert timeline["parameter"].unique().tolist() == [4 * 48]
    assert timeline["buffer"].unique().tolist() == [4 * 12 + 8]
    assert timeline["input"].unique().tolist() == [4 * 24]


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_live_bytes_rise_and_fall_with_the_activations(device: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    # An activation is 4 x 6 floats, 96 bytes: t, mm makes one, relu a second and the first is let go, t,
    # mm makes another.
    timeline = inspector.page(Two(), "4x6", device=device).to_frame("timeline")
    assert timeline["intermediate"].tolist() == [0, 96, 192, 96, 192]


def test_live_bytes_are_drawn_in_a_unit_that_shows_them(page: Report) -> None:
    small = page.charts[2]
    assert set(small.frame["parameter"]) == {4 * 48}
    assert "bytes (B)" in html(small, "a")
    large = inspector.page("resnet18").charts[2]
    # 11,689,512 parameters of four bytes
    assert set(large.frame["parameter"]) == {46_758_048}
    assert "bytes (MiB)" in html(large, "a")


def test_what_is_missing_says_why(page: Report) -> None:
    assert "No button for time: it was not measured" in page.charts[0].note
    assert page.charts[0].choices == ("MACs", "parameters", "bytes moved")
    without = inspector.page(nn.Linear(3, 3), "2x3")
    assert "stages" not in titles(without)
    assert said(without, "stages")[0].startswith("no stages: no stages found in Linear")


def test_an_unknown_operator_is_named_and_its_module_is_not_drawn_as_zero_in_silence() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.histogram(x, 4)[0]

    report = inspector.page(nn.Sequential(nn.Linear(3, 3), Odd()), "3x3")
    assert report.metrics["macs"].lower_bound
    areas = report.charts[0]
    assert "MACs are a lower bound: operators without a formula ran in 1." in areas.note
    assert areas.choices[0] == "MACs, at least"
    # 3 rows of [3] x [3,3]
    assert areas.frame["MACs inside"] == ["at least 27", "27", "unknown"]
    assert "1 have no formula" in report.charts[1].note
    assert "operators without a formula" in titles(report)


def test_a_model_without_macs_has_no_button_for_them() -> None:
    report = inspector.page(nn.ReLU(), "2x3")
    assert report.charts[0].choices == ("bytes moved",)
    assert "No button for MACs: there are none." in report.charts[0].note


def test_macs_that_are_all_unknown_are_not_none() -> None:
    class Only(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.histogram(x, 4)[0]

    areas = inspector.page(Only(), "3x3").charts[0]
    assert "No button for MACs: they are unknown. No button for parameters: there are none." in areas.note


def test_a_trace_makes_a_page_without_stages() -> None:
    report = inspector.page(inspector.trace(nn.Linear(3, 3), "2x3"))
    assert report.metrics["macs"].value == 2 * 9
    assert said(report, "stages") == ["no stages: a trace alone does not hold the model"]


def test_a_training_step_has_a_page_and_its_stages_are_those_of_the_forward() -> None:
    forward, train = (inspector.page("resnet18", phase=phase) for phase in ("forward", "train"))
    assert forward.to_frame("stages").equals(train.to_frame("stages"))
    columns = [
        next(section.frame.columns for section in report.sections if section.title == "operator calls")
        for report in (forward, train)
    ]
    assert ["phase" in of for of in columns] == [False, True]


# Time.


def test_time_is_measured_on_request_and_the_model_is_left_alone() -> None:
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    report = inspector.page(model, "4x6", time="cpu")
    assert "time" in report.charts[0].choices
    assert report.metrics["forward_seconds"].kind == "noisy"
    assert report.metrics["forward_seconds"].value > 0
    times = report.to_frame("times").set_index("path")
    assert times.loc["", "seconds"] == pytest.approx(times["own_seconds"].sum())
    assert "time" in report.sections[0].frame.columns
    spans = report.charts[-1]
    assert (spans.kind, spans.frame["module"][0]) == ("spans", "Net")
    assert sorted(spans.frame["module"]) == ["Net", "first", "norm", "second"]
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_a_forward_that_only_fails_with_values_costs_the_time_and_not_the_page() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.device.type != "meta":
                raise ValueError("no")
            return x + 1

    report = inspector.page(Picky(), "2x3", time="cpu")
    assert said(report, "time") == ["not measured on cpu: ValueError: no"]
    assert "No button for time: it could not be measured on cpu." in report.charts[0].note
    assert "forward_seconds" not in report.metrics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"time": "tpu"}, "cannot measure time on 'tpu'"),
        ({"time": "cpu", "phase": "train"}, "measures a forward"),
        ({"added": ["nowhere.json"]}, "no file nowhere.json"),
        ({"stages": [["nothing"]]}, "'nothing' matches no"),
    ],
)
def test_bad_input_is_one_line(words: dict, message: str) -> None:
    with pytest.raises(InspectError, match=message):
        inspector.page(Net(), "4x6", **words)


def test_a_trace_cannot_be_timed() -> None:
    with pytest.raises(InspectError, match="a trace alone cannot be timed"):
        inspector.page(inspector.trace(nn.Linear(3, 3), "2x3"), time="cpu")


def test_a_forward_that_fails_can_still_be_shown_up_to_there() -> None:
    with pytest.raises(ForwardError) as raised:
        inspector.page(Net(), "4x7")
    report = inspector.page(raised.value.trace)
    assert report.verdict == "fail"
    assert "The pass stopped early" in report.charts[0].note
    assert said(report, "forward") == ["Linear raised RuntimeError; the totals cover only what ran before it"]


# Other commands' reports.


@pytest.fixture
def bench_file(tmp_path: Path) -> Path:
    row = {
        "mode": "infer", "batch": 1, "precision": "fp32", "latency": 0.5, "latency_low": 0.4,
        "latency_high": 0.6, "samples_per_second": 2.0, "speedup": None, "speedup_low": None,
        "speedup_high": None, "drift": 1e-7, "macs": 12, "nans": 0,
    }  # fmt: skip
    content = {
        "schema": "inspector.report/1", "command": "bench",
        "subject": {"name": "Net", "source": "python", "inputs": ["float32[4,6]"], "device": "cpu"},
        "environment": {"inspector": "0.1.0", "gpu": None},
        "metrics": {
            "infer/1/fp32/latency": {"value": 0.5, "unit": "s", "kind": "noisy", "direction": "lower"}
        },
        "tables": {"rows": [row]}, "findings": [], "verdict": "pass",
    }  # fmt: skip
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(content))
    return file


def test_another_commands_report_is_added_with_its_charts(bench_file: Path) -> None:
    report = inspector.page(Net(), "4x6", added=[bench_file])
    (added,) = report.added
    assert titles(added) == ["bench: numbers", "bench: rows"]
    assert [chart.section for chart in added.charts] == ["bench: rows", "bench: rows"]
    assert list(map(list, added.sections[0].frame.rows())) == [
        ["infer/1/fp32/latency", "500.0 ms", "second", "noisy"]
    ]
    assert ("model", "Net (python)") in added.header
    assert said(report, "added") == []


def test_the_json_holds_the_added_report_as_its_file_does(bench_file: Path, tmp_path: Path) -> None:
    report = inspector.page(Net(), "4x6", added=[bench_file])
    content = json.loads(report.to_json())
    assert content["added"] == [plain_content(bench_file.read_text(), "bench.json")]
    again = Report.read(report.save(tmp_path / "page.json"))
    assert again.added[0].metrics["infer/1/fp32/latency"].value == 0.5
    assert again.to_dict() == report.to_dict()


def test_a_page_inside_a_page_keeps_its_own_parts(bench_file: Path, tmp_path: Path) -> None:
    inner = inspector.page(Net(), "4x6", added=[bench_file]).save(tmp_path / "inner.json")
    (added,) = inspector.page(Net(), "4x6", added=[inner]).added
    assert "report: modules" in titles(added)
    assert titles(added.added[0]) == ["bench: numbers", "bench: rows"]


def test_a_report_about_another_model_is_noted(bench_file: Path) -> None:
    report = inspector.page(nn.Linear(3, 3), "2x3", added=[bench_file])
    assert said(report, "added") == ["is about Net, this page about Linear"]


def test_a_live_report_keeps_its_own_sections() -> None:
    params = inspector.params(Net())
    report = inspector.page(Net(), "4x6", added=[params])
    assert report.added == [params]
    assert "state, tied tensors once" in str(report)


def test_rows_of_a_strange_report_are_shown_as_they_are() -> None:
    from inspector.reporting.tables import Table

    strange = Report("table", {"name": "Net"}, {}, {"x": Metric(None, "MAC")})
    strange.tables = {"rows": Table({"who": ["a"], "value": [0.123456789], "good": [True]})}
    (added,) = inspector.page(Net(), "4x6", added=[strange]).added
    held = {name: held.unit for name, held in added.sections[0].columns.items()}
    assert held == {"who": "", "value": "number", "good": ""}
    assert added.charts == []


def test_a_file_with_names_and_values_of_any_kind_is_shown_as_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    rows = [{evil: evil, "bytes": "many", "latency": None, "macs": 3, "x": 1e-9, "y": [1, {"a": evil}]}] * 2
    content = {
        "schema": "inspector.report/1", "command": evil, "subject": {"name": evil, "inputs": 5},
        "environment": {evil: evil}, "metrics": {evil: {"value": 1.5, "unit": evil, "kind": "exact"}},
        "tables": {evil: rows, "empty": []}, "findings": [], "verdict": evil,
    }  # fmt: skip
    file = tmp_path / "evil.json"
    file.write_text(json.dumps(content))
    page = inspector.page(Net(), "4x6", added=[file]).save(tmp_path / "r.html").read_text()
    assert "<script>alert" not in page
    assert json.loads(page.split('id="report-json">')[1].split("</script>")[0])["added"][0]["tables"] == {
        evil: rows, "empty": [],
    }  # fmt: skip
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
