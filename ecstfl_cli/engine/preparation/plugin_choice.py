"""Which data set plugin reads a folder: the one that is named, or the one that recognises it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecstfl_cli import registry
from ecstfl_cli.api import DatasetPlugin
from ecstfl_cli.components.datasets import FALLBACKS
from ecstfl_cli.engine.component_state import contract_problem
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, EcstflError, suggest
from ecstfl_cli.labels import INDEX

_CHILDREN = 20


def choose(
    root: Path, wanted: str | None, options: Mapping[str, Any], label_map: str | None, reporter: Reporter
) -> tuple[str, DatasetPlugin]:
    """A plugin with its `options`, and its registered name; one with an option `label_map` is given that, too.

    Raises DataError where nothing or more than one fits, or the plugin does not take the options.
    """
    if wanted:
        return wanted, _instance(wanted, options, label_map)
    if not root.is_dir():
        unpack = "Unpack it first, and give the folder" if root.is_file() else "Give the folder"
        raise DataError(
            f"the data root {root} is not a folder", f"{unpack} that holds the data set, or --dataset NAME."
        )
    names = list(registry.index("datasets"))
    specific = [name for name in names if name not in FALLBACKS]
    for asked in (specific, *([name] for name in FALLBACKS if name in names)):
        fits = _that_recognise(root, asked, reporter)
        if len(fits) > 1:
            raise DataError(f"{root} fits several data sets: {', '.join(fits)}", "Choose one with --dataset NAME.")
        if fits:
            return fits[0], _instance(fits[0], options, label_map)
    raise DataError(
        f"no data set is recognised in {root}; asked: {', '.join([*specific, *FALLBACKS])}",
        f"{_further_down(root, specific)}It may also hold its own path files, train, val and test, .csv or .txt; or "
        "give path files from elsewhere: "
        "`ecstfl prepare --data-root DIR FILES`. --dataset NAME asks one data set what it misses.",
    )


def _that_recognise(root: Path, names: Sequence[str], reporter: Reporter) -> list[str]:
    fits = []
    for name in names:
        try:
            if _instance(name, {}).recognise(root):
                fits.append(name)
        except Exception as error:  # one broken plugin must not keep the others from being asked
            reason = error.message if isinstance(error, EcstflError) else f"{type(error).__name__}: {error}"
            reporter.warn(f"data set {name!r} was not asked: {reason}")
    return fits


def parse_options(settings: Sequence[str]) -> dict[str, int | str]:
    """Options as the command line has them, `key=value`; whole numbers become such. Raises DataError."""
    options: dict[str, int | str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not key or not equals:
            raise DataError(f"{setting!r} is not of the form key=value", "Write for example --option classes=8.")
        options[key.strip()] = int(text) if INDEX.fullmatch(text) else text
    return options


def _further_down(root: Path, names: Sequence[str]) -> str:
    """A hint where a folder just below the root is a data set."""
    children = sorted(path for path in root.iterdir() if path.is_dir())[:_CHILDREN]
    for child in children:
        if found := _that_recognise(child, names, Reporter()):
            return f"{child} is recognised as {' or '.join(found)}: give that as --data-root. "
    return ""


def _instance(name: str, options: Mapping[str, Any], label_map: str | None = None) -> DatasetPlugin:
    target = registry.load("datasets", name)
    if problem := contract_problem("datasets", target):
        raise DataError(f"data set {name!r} {problem}", "See api.DatasetPlugin and docs/plugins.md.")
    known = options_of(target) if isinstance(target, type) else {}
    takes = f"Its options and defaults: {', '.join(f'{k}={v}' for k, v in known.items()) or 'none'}."
    for key, value in options.items():
        if key not in known:
            raise DataError(f"data set {name!r} has no option {key!r}", f"{suggest(key, known)}{takes}")
        if not isinstance(value, type(known[key])):
            kind = "a whole number" if isinstance(known[key], int) else "a word"
            raise DataError(f"option {key!r} of data set {name!r} takes {kind}, not {value!r}", takes)
    if label_map and "label_map" in known:
        options = {"label_map": label_map, **options}
    return target(**options) if isinstance(target, type) else target


def options_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of a class's keyword arguments."""
    parameters = inspect.signature(target).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default for p in parameters if p.kind in named}
