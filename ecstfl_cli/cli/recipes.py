"""`ecstfl recipes`: list, show, copy and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ecstfl_cli.cli import console

if TYPE_CHECKING:
    from ecstfl_cli.recipe import Recipe

group = typer.Typer(help="List the recipes here and those that ship with ecstfl; show, copy and check them.")


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    app.add_typer(group, name="recipes")


@group.callback(invoke_without_command=True)
def recipes(
    context: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list instead of a table."),
) -> None:
    """List the recipes in ./recipes and those that ship with ecstfl; show, copy and check them."""
    if context.invoked_subcommand is not None:
        return
    from ecstfl_cli.recipe_loading import recipe_files

    rows = [_row(name, path) for name, path in recipe_files().items()]
    if as_json:
        console.print_json(rows)
    else:
        _print_table(rows)


@group.command()
def show(name: str = typer.Argument(..., metavar="NAME", help="Name or file of a recipe.")) -> None:
    """Print a recipe as it is written."""
    from ecstfl_cli.recipe_loading import find_recipe, recipe_text

    path = find_recipe(name)
    console.err.print(str(path), markup=False)
    console.out.print(recipe_text(path), markup=False, end="")


@group.command()
def copy(
    name: str = typer.Argument(..., metavar="NAME", help="Name or file of a recipe."),
    dest: Path = typer.Argument(None, metavar="DEST", help="File or folder to copy it to. ./recipes if not given."),
    force: bool = typer.Option(False, "--force", help="Replace the file if it is there."),
) -> None:
    """Copy a recipe, to change it. Its name becomes that of the new file, so that its runs are kept apart."""
    from ecstfl_cli.recipe_loading import copy_recipe

    written = copy_recipe(name, dest, force=force)
    for path in written:
        console.out.print(f"wrote {path}", markup=False)
    console.out.print(f"Next: ecstfl finetune {written[0]}", markup=False)


@group.command()
def validate(files: list[str] = typer.Argument(..., metavar="FILE...", help="Files or names of recipes.")) -> None:
    """Check recipes: keys, types, values, contradictions, and that their network and losses can be built.

    The problems of each file are shown, with their lines; the exit code is 1 if there is one. Data are not looked at.
    """
    from ecstfl_cli.engine.training.recipe_checks import build_components
    from ecstfl_cli.errors import EcstflError, RecipeError
    from ecstfl_cli.recipe_loading import find_recipe, load_recipe

    failures: list[RecipeError] = []
    for file in files:
        try:
            path = find_recipe(file)
            recipe = load_recipe(path, components=True)
            build_components(recipe)
            console.out.print(f"{path}: valid", markup=False)
        except RecipeError as error:
            failures.append(error)
        except EcstflError as error:
            failures.append(RecipeError(f"{path}: {error.message}", error.hint))
    if failures:
        hints = dict.fromkeys(error.hint for error in failures if error.hint)
        raise RecipeError("\n".join(error.message for error in failures), "\n".join(hints))


@group.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from ecstfl_cli.recipe_loading import json_schema

    console.print_json(json_schema())


def _row(name: str, path: Path) -> dict[str, Any]:
    """One line of the list; a recipe with errors says so instead of what it is."""
    from ecstfl_cli.errors import RecipeError
    from ecstfl_cli.recipe_loading import load_recipe

    try:
        recipe = load_recipe(path)
    except RecipeError:
        advice = f"has errors: ecstfl recipes validate {path}"
        return {
            "name": name,
            "modality": None,
            "backbone": None,
            "losses": {},
            "description": advice,
            "file": str(path),
        }
    return {
        "name": name,
        "modality": recipe.input.modality,
        "backbone": _backbone(recipe),
        "losses": {loss: term.weight for loss, term in recipe.losses.items()},
        "description": recipe.description,
        "file": str(path),
    }


def _backbone(recipe: Recipe) -> str:
    head = recipe.model.temporal_head
    return f"{recipe.model.backbone} + {head}" if head else recipe.model.backbone


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Columns as wide as they need to be, so that nothing is cut where the output is piped."""
    lines = [("name", "modality", "backbone", "losses", "description", "file")]
    for row in rows:
        losses = ", ".join(loss if weight == 1 else f"{weight:g} {loss}" for loss, weight in row["losses"].items())
        first = row["name"], row["modality"] or "-", row["backbone"] or "-"
        lines.append((*first, losses or "-", row["description"], row["file"]))
    console.print_columns(lines)
