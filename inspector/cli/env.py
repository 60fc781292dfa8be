"""Show what this machine has, and what is missing."""

from __future__ import annotations

from inspector.cli.command import command


@command("benchmarking.machine:env")
def env() -> None:
    """Show versions, devices, threads and precision flags, and what is missing."""
