"""Runs that train right."""

from __future__ import annotations

from inspector.reporting.report import Finding
from tests.faults import clean
from tests.faults.ddp.runs import Plain, findings


@clean(
    "ddp",
    *"uneven initial_weights unused_parameters optimizer gradients accumulation sampler set_epoch".split(),
    *"random_draws mode parameters buffers scheduler loss_falls checkpoint resume".split(),
)
def small_network() -> list[Finding]:
    """A convolutional network with batch norm and dropout, two processes."""
    return findings(Plain)


@clean("ddp")
def one_process() -> list[Finding]:
    """The same in one process."""
    return findings(Plain, nproc=1)


@clean("ddp")
def four_processes() -> list[Finding]:
    """The same in four."""
    return findings(Plain, nproc=4)


@clean("ddp")
def layer_norms_only() -> list[Finding]:
    """No batch norm: shards and the big batch have the same gradients."""
    return findings(Plain, model="tests.distributed.nets:LayerNorms")


@clean("ddp")
def autocast_to_bfloat16() -> list[Finding]:
    """Mixed precision on the CPU."""
    return findings(Plain, settings={"AMP.ENABLED": True})


@clean("ddp")
def autocast_to_float16_with_scaler() -> list[Finding]:
    """float16 with GradScaler."""
    return findings(Plain, settings={"AMP.ENABLED": True, "AMP.DTYPE": "float16"})


@clean("ddp", "gradients", "later_gradients")
def outputs_that_depend_on_a_buffer() -> list[Finding]:
    """Each batch moves a buffer that the outputs are divided by: every rank begins a step with rank 0's."""
    return findings(Plain, model="tests.distributed.nets:Scaled")
