"""What the help says beside the options: the commands by what one wants, and examples of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A command: its `summary` on one line of the list, and `examples` without the program's name."""

    summary: str
    examples: tuple[str, ...]


GROUPS: dict[str, dict[str, Entry]] = {
    "Count": {
        "profile": Entry(
            "parameters, MACs, FLOPs, activations, bytes, module by module",
            (
                "profile resnet50",
                "profile your_net.py:Net --input 1x3x224x224 --phase train",
                "profile hf:ORG/NAME --phase decode --context 8192",
            ),
        ),
        "params": Entry(
            "every parameter and buffer, of a model or of a file",
            ("params resnet50", "params weights.safetensors --top 20", "params hf:ORG/NAME"),
        ),
        "stages": Entry(
            "the stages of a backbone, stage 0 being the stem",
            (
                "stages resnet50",
                "stages timm:swin_tiny_patch4_window7_224",
                "stages net.py:Net --stage 'stem*'",
            ),
        ),
        "reconcile": Entry(
            "why the counters disagree: each difference explained",
            (
                "reconcile vit_b_16",
                "reconcile resnet50 --counter thop",
                "reconcile net.py:Net --input 1x3x64x64",
            ),
        ),
    },
    "Size the hardware, without it": {
        "memory": Entry(
            "peak memory of inference or training on a GPU",
            (
                "memory resnet50 --batch 64 --phase train --optimizer adamw",
                "memory resnet50 --phase train --max-batch 24GiB",
                "memory net.py:Net --phase train --amp --fits 16GiB",
            ),
        ),
        "scale": Entry(
            "what each of many GPUs holds and sends, simulated",
            (
                "scale hf:ORG/NAME --mesh dp=64,tp=8 --optimizer adamw --gpu h100",
                "scale resnet50 --mesh dp=8 --shard ddp --batch 32 --amp",
                "scale net.py:Net --search --gpus 64 --gpu h100",
            ),
        ),
        "llm": Entry(
            "what it takes to serve a language model",
            (
                "llm hf:ORG/NAME --gpu h100 --context 8192",
                "llm hf:ORG/NAME --weights int4 --batch 1,8,64",
                "llm hf:ORG/NAME --measure",
            ),
        ),
    },
    "Verify": {
        "freeze": Entry(
            "freeze stages, and verify by training that they stay frozen",
            ("freeze resnet50 --at 2", "freeze net.py:Net --pattern 'encoder.*'", "freeze net.py:build"),
        ),
        "init": Entry(
            "initialise by a scheme, or verify which one a model has",
            (
                "init resnet50 --expect auto",
                "init resnet50 --scheme kaiming_uniform -o init.html",
                "init weights.safetensors --expect auto",
            ),
        ),
        "ddp": Entry(
            "a short training under DDP, and what people get wrong in it",
            ("ddp resnet18 --nproc 2", "ddp resnet50 --steps 20 --amp", "ddp net.py:Net --input 8x3x64x64"),
        ),
    },
    "Measure here": {
        "bench": Entry(
            "FP32 against FP16 and BF16: speed, memory, drift",
            (
                "bench resnet50 --amp",
                "bench resnet50 --batch 1,8 --seconds 2",
                "bench net.py:Net --device cpu",
            ),
        ),
        "env": Entry(
            "versions, devices, threads, precision, and what is missing", ("env", "env --format json")
        ),
    },
    "Compare and report": {
        "table": Entry(
            "exact numbers of many models: a baseline for CI",
            (
                "table 'resnet*' -o models.json",
                "table models.yaml --jobs 4",
                "table resnet50 --measure latency",
            ),
        ),
        "diff": Entry(
            "two reports, or a baseline with the models as they are",
            ("diff models.json", "diff before.json after.json", "diff models.json --max params=26M"),
        ),
        "report": Entry(
            "one offline page about a model",
            ("report resnet50 -o resnet50.html", "report net.py:Net --input 1x3x64x64 -o net.html"),
        ),
        "models": Entry("the models that have a name", ("models 'vit*'", "models --source timm 'convnext*'")),
        "cache": Entry("show or clear the cache of traces", ("cache", "cache --clear")),
    },
}
COMMANDS = tuple(name for group in GROUPS.values() for name in group)
EXAMPLES = {name: entry.examples for group in GROUPS.values() for name, entry in group.items()}

START = """\
How big a PyTorch model is, what it computes, and how we know.

  inspect profile resnet50                          parameters, MACs, FLOPs
  inspect profile net.py:Net --input 1x3x64x64      your own model
  inspect memory resnet50 --max-batch 24GiB         the largest batch that fits
  inspect freeze resnet50 --at 2                    frozen? verified in training
  inspect bench resnet50 --amp                      what half precision buys
  inspect diff models.json                          did this make it larger?

All commands: inspect --help. One command, with examples: inspect profile --help
"""


def write_commands(formatter: Any) -> None:
    """The list of commands, by what one wants."""
    for title, group in GROUPS.items():
        with formatter.section(title):
            formatter.write_dl([(name.ljust(9), entry.summary) for name, entry in group.items()])


def write_examples(formatter: Any, command: str) -> None:
    """The examples of a command, each a line that can be copied."""
    with formatter.section("Examples"):
        for example in EXAMPLES.get(command, ()):
            formatter.write(f"{' ' * formatter.current_indent}inspect {example}\n")
