"""The report of `profile` with another counter's numbers, in Python."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import inspector
from inspector.core.errors import InspectError


def test_the_modules_table_has_the_counters_numbers_and_no_zero_for_what_it_does_not_say() -> None:
    # The convolution 4 * 4 * 27, the norm 4 for each of 16 elements, the layer 16 * 2.
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).eval()
    report = inspector.profile(model, "1x3x4x4", counter="thop")
    modules = report.to_frame("modules").set_index("path")
    assert list(modules["macs"]) == [432 + 64 + 32, 432, 64, 0, 32]
    assert report.metrics["macs"].value == 528
    assert report.metrics["params"].value == sum(p.numel() for p in model.parameters())
    for name in ("flops", "pointwise_flops", "activations", "bytes_moved", "unknown_ops"):
        assert report.metrics[name].value is None
    assert modules["flops"].isna().all()
    assert "thop" in str(report)


def test_a_training_step_by_torch_has_both_directions() -> None:
    # Forward 2 * 12, and the weight gradient.
    report = inspector.profile(nn.Linear(4, 3), "2x4", phase="train", counter="torch")
    assert report.metrics["forward_macs"].value == 24
    assert report.metrics["backward_macs"].value == 24


def test_what_the_counter_misses_is_said() -> None:
    report = inspector.profile(nn.LSTM(3, 4, batch_first=True), "2x5x3", counter="fvcore")
    messages = [finding.message for finding in report.findings]
    assert messages == ["fvcore misses 1,120 MACs: no formula for this operator"]


def test_what_only_our_own_pass_can_do_is_refused() -> None:
    trace = inspector.trace(nn.Linear(4, 3), torch.ones(2, 4))
    for model, more in [
        (trace, {}),
        (nn.Linear(4, 3), {"device": "cpu"}),
        (nn.Linear(4, 3), {"strict": True}),
    ]:
        with pytest.raises(InspectError, match="applies to our own count, not to that of thop"):
            inspector.profile(model, "2x4", counter="thop", **more)


def test_a_counter_that_fails_is_an_error() -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not x.is_meta:
                raise ValueError("not today")
            return x @ x

    with pytest.raises(InspectError) as raised:
        inspector.profile(Picky(), "3x3", counter="torch")
    assert raised.value.message == "torch could not count Picky: ValueError: not today"
    assert raised.value.hint == 'see what it printed with `logging.getLogger("inspector")`'
