"""The meshes that a search tries, and how it sorts them."""

from __future__ import annotations

import pytest

import inspector
from inspector.core.errors import InspectError
from inspector.reporting.tables import Table
from inspector.scaling.child import Request, run
from inspector.scaling.layout import Layout
from inspector.scaling.search import _best, _row, candidates
from tests.scaling import test_scaling_by_hand as by_hand


def test_every_sharding_of_every_power_of_two_in_a_node() -> None:
    tried = [(each.text, each.shard) for each in candidates(16, 8, Layout.of({"dp": 16}))]
    assert len(set(tried)) == len(tried)
    assert all(each.world_size == 16 for each in candidates(16, 8, Layout.of({"dp": 16})))
    # 16 = 16 x 1 (two nodes of 8: a replica in each), 8 x 2, 4 x 4, 2 x 8
    assert {shard for mesh, shard in tried if mesh == "dp=16"} == {"ddp", "zero2", "fsdp"}
    assert ("replicate=2,dp=8", "hsdp") in tried
    assert ("replicate=2,dp=2,tp=4", "hsdp") in tried
    assert [shard for mesh, shard in tried if mesh == "dp=2,tp=8"] == ["zero2", "fsdp"]


def test_the_best_are_those_that_nothing_beats() -> None:
    frame = Table({"needed": [10, 20, 20, None], "samples_bound": [5.0, 9.0, 8.0, None]})
    assert _best(frame) == [True, True, False, False]


def test_what_stopped_a_mesh_is_its_row() -> None:
    row = _row(Layout.of("dp=2,tp=2"), InspectError("no plan", "write one"), 100)
    assert (row["fits"], row["why"], row["needed"], row["step_bound"]) == (False, "no plan", None, None)


def test_a_search_reports_every_mesh() -> None:
    report = inspector.scale(
        f"{by_hand.__file__}:Stack", inputs="4x64", search=True, gpus=2, gpu="h100", optimizer="adamw"
    )
    rows = {(row["mesh"], row["shard"]): row for row in report.tables["meshes"].records()}
    # dp=2 three times, and tp=2, for which the model brings no plan
    assert set(rows) == {("dp=2", "ddp"), ("dp=2", "zero2"), ("dp=2", "fsdp"), ("tp=2", "")}
    assert "no plan of tensor parallelism" in rows["tp=2", ""]["why"]
    assert [row["fits"] for row in rows.values()] == [True, True, True, False]
    # twice four samples a step
    fsdp = rows["dp=2", "fsdp"]
    assert fsdp["samples_bound"] == pytest.approx(8 / fsdp["step_bound"])
    assert report.metrics["meshes_fitting"].value == 3
    rates = [row["samples_bound"] for row in rows.values() if row["fits"]]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"search": True, "gpu": "h100"}, "needs a device and how many"),
        ({"search": True, "gpu": "h100", "gpus": 4, "mesh": "dp=4"}, "chooses mesh"),
        ({"gpus": 4, "mesh": "dp=4"}, "belongs to a search"),
        ({}, "no mesh is given"),
        ({"search": True, "gpu": "v100", "gpus": 4}, "memory of V100 SXM2 varies"),
    ],
)
def test_a_bad_search_is_refused(words: dict[str, object], message: str) -> None:
    with pytest.raises(InspectError, match=message):
        inspector.scale(f"{by_hand.__file__}:Stack", inputs="4x64", **words)  # type: ignore[arg-type]


def test_a_batch_that_was_doubled_counts_double() -> None:
    """BatchNorm over one value cannot train: the samples of a second are those of the step that ran."""
    request = Request(
        "deeplabv3_mobilenet_v3_large", {}, None, None, None, Layout.of("dp=2"), "sgd", False, None, "fused",
        0, None, None, None,
    )  # fmt: skip
    answer = run(request, 0)
    assert "a batch of 2, because BatchNorm cannot train on one value per channel" in answer["notes"]
    assert answer["samples"] == 2
    assert answer["inputs"][0].startswith("float32[2,3,")
