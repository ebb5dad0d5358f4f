"""What is wrong with a recipe's values, in the reader's words: key path, what is allowed, what was probably meant."""

from __future__ import annotations

import copy
import functools
import re
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ecstfl_cli import registry
from ecstfl_cli.errors import EcstflError, suggest
from ecstfl_cli.labels import DROP_HINT, LabelMap, label_map_from, remap
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_data import BRANCHES, PathFileSection, Problem, Section

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ELSEWHERE = {
    "gamma": ["losses.ec_stfl.weight"],
    "learning_rate": ["optimizer.lr"],
    "wd": ["optimizer.weight_decay"],
    "scheduler_stepsize": ["schedule.step_size"],
}
KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
}
BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def validated(values: Mapping[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """The recipe that `values` describe, or everything that is wrong with them, contradictions of keys included."""
    try:
        return Recipe.model_validate(values), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = [problem for detail in details for problem in _described(detail)]
    if not any(detail["type"] == "inconsistent" for detail in details):
        problems += _contradictions_among_the_rest(values, details)
    return None, problems


def component_problems(values: Mapping[str, Any]) -> list[Problem]:
    """Names of components that no installed distribution declares, and label maps that cannot be joined."""
    problems: list[Problem] = []
    model, losses, data = (values.get(key) or {} for key in ("model", "losses", "data"))
    named: list[tuple[str, tuple[str, ...], Any]] = []
    if isinstance(model, Mapping):
        named.append(("backbones", ("model", "backbone"), model.get("backbone")))
    if isinstance(losses, Mapping):
        named += [("losses", ("losses", name), name) for name in losses]
    for group, path, name in named:
        if isinstance(name, str):
            try:
                registry.find(group, name)
            except EcstflError as error:
                problems.append((path, f"{error.message}. {error.hint}"))
    of_model = values.get("label_map", Recipe.model_fields["label_map"].default)
    return problems + _label_map_problems(of_model, data if isinstance(data, Mapping) else {})


def _label_map_problems(of_model: Any, data: Mapping[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    maps: dict[tuple[str, ...], LabelMap] = {}
    named = {("label_map",): of_model, ("data", "label_map"): data.get("label_map"), **_entry_maps(data)}
    for path, value in named.items():
        if isinstance(value, (str, list)) and all(isinstance(name, str) for name in value):
            try:
                maps[path] = label_map_from(value)
            except EcstflError as error:
                problems.append((path, f"{error.message}. {error.hint}".rstrip(". ") + "."))
    model = maps.pop(("label_map",), None)
    if model is not None and data.get("drop_classes") is not True:
        for path, own in maps.items():
            try:
                remap(own, model)
            except EcstflError as error:
                problems.append((path, f"{error.message}\n  {error.hint} {DROP_HINT}"))
    return problems


def _entry_maps(data: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Label maps of single path files, by their key path."""
    found: dict[tuple[str, ...], Any] = {}

    def visit(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, list):
            for i, item in enumerate(value):
                visit(item, (*path, str(i)))
        elif isinstance(value, Mapping) and "file" in value:
            found[(*path, "label_map")] = value.get("label_map")
        elif isinstance(value, Mapping):
            for key, item in value.items():
                visit(item, (*path, str(key)))

    for split in ("train", "val", "test"):
        visit(data.get(split), ("data", split))
    return found


def _contradictions_among_the_rest(values: Mapping[str, Any], details: list[ErrorDetails]) -> list[Problem]:
    """Contradictions between the keys that are right by themselves; pydantic looks for them only when all are."""
    rest: dict[str, Any] = copy.deepcopy(dict(values))
    wrong = [_key_path(detail) for detail in details]
    for path in wrong:
        node: Any = rest
        for key in path[:-1]:
            if not isinstance(node.get(key), dict):
                node.pop(key, None)
                break
            node = node[key]
        else:
            node.pop(path[-1], None)
    rest.setdefault("name", "unnamed")
    try:
        Recipe.model_validate(rest)
    except ValidationError as error:
        found = [p for detail in error.errors(include_url=False) for p in _described(detail)]
        return [(path, what) for path, what in found if not any(w[: len(path)] == path for w in wrong)]
    return []


def _described(detail: ErrorDetails) -> list[Problem]:
    if detail["type"] == "inconsistent":
        return list(detail["ctx"]["problems"])
    path = _key_path(detail)
    if detail["type"] == "extra_forbidden":
        return [(path, _unknown_key(path))]
    return [(path, _wrong_value(detail))]


def _key_path(detail: ErrorDetails) -> tuple[str, ...]:
    return tuple(str(key) for key in detail["loc"] if key not in BRANCHES)


def _unknown_key(path: tuple[str, ...]) -> str:
    key, section = path[-1], path[:-1]
    if section[:1] == ("data",) and len(section) > 2:
        known = list(PathFileSection.model_fields)
        return f"unknown key. {suggest(key, known)}Keys of a path file: {', '.join(known)}"
    known = _keys_of(section)
    holders = [s for s, keys in _keys().items() if key in keys]
    moved = ELSEWHERE.get(key) or [".".join((*s, key)).replace("*", "NAME") for s in holders]
    near = suggest(key, known)
    if near:
        return f"unknown key. {near}".rstrip()
    if moved:
        return "unknown key here. Did you mean " + " or ".join(repr(m) for m in moved) + "?"
    where = f"in {'.'.join(section)}" if section else "at the top"
    return f"unknown key. Keys {where}: {', '.join(known)}"


def _wrong_value(detail: ErrorDetails) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        return "is missing"
    if kind in KINDS:
        return f"must be {KINDS[kind]}, {_but(value)}"
    if kind in BOUNDS:
        word, key = BOUNDS[kind]
        return f"must be {word} {context[key]:g}, {_but(value)}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        near = suggest(value, allowed) if isinstance(value, str) else ""
        return f"must be one of {', '.join(allowed)}, {_but(value)}. {near}".rstrip()
    if kind in ("too_short", "too_long"):
        word, key = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        return f"must have {word} {context[key]} values, not {context['actual_length']}"
    if kind == "string_pattern_mismatch":
        return f"must be of letters, digits, '.', '_' and '-' and start with a letter or digit, {_but(value)}"
    return f"{detail['msg']}, {_but(value)}"


def _but(value: Any) -> str:
    """`not 5`; names the kind where the bare value would mislead, e.g. a number in quotes."""
    if value is None:
        return "but nothing is given"
    if isinstance(value, bool):
        return f"not {str(value).lower()}"
    if isinstance(value, Mapping):
        return "not a section of keys"
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:59] + "…"
    kind = "the text " if isinstance(value, str) else "the list " if isinstance(value, list) else ""
    return f"not {kind}{shown}"


@functools.cache
def _keys() -> dict[tuple[str, ...], list[str]]:
    """The keys of every section of the schema, by its path; `*` stands for a name that the recipe chooses."""
    found: dict[tuple[str, ...], list[str]] = {}

    def visit(section: type[Section], path: tuple[str, ...]) -> None:
        found[path] = list(section.model_fields)
        for key, declared in section.model_fields.items():
            inner = declared.annotation
            if typing.get_origin(inner) is dict and isinstance(typing.get_args(inner)[1], type):
                inner, below = typing.get_args(inner)[1], (*path, key, "*")
            else:
                below = (*path, key)
            if isinstance(inner, type) and issubclass(inner, Section):
                visit(inner, below)

    visit(Recipe, ())
    return found


def _keys_of(section: tuple[str, ...]) -> list[str]:
    keys = _keys()
    return keys.get(section) or keys.get((*section[:-1], "*"), [])
