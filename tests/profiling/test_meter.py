"""The peak of memory that a pass takes, as torch's profiler tells it on a CPU."""

from __future__ import annotations

import torch

from inspector.profiling.meter import metered


def test_memory_from_an_earlier_measured_pass_counts_no_more() -> None:
    """The profiler tells of a release where it saw the memory made, also in an earlier pass."""
    kept = []
    with metered("cpu") as first:
        kept.append(torch.empty(1_000_000))
    with metered("cpu") as second:
        kept.clear()
        made = torch.empty(500_000)
    assert first.tensors == first.whole == 4_000_000
    assert second.tensors == second.whole == made.numel() * 4


def test_memory_given_back_inside_counts_until_then() -> None:
    with metered("cpu") as peak:
        first = torch.empty(1_000_000)
        del first
        second = torch.empty(500_000)
        third = torch.empty(750_000)
    assert peak.tensors == peak.whole == max(4_000_000, 4 * (second.numel() + third.numel()))
