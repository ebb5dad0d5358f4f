"""Recipes by name or file: found, overridden, checked with all errors at once, written back."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecstfl_cli import resources
from ecstfl_cli.errors import RecipeError, listing, suggest
from ecstfl_cli.pathfile import write_atomically
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_data import NAME_PATTERN
from ecstfl_cli.recipe_problems import component_problems, validated
from ecstfl_cli.recipe_yaml import KeyPath, Parsed, format_yaml, parse

HINT = "`ecstfl recipes schema` describes every key; `ecstfl recipes show dfew` is a complete example."
SUFFIXES = (".yaml", ".yml")
SCHEMA_FILE = "recipe.schema.json"


class RecipeDraft:
    """A recipe's values before they are checked, with the place that each of them was written."""

    def __init__(self, values: Mapping[str, Any], source: str, parsed: Parsed | None = None) -> None:
        self.values: dict[str, Any] = copy.deepcopy(dict(values))
        self.source = source
        self._lines = dict(parsed.lines) if parsed else {}
        self._problems = list(parsed.problems) if parsed else []
        self._overridden: dict[KeyPath, str] = {}

    @classmethod
    def read(cls, path: Path) -> RecipeDraft:
        """The draft that a file holds. Raises RecipeError where it cannot be read or is not YAML."""
        parsed = parse(recipe_text(path), str(path))
        if not isinstance(parsed.values, dict):
            what = "is empty" if parsed.values is None else "is not a recipe: it holds no `key: value` lines"
            raise RecipeError(f"{path}: {what}", HINT)
        return cls(parsed.values, str(path), parsed)

    def get(self, *path: str) -> Any:
        """The value at a key path, the schema's default where the recipe does not give it, None where neither does."""
        value: Any = self.values
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return _default(path)
            value = value[key]
        return value

    def set(self, path: Sequence[str], value: Any, source: str) -> None:
        """Override one value; errors about it name `source` (`--set`, `--epochs`) instead of a line."""
        node: Any = self.values
        for depth, key in enumerate(path[:-1], start=1):
            prefix = tuple(path[:depth])
            if node.get(key) is None:
                # A term that is added to the default objective must not take its place.
                node[key] = copy.deepcopy(_default(prefix)) if prefix == ("losses",) else {}
                self._overridden[prefix] = source
            node = node[key]
            if not isinstance(node, dict):
                kind = "a list: give all of it, as in [a, b]" if isinstance(node, list) else "one value, without keys"
                self.complain(path, f"{'.'.join(prefix)} is {kind}", source)
                return
        node[path[-1]] = value
        target = tuple(path)
        self._lines = {k: line for k, line in self._lines.items() if k[: len(target)] != target}
        self._overridden = {k: by for k, by in self._overridden.items() if k[: len(target)] != target}
        self._overridden[target] = source

    def override(self, settings: Sequence[str]) -> None:
        """Apply `--set` settings, `key.path=value` with the value in YAML."""
        for setting in settings:
            key, equals, text = setting.partition("=")
            path = tuple(part.strip() for part in key.split("."))
            if not equals or not all(path):
                self.complain(path, f"{setting!r} is not of the form key.path=value", "--set")
                continue
            try:
                parsed = parse(text, "--set")
            except RecipeError as error:
                reason = error.message.partition("not valid YAML: ")[2]
                self.complain(path, f"the value {text!r} is not valid YAML: {reason}", "--set")
                continue
            for below, what in parsed.problems:
                self.complain((*path, *below), what, "--set")
            self.set(path, parsed.values, "--set")

    def complain(self, path: Sequence[str], what: str, source: str) -> None:
        """Add a problem, to be reported with all others."""
        self._overridden[tuple(path)] = source
        self._problems.append((tuple(path), what))

    def problems(self, components: bool = False) -> list[str]:
        """Everything that is wrong, each as `file:line: key.path: what`, in the file's order."""
        found = [*self._problems, *validated(self.values)[1]]
        if components:
            found += component_problems(self.values)
        first: dict[KeyPath, str] = {}
        for path, what in found:
            first.setdefault(path, what)
        ordered = sorted(first, key=lambda path: self._place(path)[1])
        return [self.located(path, first[path]) for path in ordered]

    def located(self, path: KeyPath, what: str) -> str:
        """One problem as it is shown."""
        return f"{self._place(path)[0]}: {'.'.join(path)}: {what}" if path else f"{self._place(path)[0]}: {what}"

    def recipe(self, components: bool = False) -> Recipe:
        """The checked recipe; with `components`, every name in it is looked up too, importing label maps only.

        Raises RecipeError that lists every problem.
        """
        if problems := self.problems(components):
            if len(problems) == 1:
                raise RecipeError(problems[0], HINT)
            raise RecipeError(f"{self.source} has {len(problems)} problems:\n{listing(problems)}", HINT)
        recipe, _ = validated(self.values)
        assert recipe is not None
        return recipe

    def _place(self, path: KeyPath) -> tuple[str, float]:
        """Where the value at `path`, or the nearest section above it, was written; and the line, infinite for none."""
        for depth in range(len(path), 0, -1):
            prefix = path[:depth]
            if prefix in self._overridden:
                return self._overridden[prefix], math.inf
            if prefix in self._lines:
                return f"{self.source}:{self._lines[prefix]}", self._lines[prefix]
        return self.source, math.inf


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), *, components: bool = False) -> Recipe:
    """A recipe by name or file with `--set` overrides applied. Raises RecipeError listing everything that is wrong."""
    draft = RecipeDraft.read(find_recipe(name_or_path))
    draft.override(overrides)
    return draft.recipe(components)


def recipe_from_mapping(
    mapping: Mapping[str, Any], overrides: Sequence[str] = (), source: str = "recipe", *, components: bool = False
) -> Recipe:
    """A recipe from plain values, e.g. those stored in a checkpoint. Raises RecipeError as `load_recipe` does."""
    draft = RecipeDraft(mapping, source)
    draft.override(overrides)
    return draft.recipe(components)


def dump(recipe: Recipe) -> str:
    """Complete YAML in the schema's order; it loads to an equal recipe."""
    return format_yaml(recipe.model_dump())


def is_whole(path: Path) -> bool:
    """Whether a file that `dump` was written to holds all of it: every key of the schema, down to the last line."""
    try:
        text = recipe_text(path)
        values = parse(text, str(path)).values
    except RecipeError:
        return False
    return text.endswith("\n") and isinstance(values, dict) and set(Recipe.model_fields) <= set(values)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe, for editors."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "ecstfl recipe"}


def recipe_files() -> dict[str, Path]:
    """Recipes by name: those of ./recipes, then the shipped ones that they do not hide."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_recipe(name: str | Path) -> Path:
    """The file that `NAME`, `recipes/NAME.yaml` or a path means: as it is, in ./recipes, or among the shipped ones.

    Raises RecipeError for an unknown one, with near matches.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = recipe_files()
    stem = path.stem if path.suffix in SUFFIXES else path.name
    if path.parent in (Path(), Path("recipes")) and stem in known:
        return known[stem]
    if path.is_dir():
        hint = f"Give its recipe: {path / 'recipe.yaml'}" if (path / "recipe.yaml").is_file() else ""
        raise RecipeError(f"{path} is a folder, not a recipe", hint)
    raise RecipeError(
        f"there is no recipe {str(name)!r}",
        f"{suggest(stem, known)}Recipes: {', '.join(known) or 'none'}. `ecstfl recipes` lists them with their places.",
    )


def recipe_text(path: Path) -> str:
    """A recipe file as it is written. Raises RecipeError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}", "A recipe is a UTF-8 text file.") from error


def copy_recipe(name: str | Path, dest: Path | None = None, *, force: bool = False) -> list[Path]:
    """Copy a recipe to a file or folder, by default ./recipes, with the new file's name as its own.

    The schema that its first line names is put beside it where there is none. Returns what was written, the recipe
    first. Raises RecipeError where the file exists and is not to be replaced.
    """
    source = find_recipe(name)
    target = dest if dest is not None else Path("recipes")
    if target.is_dir() or not target.suffix:
        target = target / f"{source.stem}.yaml"
    if target.suffix not in SUFFIXES:
        raise RecipeError(f"{target} is not named like a recipe", f"Its name must end in {' or '.join(SUFFIXES)}.")
    if target.exists() and not (force and target.is_file() and not target.samefile(source)):
        other = f"Give another file: ecstfl recipes copy {name} FILE.yaml"
        if target.samefile(source):
            raise RecipeError(f"{target} is the recipe itself", other)
        raise RecipeError(f"{target} exists already", f"{other}, or replace it with --force.")
    text = recipe_text(source)
    if re.fullmatch(NAME_PATTERN, target.stem):
        text = re.sub(r"^name:.*$", f"name: {target.stem}", text, count=1, flags=re.MULTILINE)
    written = {target: text}
    schema = target.with_name(SCHEMA_FILE)
    if SCHEMA_FILE in text.partition("\n")[0] and not schema.exists():
        written[schema] = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    for path, content in written.items():
        write_atomically(path, content)
    return list(written)


def _folders() -> list[Path]:
    here, shipped = Path("recipes"), resources.shipped("recipes")
    return [here] if here.is_dir() and here.resolve() == shipped.resolve() else [here, shipped]


def _default(path: Sequence[str]) -> Any:
    value: Any = Recipe(name="defaults").model_dump()
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
