"""YAML as recipes use it: plain values by YAML 1.2's rules, each with the line it stands on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from ecstfl_cli.errors import RecipeError

KeyPath = tuple[str, ...]

NULL, BOOL, INT, FLOAT, STR = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str"))
PLAIN_SCALARS = {
    NULL: (r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    BOOL: (r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    INT: (r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    # YAML 1.1 reads 1e-4 as text: it wants a dot and a signed exponent.
    FLOAT: (
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without YAML 1.1's surprises: `on`, `no`, `1:30` and `010` are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 PyYAML's own class attribute, emptied

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="references (*name) are not used in recipes", problem_mark=mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would not read as text; short lists stay on one line."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 PyYAML's signature
        return True


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    short = not any(isinstance(v, (dict, list)) for v in values) and sum(len(str(v)) + 2 for v in values) < 100
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=short)


for _tag, (_pattern, _first) in PLAIN_SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)
_Dumper.add_representer(list, _represent_list)


@dataclass
class Parsed:
    """A document's values, the line (from 1) of every key path, and what is wrong with its keys, as (path, what)."""

    values: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[KeyPath, str]] = field(default_factory=list)


def parse(text: str, source: str) -> Parsed:
    """Read one YAML document. Raises RecipeError with line and column where it is not YAML."""
    parsed = Parsed(None)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            parsed.values = _plain(loader, node, (), parsed)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        reason = ", ".join(part for part in (error.problem, error.context) if part)
        raise RecipeError(f"{source}{place}: not valid YAML: {reason}", _syntax_hint(reason)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{source}:{line}: not valid YAML: {error.reason}", "Save the file as UTF-8 text.") from error
    return parsed


def format_yaml(values: Any) -> str:
    """Block YAML in the order of `values`; `parse` gives the same values back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _plain(loader: _Loader, node: yaml.Node, path: KeyPath, parsed: Parsed) -> Any:
    parsed.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode) and node.tag == loader.DEFAULT_MAPPING_TAG:
        return _mapping(loader, node, path, parsed)
    if isinstance(node, yaml.SequenceNode) and node.tag == loader.DEFAULT_SEQUENCE_TAG:
        return [_plain(loader, child, (*path, str(i)), parsed) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.tag in {*PLAIN_SCALARS, STR}:
        try:
            return loader.construct_object(node)
        except (ValueError, KeyError):
            parsed.problems.append((path, f"{node.value!r} is not a {node.tag.rpartition(':')[2]}"))
            return None
    parsed.problems.append((path, f"the tag {node.tag} is not used in recipes: write plain values"))
    return None


def _mapping(loader: _Loader, node: yaml.MappingNode, path: KeyPath, parsed: Parsed) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag != STR:
            written = getattr(key_node, "value", "")
            shown = written if isinstance(written, str) and written else "a key"
            below = (*path, shown)
            parsed.lines.setdefault(below, line)
            parsed.problems.append((below, "a key must be a word; put other values in quotes"))
            continue
        below = (*path, key_node.value)
        if key_node.value in values:
            parsed.problems.append((below, f"given twice, on lines {parsed.lines[below]} and {line}"))
            continue
        parsed.lines[below] = line
        values[key_node.value] = _plain(loader, value_node, below, parsed)
    return values


def _syntax_hint(reason: str) -> str:
    if r"'\t'" in reason:
        return "YAML is indented with spaces, never with tabs."
    return "A recipe is plain YAML: `key: value`, sections indented by two spaces, text with ':' or '#' in quotes."
