"""Memory that tensors share is told by addresses, element by element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from inspector.models.memory import neighbours, overlap


def pairs() -> dict[str, tuple[Tensor, Tensor, bool]]:
    """Two tensors, and whether they have a byte in common."""
    array = np.zeros(12, dtype="float32")
    base = torch.zeros(4, 6)
    flat = torch.zeros(24)
    return {
        "two wraps of one array": (torch.from_numpy(array), torch.from_numpy(array), True),
        "halves of one array": (torch.from_numpy(array[:6]), torch.from_numpy(array[6:]), False),
        "one shared element": (torch.from_numpy(array[:7]), torch.from_numpy(array[6:]), True),
        "left and right columns": (base[:, :3], base[:, 3:], False),
        "columns with one in common": (base[:, :4], base[:, 3:], True),
        "even and odd elements": (flat[::2], flat[1::2], False),
        "every second and every third": (flat[::2], flat[::3], True),  # element 0, 6, ...
        "bytes of another dtype": (flat[:2], flat.view(torch.int16)[2:4], True),  # bytes 4 to 8
        "bytes beside": (flat[:2], flat.view(torch.int16)[4:6], False),  # bytes 8 to 12
        "an expanded element": (flat[3:4].expand(5), flat[2:4], True),
        "separate": (torch.zeros(3), torch.zeros(3), False),
        "empty": (flat[:0], flat, False),
        "on meta": (torch.zeros(3, device="meta"), torch.zeros(3, device="meta"), False),
    }


@pytest.mark.parametrize("name", pairs())
def test_two_tensors_overlap_where_they_have_a_byte_in_common(name: str) -> None:
    left, right, expected = pairs()[name]
    assert overlap(left, right) is expected
    assert overlap(right, left) is expected
    assert overlap(left, left)


def test_a_sparse_tensor_has_the_memory_of_its_values() -> None:
    values = torch.ones(2)
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), values, (3,), is_coalesced=True)
    assert overlap(sparse, values)
    assert not overlap(sparse, torch.ones(2))


def test_neighbours_are_groups_of_ranges_that_meet() -> None:
    flat = torch.zeros(10)
    named = {"a": flat[:4], "b": flat[4:8], "c": flat[7:], "d": torch.zeros(2)}
    assert list(neighbours(named)) == [["b", "c"]]
