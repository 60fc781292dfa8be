"""The same cases simulated, with the kernels and the exact sizes of a CPU.

python simulated.py RANK ANSWER CASE...
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from inspector.models import as_recipe
from inspector.models.inputs import as_inputs
from inspector.scaling.layout import Layout
from inspector.scaling.simulate import simulate_rank
from inspector.scaling.step import Question
from inspector.scaling.summary import held, played
from inspector.tracing.capture.kernels import Kernels
from tests.scaling import cases


def simulate(case: cases.Case, rank: int) -> dict[str, Any]:
    import torch

    with torch.device("meta"):
        model = cases.build(case.model)
    pieces = case.microbatches if case.schedule else None
    layout = Layout.of(
        case.mesh, case.shard, reshard=case.reshard, accumulate=case.accumulate,
        param_dtype=case.param_dtype, sequence=case.sequence,
        checkpoints=("model.layers.*",) if case.checkpoint else (),
        **Layout.pipelined(case.mesh, case.schedule, pieces, None),
    )  # fmt: skip
    kernels = Kernels("cpu", autocast="bfloat16" if case.amp else None)
    question = Question(as_recipe(model), as_inputs(cases.inputs(case)), case.optimizer, kernels)
    recorded = simulate_rank(question, layout, rank)
    calls: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for one in recorded.collectives:
        name = recorded.trace.ops[one.at].name.partition(".")[2]
        calls[name] += 1
        nbytes[name] += one.nbytes
    memory = played(recorded.trace, exact=True)
    return {
        **held(recorded.trace), "peak": memory.allocated, "collectives": calls, "nbytes": nbytes,
        "categories": dict(memory.categories), "peak_at": memory.peak_at, "ops": len(recorded.trace.ops),
    }  # fmt: skip


def main(words: list[str]) -> None:
    rank, answer, *names = words
    chosen = [case for case in (*cases.TWO, *cases.FOUR) if case.name in names]
    Path(answer).write_text(json.dumps({case.name: simulate(case, int(rank)) for case in chosen}))


if __name__ == "__main__":
    main(sys.argv[1:])
