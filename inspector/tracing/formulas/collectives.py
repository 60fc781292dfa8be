"""Communication between processes, as DTensor's operators ask for it.

Copies cost nothing here; their bytes are those of the local tensors. Sums cost one addition for each element
that a process brings: in a ring each of p processes adds (p - 1) / p of them (Patarasuk & Yuan 2009).
"""

from __future__ import annotations

from typing import Any

from inspector.tracing.formulas.registry import FREE, Cost, formula, numel


@formula(
    *(
        f"fsdp.{name}"
        for name in ("all_gather_copy_in", "split_with_sizes_copy", "chunk_cat", "chunk_cat_mixed_dtype")
    )
)
def packed(out: Any, *_: Any, **__: Any) -> Cost:
    """What FSDP2 copies into and out of the buffers of its collectives."""
    return FREE


def _functional(names: str) -> list[str]:
    return [f"_c10d_functional.{name}" for name in names.split()]


@formula(
    *_functional(
        "all_gather_into_tensor all_gather_into_tensor_out all_gather_into_tensor_coalesced all_to_all_single"
        " broadcast wait_tensor _wrap_tensor_autograd"
    ),
    "c10d.send",
    "c10d.recv_",
)
def copied(out: Any, *_: Any, **__: Any) -> Cost:
    return FREE


@formula(
    *_functional("all_reduce all_reduce_coalesced reduce_scatter_tensor reduce_scatter_tensor_coalesced")
)
def summed(out: Any, tensor: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, numel(tensor))
