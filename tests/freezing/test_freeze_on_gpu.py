"""A model that lives on a GPU is verified there."""

from __future__ import annotations

import pytest
from torchvision.models import resnet18

import inspector


@pytest.mark.gpu
def test_a_live_cuda_model_is_verified_where_it_is() -> None:
    model = resnet18().cuda()
    report = inspector.freeze(model, at=2).verify("4x3x64x64")
    assert report.verdict == "pass"
    assert next(model.parameters()).is_cuda


@pytest.mark.gpu
def test_statistics_move_on_cuda_too() -> None:
    model = resnet18().cuda()
    report = inspector.freeze(model, at=2, norm="train").verify("4x3x64x64", ddp=False)
    assert "buffers" in {finding.check for finding in report.findings if finding.status == "fail"}
