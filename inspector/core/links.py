"""How fast devices can send to each other at most, each figure from its maker's own document.

Bandwidths are of one device in one direction, which is half of what makers give for both. Inside a node
every device reaches every other at that rate (NVSwitch); between nodes each device has a share of the
adapters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from inspector.core.errors import InspectError

_NDR = "NVIDIA DGX H100 datasheet: 8 ConnectX-7 adapters of 400 Gb/s for 8 GPUs"
_HDR = "NVIDIA DGX A100 datasheet: 8 ConnectX-6 adapters of 200 Gb/s for 8 GPUs"
_GEN5, _GEN4 = "PCIe Gen5 128 GB/s in both directions", "PCIe Gen4 64 GB/s in both directions"
_NODES = re.compile(r"(\d+)\s*x\s*(\d+)")


@dataclass(frozen=True)
class Links:
    """Of the device `name` (that of `devices.Device`): GB/s `inside` a node, `between` nodes, and to the
    `host`, in one direction; None where that depends on the machine. `source` says where they come from."""

    name: str
    inside: float | None
    between: float | None
    source: str
    host: float | None = None


LINKS = (
    Links(
        "H200 SXM",
        450,
        50,
        f"NVIDIA H200 datasheet: NVLink 900 GB/s, {_GEN5}; {_NDR}",
        64,
    ),
    Links(
        "H100 SXM",
        450,
        50,
        f"NVIDIA H100 datasheet: NVLink 900 GB/s, {_GEN5}; {_NDR}",
        64,
    ),
    Links(
        "A100 SXM 80GB",
        300,
        25,
        f"NVIDIA A100 datasheet: NVLink 600 GB/s, {_GEN4}; {_HDR}",
        32,
    ),
    Links(
        "V100 SXM2", 150, None, "NVIDIA V100 datasheet: NVLink 300 GB/s, PCIe 32 GB/s in both directions", 16
    ),
    Links("H100 PCIe", 64, None, "NVIDIA H100 datasheet: PCIe Gen5 128 GB/s in both directions", 64),
    Links("A100 PCIe 80GB", 32, None, "NVIDIA A100 datasheet: PCIe Gen4 64 GB/s in both directions", 32),
    Links("L4", 32, None, "NVIDIA L4 datasheet: PCIe Gen4 x16 64 GB/s in both directions", 32),
    Links("T4", 16, None, "NVIDIA T4 datasheet: PCIe Gen3 x16 32 GB/s in both directions", 16),
)


def links(device: str) -> Links:
    """The links of a device by its name; of one that is not listed none is known."""
    listed = next((entry for entry in LINKS if entry.name == device), None)
    return listed or Links(device, None, None, "no figures for this device")


def read_nodes(text: str) -> tuple[int, int]:
    """Nodes, and devices in each, written "8x8". Raises InspectError."""
    match = _NODES.fullmatch(text.strip())
    if match is None or not int(match[1]) or not int(match[2]):
        raise InspectError(
            f"cannot read the nodes {text!r}", 'write e.g. `nodes="8x8"`: 8 nodes of 8 devices'
        )
    return int(match[1]), int(match[2])
