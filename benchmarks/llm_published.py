"""Published speeds of language models on one device, as a fraction of the bound that `inspect llm` gives.

    python benchmarks/llm_published.py

A rate that is published is the new tokens of a whole run over its time. Its bound: the prompt of one sequence
(time to first token), then a decode step for each further token, at the mean of their contexts (a step's time
is linear in it). The prompts of the other sequences of a batch are not counted, because a server may compute
them beside the decoding: where prompts are long, that makes the bound generous. A published time to the first
token is held against ours.

No fraction may be above 1. Where the prompts are the longer part, `with_prompts` is the fraction of what is
left when each of them takes the time to the first token: no bound, but what explains the number. FP8 on H100
(TensorRT-LLM) is left out: its products and its cache have 8 bits, those of `weights="fp8"` do not. Runs on
several devices are left out, and those whose caches do not fit into the whole card: the server then runs
fewer sequences at once than the table says.

Sources, all read at the commit that is named:
- gpt-fast: pytorch-labs/gpt-fast, README.md at 32971d3: A100 80 GB limited to 330 W, batch 1, a prompt of 5
  tokens, 200 new ones (the default of its generate.py); it quantises the head as well. AMD: one of the two
  dies of an MI250X.
- TensorRT-LLM: NVIDIA/TensorRT-LLM, docs/source/performance.md at 138f96d: A100, FP16, peak throughput of
  0.6.1 and first token of 0.5. The kind of A100 is not said; bounded as the fastest, SXM with 80 GB.
- lmdeploy: InternLM/lmdeploy, docs/en/benchmark/a100_fp16.md at 3e391df: A100 80 GB, FP16, 0.1.0a1. The same
  for the kind.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from common import save

import inspector
from inspector.core.devices import named, read
from inspector.profiling.weights import scheme

HERE = Path(__file__).parent
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}


def llama(
    width: int, inner: int, layers: int, heads: int, kept: int, words: int, **more: Any
) -> dict[str, Any]:
    return {
        **LLAMA, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kept, "vocab_size": words, "dtype": "bfloat16",
        "max_position_embeddings": 4096, **more,
    }  # fmt: skip


MODELS = {
    # By their config.json on the hub.
    "Llama-2-7B": llama(4096, 11008, 32, 32, 32, 32000),
    "Llama-2-13B": llama(5120, 13824, 40, 40, 40, 32000),
    "Llama-2-70B": llama(8192, 28672, 80, 64, 8, 32000),
    "Llama-3.1-8B": json.loads((HERE / "llama-3.1-8b.json").read_text()),
    "Llama-3.1-70B": llama(8192, 28672, 80, 64, 8, 128256),
    "Mixtral-8x7B": llama(
        4096, 14336, 32, 32, 8, 32000, model_type="mixtral", architectures=["MixtralForCausalLM"],
        num_local_experts=8, num_experts_per_tok=2, sliding_window=None,
    ),
    "GPT-J-6B": {
        "model_type": "gptj", "architectures": ["GPTJForCausalLM"], "n_embd": 4096, "n_layer": 28,
        "n_head": 16, "rotary_dim": 64, "vocab_size": 50400, "dtype": "float16",
        "n_positions": 4096,  # of 2,048: TensorRT-LLM ran 128 beyond, and rotations need no parameters
    },
}  # fmt: skip

MI250X = {
    "name": "MI250X die", "bandwidth": 1638.4, "memory": 64,
    "peaks": {"fp32": 23.9, "fp16": 191.5, "bf16": 191.5},
    "source": "AMD Instinct MI250X data sheet, half of the card",
}  # fmt: skip
A100 = "A100 SXM 80GB"
POWER = "the card is limited to 330 W: its readme saw 1,700 GB/s at most, of the 2,039 that bound it"
CODES = (
    "the fewer bytes a step reads, the more of it are launches and the widening of codes, which the bound"
    " has at no cost"
)
PROMPTS = "the prompts of the other sequences are not in the bound"
SHORT = "launches and the host, which the bound does not have, take about as long as a short prompt"
QUEUE = "a first version of the server: sequences start one after another, and the prompts of others wait"


class Point(NamedTuple):
    """`speed` in new tokens a second, or with `new` 0 the seconds to the first token."""

    source: str
    model: str
    speed: float
    prompt: int
    new: int
    batch: int = 1
    weights: str | None = None
    gpu: str = A100
    why: str = ""

    @property
    def key(self) -> str:
        run = f"{self.weights or '16 bits'}, batch {self.batch}, {self.prompt}+{self.new}"
        return f"{self.source}: {self.model} on {self.gpu}, {run if self.new else f'prompt of {self.prompt}'}"


def gpt_fast() -> Iterator[Point]:
    table = (
        ("Llama-2-7B", None, 104.9), ("Llama-2-7B", "int8", 155.58), ("Llama-2-7B", "int4:group=32", 196.80),
        ("Llama-2-70B", "int8", 19.13), ("Llama-2-70B", "int4:group=32", 25.25),
        ("Llama-3.1-8B", None, 93.89), ("Llama-3.1-8B", "int8", 137.64), ("Llama-3.1-70B", "int8", 18.04),
        ("Mixtral-8x7B", "int8", 97.92),
    )  # fmt: skip
    for model, weights, speed in table:
        yield Point("gpt-fast", model, speed, 5, 200, weights=weights, why=f"{POWER}; {CODES}")
    for weights, speed in ((None, 76.33), ("int8", 101.86)):
        yield Point("gpt-fast", "Llama-2-7B", speed, 5, 200, weights=weights, gpu=MI250X["name"], why=CODES)


def tensorrt() -> Iterator[Point]:
    for model, batch, prompt, new, speed in (
        ("GPT-J-6B", 512, 128, 128, 6374), ("GPT-J-6B", 60, 2048, 128, 670),
        ("Llama-2-7B", 384, 128, 128, 5586), ("Llama-2-7B", 60, 128, 2048, 1928),
        ("Llama-2-7B", 52, 2048, 128, 591),
    ):  # fmt: skip
        yield Point("TensorRT-LLM", model, speed, prompt, new, batch, why=PROMPTS if prompt >= new else "")
    for model, prompt, milliseconds in (
        ("GPT-J-6B", 128, 12), ("GPT-J-6B", 2048, 129), ("Llama-2-7B", 128, 16), ("Llama-2-7B", 2048, 133),
    ):  # fmt: skip
        yield Point("TensorRT-LLM", model, milliseconds / 1e3, prompt, 0, why=SHORT if prompt < 2048 else "")


def lmdeploy() -> Iterator[Point]:
    tables = {
        "Llama-2-7B": {
            (1, 128): (100.02, 1504.72, 2136.73, 4154.81), (128, 128): (102.21, 1272.47, 2125.47, 3024.07),
            (128, 2048): (98.92, 1010.62, 1462.12, 1852.06), (2048, 128): (86.1, 348.87, 450.43, 493.46),
            (2048, 2048): (93.78, 601.63, 733.34, 755.65),
        },
        "Llama-2-13B": {
            (1, 128): (57.49, 869.45, 1667.5, 3049.16), (128, 128): (56.58, 757.3, 1301.27, 2033.22),
            (128, 2048): (55.29, 605.88, 860.14, 998.86), (2048, 128): (48.99, 257.92, 291.54, 286.32),
            (2048, 2048): (52.12, 366.67, 389.64, 387.86),
        },
    }  # fmt: skip
    for model, table in tables.items():
        for (prompt, new), speeds in table.items():
            for batch, speed in zip((1, 16, 32, 64), speeds):
                why = "" if batch == 1 else PROMPTS if prompt > new else QUEUE
                yield Point("lmdeploy", model, speed, prompt, new, batch, why=why)


@cache
def device_file() -> str:
    file = Path(tempfile.mkdtemp()) / "devices.yaml"
    file.write_text(json.dumps(MI250X))
    return str(file)


@cache
def spec(model: str) -> str:
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(MODELS[model]))
    return f"hf:{folder}"


@cache
def served(
    model: str, gpu: str, weights: str | None, context: int, batches: tuple[int, ...]
) -> tuple[float, dict[int, dict[str, Any]]]:
    """Seconds to the first token, and the row of each batch."""
    own = device_file() if gpu == MI250X["name"] else None
    report = inspector.llm(
        spec(model), gpu=gpu, device_file=own, context=context, batch=batches, weights=weights, reserve=0.0
    )
    rows = report.to_frame("points").to_dict("records")
    return float(report.metrics["time_to_first_token"].value), {row["batch"]: row for row in rows}


def head_saved(point: Point) -> float:
    """Seconds of a step that a head in fewer bits saves: ours keeps it in 16, gpt-fast does not."""
    if point.weights is None:
        return 0.0
    fields, kind = MODELS[point.model], scheme(point.weights)
    rows, columns = fields["vocab_size"], fields["hidden_size"]
    choices = {} if point.gpu == A100 else {"devices": read(device_file())}
    return (2 * rows * columns - kind.nbytes(rows, columns)) / (named(point.gpu, **choices).bandwidth * 1e9)


def judged(point: Point, batches: tuple[int, ...] = ()) -> dict[str, Any] | None:
    """The row of a point; None where its caches do not fit in the end. `batches`: to ask for at once."""
    first, _ = served(point.model, point.gpu, point.weights, point.prompt, (1,))
    row: dict[str, Any] = {"why": point.why} if point.why else {}
    if not point.new:
        published = {"published_seconds": point.speed, "bound_seconds": round(first, 6)}
        return {**published, "fraction": round(first / point.speed, 3), **row}
    context = max(1, point.prompt + point.new // 2 - 1)
    _, rows = served(point.model, point.gpu, point.weights, context, batches or (point.batch,))
    one = rows[point.batch]
    if not one["fits"] or (one["longest_context"] or 0) < point.prompt + point.new - 1:
        return None
    step = point.batch / one["tokens_per_second"] - head_saved(point)
    bound = point.batch * point.new / (first - head_saved(point) + (point.new - 1) * step)
    published = {"published": point.speed, "bound": round(bound, 2)}
    if point.batch > 1 and point.prompt > point.new:
        seconds = point.batch * point.new / bound + (point.batch - 1) * first
        row = {"with_prompts": round(point.speed * seconds / (point.batch * point.new), 3), **row}
    return {**published, "fraction": round(point.speed / bound, 3), **row}


def main() -> None:
    points = [*gpt_fast(), *tensorrt(), *lmdeploy()]
    rows, left_out = {}, []
    for point in points:
        like = {p.batch for p in points if p._replace(batch=0, speed=0, why="") == _alike(point)}
        row = judged(point, tuple(sorted(like)))
        if row is None:
            left_out.append(point.key)
        else:
            rows[point.key] = row
            print(f"{row['fraction']:.3f}  {point.key}", flush=True)
    above = [key for key, row in rows.items() if row["fraction"] > 1]
    save("llm_published", {"above_the_bound": above, "do_not_fit": left_out, "rows": rows})
    if above:
        raise SystemExit(f"published faster than the bound: {'; '.join(above)}")


def _alike(point: Point) -> Point:
    return point._replace(batch=0, speed=0, why="")


if __name__ == "__main__":
    main()
