"""The state of declared components: what can be said without importing them, and what importing them says."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import importlib.util
import pkgutil
import symtable
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from pathlib import PurePath
from typing import Any

from ecstfl_cli import registry
from ecstfl_cli.errors import RegistryError
from ecstfl_cli.labels import LabelMap

METHODS = {"datasets": ("recognise", "prepare"), "exporters": ("export", "run")}
ATTRIBUTES = {"exporters": ("suffix",)}
# A module that uses one of these may bind names that its text does not show.
DYNAMIC = {"globals", "vars", "exec", "setattr"}


@dataclass(frozen=True)
class ComponentState:
    """One line of `ecstfl plugins`. `state` is `ok`, `broken` or `duplicate`, `reason` says why it is not `ok`.

    `group` and `name` are empty where a whole distribution's declarations cannot be read.
    """

    group: str
    name: str
    distribution: str
    version: str
    state: str
    reason: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain strings, for JSON."""
        return asdict(self)


def component_states(group: str | None = None, check: bool = False) -> list[ComponentState]:
    """Every declared component, or those of one group, with its state.

    Without `check` nothing is imported: the source is found and read. With it every component is loaded by itself.
    Raises RegistryError for an unknown group.
    """
    if group is not None:
        registry.require_group(group)
    entries, faults = registry.scan()
    problem = load_problem if check else _Sources().problem
    found = [ComponentState("", "", f.distribution, f.version, "broken", f.reason) for f in faults]
    for entry in entries:
        if group in (None, entry.group):
            state, reason = "ok", problem(entry)
            if reason:
                state = "broken"
            elif rivals := rival_distributions(entry, entries):
                state, reason = "duplicate", f"also in {', '.join(rivals)}"
            found.append(ComponentState(entry.group, entry.name, entry.distribution, entry.version, state, reason))
    return found


def rival_distributions(entry: registry.Entry, entries: Iterable[registry.Entry]) -> list[str]:
    """The distributions besides the entry's own that claim its name."""
    same_group = [e for e in entries if e.group == entry.group]
    if entry.is_family:
        claims = [e for e in same_group if e.name == entry.name]
    else:
        claims = registry.claimants(entry.name, same_group)
    return [e.distribution for e in claims if e is not entry]


def load_problem(entry: registry.Entry) -> str:
    """Load a component and say why it cannot be used, else an empty string. What it prints goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            target = registry.load_entry(entry)
    except RegistryError as error:
        cause = error.__cause__
        return f"{type(cause).__name__}: {cause}".strip().rstrip(":") + _place(cause)
    return contract_problem(entry.group, target)


def _place(error: BaseException | None) -> str:
    """` (FILE, line N)` where the error was raised by somebody's module and not by looking for it."""
    frames = traceback.extract_tb(error.__traceback__) if error else []
    raised = [f for f in frames if not f.filename.startswith("<frozen")]
    searching = {registry.__file__, importlib.__file__, importlib.metadata.__file__}
    if not raised or raised[-1].filename in searching:
        return ""
    return f" ({PurePath(raised[-1].filename).name}, line {raised[-1].lineno})"


def contract_problem(group: str, target: Any) -> str:
    """What keeps a loaded component from being one of its group; empty where nothing does."""
    kind = f"({type(target).__name__})"
    if group == "label_maps":
        return "" if isinstance(target, LabelMap) else f"is not an api.LabelMap {kind}"
    if group in METHODS:
        missing = [m for m in METHODS[group] if not callable(getattr(target, m, None))]
        absent = [f"no method {name}" for name in missing]
        if not isinstance(target, type):  # A class may give them to its objects.
            absent += [f"no {name}" for name in ATTRIBUTES.get(group, ()) if not hasattr(target, name)]
        return f"has {' and '.join(absent)} {kind}" if absent else ""
    return "" if callable(target) else f"is not callable {kind}"


# --- without importing ----------------------------------------------------------------------------------------------


class _BrokenError(Exception):
    """Importing a module would fail; the message says why."""


@dataclass(frozen=True)
class _Module:
    """What the source of a module shows: the names it binds, a package's folders; None where it cannot be told."""

    names: frozenset[str] | None
    folders: Sequence[str] | None


class _Sources:
    """Finds and reads each module once, however many components point into it."""

    def __init__(self) -> None:
        self._modules: dict[str, _Module] = {}

    def problem(self, entry: registry.Entry) -> str:
        """Why loading the entry would fail, as far as the source shows, else an empty string."""
        try:
            module, attribute = entry.entry_point.module, entry.entry_point.attr
        except (AttributeError, AssertionError):  # by version of Python
            return f"{entry.entry_point.value!r} is not written as module:object"
        try:
            names = self._module(module).names
        except _BrokenError as error:
            return str(error)
        name = (attribute or "").partition(".")[0]
        return f"{module} has no {name!r}" if name and names is not None and name not in names else ""

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            self._modules[name] = self._examine(name)
        return self._modules[name]

    def _examine(self, name: str) -> _Module:
        package = name.rpartition(".")[0]
        if package:
            # Importing a module imports its packages first, so theirs must be sound too.
            folders = self._module(package).folders
            spec = None if folders is None else _find_below(name, folders)
        else:
            spec = _find_top(name)
        if spec is None:
            return _Module(None, None)
        return _Module(_read(spec), list(spec.submodule_search_locations or ()))


def _find_top(name: str) -> ModuleSpec | None:
    """Where a top-level module is; None where it cannot be told. For such a name `find_spec` imports nothing."""
    try:
        spec = importlib.util.find_spec(name)
    except Exception:
        return None
    if spec is None:
        raise _BrokenError(f"there is no module {name!r}")
    return spec


def _find_below(name: str, folders: Sequence[str]) -> ModuleSpec:
    """Where a module of a package is. `find_spec` would import the package."""
    namespace = ModuleSpec(name, None, is_package=True)
    for folder in folders:
        finder = pkgutil.get_importer(folder)
        spec = finder.find_spec(name, None) if finder else None
        if spec and spec.loader:
            return spec
        namespace.submodule_search_locations += list((spec and spec.submodule_search_locations) or ())  # type: ignore[operator]
    if not namespace.submodule_search_locations:
        raise _BrokenError(f"there is no module {name!r}")
    return namespace


def _read(spec: ModuleSpec) -> frozenset[str] | None:
    """The names that a module's source binds, None where it cannot be told. Raises _BrokenError."""
    get_source = getattr(spec.loader, "get_source", None)
    where = PurePath(spec.origin or spec.name).name
    try:
        source = get_source(spec.name) if get_source else None
        if source is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            table = symtable.symtable(source, where, "exec")
    except SyntaxError as error:
        raise _BrokenError(f"SyntaxError: {error.msg} ({where}, line {error.lineno})") from None
    except (ImportError, ValueError) as error:
        raise _BrokenError(f"{where} cannot be read: {error}") from None
    _check_statements(tree, where, check_imports="sys.path" not in source)
    names = frozenset(s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported())
    return None if "__getattr__" in names or any(map(_is_dynamic, ast.walk(tree))) else names


def _check_statements(tree: ast.Module, where: str, check_imports: bool) -> None:
    """Raise _BrokenError for what surely fails: statements behind an `if` or in a `try` may never run."""
    for node in tree.body:
        if isinstance(node, ast.Raise):
            raise _BrokenError(f"raises {ast.unparse(node)[6:] or 'an error'} ({where}, line {node.lineno})")
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        for module in modules if check_imports else ():
            try:
                _find_top(module.partition(".")[0])
            except _BrokenError as error:
                raise _BrokenError(f"{error} ({where}, line {node.lineno})") from None


def _is_dynamic(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return any(alias.name == "*" for alias in node.names)
    return isinstance(node, ast.Global) or (isinstance(node, ast.Name) and node.id in DYNAMIC)
