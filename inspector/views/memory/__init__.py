"""The peak memory of a step, from a trace: no torch, no allocation."""

from inspector.views.memory.blocks import CATEGORIES, Block
from inspector.views.memory.optimizers import OPTIMIZERS, Optimizer
from inspector.views.memory.step import OPTIMIZER_STEP, Memory, Plan, simulate

__all__ = ["CATEGORIES", "OPTIMIZERS", "OPTIMIZER_STEP", "Block", "Memory", "Optimizer", "Plan", "simulate"]
