"""The memory that cuBLAS takes for a product, from torch's allocator.

Up to some version torch took one workspace for each handle and stream at its first product, and kept it: the
forward's and, in training, that of the backward's thread. Later ones (2.15 among them) take it for each call
and free it, unless TORCH_CUBLAS_WORKSPACE_CACHE=1 asks for the old way; those can be asked for the size.
Sources: aten/src/ATen/cuda/CublasHandlePool.cpp and torch/backends/cuda/__init__.py, torch 2.8 to 2.15.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

SMALL = (2 * 4096 + 8 * 16) * 1024
"""Bytes: cuBLAS's own default, :4096:2:16:8."""
LARGE = 32 * 2**20
"""Bytes on cards for which cuBLAS asks for more."""
LT = 2**20
"""Bytes of a product with a bias in its epilogue, which cublasLt runs."""
_WITH_BIAS = {"aten.addmm"}


@dataclass(frozen=True)
class Workspaces:
    """`nbytes` of a workspace, `kept` for each handle, or else freed after each product; `lt`: cublasLt's."""

    nbytes: int
    kept: bool
    lt: int = LT

    @staticmethod
    def expected(capability: int | None = None) -> Workspaces:
        """What this torch does on a card of a major compute capability (None: any below 9)."""
        largest = 12 if passes() else 9
        large = capability is not None and 9 <= capability <= largest
        return Workspaces(LARGE if large else SMALL, not passes())

    @staticmethod
    def of(device: str) -> Workspaces:
        """Those of a GPU of this machine, by what torch says of itself."""
        if passes():
            cuda = torch.backends.cuda
            return Workspaces(cuda.cublas_workspace_size(), False, cuda.cublaslt_workspace_size())
        return Workspaces.expected(torch.cuda.get_device_capability(device)[0])

    def passing(self, op: str) -> int:
        """Bytes while one product runs, where they are not kept."""
        return self.lt if op in _WITH_BIAS else self.nbytes


def passes() -> bool:
    """Whether this torch frees a workspace after each product."""
    cached = os.environ.get("TORCH_CUBLAS_WORKSPACE_CACHE", "0").strip().lower() in ("1", "true", "on", "yes")
    return hasattr(torch.backends.cuda, "cublas_workspace_size") and not cached
