"""Everything that inspector claims about a GPU, measured on one in four parts of under 8 minutes each.

    python benchmarks/gpu.py PART [--models resnet50,vit_b_16] [--out DIR]

Each case runs in a process of its own, so that what one leaves in memory (workspaces of threads and handles)
is not in the next. A part writes DIR/gpu_PART.json: the environment, a verdict for each claim with its limit
and value, and each case's raw result. A case that is not reached in the part's time is "not reached".

1. tests marked gpu; `inspect env`; precisions are what they say; peaks, energy and absent rows of `bench`
2. memory: predicted against measured, and what cuDNN and cuBLAS take; `inspect memory --calibrate` reads it
3. speed: FP16 training, the harness against a hand-written loop, --compile, --cuda-graph
4. roofline, times of a page, and `ddp` with its resume

Never run so far: no GPU was at hand. Its control flow is tested on a fake one (tests/test_gpu_script.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, environment, median
from convolutions import measured

import inspector
from inspector.benchmarking import fp8, gpu
from inspector.benchmarking.precisions import PRECISIONS
from inspector.benchmarking.report import Session
from inspector.benchmarking.run import Options
from inspector.footprint.workspaces import Rules
from inspector.models import as_recipe
from inspector.profiling import flags
from inspector.tracing.record import TensorSpec

PART_SECONDS = 450.0
Result = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """What must hold: `value` within `limits` (None: open)."""

    text: str
    value: float | None
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        low = self.least is None or self.value >= self.least
        return "holds" if low and (self.most is None or self.value <= self.most) else "does not hold"


# Part 1.


def tests(_: str) -> Result:
    """The tests that need a GPU."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {"rc": run.returncode, "tail": run.stdout.splitlines()[-20:]}


def env(_: str) -> Result:
    return json.loads(inspector.env().to_json())


def precision(name: str) -> Result:
    """`inspect bench NAME --amp --batch 64`: probes, memory against a bare loop, energy against power."""
    report = inspector.bench(name, amp=True, batches=[64], seconds=6.0, require_gpu=True)
    step, _ = _step(name, "infer", 64)
    return {**_rows(report), "bare_peak": _peak(step), "energy": _energy(step)}


def _energy(step: Callable[[], Any]) -> Result | None:
    """Joules of the driver's counter, and watts times seconds of the same while."""
    watts: list[float] = []
    calls = [0]

    def watched() -> None:
        step()
        calls[0] += 1
        if calls[0] % 16 == 0:
            state = gpu.state(torch.cuda.current_device())
            if state is not None and state.power_w is not None:
                watts.append(state.power_w)

    start = time.perf_counter()
    counted = gpu.joules(watched, 3.0, torch.cuda.current_device())
    seconds = time.perf_counter() - start
    if counted is None or not watts:
        return None
    return {"joules": counted[0], "watts": median(watts), "seconds": seconds}


# Part 2.


def memory(name: str) -> Result:
    """Predicted and measured peaks of inference and of a training step."""
    return {phase: _memory(name, phase) for phase in ("forward", "train")}


def memory_without_cudnn(name: str) -> Result:
    """The same without cuDNN: what is then less is cuDNN's."""
    before, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
    try:
        return memory(name)
    finally:
        torch.backends.cudnn.enabled = before


def _memory(name: str, phase: str) -> Result:
    optimizer = "adamw" if phase == "train" else None
    report = inspector.memory(name, batch=64, phase=phase, optimizer=optimizer, measure=True)
    rows = report.to_frame("measured").set_index("quantity")
    return {
        "rows": rows.reset_index().to_dict("records"),
        "error": float(rows.loc["peak allocated", "ratio"]) - 1,
        "convolution_workspace": report.metrics["convolution_workspace"].value,
    }


def convolutions(name: str) -> Result:
    """What cuDNN takes for each convolution of a training step."""
    with flags.precision("tf32"):  # as torch does it
        return {"rows": measured(name, 64)}


def workspaces(_: str) -> Result:
    """What cuBLAS keeps after a product, and takes while it runs, against what is expected."""
    from inspector.footprint.cublas import Workspaces

    a = torch.randn(256, 256, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    product = a @ a
    torch.cuda.synchronize()
    kept = torch.cuda.memory_allocated() - before - 256 * 256 * 4
    passing = torch.cuda.max_memory_allocated() - before - 256 * 256 * 4
    del product
    expected = Workspaces.of("cuda")
    return {"kept": kept, "while_it_runs": passing, "expected": asdict(expected)}


# Part 3.


def training(name: str) -> Result:
    """FP32, TF32 and FP16 autocast at batch 256."""
    chosen = ["fp32", "tf32", "amp-fp16"]
    return _rows(inspector.bench(name, precisions=chosen, modes=["train"], batches=[256], seconds=20.0))


def harness(name: str) -> Result:
    """Our median of a step, and that of a bare loop between CUDA events, in turn."""
    return {mode: _harness(name, mode) for mode in ("infer", "train")}


def _harness(name: str, mode: str) -> Result:
    with flags.precision("ieee"):
        step, clock = _step(name, mode, 64)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(5):
            ours += clock.visit(step, 10).samples
            theirs += _by_hand(step, 10)
    return {"ours": median(ours), "by_hand": median(theirs), "ratio": median(ours) / median(theirs)}


def compiled(name: str) -> Result:
    return _rows(inspector.bench(name, amp=True, compile=True, modes=["infer"], batches=[64], seconds=6.0))


def graphed(name: str) -> Result:
    """Replayed and eager at a small batch, where launching takes longer than computing."""
    options: Result = {"precisions": ["fp32", "amp-fp16"], "batches": [8], "seconds": 6.0}
    eager, replayed = (inspector.bench(name, cuda_graph=graph, **options) for graph in (False, True))
    return {"eager": _rows(eager), "replayed": _rows(replayed)}


# Part 4.


def roofline(name: str) -> Result:
    """The largest share of its bound that a module reaches, with and without TF32."""
    card = _card()
    if card is None:
        return {"skipped": "this card is not in the table of devices"}
    reached = {}
    for tf32 in (False, True):
        report = inspector.profile(name, roofline=card, measure=True, tf32=tf32)
        achieved = report.to_frame("roofline_modules")["achieved"].dropna()
        reached["tf32" if tf32 else "ieee"] = float(achieved.max())
    return reached


def times(name: str) -> Result:
    report = inspector.page(name, time="cuda")
    return {"header": dict(report.header), "seconds": report.metrics["forward_seconds"].value}


def ddp(name: str) -> Result:
    """One process on the GPU: every check, also that a resume gives the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        amp = name.endswith("+amp")
        report = inspector.ddp(
            name.removesuffix("+amp"), nproc=1, device="cuda", amp=amp, steps=12, output_dir=folder
        )
    return {
        "verdict": report.verdict,
        "findings": [[f.check, f.status, f.message] for f in report.findings],
    }


# What cases share.


def _step(name: str, mode: str, batch: int) -> Any:
    session = Session(as_recipe(name), None, Options("cuda", seconds=2.0), [batch])
    step, clock = session.bench.step(PRECISIONS["fp32"], mode, batch), session.bench.clock
    for _ in range(5):
        clock.once(step)
    return step, clock


def _peak(step: Callable[[], Any]) -> int:
    """Peak bytes of a step with its model, without our clock."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _by_hand(step: Callable[[], Any], calls: int) -> list[float]:
    """Seconds of a step between two CUDA events, nothing else around it."""
    pairs = []
    for _ in range(calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairs]


def _rows(report: Any) -> Result:
    rows = json.loads(report.to_frame("rows").to_json(orient="records"))
    failed = [f"{f.check}: {f.message}" for f in report.findings if f.status == "fail"]
    return {"rows": rows, "failed": failed, "environment": report.environment}


def _card() -> str | None:
    from inspector.core import devices

    device = devices.find(torch.cuda.get_device_name())
    return device.name if device is not None else None


# Claims.


def _claims(results: dict[str, Result]) -> Iterator[Claim]:
    for key, result in results.items():
        case, _, name = key.partition(" ")
        if case in _JUDGES and "failure" not in result:
            yield from _JUDGES[case](name, result)
        else:
            yield Claim(f"{key} ran", 0.0 if "failure" in result else 1.0, least=1.0)


def _judge_tests(_: str, result: Result) -> Iterator[Claim]:
    yield Claim("tests marked gpu: exit status", result["rc"], most=0)


def _judge_rows(name: str, result: Result) -> Iterator[Claim]:
    rows = result["rows"]
    expected = [
        row for row in rows if row["precision"] != "fp8"
    ]  # that asks for a card, layers and inference
    yield Claim(f"{name}: rows absent", sum(row["status"] != "measured" for row in expected), most=0)
    yield Claim(f"{name}: failed checks", len(result["failed"]), most=0)
    fractions = [row["fraction_of_peak"] for row in rows if row["fraction_of_peak"] is not None]
    yield Claim(f"{name}: largest fraction of the peak", max(fractions, default=None), most=1.0)


def _judge_precision(name: str, result: Result) -> Iterator[Claim]:
    yield from _judge_rows(name, result)
    for row in result["rows"]:
        where = f"{name} {row['mode']} {row['precision']}"
        errors = [row["matmul_error"], row["conv_error"]]
        if row["precision"] == "fp32" and None not in errors:
            yield Claim(f"{where}: error of float32 products", max(errors), most=1e-5)
        if row["precision"] == "tf32" and None not in errors:
            yield Claim(f"{where}: error of TF32 products", min(errors), least=1e-5, most=2e-3)
        if row["precision"] == "fp32" and row["mode"] == "infer" and row["peak_allocated"]:
            ratio = row["peak_allocated"] / result["bare_peak"]
            yield Claim(f"{where}: peak against a bare loop", ratio, least=0.9, most=1.02)
    energy = result["energy"]
    ratio = energy["joules"] / (energy["watts"] * energy["seconds"]) if energy else None
    yield Claim(f"{name}: joules against watts times seconds", ratio, least=0.9, most=1.1)


def _judge_memory(name: str, result: Result) -> Iterator[Claim]:
    for phase, case in result.items():
        yield Claim(f"{name} {phase}: predicted against measured", case["error"], least=-0.03, most=0.03)


def _judge_convolutions(name: str, result: Result) -> Iterator[Claim]:
    card = Rules(torch.cuda.get_device_capability()[0])
    over = 0
    for row in result["rows"]:
        sides = ([TensorSpec(tuple(s), d) for s, d in row[side]] for side in ("inputs", "outputs"))
        bounds = replace(card, channels_last=row["channels_last"]).bounds(row["name"], *sides)
        over += row["workspace"] > max((bound.high for bound in bounds), default=0) + 512
    yield Claim(f"{name}: convolutions that take more than the bound", over, most=0)


def _judge_workspaces(_: str, result: Result) -> Iterator[Claim]:
    expected = result["expected"]
    kept = expected["nbytes"] if expected["kept"] else 0
    yield Claim("cuBLAS keeps what is expected (bytes more)", result["kept"] - kept, least=0, most=0)
    more = result["while_it_runs"] - expected["nbytes"]
    yield Claim("cuBLAS takes what is expected (bytes more)", more, least=-expected["nbytes"], most=0)


def _judge_training(name: str, result: Result) -> Iterator[Claim]:
    yield from _judge_rows(name, result)
    speed = {row["precision"]: row["speedup"] for row in result["rows"]}
    yield Claim(f"{name}: FP16 training against IEEE FP32", speed.get("amp-fp16"), least=2.0)


def _judge_harness(name: str, result: Result) -> Iterator[Claim]:
    for mode, case in result.items():
        yield Claim(f"{name} {mode}: harness against a bare loop", case["ratio"], least=0.98, most=1.02)


def _judge_compiled(name: str, result: Result) -> Iterator[Claim]:
    yield from _judge_rows(name, result)
    if torch.cuda.get_device_capability() >= fp8.CAPABILITY:
        drifts = {row["precision"]: row["drift"] for row in result["rows"] if row["status"] == "measured"}
        yield Claim(f"{name}: drift of the FP8 row", drifts.get("fp8"), least=1e-3, most=0.3)


def _judge_graphed(name: str, result: Result) -> Iterator[Claim]:
    yield from _judge_rows(f"{name} replayed", result["replayed"])
    seconds = [
        {(row["mode"], row["precision"]): row["latency"] for row in result[kind]["rows"]}
        for kind in ("eager", "replayed")
    ]
    key = ("infer", "fp32")
    ratio = seconds[0][key] / seconds[1][key] if all(case.get(key) for case in seconds) else None
    yield Claim(f"{name}: a replayed graph against eager at batch 8", ratio, least=1.0)


def _judge_roofline(name: str, result: Result) -> Iterator[Claim]:
    for kind in ("ieee", "tf32"):
        yield Claim(f"{name}: largest share of the roof, {kind}", result.get(kind), most=1.0)


def _judge_ddp(name: str, result: Result) -> Iterator[Claim]:
    failed = sum(status == "fail" for _, status, _ in result["findings"])
    yield Claim(f"ddp {name}: failed checks", failed, most=0)


_JUDGES: dict[str, Callable[[str, Result], Iterator[Claim]]] = {
    "tests": _judge_tests,
    "precision": _judge_precision,
    "memory": _judge_memory,
    "convolutions": _judge_convolutions,
    "workspaces": _judge_workspaces,
    "training": _judge_training,
    "harness": _judge_harness,
    "compiled": _judge_compiled,
    "graphed": _judge_graphed,
    "roofline": _judge_roofline,
    "ddp": _judge_ddp,
}

# Parts.

CASES: dict[str, Callable[[str], Result]] = {
    function.__name__: function
    for function in (
        tests, env, precision, memory, memory_without_cudnn, convolutions, workspaces, training, harness,
        compiled, graphed, roofline, times, ddp,
    )
}  # fmt: skip
PARTS: dict[int, list[tuple[str, tuple[str, ...]]]] = {
    1: [("env", ("",)), ("precision", ("resnet50",)), ("tests", ("",))],
    2: [
        ("workspaces", ("",)),
        ("memory", ("resnet50", "mobilenet_v3_large", "vit_b_16", "convnext_tiny")),
        ("memory_without_cudnn", ("resnet50",)),
        ("convolutions", ("resnet50", "mobilenet_v3_large", "convnext_tiny")),
    ],
    3: [
        ("training", ("resnet50",)),
        ("harness", ("resnet50", "vit_b_16")),
        ("graphed", ("resnet50",)),
        ("compiled", ("vit_b_16",)),
    ],
    4: [
        ("roofline", ("resnet50",)),
        ("times", ("resnet50",)),
        ("ddp", ("resnet18", "resnet18+amp", "timm:vit_tiny_patch16_224")),
    ],
}


def in_a_process(case: str, name: str, seconds: float) -> Result:
    """A case in a process of its own."""
    words = [sys.executable, __file__, "case", case, name]
    try:
        run = subprocess.run(words, capture_output=True, text=True, timeout=max(seconds, 1.0), check=False)
    except subprocess.TimeoutExpired:
        return {"failure": f"stopped after {seconds:.0f} s"}
    if run.returncode:
        return {"failure": run.stderr.strip().splitlines()[-3:]}
    return json.loads(run.stdout.splitlines()[-1])


def run(
    part: int,
    models: list[str] | None,
    out: Path,
    alone: Callable[[str, str, float], Result] = in_a_process,
    seconds: float = PART_SECONDS,
) -> Result:
    """Run a part and write its file."""
    start, results = time.monotonic(), {}
    for case, names in PARTS[part]:
        for name in models if models and names != ("",) else names:
            key, left = f"{case} {name}".strip(), seconds - (time.monotonic() - start)
            results[key] = alone(case, name, left) if left > 0 else {"failure": "not reached"}
            print(f"{key}: {results[key].get('failure', 'done')}", file=sys.stderr, flush=True)
    claims = [{**asdict(claim), "verdict": claim.verdict} for claim in _claims(results)]
    device = {
        "device": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    content = {"environment": {**environment(), **device}, "claims": claims, "cases": results}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"gpu_{part}.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    for claim in claims:
        print(f"{claim['verdict']:>14}  {claim['text']}: {claim['value']}")
    return content


def main(words: list[str]) -> int:
    if words[:1] == ["case"]:
        print(json.dumps(CASES[words[1]](words[2]), default=str))
        return 0
    parser = argparse.ArgumentParser(description="What inspector claims about a GPU, measured on one.")
    parser.add_argument("part", type=int, choices=PARTS)
    parser.add_argument("--models", type=lambda text: text.split(","))
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("error: no CUDA device here\nhint: tests/test_gpu_script.py runs it on a fake", file=sys.stderr)
        return 2
    content = run(chosen.part, chosen.models, chosen.out)
    return int(any(claim["verdict"] == "does not hold" for claim in content["claims"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
