"""ptflops 0.7: hooks on modules, patched functions of torch.nn.functional and of tensors."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from inspector.counters.positional import positional
from inspector.counters.record import Count, Counter
from inspector.models import Subject


def run(subject: Subject, phase: str) -> Count:
    """`get_model_complexity_info` with its default backend. It passes one input or keywords, so that the
    model is wrapped where it takes several."""
    from ptflops import get_model_complexity_info

    args = positional(subject)
    model = subject.model if len(args) == 1 else _Several(subject.model)
    with torch.no_grad():
        macs, params = get_model_complexity_info(
            model,
            (1,),
            as_strings=False,
            print_per_layer_stat=False,
            input_constructor=lambda size: args[0] if len(args) == 1 else {"inputs": args},
            ost=sys.stderr,
        )
    if macs is None:  # ptflops prints the exception and returns None
        raise RuntimeError("the model raised inside ptflops (the traceback is above, with --verbose)")
    return Count(int(macs), int(params))


class _Several(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Any:
        return self.model(*inputs)


COUNTER = Counter(
    name="ptflops",
    unit="MAC",
    convention="modules of known classes with bias; plus norms, activations, pooling, some functions; mean"
    " of the batch; eval mode",
    source="ptflops 0.7.5: ptflops/pytorch_engine.py, ptflops/pytorch_ops.py",
    run=run,
    explain=None,
    package="ptflops",
)
