"""Is the initialisation a function of the seed?

A model that is not the same for the same seed cannot be reproduced; one that is the same for every seed
makes the runs of a study copies of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log2

import torch
from torch import Tensor, nn

from inspector.initialization.builds import Builds, distinct
from inspector.initialization.checks.words import count, grouped, sample
from inspector.initialization.writes import EMPTY, FOREIGN, RANDOM
from inspector.reporting.checks import check, failed, passed, skipped, warned
from inspector.reporting.report import Finding

ENTROPY = 30.0
"""Bits that a random tensor must hold before two equal draws prove anything: 2^-30 by chance."""
FLOAT_BITS = 20.0
"""Random bits credited to each element of a float tensor whose values hardly repeat and are not round."""
DISTINCT = 8
"""A float parameter from outside torch with more distinct values than this may be random."""
ON_META = "tensors on meta have no values"


@check
def reproducible(builds: Builds) -> Iterator[Finding]:
    """Two builds with one seed give the same bytes in every tensor, NaN and non-persistent buffers included.

    A parameter that nothing was seen to fill warns.
    """
    if builds.meta:
        yield skipped(ON_META)
        return
    first, again = builds.first, builds.again
    if first.keys() != again.keys():
        lost = sorted(first.keys() ^ again.keys())
        message = "exists in only one of two builds with one seed: the structure itself is random"
        yield failed(message, lost[0], tensors=lost)
        return
    moved = [name for name in first if first[name] != again[name]]
    if not moved:
        every = f"all {len(first)} tensors" if len(first) > 1 else "the one tensor"
        yield passed(f"two builds with one seed give the same bytes in {every}")
    for cause, names in grouped(moved, lambda name: _cause(builds.origins[name])).items():
        message = f"{count(names, 'differs', 'differ')} between two builds with one seed: {cause}"
        yield failed(message, names[0], **sample(names))
    silent = [name for name in builds.never if name not in moved]
    if silent:
        message = f"{count(silent, 'is', 'are')} allocated, and nothing was seen to fill it: torch.empty?"
        yield warned(message, silent[0], **sample(silent))


def _cause(origins: frozenset[str]) -> str:
    if EMPTY in origins:
        return "never written, torch.empty shows what the memory held before"
    if RANDOM in origins and FOREIGN not in origins:
        return "drawn by a torch generator that the seed does not reach (torch.seed(), Generator().seed())"
    return "values from outside torch; np.random.default_rng(), os.urandom and time need a seed of their own"


@check
def seed_ignored(builds: Builds) -> Iterator[Finding]:
    """Another seed changes every tensor that a random operator of torch filled.

    The origin of values from outside torch (NumPy, files) cannot be seen: a trainable float parameter of
    such values that stays the same warns.
    """
    if builds.meta:
        yield skipped(ON_META)
        return
    origins, fixed, seeds = builds.origins, builds.fixed, f"seeds {builds.seed} and {builds.seed + 1}"
    random = [name for name in fixed if RANDOM in origins[name]]
    stuck = [name for name in random if _bits(fixed[name]) >= ENTROPY]
    outside = [name for name in fixed if name not in random and _may_be_random(fixed[name], origins[name])]
    if stuck:
        message = (
            f"{count(stuck, 'is', 'are')} random and the same for {seeds}: "
            "a generator with a fixed seed, or torch.manual_seed inside the model"
        )
        yield failed(message, stuck[0], **sample(stuck))
    else:
        number = sum(RANDOM in origin for origin in origins.values())
        yield passed(f"another seed changes the random tensors ({number} of {len(origins)} are random)")
    if outside:
        message = (
            f"{count(outside, 'is', 'are')} the same for {seeds}, with values from "
            "outside torch: loaded or computed, or drawn by NumPy or Python with a seed of its own"
        )
        yield warned(message, outside[0], **sample(outside))


def _bits(tensor: Tensor) -> float:
    """How much chance the values can hold: 0 when all are equal, more with length and variety."""
    elements, different = tensor.numel(), distinct(tensor)
    if different < 2:
        return 0.0
    varied = tensor.is_floating_point() and different > elements / 2 and _fine(tensor)
    return elements * (FLOAT_BITS if varied else log2(different))


def _fine(tensor: Tensor) -> bool:
    """Whether most values need more than 4 bits of mantissa: a sum of a few coin flips does not."""
    mantissa, _ = torch.frexp(tensor.detach().double())
    return bool((16 * mantissa).frac().ne(0).double().mean() > 0.5)


def _may_be_random(tensor: Tensor, origins: frozenset[str]) -> bool:
    """Frozen tables and buffers are constants by intent."""
    trained = isinstance(tensor, nn.Parameter) and tensor.requires_grad
    return trained and FOREIGN in origins and tensor.is_floating_point() and distinct(tensor) > DISTINCT
