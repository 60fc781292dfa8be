"""Add the roofline of a device to the report of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inspector.core import devices
from inspector.core.devices import Device
from inspector.core.errors import InspectError
from inspector.models import Model, as_recipe
from inspector.models.device import real_device
from inspector.models.inputs import as_inputs
from inspector.profiling import timer
from inspector.profiling.views.bounds import PRECISIONS, Roof, modules_frame, operators_frame, whole
from inspector.profiling.views.modules import tree
from inspector.reporting.report import Chart, Finding, Report, Section, metrics
from inspector.reporting.tables import Table
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.capture.setting import PORTABLE, Setting
from inspector.tracing.record import Trace

MEASURE_SECONDS = 2.0
"""Time budget of the modules' times."""
_TOP = 15


@dataclass(frozen=True)
class Roofline:
    """What is requested beside the counts: nothing where `device` is None. `amp` and `dtype` say how the
    model runs there, `tf32` that float32 products run in TF32, `measure` to time it here as well."""

    device: Device | None = None
    tf32: bool = False
    amp: bool = False
    dtype: str | None = None
    measure: bool = False

    @staticmethod
    def of(name: str | None, file: str | Path | None, **more: Any) -> Roofline:
        """The device called `name`, from the file if there is one; without a name the first of the file."""
        if name is None and file is None:
            asked = next((option for option, value in more.items() if value), None)
            if asked is not None:
                raise InspectError(f"`{asked}=` belongs to a roofline", 'add `roofline="h100"`')
            return Roofline()
        if more["dtype"] is not None and more["dtype"] not in PRECISIONS:
            raise InspectError(f"unknown dtype {more['dtype']!r}", f"use one of: {', '.join(PRECISIONS)}")
        choices = devices.read(file) if file is not None else devices.DEVICES
        device = devices.named(name, choices) if name is not None else choices[0]
        if more["tf32"] and "tf32" not in device.peaks:
            raise InspectError(f"{device.name} has no TF32", "leave out `tf32=`")
        return Roofline(device, **more)

    @property
    def setting(self) -> Setting:
        """How a pass runs on the device: its kernels, with attention fused."""
        if self.device is None:
            return PORTABLE
        kind = "cpu" if self.device.name.startswith("CPU") else "cuda"
        return Setting(
            self.dtype, Kernels(kind, "fused", "bfloat16" if self.amp else None, self.device.major)
        )

    def add(
        self,
        report: Report,
        trace: Trace,
        model: Model | Trace,
        inputs: Any,
        model_args: Mapping[str, Any] | None,
        seed: int,
        depth: int = 2,
    ) -> Report:
        """The report with the roofline added; unchanged where none is requested."""
        if self.device is None:
            return report
        measured, place = None, ""
        if self.measure:
            timer.check(trace.phase, isinstance(model, Trace))
            device, recipe = real_device(None), as_recipe(model, model_args, trace.call)  # type: ignore[arg-type]
            chosen = as_inputs(inputs) if inputs is not None else None
            precision = "tf32" if self.tf32 else "ieee"
            times = timer.measure(recipe, chosen, device, seed, self.setting, MEASURE_SECONDS, precision)
            measured = times.inside
            place = timer.place(device, precision)
        return with_roofline(
            report, trace, self.device, tf32=self.tf32, depth=depth, measured=measured, place=place
        )


def roof(device: Device, tf32: bool = False) -> Roof:
    """The device's limits in FLOP/s and bytes/s."""
    return Roof({name: 1e12 * peak for name, peak in device.peaks.items()}, 1e9 * device.bandwidth, tf32)


def with_roofline(
    report: Report,
    trace: Trace,
    device: Device,
    *,
    tf32: bool = False,
    depth: int = 2,
    measured: Mapping[str, float] | None = None,
    place: str = "",
) -> Report:
    """The report with the roofline of `device` added. `measured` is the seconds of each module's path in
    the forward at `place`."""
    limit = roof(device, tf32)
    modules, operators, sums = modules_frame(trace, limit), operators_frame(trace, limit), whole(trace, limit)
    tables = {"roofline_modules": modules, "roofline_operators": operators}
    if measured is not None:
        seconds = [measured.get(path) for path in modules["path"]]
        achieved = [least / real if real else None for least, real in zip(modules["seconds"], seconds)]
        tables["roofline_modules"] = modules = modules.assign(measured=seconds, achieved=achieved)
    values = {"roofline_seconds": sums["seconds"], "roofline_memory_bound": sums["memory_bound"]}
    bounds = {"roofline_seconds"} if sums["unknown"] else set()
    return replace(
        report,
        metrics={**report.metrics, **metrics(values, bounds)},
        tables={**report.tables, **tables},
        header=[*report.header, ("roofline", _described(device, tf32, sums["ridge"]))],
        sections=[*report.sections, *_sections(trace, modules, operators, depth, device)],
        findings=[*report.findings, *_findings(device, sums, measured, place)],
        charts=[*report.charts, *_charts(operators, device)],
    )


def _described(device: Device, tf32: bool, ridge: float) -> str:
    peaks = ", ".join(f"{name} {peak:g}" for name, peak in device.peaks.items())
    float32 = "float32 products in TF32" if tf32 else "float32 products in IEEE float32"
    text = f"{device.name}: {peaks} TFLOP/s; {device.bandwidth:g} GB/s; ridge {ridge:.0f} FLOPs a byte"
    return f"{text}; {float32} ({device.source})"


def _sections(trace: Trace, modules: Table, operators: Table, depth: int, device: Device) -> list[Section]:
    shown = tree(modules, trace.model, depth).drop("unknown", "type")
    if not any(operators["unknown"]):
        operators = operators.drop("unknown")
    note = "seconds: a lower bound on the device; operators run one after another"
    return [
        Section(f"roofline by module (depth {depth}, children included)", shown, note),
        Section(f"roofline by operator on {device.name}", operators.head(_TOP)),
    ]


def _findings(
    device: Device, sums: dict[str, float], measured: Mapping[str, float] | None, place: str
) -> list[Finding]:
    notes = []
    if sums["unknown"]:
        notes.append(
            f"{int(sums['unknown'])} operator calls have no known arithmetic or no peak on {device.name}:"
            " bound by their bytes alone"
        )
    if measured is not None:
        notes.append(f"measured on {place}; achieved is the lower bound divided by the measured time")
        if devices.find(place.partition(", float32")[0]) != device:
            notes.append(f"{place} is not known to be {device.name}: achieved compares two machines")
    return [Finding("roofline", "warn", "", text) for text in notes]


def _charts(operators: Table, device: Device) -> list[Chart]:
    drawn = operators.where(work and moved for work, moved in zip(operators["flops"], operators["bytes"]))
    rates = [work / seconds / 1e12 for work, seconds in zip(drawn["flops"], drawn["seconds"])]
    drawn = drawn.assign(**{"TFLOP/s at most": rates})
    drawn = drawn.rename({"intensity": "FLOPs a byte", "bound": "bound by"})
    return [
        Chart(
            "scatter", f"Roofline of {device.name}", "FLOPs a byte", "TFLOP/s at most", drawn,
            group="bound by", label="op", log_x=True, log_y=True,
        )
    ]  # fmt: skip
