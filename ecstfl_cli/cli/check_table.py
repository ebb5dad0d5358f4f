"""The verdict on the data as one table: a line a check, with an example and what to do where something was found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecstfl_cli.cli import console

if TYPE_CHECKING:
    from rich.table import Table

    from ecstfl_cli.engine.check.findings import Finding
    from ecstfl_cli.engine.check.report import CheckReport

_STYLE = {"ok": "green", "note": "yellow", "wrong": "bold red", "skipped": "dim"}


def check_data(files: list[Path], out: Path, label_map: str | None, faces: int, as_json: bool) -> dict[str, Any]:
    """Check what FILES name, show the table unless the result will be JSON, and return the report as it is written."""
    from ecstfl_cli.engine.check.run import check

    report = check(files, out=out, label_map=label_map, faces=faces, reporter=console.TerminalReporter())
    if not as_json:
        show(report)
    return report.to_dict()


def show(report: CheckReport) -> None:
    """Print the table, and what it comes to."""
    console.out.print(_table(report), soft_wrap=False)
    for table in _differing_counts(report):
        console.out.print(table, soft_wrap=False)
    console.out.print(f"report: {report.path}", markup=False)
    if wrong := report.wrong():
        names = ", ".join(finding.check for finding in wrong)
        console.err.print(f"Something would corrupt a result: {names}.", style="bold red", markup=False)


def _table(report: CheckReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    facts = report.facts
    noun = "images" if facts["modality"] == "img" else f"clips, {facts['frames']:,} frames"
    title = f"{facts['name']}: {facts['samples']:,} {noun}"
    table = Table(title=Text(title), title_justify="left", expand=False)
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in report.findings:
        style = _STYLE[finding.verdict]
        table.add_row(finding.check, Text(finding.verdict, style=style), _found(finding))
    return table


def _found(finding: Finding) -> Any:
    from rich.text import Text

    text = Text(finding.summary)
    if finding.verdict in ("note", "wrong"):
        if finding.example:
            text.append(f"\ne.g. {finding.example}", style="dim")
        if finding.advice:
            text.append(f"\n→ {finding.advice}", style="italic")
    return text


def _differing_counts(report: CheckReport) -> Iterator[Table]:
    """Found and published counts side by side, of each split whose classes differ."""
    from rich.table import Table
    from rich.text import Text

    differing = {one["split"] for found in report.findings if found.check == "published counts" for one in found.items}
    for split, published in report.facts["published"].items():
        found = report.facts["counts"].get(split)
        if split not in differing or found is None or not published.keys() <= found.keys():
            continue
        table = Table(title=Text(f"{split}: samples by class"), title_justify="left")
        for name in ("class", "found", "published", "difference"):
            table.add_column(name, justify="left" if name == "class" else "right")
        for name, n in published.items():
            difference = found[name] - n
            style = "red" if difference else None
            table.add_row(
                Text(name), f"{found[name]:,}", f"{n:,}", f"{difference:+,}" if difference else "", style=style
            )
        yield table
