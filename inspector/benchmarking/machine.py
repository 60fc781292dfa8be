"""What inspector finds on this machine, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from inspector.benchmarking import gpu
from inspector.core import devices
from inspector.core.errors import first_line
from inspector.core.version import __version__, installed
from inspector.models.device import gpu_name
from inspector.profiling import flags
from inspector.reporting.report import Finding, Report, Section, environment, metrics
from inspector.reporting.tables import Table

PACKAGES = (
    "torch", "torchvision", "thop", "fvcore", "pandas", "numpy", "scipy", "scikit-learn", "tabulate",
    "typer", "rich", "yacs", "safetensors", "timm", "transformers",
    "huggingface_hub", "diffusers", "gguf", "nvidia-ml-py",
)  # fmt: skip
EXTRAS = {
    "timm": "models of timm (timm:NAME): pip install 'torch-inspector[timm]'",
    "transformers": "models of transformers (hf:PATH, hf:ORG/NAME): pip install 'torch-inspector[hf]'",
    "gguf": "GGUF files (inspect params FILE.gguf): pip install 'torch-inspector[gguf]'",
    "diffusers": "parts of diffusers pipelines (hf:ORG/NAME/unet): pip install 'torch-inspector[diffusers]'",
    "nvidia-ml-py": "clocks, temperature, power and joules of a GPU: pip install 'torch-inspector[gpu]'",
}


def env() -> Report:
    """Versions, devices, threads, precision flags, and what is missing and what it would add.

    A finding of status skip is something that is absent; fail, something that does not work.
    """
    versions = Table.of(_versions(), ("package", "version"))
    hardware = Table.of(_devices())
    threads = Table.of(_threads(), ("setting", "value"))
    precision = Table.of([(name, str(value)) for name, value in flags.read().items()], ("flag", "value"))
    findings = [*_command(), *_missing(), *_gpu_findings(), *_pair()]
    return Report(
        command="env",
        subject={"name": platform.node() or "this machine", "source": "env"},
        environment=environment(gpu=gpu_name("cuda") if torch.cuda.device_count() else None),
        metrics=metrics({"gpus": torch.cuda.device_count()}),
        tables={"versions": versions, "devices": hardware, "threads": threads, "flags": precision},
        findings=findings,
        verdict="fail" if any(f.status == "fail" for f in findings) else "pass",
        sections=[
            Section("versions", versions),
            Section("devices", hardware),
            Section("threads", threads),
            Section("precision of float32 products (flags as they are)", precision),
        ],
    )


def _versions() -> Iterator[tuple[str, str]]:
    yield "inspector", __version__
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", platform.platform()
    for name in PACKAGES:
        if number := installed(name):
            yield name, number
    yield "CUDA of torch", str(torch.version.cuda)
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    yield "cuDNN of torch", str(cudnn)


def _devices() -> Iterator[dict[str, Any]]:
    yield {
        "device": "cpu",
        "name": _processor(),
        "memory": _memory(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "driver": "",
        "peaks": "not in the table",
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        state, entry = gpu.state(index), devices.find(properties.name)
        yield {
            "device": f"cuda:{index}",
            "name": properties.name,
            "memory": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cores": properties.multi_processor_count,
            "driver": state.driver if state else "",
            "peaks": entry.source if entry else "not in the table",
        }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor() or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _threads() -> Iterator[tuple[str, str]]:
    yield "torch.get_num_threads()", str(torch.get_num_threads())
    yield "torch.get_num_interop_threads()", str(torch.get_num_interop_threads())
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        yield name, os.environ.get(name, "(not set)")


def _command() -> Iterator[Finding]:
    """Whether the shell's `inspect` is ours: another tool has a command of that name, too."""
    first = shutil.which("inspect")
    if first is not None and Path(first).resolve().parent != Path(sysconfig.get_path("scripts")).resolve():
        text = f"another `inspect` stands first on PATH ({first}): call this one `inspector`"
        yield Finding("command", "warn", "", text)


def _missing() -> Iterator[Finding]:
    for name, gives in EXTRAS.items():
        if not installed(name):
            yield Finding("package", "skip", name, f"not installed; it adds {gives}")


def _gpu_findings() -> Iterator[Finding]:
    if torch.cuda.is_available():
        yield Finding("gpu", "pass", "cuda", f"{torch.cuda.device_count()} CUDA device(s)")
        return
    why = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
    message = f"{why}: inspect bench runs on the CPU, and its times are only reported"
    yield Finding("gpu", "skip", "cuda", message)


def _pair() -> Iterator[Finding]:
    """A torchvision that was built for another torch fails when an operator of it is used."""
    try:
        import torchvision
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except Exception as error:
        message = (
            f"torchvision does not work with torch {torch.__version__}: {first_line(error)};"
            " install a matching pair"
        )
        yield Finding("torchvision", "fail", "torchvision", message)
        return
    message = f"torchvision {torchvision.__version__} runs its own operators with torch {torch.__version__}"
    yield Finding("torchvision", "pass", "torchvision", message)
