"""One process of `inspect ddp` (see `start`)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from torch import nn

from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.distributed import worker
from inspector.distributed.job import Job
from inspector.freezing.handle import freeze
from inspector.initialization.apply import apply
from inspector.initialization.schemes import choose
from inspector.models import resolve
from inspector.models.subject import with_values


def run(folder: Path) -> None:
    """Run the job of `folder` on this rank. Raises what the training raises."""
    job = Job.read(folder)
    recipe = resolve(job.model, job.model_args)
    build = partial(with_values, recipe, None, job.seed, job.weights)
    worker.main(folder, recipe, partial(prepare, job), build)


def prepare(job: Job, model: nn.Module) -> None:
    """Initialise, then freeze, as INIT and FREEZE of the configuration say."""
    node = job.settings
    if node.INIT.SCHEME is not None or node.INIT.LAYERS:
        choice = choose(node.INIT.SCHEME or "kaiming_uniform", node.INIT.BIAS, a=node.INIT.A)
        applied = apply(model, choice, list(node.INIT.LAYERS) or None, job.seed)
        logger.info("initialised %d tensors with %s", len(applied.writes), choice.scheme.name)
    if node.FREEZE.AT is not None or node.FREEZE.PATTERNS:
        stages = [text.replace(",", " ").split() for text in node.FREEZE.STAGES] or None
        frozen = freeze(
            model,
            node.FREEZE.AT,
            scheme=node.FREEZE.SCHEME,
            patterns=list(node.FREEZE.PATTERNS),
            norm=node.FREEZE.NORM,
            stages=stages,
            inputs=job.inputs,
            seed=job.seed,
        )
        logger.info("froze %d parameters", len(frozen.names))


def main(words: list[str]) -> int:
    """The entry point of a started process."""
    try:
        run(Path(words[0]))
    except InspectError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    return 0
