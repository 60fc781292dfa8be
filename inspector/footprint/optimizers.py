"""What an optimizer keeps for each parameter, and what its step takes for a moment.

Sources: torch/optim/{sgd,adam,adamw}.py of torch 2.8 to 2.15, whose default on CUDA is `foreach`: one list
operation over all parameters, so that a temporary of the step exists for all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """`states` tensors of each parameter's size and dtype are kept, `temporaries` of them exist during the
    step. `quantized`: states of one byte an element with a float32 scale for each block of 256, except
    for parameters below 4,096 elements, whose states are float32."""

    name: str
    states: int
    temporaries: int
    quantized: bool = False
    note: str = ""

    def state_bytes(self, numel: int, item_bytes: int) -> int:
        """Bytes of one state tensor of a parameter."""
        if not self.quantized:
            return numel * item_bytes
        if numel < QUANTIZED_FROM:
            return numel * 4
        return numel + 4 * -(-numel // QUANTIZED_BLOCK)


QUANTIZED_FROM, QUANTIZED_BLOCK = 4096, 256
"""bitsandbytes 0.44 and newer: `min_8bit_size`, and the block size of blockwise quantization."""

_DECAY = "weight_decay in SGD adds a copy of the gradients during the step"
_BYTES = "8-bit states as in bitsandbytes: 1 byte and 1/64 byte of scale an element"

OPTIMIZERS = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("sgd", 0, 0, note=_DECAY),
        Optimizer("momentum", 1, 0, note=_DECAY),
        Optimizer("adam", 2, 1),
        Optimizer("adamw", 2, 1),
        Optimizer("adam8bit", 2, 0, quantized=True, note=_BYTES),
        Optimizer("adamw8bit", 2, 0, quantized=True, note=_BYTES),
    )
}
