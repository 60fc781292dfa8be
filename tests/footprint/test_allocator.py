"""The simulated caching allocator against the rules of torch's, by hand; on a GPU against torch's own."""

from __future__ import annotations

import random

import pytest
import torch

from inspector.footprint.allocator import CachingAllocator, rounded, segment_size

MIB = 2**20


@pytest.fixture
def allocator() -> CachingAllocator:
    return CachingAllocator()


@pytest.mark.parametrize(("asked", "counted"), [(1, 512), (512, 512), (513, 1024), (100_000, 100_352)])
def test_requests_are_rounded_to_512_bytes(asked: int, counted: int) -> None:
    assert rounded(asked) == counted  # 100,000 = 195.3 * 512: 196 * 512 = 100,352


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
    ],
)
def test_segments_have_2_mib_or_20_mib_or_their_own_size(size: int, segment: int) -> None:
    assert segment_size(size) == segment


def test_two_blocks_of_1_mib_share_a_segment_and_a_third_does_not(allocator: CachingAllocator) -> None:
    for _ in range(2):
        allocator.malloc(MIB)
    assert (allocator.allocated, allocator.reserved) == (2 * MIB, 2 * MIB)
    allocator.malloc(1)
    assert (allocator.allocated, allocator.reserved) == (2 * MIB + 512, 4 * MIB)


def test_small_and_large_blocks_never_share_a_segment(allocator: CachingAllocator) -> None:
    allocator.malloc(1)
    allocator.malloc(2 * MIB)
    assert allocator.reserved == 22 * MIB


def test_a_rest_of_more_than_1_mib_is_split_off(allocator: CachingAllocator) -> None:
    # 20 MiB - 9 - 9 = 2 MiB left: a third of 1.5 MiB fits there, and its rest of 0.5 MiB goes with it.
    for size in (9 * MIB, 9 * MIB, 3 * MIB // 2):
        allocator.malloc(size)
    assert (allocator.allocated, allocator.reserved) == (20 * MIB, 20 * MIB)


def test_a_rest_of_up_to_1_mib_is_handed_out_and_counts_as_allocated(allocator: CachingAllocator) -> None:
    # 10.5 MiB gets a segment of 12 MiB (rest 1.5: split), 11 MiB another (rest 1.0: not more than 1).
    allocator.malloc(21 * MIB // 2)
    assert (allocator.allocated, allocator.reserved) == (21 * MIB // 2, 12 * MIB)
    allocator.malloc(11 * MIB)
    assert (allocator.allocated, allocator.reserved) == (21 * MIB // 2 + 12 * MIB, 24 * MIB)


def test_the_smallest_free_block_that_fits_is_taken(allocator: CachingAllocator) -> None:
    kept = [allocator.malloc(size * MIB) for size in (3, 2, 5, 2, 8)]  # 20 MiB: one segment, full
    allocator.free(kept[0])
    allocator.free(kept[2])
    assert allocator.malloc(3 * MIB) == kept[0]
    assert allocator.malloc(4 * MIB) == kept[2]
    assert allocator.reserved == 20 * MIB


def test_freed_neighbours_join(allocator: CachingAllocator) -> None:
    first, second, third = (allocator.malloc(6 * MIB) for _ in range(3))
    allocator.free(first)
    allocator.free(third)
    allocator.free(second)
    assert allocator.malloc(19 * MIB) is not None  # at least 10 MiB, but the joined 20 MiB holds it
    assert (allocator.allocated, allocator.reserved) == (20 * MIB, 20 * MIB)


def test_the_peak_stays_when_blocks_go(allocator: CachingAllocator) -> None:
    address = allocator.malloc(3 * MIB)
    allocator.free(address)
    assert (allocator.allocated, allocator.peak_allocated) == (0, 3 * MIB)
    assert allocator.malloc(0) is None


@pytest.mark.gpu
def test_it_counts_as_torch_does_on_this_gpu(allocator: CachingAllocator) -> None:
    torch.cuda.empty_cache()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    draw = random.Random(0)
    live: list[tuple[int | None, torch.Tensor]] = []
    for _ in range(500):
        if live and draw.random() < 0.4:
            address, tensor = live.pop(draw.randrange(len(live)))
            allocator.free(address)
            del tensor
        else:
            nbytes = int(2 ** draw.uniform(4, 25))
            live.append((allocator.malloc(nbytes), torch.empty(nbytes, dtype=torch.uint8, device="cuda")))
        assert allocator.allocated == torch.cuda.memory_allocated() - allocated
        assert allocator.reserved == torch.cuda.memory_reserved() - reserved
