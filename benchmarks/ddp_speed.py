"""What the loop of `inspect ddp` costs: its steps against a bare DistributedDataParallel loop, in turn.

    python benchmarks/ddp_speed.py [MODEL]

Two gloo processes. Both loops train the same model on the same batches with the same optimizer; blocks of
steps of one and of the other alternate.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from common import median, save

from inspector.distributed.loop import Trainer

BLOCKS, STEPS = 8, 5


class Both(Trainer):
    """Times blocks of its own steps and of a bare loop, instead of training."""

    def begin(self) -> None:
        super().begin()
        import torch
        from torch.nn.parallel import DistributedDataParallel

        from inspector.models.replica import replica

        model = replica(self.model)
        bare = DistributedDataParallel(model)
        optimizer = self.build_optimizer(model)
        batches = [batch for _, batch in zip(range(STEPS), self.data.train)]

        def loop() -> None:
            for samples, labels in batches:
                optimizer.zero_grad(set_to_none=True)
                torch.nn.functional.cross_entropy(bare(samples), labels).backward()
                optimizer.step()

        def ours() -> None:
            kept, self.data.train = self.data.train, batches_of(batches)  # type: ignore[assignment]
            self.run(self.step + STEPS)
            self.data.train = kept

        seconds: dict[str, list[float]] = {"bare": [], "ours": []}
        for block in range(BLOCKS + 1):
            for name, work in (("bare", loop), ("ours", ours)):
                start = time.perf_counter()
                work()
                if block:
                    seconds[name].append((time.perf_counter() - start) / STEPS)
        if self.place.rank == 0:
            Path(self.job.output, "speed.json").write_text(json.dumps(seconds))

    def due(self, steps: int) -> bool:
        """No validation between the blocks."""
        return steps == self.node.SOLVER.STEPS


class batches_of(list):
    """The batches as a loader whose sampler can be told where to start."""

    class sampler:
        start = 0


def main(words: list[str]) -> None:
    import inspector

    model = words[0] if words else "resnet18"
    with tempfile.TemporaryDirectory() as folder:
        settings = {"OUTPUT_DIR": folder, "SOLVER.STEPS": 10**6, "SOLVER.VALIDATE_EVERY": 10**9}
        inspector.ddp(model, nproc=2, device="cpu", kill=False, settings=settings, trainer="ddp_speed:Timed")
        seconds = json.loads(Path(folder, "speed.json").read_text())
    ratio = median(seconds["ours"]) / median(seconds["bare"])
    print(f"{ratio:.3f} times a bare loop")
    save("ddp_speed", {"model": model, "ratio": round(ratio, 3), "seconds_of_a_step": seconds})


class Timed(Both):
    """Ends after the timing."""

    def begin(self) -> None:
        super().begin()
        self.step = self.node.SOLVER.STEPS - 1


if __name__ == "__main__":
    main(sys.argv[1:])
