"""The one entry-point lookup: built-ins and plugins alike. Listing imports nothing, loading imports one target."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
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


def index(group: str) -> dict[str, list[Entry]]:
    """Every declared component of a group by name; two entries under one name are a clash."""
    if group not in GROUPS:
        raise RegistryError(f"there is no component group {group!r}", f"Groups: {', '.join(GROUPS)}")
    found: dict[str, dict[tuple[str, str], Entry]] = {}
    for point in entry_points(group=f"ecstfl.{group}"):
        distribution = point.dist.name if point.dist else "?"
        version = point.dist.version if point.dist else "?"
        entry = Entry(group, point.name, distribution, version, point)
        # An editable install beside a checkout's metadata lists the same distribution twice: it is one component.
        found.setdefault(point.name, {}).setdefault((distribution, point.value), entry)
    return {name: list(entries.values()) for name, entries in sorted(found.items())}


def find(group: str, name: str) -> Entry:
    """The entry that `name` (`NAME`, `FAMILY/MEMBER` or `distribution:NAME`) means, without importing it.

    Raises RegistryError for an unknown name, with near matches, and for a name that two distributions claim.
    """
    entries = index(group)
    distribution, _, bare = name.rpartition(":")
    prefixes = [n for n in entries if n.endswith("/") and bare.startswith(n) and bare != n]
    key = bare if bare in entries and not bare.endswith("/") else max(prefixes, key=len, default="")
    candidates = [e for e in entries.get(key, []) if not distribution or e.distribution == distribution]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        owners = ", ".join(f"{e.distribution} {e.version}" for e in candidates)
        picks = " or ".join(f"{e.distribution}:{bare}" for e in candidates)
        raise RegistryError(
            f"{SINGULAR[group]} {bare!r} is declared by several distributions: {owners}",
            f"Write {picks}, or uninstall one of them.",
        )
    raise RegistryError(
        f"unknown {SINGULAR[group]} {name!r}",
        f"{suggest(bare, entries)}Available: {', '.join(_shown(entries)) or 'none'}. "
        "`ecstfl plugins` lists every component.",
    )


def load(group: str, name: str) -> Any:
    """Import and return one component; for a member of a family, its factory with the member's name filled in.

    Raises RegistryError where it is unknown, ambiguous, or its import fails; other components are not touched.
    """
    entry = find(group, name)
    try:
        target = entry.entry_point.load()
    except Exception as error:
        raise RegistryError(
            f"{SINGULAR[group]} {name!r} of {entry.distribution} {entry.version} cannot be loaded: "
            f"{type(error).__name__}: {error}",
            f"It is declared as {entry.entry_point.value}. Update or uninstall {entry.distribution}; "
            "`ecstfl plugins --check` shows which components load.",
        ) from error
    if entry.is_family:
        member = name.rpartition(":")[2].removeprefix(entry.name)
        return functools.partial(target, member)
    return target


def _shown(names: Iterable[str]) -> list[str]:
    return [f"{n}NAME" if n.endswith("/") else n for n in names]
