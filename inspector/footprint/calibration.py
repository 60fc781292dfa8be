"""What cuDNN took for convolutions on a card, as `benchmarks/gpu.py 2` wrote it down.

A convolution of the file with the same shapes, precision and layout takes what was measured. For another,
the smallest and the largest share of the bound (see `workspaces`) that convolutions of its direction,
precision and layout took narrow the range. It holds for that card, that torch and that cuDNN alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from inspector.core import devices
from inspector.core.errors import InspectError
from inspector.footprint.workspaces import CALIBRATED, CONVOLUTIONS, CUDNN, Rules, Workspace
from inspector.tracing.record import ITEM_BYTES, Op, TensorSpec

_HINT = "make one on the card with: python benchmarks/gpu.py 2"
Key = tuple[str, tuple[tuple[tuple[int, ...], str], ...], bool]


@dataclass(frozen=True)
class Calibration:
    """`card` as torch names it, `major` the first figure of its compute capability, `cudnn` as
    `torch.backends.cudnn.version()` gives it. `exact`: bytes at least and at most by what ran, `shares`: of
    the bound, by operator, precision and layout."""

    file: str
    card: str
    major: int
    torch: str
    cudnn: int
    exact: Mapping[Key, tuple[int, int]] = field(default_factory=dict)
    shares: Mapping[tuple[str, str, bool], tuple[float, float]] = field(default_factory=dict)

    @staticmethod
    def read(file: str | Path) -> Calibration:
        """Read a file of `benchmarks/gpu.py 2`. Raises InspectError for any other."""
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise InspectError(f"cannot read {file}: {error.strerror or error}", _HINT) from error
        except (ValueError, RecursionError) as error:
            raise InspectError(f"{file} is not JSON", _HINT) from error
        try:
            found = content["environment"]
            rows = [row for key, case in content["cases"].items() if key.split()[0] == "convolutions"
                    for row in case.get("rows", ())]  # fmt: skip
            calibration = Calibration(
                str(file), str(found["device"]), int(found["capability"][0]), _base(found["torch"]),
                int(found["cudnn"]), *_measured(rows, int(found["capability"][0])),
            )  # fmt: skip
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise InspectError(f"{file} holds no measured workspaces of a card", _HINT) from error
        if not calibration.exact:
            raise InspectError(f"{file} holds no measured workspaces of a card", _HINT)
        return calibration

    def check(self, gpu: str | None) -> None:
        """Raise InspectError where `gpu`, named as in inspector/core/devices.py, is not the file's card."""
        if gpu is None:
            return
        card, wanted = devices.find(self.card), devices.named(gpu)
        if card is None or card.name != wanted.name:
            raise InspectError(
                f"{self.file} was measured on {self.card}, not on {wanted.name}",
                "leave out `gpu=`, or calibrate on that card",
            )

    def elsewhere(self) -> str:
        """Why it does not hold for this torch; "" where it does."""
        here, cudnn = _base(torch.__version__), torch.backends.cudnn.version()
        if here != self.torch:
            return f"measured with torch {self.torch}, this is {here}"
        if cudnn is not None and cudnn != self.cudnn:
            return f"measured with cuDNN {self.cudnn}, this is {cudnn}"
        return ""

    def of(self, op: Op, bounds: Sequence[Workspace], channels_last: bool) -> Workspace | None:
        """What `op` takes by the file; None where it knows nothing of the kind."""
        exact = self.exact.get(_key(op.name, op.inputs, op.outputs, channels_last))
        if exact is not None:
            return Workspace(*exact, CUDNN, "measured", CALIBRATED)
        shares = self.shares.get((op.name, op.inputs[0].dtype, channels_last))
        most = max((bound.high for bound in bounds), default=0)
        if shares is None or not most:
            return None
        low, high = (int(share * most) for share in shares)
        return Workspace(low, high, CUDNN, "by the share measured", CALIBRATED)


def _measured(rows: Sequence[Any], major: int) -> tuple[dict[Any, Any], dict[Any, Any]]:
    exact: dict[Key, list[int]] = defaultdict(list)
    shares: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    for row in rows:
        name, channels_last, nbytes = str(row["name"]), bool(row["channels_last"]), int(row["workspace"])
        inputs, outputs = (_specs(row[side]) for side in ("inputs", "outputs"))
        if nbytes < 0 or name not in CONVOLUTIONS or min(len(spec.shape) for spec in inputs) < 3:
            raise ValueError("not the workspace of a convolution")
        exact[_key(name, inputs, outputs, channels_last)].append(nbytes)
        bounds = Rules(major, channels_last).bounds(name, inputs, outputs)
        if bounds:
            most = max(bound.high for bound in bounds)
            shares[name, inputs[0].dtype, channels_last].append(nbytes / most)
    return tuple(
        {key: (min(values), max(values)) for key, values in found.items()} for found in (exact, shares)
    )  # type: ignore[return-value]


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    specs = tuple(TensorSpec(tuple(int(size) for size in shape), str(dtype)) for shape, dtype in tensors)
    if any(spec.dtype not in ITEM_BYTES or min(spec.shape, default=0) < 1 for spec in specs):
        raise ValueError("no such tensor")
    return specs


def _key(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], channels_last: bool) -> Key:
    """The bias runs outside cuDNN, and its gradient too: they do not tell two convolutions apart."""
    last = 2 if name == "aten.convolution" else 3
    tensors = (*inputs[:last], *(spec for spec in outputs if len(spec.shape) > 1))
    return name, tuple((tuple(spec.shape), spec.dtype) for spec in tensors), channels_last


def _base(version: str) -> str:
    return str(version).partition("+")[0]
