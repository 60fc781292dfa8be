"""The peak memory of a step, from a trace: no torch, no allocation."""

from inspector.footprint.blocks import CATEGORIES, Block
from inspector.footprint.optimizers import OPTIMIZERS, Optimizer
from inspector.footprint.step import OPTIMIZER_STEP, Memory, Plan, simulate

__all__ = ["CATEGORIES", "OPTIMIZERS", "OPTIMIZER_STEP", "Block", "Memory", "Optimizer", "Plan", "simulate"]
