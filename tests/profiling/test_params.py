"""The state ledger, its agreement with state_dict, and the modules that a mode changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import inspector
from inspector.reporting.report import Finding, Report


class Everything(nn.Module):
    """A parameter and a buffer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight
        self.frozen = nn.Parameter(torch.zeros(7, dtype=torch.float16), requires_grad=False)
        self.register_buffer("kept", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("passing", torch.zeros(4, dtype=torch.bool), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("none", None)


def values(report: Report) -> dict[str, int]:
    return {name: metric.value for name, metric in report.metrics.items()}


def ledger(model: Any) -> dict[str, dict[str, Any]]:
    frame = inspector.params(model).to_frame()
    return {row["name"]: row for row in frame.to_dict("records")}


def reconciled(model: nn.Module) -> Finding:
    (finding,) = [f for f in inspector.params(model).findings if f.check == "state_dict"]
    return finding


def modes(model: nn.Module) -> dict[str, tuple[str, str]]:
    frame = inspector.params(model).to_frame("modes")
    return {row["module"]: (row["train"], row["eval"]) for row in frame.to_dict("records")}


def test_the_totals_are_the_sums_by_hand() -> None:
    # 15 embedding (the head's too) and 5 bias in float32, 7 frozen in float16; 2 int64 and 4 bool
    assert values(inspector.params(Everything())) == {
        "params": 15 + 5 + 7,
        "trainable_params": 15 + 5,
        "buffers": 2 + 4,
        "persistent_buffers": 2,
        "param_bytes": 4 * 20 + 2 * 7,
        "buffer_bytes": 8 * 2 + 4,
    }


def test_each_storage_has_one_row_with_its_facts() -> None:
    rows = ledger(Everything())
    assert set(rows) == {"embed.weight", "head.bias", "frozen", "kept", "passing"}
    assert rows["embed.weight"]["tied"] == "head.weight"
    assert rows["embed.weight"]["shape"] == "5x3"
    assert rows["frozen"]["trainable"] is False
    assert rows["frozen"]["dtype"] == "float16"
    assert rows["frozen"]["bytes"] == 14
    assert (rows["kept"]["kind"], rows["kept"]["persistent"]) == ("buffer", True)
    assert (rows["passing"]["kind"], rows["passing"]["persistent"]) == ("buffer", False)
    assert rows["passing"]["bytes"] == 4


def test_the_totals_by_kind_add_up_to_one() -> None:
    frame = inspector.params(Everything()).to_frame("kinds").set_index(["kind", "dtype"])
    assert frame["bytes"].to_dict() == {
        ("parameter", "float32"): 80,
        ("parameter (frozen)", "float16"): 14,
        ("buffer", "int64"): 16,
        ("buffer (not persistent)", "bool"): 4,
    }
    assert frame["tensors"].sum() == 5
    assert frame["share"].sum() == pytest.approx(1)


def test_a_scalar_has_no_dimensions_and_one_element() -> None:
    row = ledger(nn.BatchNorm1d(3))["num_batches_tracked"]
    assert (row["shape"], row["numel"], row["bytes"]) == ("scalar", 1, 8)


def test_a_model_without_state_is_zero_and_not_an_error() -> None:
    report = inspector.params(nn.ReLU())
    assert set(values(report).values()) == {0}
    assert "ReLU" in str(report)


def test_resnet50_has_the_parameters_that_torchvision_publishes() -> None:
    report = inspector.params("resnet50")
    assert values(report)["params"] == 25_557_032
    # 53 norms with a mean and a variance for each of 26,560 channels, and 53 counters
    assert values(report)["buffers"] == 2 * 26_560 + 53


def test_top_limits_what_is_printed_and_not_the_table() -> None:
    report = inspector.params(Everything(), top=2)
    assert len(report.to_frame()) == 5
    assert report.sections[0].frame["name"] == ["embed.weight", "head.bias"]


@pytest.mark.parametrize(
    "model",
    [Everything(), nn.ReLU(), nn.BatchNorm2d(3), nn.LSTM(2, 3, 2), nn.Transformer(8, 2, 1, 1, 8)],
    ids=lambda model: type(model).__name__,
)
def test_a_clean_model_agrees_with_its_state_dict(model: nn.Module) -> None:
    finding = reconciled(model)
    assert (finding.status, finding.subject) == ("pass", "")


def test_agreement_says_what_is_tied_and_what_is_not_persistent() -> None:
    # 15 + 5 elements: the embedding's weight twice, a bias, the frozen one and the buffer kept
    message = reconciled(Everything()).message
    assert "5 tensors" in message
    assert "1 tied names" in message
    assert "1 buffers are not persistent" in message


def test_a_module_under_two_names_agrees() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, layer)
    assert reconciled(model).status == "pass"
    assert values(inspector.params(model))["params"] == 6


def test_views_of_one_storage_with_different_shapes_agree() -> None:
    model = nn.Module()
    model.matrix = nn.Parameter(torch.zeros(2, 3))
    model.vector = nn.Parameter(model.matrix.data.view(6))
    assert values(inspector.params(model))["params"] == 6
    assert reconciled(model).status == "pass"


@pytest.mark.parametrize("extra", [{"version": 2}, torch.zeros(3)], ids=["dict", "tensor"])
def test_a_modules_extra_state_is_no_fault(extra: Any) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return extra

        def set_extra_state(self, state: Any) -> None: ...

    finding = reconciled(nn.Sequential(Extra(1, 1)))
    assert finding.status == "pass"
    assert "0._extra_state" in finding.message


def dropped(module: Any, state: dict, prefix: str, _: Any) -> None:
    del state[f"{prefix}weight"]


def renamed(module: Any, state: dict, prefix: str, _: Any) -> None:
    state[f"{prefix}kernel"] = state.pop(f"{prefix}weight")


def reshaped(module: Any, state: dict, prefix: str, _: Any) -> None:
    state[f"{prefix}weight"] = state[f"{prefix}weight"].flatten()


def recast(module: Any, state: dict, prefix: str, _: Any) -> None:
    state[f"{prefix}weight"] = state[f"{prefix}weight"].half()


def invented(module: Any, state: dict, prefix: str, _: Any) -> None:
    state[f"{prefix}more"] = torch.zeros(1)


FAULTS = {
    dropped: ("1.weight", "1 tensor is missing"),
    renamed: ("1.kernel", "state_dict only"),
    reshaped: ("1.weight", "another shape"),
    recast: ("1.weight", "dtype"),
    invented: ("1.more", "state_dict only"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_hook_that_changes_the_state_dict_fails_and_names_the_tensor(fault: Any) -> None:
    # GIVEN a model whose second layer saves something else than it holds
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model[1]._register_state_dict_hook(fault)
    # WHEN it is listed
    report = inspector.params(model)
    # THEN the report fails and names the tensor
    name, said = FAULTS[fault]
    failed = [f for f in report.findings if f.status == "fail"]
    assert report.verdict == "fail"
    assert any(f.subject == name and said in f.message for f in failed)
    assert all(f.evidence["names"] for f in failed)


def test_a_state_dict_that_cannot_be_made_fails() -> None:
    model = nn.Linear(2, 2)
    model._register_state_dict_hook(lambda *_: model.weight.nonsense)
    finding = reconciled(model)
    assert finding.status == "fail"
    assert "nonsense" in finding.message


def test_a_failed_reconciliation_exits_1_after_the_report(tmp_path: Any, inspect: Any) -> None:
    file = tmp_path / "dropping_net.py"
    file.write_text(
        "from torch import nn\n"
        "def build():\n"
        "    model = nn.Linear(2, 2)\n"
        "    model._register_state_dict_hook(lambda m, state, prefix, _: {'weight': m.weight})\n"
        "    return model\n"
    )
    code, out, err = inspect("params", f"{file}:build", "--format", "json")
    assert (code, err) == (1, "")
    assert json.loads(out)["verdict"] == "fail"


def test_lazy_parameters_are_said_to_have_no_shape_yet() -> None:
    report = inspector.params(nn.LazyLinear(3))
    assert [f.status for f in report.findings if f.check == "lazy"] == ["warn"]
    assert report.verdict == "none"
    assert values(report)["params"] == 0


@pytest.mark.parametrize(
    ("module", "train", "eval_"),
    [
        (nn.BatchNorm2d(2), "momentum 0.1", "running statistics"),
        (nn.BatchNorm2d(2, momentum=None), "cumulative", "running statistics"),
        (nn.SyncBatchNorm(2), "batch statistics", "running statistics"),
        (nn.InstanceNorm2d(2, track_running_stats=True), "updates running", "running statistics"),
        (nn.Dropout(0.25), "p=0.25", "identity"),
        (nn.AlphaDropout(0.5), "p=0.5", "identity"),
        (nn.RReLU(), "slope", "mean slope"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "p=0.1", "no dropout"),
        (nn.LSTM(2, 2, num_layers=2, dropout=0.3), "p=0.3", "no dropout"),
    ],
)
def test_a_known_module_says_what_each_mode_does(module: nn.Module, train: str, eval_: str) -> None:
    said = modes(nn.Sequential(module))["0"]
    assert train in said[0]
    assert eval_ in said[1]


@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
@pytest.mark.parametrize(
    "module",
    [
        nn.Dropout(0), nn.InstanceNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False),
        nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.Conv2d(1, 1, 1), nn.MultiheadAttention(4, 2),
        nn.LSTM(2, 2, num_layers=2), nn.LSTM(2, 2, num_layers=1, dropout=0.3), nn.Identity(),
        nn.TransformerEncoderLayer(4, 2, 4, dropout=0),
    ],
    ids=repr,
)  # fmt: skip
def test_a_module_that_no_mode_changes_is_not_listed(module: nn.Module) -> None:
    assert modes(module) == {}


class ReadsTraining(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5, self.training)


class Decorated(nn.Module):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if self.training else x


@pytest.mark.parametrize("module", [ReadsTraining(), Decorated()], ids=lambda m: type(m).__name__)
def test_a_module_of_ones_own_that_reads_the_mode_is_named(module: nn.Module) -> None:
    assert "self.training" in modes(nn.Sequential(module))["0"][0]


def test_the_table_shows_the_mode_in_which_each_module_is_now() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
    model[0].eval()
    frame = inspector.params(model).to_frame("modes")
    assert dict(zip(frame["module"], frame["mode"])) == {"0": "eval", "1": "train"}


@pytest.mark.parametrize("model", [5, None, nn.Linear, [nn.ReLU()]], ids=repr)
def test_what_is_no_model_is_refused_by_its_type(model: Any) -> None:
    with pytest.raises(inspector.InspectError, match=type(model).__name__):
        inspector.params(model)


def test_listing_changes_nothing() -> None:
    model = Everything()
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    inspector.params(model)
    assert {name: id(t) for name, t in model.state_dict(keep_vars=True).items()} == before
    assert model.training


def test_every_format_renders_the_ledger(inspect: Any) -> None:
    for format_ in ("table", "markdown", "json", "csv", "html"):
        code, out, err = inspect("params", "squeezenet1_1", "--format", format_)
        assert (code, err) == (0, "")
        assert "features.0.weight" in out
    content = json.loads(inspect("params", "squeezenet1_1", "--format", "json")[1])
    assert content["schema"] == "inspector.report/2"
    assert content["metrics"]["params"]["value"] == 1_235_496  # published
