"""`ecstfl plugins`: which components are installed, where each comes from and whether it can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ecstfl_cli.cli import console

if TYPE_CHECKING:
    from ecstfl_cli.engine.component_state import ComponentState

STYLES = {"broken": "red", "duplicate": "yellow"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("plugins")(plugins)


def plugins(
    group: str = typer.Option("", "--group", help="Show one group only, e.g. losses."),
    check: bool = typer.Option(False, "--check", help="Load every component; exit code 1 if one fails."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list instead of a table."),
) -> None:
    """List every component: group, name, distribution, version and state.

    Nothing is imported for it: the state is what the source shows.
    """
    from ecstfl_cli.engine.component_state import component_states

    states = component_states(group or None, check)
    if as_json:
        console.print_json([state.to_dict() for state in states])
    else:
        _print_table(states)
    if check and any(state.state == "broken" for state in states):
        raise typer.Exit(1)


def _print_table(states: list[ComponentState]) -> None:
    """Columns as wide as they need to be, so that nothing is cut where the output is piped."""
    rows = [("group", "name", "distribution", "version", "state")]
    for s in states:
        name = f"{s.name}NAME" if s.name.endswith("/") else s.name or "-"
        rows.append(
            (s.group or "-", name, s.distribution, s.version, f"{s.state}: {s.reason}" if s.reason else s.state)
        )
    console.print_columns(rows, [STYLES.get(s.state) for s in states])
