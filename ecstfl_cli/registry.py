"""The one entry-point lookup: built-ins and plugins alike. Listing imports nothing, loading imports one target."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import PurePath
from typing import Any

from ecstfl_cli.errors import RegistryError, suggest

GROUPS = ("backbones", "datasets", "losses", "label_maps", "detectors", "exporters")
SINGULAR = {
    "backbones": "backbone",
    "datasets": "data set",
    "losses": "loss",
    "label_maps": "label map",
    "detectors": "detector",
    "exporters": "exporter",
}


@dataclass(frozen=True)
class Entry:
    """One declared component: where it comes from and what it points at; nothing is imported yet."""

    group: str
    name: str
    distribution: str
    version: str
    entry_point: EntryPoint

    @property
    def is_family(self) -> bool:
        """Whether the name is a prefix (`timm/`) that serves every `timm/NAME`."""
        return self.name.endswith("/")

    @property
    def owner(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.distribution} {self.version}"

    def serves(self, name: str) -> bool:
        """Whether `name` (without a distribution) is this component or a member of this family."""
        return name.startswith(self.name) and name != self.name if self.is_family else name == self.name


@dataclass(frozen=True)
class Fault:
    """An installed distribution that declares components in a way that cannot be read."""

    distribution: str
    version: str
    reason: str


def scan() -> tuple[list[Entry], list[Fault]]:
    """Every declared component, by group and name, and the declarations that make no sense."""
    entries: list[Entry] = []
    faults: list[Fault] = []
    seen: set[str] = set()
    for distribution in _declaring():
        name, version = _identity(distribution)
        # An editable install beside a checkout's metadata is one distribution listed twice; the first is imported.
        if normalised(name) in seen:
            continue
        seen.add(normalised(name))
        try:
            points = [p for p in distribution.entry_points if p.group.startswith("ecstfl.")]
        except Exception as error:
            faults.append(Fault(name, version, f"entry_points.txt cannot be read: {error}"))
            continue
        for point in points:
            group = point.group.removeprefix("ecstfl.")
            if group in GROUPS:
                entries.append(Entry(group, point.name, name, version, point))
            else:
                faults.append(Fault(name, version, f"{point.name!r} is in the unknown group {point.group!r}"))
    entries.sort(key=lambda e: (GROUPS.index(e.group), e.name, e.distribution))
    return entries, faults


def index(group: str) -> dict[str, list[Entry]]:
    """Every declared component of a group by name; two entries under one name are a clash."""
    require_group(group)
    found: dict[str, list[Entry]] = {}
    for entry in scan()[0]:
        if entry.group == group:
            found.setdefault(entry.name, []).append(entry)
    return found


def require_group(group: str) -> None:
    """Raises RegistryError, listing the groups, where there is no such group."""
    if group not in GROUPS:
        raise RegistryError(
            f"there is no component group {group!r}", f"{suggest(group, GROUPS)}Groups: {', '.join(GROUPS)}"
        )


def find(group: str, name: str) -> Entry:
    """The entry that `name` (`NAME`, `FAMILY/MEMBER` or `distribution:NAME`) means, without importing it.

    Raises RegistryError for an unknown name, with near matches, and for a name that two distributions claim.
    """
    entries = index(group)
    wanted, bare = split(name)
    claims = claimants(bare, [entry for same in entries.values() for entry in same])
    chosen = [e for e in claims if not wanted or normalised(e.distribution) == normalised(wanted)]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise RegistryError(
            f"{SINGULAR[group]} {bare!r} is declared by several distributions: {', '.join(e.owner for e in chosen)}",
            f"Write {' or '.join(f'{e.distribution}:{bare}' for e in chosen)}, or uninstall one of them.",
        )
    if claims:
        hint = f"{bare!r} is declared by {', '.join(e.owner for e in claims)}. "
    else:
        hint = f"{suggest(bare, _shown(entries))}Available: {', '.join(_shown(entries)) or 'none'}. "
    raise RegistryError(f"unknown {SINGULAR[group]} {name!r}", f"{hint}`ecstfl plugins` lists what is installed.")


def load(group: str, name: str) -> Any:
    """Import and return one component; for a member of a family, its factory with the member's name filled in.

    Raises RegistryError where it is unknown, ambiguous, or its import fails; other components are not touched.
    """
    entry = find(group, name)
    target = load_entry(entry)
    if entry.is_family:
        return functools.partial(target, split(name)[1].removeprefix(entry.name))
    return target


def load_entry(entry: Entry) -> Any:
    """Import and return what an entry points at. Raises RegistryError, from the cause, where the import fails."""
    try:
        return entry.entry_point.load()
    except (Exception, SystemExit) as error:
        remedy = f"Update or uninstall {entry.distribution}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            remedy = f"Install the package that provides {error.name!r}, or update {entry.distribution}"
        raise RegistryError(
            f"{SINGULAR[entry.group]} {entry.name!r} of {entry.owner} cannot be loaded: "
            f"{type(error).__name__}: {error}",
            f"It is declared as {entry.entry_point.value}. {remedy}; "
            "`ecstfl plugins --check` shows which components load.",
        ) from error


def claimants(name: str, entries: Iterable[Entry]) -> list[Entry]:
    """The entries that serve `name`: of each distribution the most specific, a full name before a family."""
    serving = [entry for entry in entries if entry.serves(name)]
    longest: dict[str, int] = {}
    for entry in serving:
        longest[entry.distribution] = max(len(entry.name), longest.get(entry.distribution, 0))
    return [entry for entry in serving if len(entry.name) == longest[entry.distribution]]


def split(name: str) -> tuple[str, str]:
    """`distribution:NAME` as (distribution, NAME); without a distribution the first is empty.

    A colon behind a slash belongs to the name, as in `timm/hf-hub:timm/resnet18`.
    """
    head, colon, tail = name.partition(":")
    return (head, tail) if colon and "/" not in head else ("", name)


def normalised(distribution: str) -> str:
    """A distribution's name as packaging compares it: `My_Plugin` and `my-plugin` are the same (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _declaring() -> Iterator[Distribution]:
    """The installed distributions that mention our groups.

    `importlib.metadata.entry_points` is not used: one malformed file of any installed package makes it fail.
    """
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt")
        except (OSError, UnicodeDecodeError):
            continue
        if text and "[ecstfl." in text:
            yield distribution


def _identity(distribution: Distribution) -> tuple[str, str]:
    """Name and version; where the metadata is missing, what the folder's name says."""
    folder = PurePath(str(getattr(distribution, "_path", "?"))).name
    name, _, version = re.sub(r"\.(dist|egg)-info$", "", folder).partition("-")
    try:
        return distribution.metadata["Name"] or name, distribution.metadata["Version"] or version or "?"
    except Exception:
        return name, version or "?"


def _shown(names: Iterable[str]) -> list[str]:
    return [f"{n}NAME" if n.endswith("/") else n for n in names]
