"""Published figures: torchvision's own, and a user's table."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn
from torchvision.models import get_model_weights

from inspector.core.errors import InspectError
from inspector.counters import published
from inspector.counters.report import reconcile
from inspector.profiling.run import trace


def test_torchvisions_figure_is_that_of_the_entry_with_this_input() -> None:
    figure = published.torchvision(trace("resnet18"))
    assert isinstance(figure, published.Figure)
    assert figure.count.value == round(get_model_weights("resnet18").DEFAULT.meta["_ops"] * 1e9)
    # Without an entry vit_h_14 is built for 224 pixels; the default entry's figure is for 518.
    figure = published.torchvision(trace("vit_h_14"))
    assert isinstance(figure, published.Figure)
    assert "IMAGENET1K_SWAG_LINEAR_V1" in figure.source
    assert figure.count.value == 167_295_000_000


def test_there_is_no_figure_for_another_input_or_another_model() -> None:
    other = published.torchvision(trace("resnet18", "1x3x64x64"))
    assert other == "torchvision publishes no figure for this input (float32[1,3,64,64])"
    other = published.torchvision(trace("resnet18@IMAGENET1K_V1", "1x3x64x64"))
    assert other == "torchvision publishes no figure for this input (float32[1,3,64,64])"
    assert isinstance(published.torchvision(trace("resnet18@DEFAULT")), published.Figure)
    args = {"num_classes": 10}
    other = published.torchvision(trace("resnet18", model_args=args), args)
    assert other == "torchvision publishes no figure with num_classes"
    other = published.torchvision(trace("resnet18", phase="train"))
    assert other == "torchvision publishes figures for the forward pass only"
    other = published.torchvision(trace(nn.Linear(3, 4), "2x3"))
    assert other == "torchvision publishes no figure for this model"


def test_a_difference_within_the_rounding_is_explained_and_a_larger_one_is_not(tmp_path: Path) -> None:
    # 2 * 12 = 24 MACs. "2e1" may mean 15 to 25; 24 means 24; 27 is wrong.
    name = "Linear"
    file = tmp_path / "table.csv"
    file.write_text(
        "model,input,macs,params\n"
        f"{name},2x3,2e1,16\n"
        f"{name},2x3,24,\n"
        f"{name},2x3,27,16\n"
        f"{name},4x3,48,16\n"
        "another,2x3,1,1\n"
    )
    report = reconcile(nn.Linear(3, 4), "2x3", counters=["published"], table=file)
    rows = report.to_frame("counters").set_index("counter")
    assert list(rows.index) == ["ours", "published", "table.csv:2", "table.csv:3", "table.csv:4"]
    assert rows.loc["published", "status"] == "absent"
    assert list(rows["difference"][2:]) == [-4, 0, 3]
    assert list(rows["unexplained"][2:]) == [0, 0, 3]
    assert rows.loc["table.csv:2", "params"] == 16
    causes = report.to_frame("causes").set_index("counter")["cause"]
    assert dict(causes) == {"table.csv:2": "rounded figure", "table.csv:4": "unexplained"}


def test_a_table_without_a_row_for_the_model_says_so(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("model,input,macs,params\nother,2x3,1,1\n")
    report = reconcile(nn.Linear(3, 4), "2x3", counters=["published"], table=file)
    assert any("no row for Linear with float32[2,3]" in f.message for f in report.findings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read"),
        ("model,macs\nLinear,1\n", "has no column 'input'"),
        ("model,input,macs,params\nLinear,2x3\n", ":2 has too few columns"),
        ("model,input,macs,params\nLinear,2x3,many,16\n", ":2: 'many' is not a number"),
        ("model,input,macs,params\nLinear,2x3,nan,16\n", ":2: 'nan' is not a count"),
        ("model,input,macs,params\nLinear,2x3,-4,16\n", ":2: '-4' is not a count"),
        ("model,input,macs,params\nLinear,two,1,16\n", ":2: cannot read input 'two'"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error_with_its_line(
    tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "table.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InspectError) as raised:
        reconcile(nn.Linear(3, 4), "2x3", counters=["published"], table=file)
    assert said in raised.value.message
    assert raised.value.hint
