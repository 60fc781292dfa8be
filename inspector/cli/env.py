"""Show what this machine has, and what is missing."""

from __future__ import annotations

from inspector.cli import options


def env(
    format: options.Format = None,
    output: options.Output = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Show versions, devices, threads and precision flags, and what is missing."""
    options.check_output(format, output)
    from inspector.benchmarking.machine import env as make
    from inspector.core.log import to_console

    to_console(verbose)
    with options.foreign_output():
        report = make()
    options.emit(report, format, output)
    if report.verdict == "fail":
        import typer

        raise typer.Exit(1)
