"""`ecstfl doctor`: whether everything needed is on this machine, and works."""

from __future__ import annotations

import typer

from ecstfl_cli.cli import console

STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def doctor(
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list instead of lines."),
) -> None:
    """Say what works on this machine: libraries, components, CPU and GPU, disk, weights, recognition, video.

    What is broken, or missing and optional, comes with what to do about it. Exit code 1 if something is broken. Nothing
    is written, and nothing fetched.
    """
    from ecstfl_cli.engine.doctor import CHECKS, examine

    width = max(map(len, CHECKS))
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            console.out.print(f"{finding.state:6}", style=STYLES[finding.state], markup=False, end="  ")
            console.out.print(f"{finding.subject:{width}}  {finding.found}", markup=False)
            if finding.advice:
                console.out.print(f"{'':6}  {'':{width}}  {finding.advice}", markup=False)
    if as_json:
        console.print_json([finding.to_dict() for finding in findings])
    broken = sum(finding.state == "broken" for finding in findings)
    if not as_json:
        console.out.print(f"{broken} broken" if broken else "nothing is broken", markup=False)
    if broken:
        raise typer.Exit(1)
