"""The values that options choose from, declared here because the rooms that define them load torch.
A test compares each with its room."""

from __future__ import annotations

from typing import Any, Literal, get_args

import typer

from inspector.core.errors import InspectError
from inspector.reporting.formats import FORMATS

Phase = Literal["forward", "train"]
Pass = Literal[Phase, "prefill", "decode"]
KvCache = Literal["dynamic", "static", "fp8", "int4", "int2"]
Grouping = Literal["module", "type", "op"]
Format: Any = Literal[tuple(FORMATS)]
Dtype = Literal["float64", "float32", "float16", "bfloat16"]
Counter = Literal["ours", "thop", "fvcore", "torch", "torchinfo", "ptflops", "calflops", "deepspeed"]
Counted = Literal[Counter, "published"]
Optimizer = Literal["sgd", "momentum", "adam", "adamw", "adam8bit", "adamw8bit"]
Attention = Literal["fused", "math"]
Attn = Literal["eager", "sdpa", "flex"]
Sharding = Literal["ddp", "fsdp"]
Scattering = Literal["ddp", "zero1", "zero2", "fsdp", "hsdp"]
Piping = Literal["gpipe", "1f1b", "interleaved"]
Stepping = Literal["sgd", "momentum", "adam", "adamw"]
Half = Literal["bfloat16", "float16", "float32"]
Counting = Literal["maskrcnn", "detectron2", "mmdet", "torchvision"]
Norm = Literal["freeze", "eval", "train"]
Scheme = Literal[
    "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal", "trunc_normal", "normal",
    "orthogonal", "zeros", "ones", "constant", "c2_xavier_fill", "c2_msra_fill", "default",
]  # fmt: skip
Expected = Literal["auto", Scheme]
Fan = Literal["fan_in", "fan_out"]
Precision = Literal["fp32", "tf32", "amp-fp16", "fp16", "amp-bf16", "bf16", "fp8"]
Mode = Literal["infer", "train"]
Training = Literal["cpu", "cuda"]
Measured = Literal["latency", "memory"]
Source = Literal["torchvision", "timm"]
Engine = Literal["ray", "dask"]
State = Literal[
    "regressed", "missing", "invalid", "incomparable", "noisy", "new", "improved", "ok", "none"
]  # fmt: skip


def several(choices: Any, name: str, help: str) -> Any:
    """The option `name`, which takes some of `choices`: separated by commas, or the option repeated."""
    names: tuple[str, ...] = get_args(choices)

    def split(value: Any) -> list[str] | None:
        texts = [value] if isinstance(value, str) else list(value or [])
        words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
        if texts and not words:
            raise InspectError(f"{name} is empty", f"leave it out, or name some of: {', '.join(names)}")
        for word in words:
            if word not in names:
                raise typer.BadParameter(f"{word!r} is not one of {', '.join(map(repr, names))}.")
        return words or None

    def complete(incomplete: str) -> list[str]:
        before = incomplete[: incomplete.rfind(",") + 1]
        return [before + word for word in names]

    return typer.Option(name, metavar="NAME,...", help=help, callback=split, autocompletion=complete)


def listed(choices: Any) -> str:
    """The choices as a help text names them."""
    return ", ".join(get_args(choices))
