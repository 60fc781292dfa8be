"""List the ordered stages of a backbone: what `freeze --at N` counts."""

from __future__ import annotations

from inspector.cli.command import command
from inspector.cli.completion import remember
from inspector.cli.options import Stages


@command("backbones.report:stages", "model inputs model_args seed", after=remember)
def stages(stages: Stages = None) -> None:
    """List the ordered stages of a backbone, their parameters and resolution. Stage 0 is the stem."""
