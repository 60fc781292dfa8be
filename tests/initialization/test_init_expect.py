"""Verdicts on tensors: each status, and what the message tells."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torchvision
from torch import nn

from inspector.initialization.apply import apply
from inspector.initialization.expect import Outcome, auto, expect
from inspector.initialization.schemes import choose
from inspector.initialization.targets import chosen, of_model, of_tensors


def verify(model: nn.Module, scheme: str, layers: list[str] | None = None, **options: object) -> Outcome:
    return expect(chosen(of_model(model), layers), choose(scheme, **options))  # type: ignore[arg-type]


def applied(model: nn.Module, scheme: str, **options: object) -> nn.Module:
    apply(model, scheme, **options)  # type: ignore[arg-type]
    return model


def test_matches_only_when_every_other_law_is_rejected() -> None:
    outcome = verify(applied(nn.Linear(300, 120), "kaiming_uniform"), "kaiming_uniform")
    assert [(row.status, row.labels) for row in outcome.rows] == [
        ("matches", ("kaiming_uniform a=1 fan_in",))
    ]


def test_equal_fans_are_ambiguous_and_the_other_names_are_given() -> None:
    row = verify(applied(nn.Linear(128, 128), "kaiming_uniform"), "kaiming_uniform").rows[0]
    assert row.status == "ambiguous"
    assert row.labels[0] == "kaiming_uniform a=1 fan_in"
    assert "xavier_uniform" in row.labels


def test_64_elements_are_inconclusive() -> None:
    row = verify(applied(nn.Linear(4, 16), "kaiming_uniform"), "kaiming_uniform").rows[0]
    assert row.status == "inconclusive"
    assert "kaiming_normal a=1 fan_in" in row.labels  # the same standard deviation


def test_trunc_normal_with_a_cut_that_never_bites_is_ambiguous_with_normal() -> None:
    row = verify(applied(nn.Linear(100, 300), "trunc_normal"), "trunc_normal").rows[0]
    assert (row.status, set(row.labels)) == ("ambiguous", {"trunc_normal std=0.02", "normal std=0.02"})


def test_constant_shows_its_value() -> None:
    outcome = verify(applied(nn.Linear(30, 30), "constant", value=0.25), "xavier_normal")
    assert outcome.rows[0].status == "constant"
    assert "all 900 elements are 0.25" in outcome.findings[0].message


def test_meta_and_float8_are_never_said_to_match() -> None:
    meta = verify(nn.Linear(30, 30, device="meta"), "normal")
    assert [row.status for row in meta.rows] == ["uninitialised"]
    assert [f.check for f in meta.findings if f.status == "fail"] == ["uninitialised"]
    packed = expect(
        of_tensors({"a.weight": torch.zeros(8, 8).to(torch.float8_e4m3fn)}), choose("kaiming_normal")
    )
    assert [row.status for row in packed.rows] == ["inconclusive"]
    assert [f.status for f in packed.findings if f.subject == "a.weight"] == ["skip"]


def test_a_message_names_tensor_numbers_and_cause() -> None:
    model = applied(nn.Sequential(nn.Linear(300, 100)), "kaiming_uniform", a=0.0)
    finding = verify(model, "kaiming_uniform").findings[0]
    assert (finding.check, finding.status, finding.subject) == ("gain", "fail", "0.weight")
    # a=1: bound sqrt(3/300) = 0.1, std 0.05774; a=0: sqrt(2) more
    for part in ("uniform +-0.1", "a=0 instead of a=1", "std 0.08", "expected 0.05774", "bound 0.1"):
        assert part in finding.message


def test_a_depth_factor_is_recognised() -> None:
    layer = applied(nn.Linear(256, 256), "normal", std=0.02 / math.sqrt(24))
    assert "1/sqrt(2 x 12)" in verify(layer, "normal").findings[0].message


def test_effective_fans_are_told_where_the_scheme_uses_them() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, groups=64), nn.ConvTranspose2d(16, 64, 4))
    out = verify(applied(model, "kaiming_normal", mode="fan_out"), "kaiming_normal", mode="fan_out")
    warned = next(f for f in out.findings if (f.check, f.status) == ("fan", "warn"))
    assert warned.evidence == {"0": "fan_out 576, effective 9", "1": "fan_out 256, effective 1024"}
    inward = verify(applied(model, "kaiming_normal"), "kaiming_normal")
    warned = next(f for f in inward.findings if (f.check, f.status) == ("fan", "warn"))
    assert warned.evidence == {"1": "fan_in 1024, effective 256"}  # depthwise: 9 is right


def test_auto_names_the_laws_of_torchvisions_resnet18() -> None:
    torch.manual_seed(0)
    outcome = auto(of_model(torchvision.models.resnet18()))
    assert outcome.count("differs") == outcome.count("constant") == outcome.count("uninitialised") == 0
    for row in outcome.rows:
        if row.target.layer == "fc":
            wanted = "default (kaiming_uniform a=sqrt(5))" if row.target.role == "weight" else "default"
        elif row.target.role.startswith("norm"):
            wanted = "zeros" if row.target.role == "norm bias" else "ones"
        else:
            wanted = "kaiming_normal a=0 fan_out"
        assert wanted in row.labels, row.target.name


def test_auto_does_not_fail_trained_weights() -> None:
    model = applied(nn.Linear(200, 200), "kaiming_normal")
    with torch.no_grad():
        model.weight.add_(0.1 * torch.randn(200, 200).exp())  # type: ignore[operator, union-attr]
    outcome = auto(of_model(model))
    assert outcome.rows[0].status == "differs"
    assert [f.status for f in outcome.findings] == ["skip"]


@pytest.mark.parametrize("scheme", ["kaiming_uniform", "kaiming_normal", "xavier_uniform", "orthogonal"])
def test_correct_models_are_not_accused(scheme: str) -> None:
    """30 seeds of 9 tensors each: at alpha 0.005 for a model, 0.15 accusations are expected, and 4 or
    more happen once in 50,000 times."""
    accused = 0
    for seed in range(30):
        widths = (3, 8, 8, 20, 64, 64, 100, 30, 10, 2)
        model = nn.Sequential(*(nn.Linear(i, o) for i, o in pairwise(widths)))
        apply(model, scheme, seed=seed)
        accused += verify(model, scheme).count("differs") > 0
    assert accused <= 3


def test_a_file_pairs_bias_and_weight() -> None:
    torch.manual_seed(0)
    state = nn.Sequential(nn.Conv2d(8, 96, 3), nn.BatchNorm2d(96), nn.Linear(96, 40)).state_dict()
    targets = {t.name: t for t in of_tensors(state)}
    assert [targets[n].role for n in ("0.weight", "0.bias", "1.weight", "1.bias", "2.bias")] == [
        "weight", "bias", "norm weight", "norm bias", "bias",
    ]  # fmt: skip
    outcome = expect([targets[n] for n in ("0.weight", "0.bias", "2.weight", "2.bias")], choose("default"))
    assert not outcome.count("differs")
    assert "1.num_batches_tracked" not in targets
