"""The checks of an initialisation."""

from inspector.initialization.checks import draws, law, propagation, seed, twice
from inspector.reporting.checks import checks_in

SEED = checks_in(seed)
CHECKS = (*law.CHECKS, *checks_in(draws), *SEED, *checks_in(twice, propagation))

__all__ = ["CHECKS", "SEED"]
