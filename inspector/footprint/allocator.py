"""torch's caching allocator for CUDA, simulated: what it counts as allocated and what it reserves.

Source: c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h of torch 2.15 (the same since 1.x),
with its default settings: no expandable segments, no limit on splits, one stream.

- A request is rounded up to 512 bytes.
- Requests of up to 1 MiB come from segments of 2 MiB; up to 10 MiB from segments of 20 MiB; larger ones
  from a segment of their own, rounded up to 2 MiB. Small and large ones never share a segment.
- The smallest free block that is large enough is taken, the lowest address first among equals. Its rest is
  split off if it has 512 bytes (small) or more than 1 MiB (large); else the whole block is handed out, and
  counts as allocated.
- A freed block joins its free neighbours in the segment. Segments are kept.
"""

from __future__ import annotations

from bisect import bisect_left, insort

MIN_BLOCK = 512
SMALL_SIZE = 2**20
SMALL_SEGMENT = 2 * 2**20
LARGE_SEGMENT = 20 * 2**20
MIN_OWN_SEGMENT = 10 * 2**20
SEGMENT_ROUND = 2 * 2**20
_SEGMENT_GAP = 1
"""Bytes between segments in the simulated addresses: blocks of two segments never join."""


def rounded(nbytes: int) -> int:
    """A request as the allocator sees it."""
    return max(MIN_BLOCK, -(-nbytes // MIN_BLOCK) * MIN_BLOCK)


def segment_size(size: int) -> int:
    """What is asked of the driver for a rounded request that no free block can hold."""
    if size <= SMALL_SIZE:
        return SMALL_SEGMENT
    if size < MIN_OWN_SEGMENT:
        return LARGE_SEGMENT
    return -(-size // SEGMENT_ROUND) * SEGMENT_ROUND


class CachingAllocator:
    """Blocks are addresses: `malloc(nbytes)` returns one (None for no bytes), `free(address)` takes it
    back. `allocated` and `reserved` are now, `peak_allocated` the most so far."""

    def __init__(self) -> None:
        self.allocated = self.reserved = self.peak_allocated = 0
        self._sizes: dict[int, int] = {}
        self._starts: dict[int, tuple[int, bool]] = {}  # free blocks: size, small
        self._ends: dict[int, int] = {}  # end of a free block: its start
        self._pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._small: dict[int, bool] = {}
        self._next = 0

    def malloc(self, nbytes: int) -> int | None:
        if nbytes == 0:
            return None
        size = rounded(nbytes)
        small = size <= SMALL_SIZE
        pool = self._pools[small]
        place = bisect_left(pool, (size, 0))
        if place < len(pool):
            block, address = pool[place]
            self._take(address)
        else:
            block, address = segment_size(size), self._next
            self._next += block + _SEGMENT_GAP
            self.reserved += block
        rest = block - size
        if rest >= MIN_BLOCK if small else rest > SMALL_SIZE:
            self._put(address + size, rest, small)
            block = size
        self._sizes[address], self._small[address] = block, small
        self.allocated += block
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return address

    def free(self, address: int | None) -> None:
        if address is None:
            return
        size, small = self._sizes.pop(address), self._small.pop(address)
        self.allocated -= size
        if address + size in self._starts:
            size += self._take(address + size)
        if address in self._ends:
            start = self._ends[address]
            size += self._take(start)
            address = start
        self._put(address, size, small)

    def size(self, address: int | None) -> int:
        """The bytes that a live block counts for."""
        return 0 if address is None else self._sizes[address]

    def _put(self, address: int, size: int, small: bool) -> None:
        self._starts[address] = size, small
        self._ends[address + size] = address
        insort(self._pools[small], (size, address))

    def _take(self, address: int) -> int:
        size, small = self._starts.pop(address)
        del self._ends[address + size]
        pool = self._pools[small]
        del pool[bisect_left(pool, (size, address))]
        return size


class ExactAllocator(CachingAllocator):
    """Every request takes its own bytes, as the CPU's allocator counts them."""

    def malloc(self, nbytes: int) -> int | None:
        if nbytes == 0:
            return None
        address = self._next
        self._next += nbytes
        self._sizes[address] = nbytes
        self.allocated += nbytes
        self.reserved = max(self.reserved, self.allocated)
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return address

    def free(self, address: int | None) -> None:
        if address is not None:
            self.allocated -= self._sizes.pop(address)
