"""`ecstfl labels`: the registered label maps, and how one maps onto another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ecstfl_cli.cli import console

if TYPE_CHECKING:
    from ecstfl_cli.labels import Join, LabelMap

group = typer.Typer(help="List the label maps; show one, and how one maps onto another.")
AsJson = typer.Option(False, "--json", help="Print JSON instead.")


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    app.add_typer(group, name="labels")


@group.callback(invoke_without_command=True)
def labels(context: typer.Context, as_json: bool = AsJson) -> None:
    """List the label maps: name, classes in index order, source."""
    if context.invoked_subcommand is not None:
        return
    from ecstfl_cli import registry

    rows = [_row(name) for name in registry.index("label_maps")]
    if as_json:
        console.print_json(rows)
        return
    table = [("name", "classes", "", "source")]
    for row in rows:
        classes = row["classes"]
        table.append((row["name"], str(len(classes) or "-"), " ".join(classes), row["source"] or row["problem"]))
    console.print_columns(table)


@group.command()
def show(
    name: str = typer.Argument(..., metavar="NAME", help="A label map that `ecstfl labels` lists."),
    as_json: bool = AsJson,
) -> None:
    """Show a label map: each index with its class and the other names that are read as this class."""
    from ecstfl_cli.labels import label_map_from, spellings

    found = label_map_from(name)
    if as_json:
        console.print_json(_plain(name, found))
        return
    console.out.print(f"{name}: {len(found)} classes", markup=False, style="bold")
    console.out.print(f"source: {found.source or 'not named'}\n", markup=False)
    rows = [("index", "class", "also read as")]
    rows += [(str(i), n, ", ".join(spellings(found, n))) for i, n in enumerate(found.names)]
    console.print_columns(rows)


@group.command()
def compare(
    data: str = typer.Argument(..., metavar="A", help="The label map that labels come with, e.g. that of a data set."),
    model: str = typer.Argument(..., metavar="B", help="The one that they are joined to, e.g. that of a model."),
    as_json: bool = AsJson,
) -> None:
    """Show how label map A maps onto B, by name: what each class becomes, and what has no counterpart."""
    from ecstfl_cli.labels import join, label_map_from

    joined = join(label_map_from(data), label_map_from(model))
    if as_json:
        console.print_json(_plain_join(data, model, joined))
    else:
        _print_join(data, model, joined)


def _row(name: str) -> dict[str, Any]:
    """One line of the list; a map that cannot be loaded says so instead of what it is."""
    from ecstfl_cli.errors import RegistryError
    from ecstfl_cli.labels import label_map_from

    try:
        return {**_plain(name, label_map_from(name)), "problem": ""}
    except RegistryError as error:
        return {"name": name, "classes": [], "synonyms": {}, "source": "", "problem": f"broken: {error.message}"}


def _plain(name: str, label_map: LabelMap) -> dict[str, Any]:
    from ecstfl_cli.labels import spellings

    return {
        "name": name,
        "classes": list(label_map.names),
        "synonyms": {n: spellings(label_map, n) for n in label_map.names},
        "source": label_map.source,
    }


def _plain_join(data: str, model: str, joined: Join) -> dict[str, Any]:
    names = joined.target.names
    return {
        "from": data,
        "to": model,
        "classes": [
            {"index": i, "name": name, "to_index": to, "to_name": None if to is None else names[to]}
            for i, (name, to) in enumerate(zip(joined.source.names, joined.indices, strict=True))
        ],
        "missing": joined.missing,
        "unused": joined.unused,
        "gathered": joined.gathered,
        "same_indices": joined.indices == tuple(range(len(joined.indices))),
    }


def _print_join(data: str, model: str, joined: Join) -> None:
    names = joined.target.names
    rows = [(data, "", model)]
    for i, (name, to) in enumerate(zip(joined.source.names, joined.indices, strict=True)):
        rows.append((f"{i} {name}", "->", "none" if to is None else f"{to} {names[to]}"))
    console.print_columns(rows)
    console.out.print()
    for line in _meaning(data, model, joined):
        console.out.print(line, markup=False)


def _meaning(data: str, model: str, joined: Join) -> list[str]:
    """What the join means for whoever trains or tests a model of one map on data of the other."""
    lines = []
    if joined.missing:
        lines.append(
            f"{model} lacks {', '.join(joined.missing)}: data of {data} stops a command, unless --drop-classes "
            "(in a recipe data.drop_classes: true) leaves the samples of these classes out."
        )
    else:
        lines.append(f"Every class of {data} has a counterpart in {model}.")
    for name, members in joined.gathered.items():
        lines.append(f"{' and '.join(members)} of {data} are one class of {model}, {name}.")
    if joined.unused:
        lines.append(
            f"{data} has no samples of {', '.join(joined.unused)}: a model of {model} cannot learn them from it; in a "
            "test UAR averages over the other classes, and a prediction of one of these counts as an error."
        )
    moved = sum(to is not None and to != i for i, to in enumerate(joined.indices))
    if moved:
        lines.append(f"The indices differ for {moved} of {len(joined.indices)} classes: labels are joined by name.")
    else:
        lines.append("The indices are the same.")
    return lines
