"""The tables of the manual that come from benchmarks/results, and the lines that quote them."""

from __future__ import annotations

import json

from common import RESULTS

SHOWN = ("resnet50", "vit_b_16", "swin_t", "convnext_tiny", "mobilenet_v3_large", "efficientnet_b0",
         "maxvit_t", "densenet121", "r3d_18", "raft_small")  # fmt: skip


def results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def comparison() -> str:
    from torchvision.models import get_model_weights

    sweep = results("sweep")
    lines = ["| model | published | inspector | thop | fvcore |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in SHOWN:
        entry = get_model_weights(name).DEFAULT
        cells = [f"{entry.meta['_ops']:.3f}"]
        for counter in ("ours", "thop", "fvcore"):
            macs = sweep["counters"][counter]["macs"][sweep["same_as"][f"{name}@{entry.name}"]]
            cells.append(f"{macs / 1e9:.3f}" if isinstance(macs, int) else "fails")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def accuracy() -> str:
    counters = results("accuracy")["counters"]
    labels = ("rounding", "0.5%", "1%", "5%")
    lines = [
        f"| counter | {' | '.join(f'within {label}' for label in labels)} | fails |",
        "| --- |" + " ---: |" * 5,
    ]
    for name, row in counters.items():
        cells = [str(row[f"within {label}"]) for label in labels] + [str(row["failed"])]
        lines.append(f"| {'inspector' if name == 'ours' else name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def clean() -> str:
    freeze, init, cost = results("freeze_clean"), results("init_false_alarms"), results("freeze_speed")
    rows = freeze["models"].values()
    runs = 3 * sum("stages" in row for row in rows)
    family = results("init_family_error")
    alarms = family["share_of_seeds_with_an_alarm"]
    wrong, tensors = max(init["seeds_with_a_wrong_label"].values()), init["tensors_per_seed"]
    return "\n".join(
        [
            f"- {freeze['models_run']} of torchvision's 80 classification models, frozen at three N each",
            f"  ({runs} verifications): {freeze['with_alarms']} with a false alarm",
            "  (`benchmarks/freeze_clean.py`).",
            f"- {init['seeds']:,} seeds of resnet50, {tensors} tensors each: {wrong} in which any",
            f"  tensor is called wrong, {wrong / init['seeds']:.1%} (`benchmarks/init_false_alarms.py`).",
            f"- {family['seeds']:,} seeds of a small network, under {len(alarms)} schemes: at most"
            f" {max(alarms.values()):.1%} of the seeds with an alarm",
            "  (`benchmarks/init_family_error.py`; promised is less than 1%).",
            "- Verifying `inspect freeze resnet50 --at 2` takes"
            f" {cost['ratio_to_bare']['freeze']:.1f} times as long as a bare script",
            "  of the same training steps, process start included (`benchmarks/freeze_speed.py`).",
        ]
    )


def timing() -> str:
    same, cpu = results("bench_aa"), results("bench_cpu")
    apart = max(abs(row["ratio"] - 1) for row in cpu["medians"].values())
    return "\n".join(
        [
            f"- `inspect bench` compares a row with itself: {same['claimed']} of {same['runs']} runs claim a",
            "  difference, at intervals of 95% (`benchmarks/bench_aa.py`).",
            "- Its CPU medians and those of `torch.utils.benchmark`, in turn in one process, are at most",
            f"  {apart:.1%} apart over {len(cpu['medians'])} cases (`benchmarks/bench_cpu.py`).",
        ]
    )


def training() -> str:
    clean, kills, cost = results("ddp_clean"), results("ddp_kill"), results("ddp_speed")
    models = len({row["model"] for row in clean["rows"]})
    return "\n".join(
        [
            f"- `inspect ddp` on {models} models that train correctly, at 1, 2 and 4 processes:",
            f"  {clean['runs']} runs, {clean['with_alarms']} with a false alarm (`benchmarks/ddp_clean.py`).",
            f"- A worker, or the launcher, killed by SIGKILL at a random moment: in {kills['wrong']} of"
            f" {kills['runs']} runs",
            "  something hangs, a process stays behind, the checkpoint is damaged, or no message tells of it",
            "  (`benchmarks/ddp_kill.py`).",
            f"- Its steps take {cost['ratio']:.2f} times those of a bare DistributedDataParallel loop",
            "  (`benchmarks/ddp_speed.py`).",
        ]
    )


def regress() -> str:
    power, cost = results("diff_power"), results("diff_speed")
    found = [entry for entries in power["models"].values() for entry in entries.values()]
    false = max(entry["false_failures"] for entry in found)
    least = min(entry["power_at_10_percent"] for entry in found)
    apart = max(entry["median_step_between_rounds"] for entry in found)
    fails = f"at most {false:.1%} fail" if false else "none fails"
    finds = "all" if least == 1 else f"at least {least:.1%}"
    return "\n".join(
        [
            f"Over {power['runs']:,} resampled runs of a model against itself {fails}, and {finds} of those",
            "that are 10% slower do, by wall-clock and by CPU time, on a",
            f"machine with nothing else to do (rounds differ by up to {apart:.1%};",
            "`benchmarks/diff_power.py`). Beside other work wall-clock time finds far less: there, look at",
            "`cpu_time`. A diff of two tables of all torchvision models takes",
            f"{cost['ratio_diff_to_import']:.2f} times as long as `import pandas` and loads no torch",
            "(`benchmarks/diff_speed.py`).",
        ]
    )


def agreement() -> str:
    found = results("memory_cpu")
    rows = [row for entries in found["models"].values() for row in entries]
    own = max(-row["error_whole"] for row in rows)
    return (
        f"with the CPU's choice of kernels and no rounding, {found['within_1_percent']} of {found['cases']}"
        " cases (8 models; inference, SGD, AdamW; float32 and autocast; batches 1, 2, 4) are within 1% of"
        f" torch's own memory events, the furthest {found['largest_error']:.2%} away"
        " (`benchmarks/memory_cpu.py`). That is tensors: what a kernel takes and gives back inside one"
        f" operator (oneDNN's reordered weights) is left out; it makes up to {own:.0%} of the whole on a CPU."
    )


def published_speeds() -> str:
    runs = results("llm_published")
    shares = [row["fraction"] for row in runs["rows"].values()]
    above = len(runs["above_the_bound"])
    return (
        f"{len(shares)} speeds that gpt-fast, TensorRT-LLM and lmdeploy publish reach {min(shares):.0%} to"
        f" {max(shares):.0%} of the bound that `inspect llm` gives; {above or 'none'} of them is more"
        " (`benchmarks/llm_published.py`, which says why each is where it is)."
    )


def published_run() -> str:
    rows, scaled = results("published")["rows"], results("scaling")
    sides = " and ".join(
        f"{row['reserved_gib']} GiB reserved on each of {row['gpus']} H100"
        f" (published: {row['published_gib']})"
        for row in rows
    )
    return (
        "Of a published run of Llama 3.1 8B (torchtitan, FSDP2, selective checkpointing) it says"
        f" {sides}, and"
        f" at most {rows[0]['mfu_at_most']:.0%} MFU (published: {rows[0]['published_mfu']:.0%};"
        " `benchmarks/published.py`). A step of a Llama of 405 billion parameters on"
        f" {scaled['ranks']:,} ranks takes {scaled['seconds']:.0f} s here (torch's own code"
        f" alone on fake tensors {scaled['seconds_of_bare_script']:.0f} s) and"
        f" {scaled['peak_gib']:.1f} GiB (`benchmarks/scaling.py`)."
    )


def speed() -> str:
    counters = results("speed")["counters"]
    capture, scale, startup = results("capture"), results("scale"), results("startup")
    lines = [
        "torchvision's weights entries, each counter in one process, build included (`benchmarks/speed.py`):",
        "",
        "| counter | time, as a multiple of ours | peak memory | models that fail |",
        "| --- | ---: | ---: | ---: |",
    ]
    for counter, result in counters.items():
        name = "inspector" if counter == "ours" else counter
        lines.append(
            f"| {name} | {result['times_ours']} | {result['peak_gib']:.2f} GiB"
            f" | {result['failed']} of {result['models']} |"
        )
    ratios = {name: row["ratio_to_bare"] for name, row in capture["models"].items()}
    lines += [
        "",
        "Recording against the bare meta forward of the same model (`benchmarks/capture.py`; below 1 is"
        " faster than not recording, because a meta kernel is not repeated for a call that looks the same):",
        "",
        "| model | inspector | torch's FlopCounterMode |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {r['capture']:.2f} | {r['flop_counter']:.2f} |" for name, r in ratios.items()),
        "",
        f"The memory of a training step of a Llama-shaped model of {scale['params'] / 1e9:.0f} billion"
        f" parameters at {scale['tokens']:,} tokens takes {scale['seconds']:.1f} s and"
        f" {scale['peak_gib']:.1f} GiB here; it grows with the operators, not with the tensors"
        " (`benchmarks/scale.py`, the CPU's seconds,"
        " imports included):",
        "",
        "```",
        *scale["plot"],
        "```",
        "",
        "`inspect profile resnet50` takes"
        f" {startup['ratio_profile_to_import']:.2f} times as long as"
        " `import torch, torchvision` alone, a second time"
        f" {startup['ratio_cached_to_import']:.2f} times (`benchmarks/startup.py`).",
    ]
    return "\n".join(lines)


TABLES = {
    "accuracy": accuracy,
    "comparison": comparison,
    "speed": speed,
    "clean": clean,
    "timing": timing,
    "training": training,
    "regress": regress,
    "agreement": agreement,
    "published speeds": published_speeds,
    "published run": published_run,
}
"""What `@@NAME@@` becomes in a template."""
