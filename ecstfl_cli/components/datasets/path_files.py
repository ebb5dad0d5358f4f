"""Any folder that holds its own path files: `train`, `val` and `test` lists beside the data."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from ecstfl_cli import extra_columns, pathfile, registry
from ecstfl_cli.api import PreparedDataset, Reporter
from ecstfl_cli.errors import DataError, LabelMapError, RegistryError
from ecstfl_cli.labels import LabelMap, canonical, label_map_from
from ecstfl_cli.pathfile import UNKNOWN

_LIST = re.compile(r"(?:.*_)?(train|val|validation|test)\.(?:csv|txt)", re.IGNORECASE)
# The usual seven and eight classes; maps of single data sets would fit as well, and mean nothing.
_USUAL_MAPS = ("dfew", "affectnet8")


class PathFilesDataset:
    """`train|val|test.csv|txt`, or names that end so (`Imgs_train.csv`), in the root, with paths relative to it.

    The data set is named like its folder. Bare indices do not say whose they are: they are those of `label_map`, and
    without one it has none. Class names are joined to a registered map that has them all: `dfew`, `affectnet8`, then
    shorter ones before longer ones.
    """

    def __init__(self, label_map: str = "") -> None:
        self._label_map = label_map

    def recognise(self, root: Path) -> bool:
        """Whether the root holds such lists."""
        return bool(_lists(root))

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:  # noqa: ARG002
        """Read the lists. Raises DataError where there are none, two for one split, both kinds, or wrong rows."""
        lists = _lists(root)
        if not lists:
            raise DataError(
                f"{root} holds no path files",
                "Wanted: train, val or test, or names that end in _train, _val or _test; .csv or .txt.",
            )
        by_split = {split: [path for path in lists if _split(path) == split] for split in map(_split, lists)}
        kinds = {path.suffix.lower() for path in lists}
        if len(kinds) > 1 or any(len(paths) > 1 for paths in by_split.values()):
            raise DataError(
                f"{root} holds several lists of one split: {', '.join(path.name for path in lists)}",
                "Name the ones that belong together: `ecstfl prepare --data-root DIR FILES`.",
            )
        name = _map_name(lists) or self._label_map or None
        label_map = label_map_from(name) if name else None
        splits = {
            split: extra_columns.read_rows(paths[0], root, label_map, require_labels=False)
            for split, paths in by_split.items()
        }
        modality = pathfile.modality_of(lists[0])
        return PreparedDataset(root.resolve().name or "data", modality, splits, name, source=str(root))


def _lists(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if _LIST.fullmatch(path.name)) if root.is_dir() else []


def _split(path: Path) -> str:
    match = _LIST.fullmatch(path.name)
    split = match.group(1).lower() if match else path.stem
    return "val" if split == "validation" else split


def _map_name(lists: Collection[Path]) -> str | None:
    """The map for lists with class names; None for lists of indices. Raises DataError where no map has all names."""
    labels = {field.label for path in lists for field in pathfile.read_table(path).fields} - {"", UNKNOWN}
    names = {label for label in labels if not label.lstrip("+-").isdigit()}
    if not names:
        return None
    shown = ", ".join(str(path) for path in lists)
    if names != labels:
        raise DataError(
            f"the labels in {shown} are partly class names and partly indices",
            "Use one or the other in all lists of a data set.",
        )
    found = map_with(names)
    if found is None:
        raise DataError(
            f"no registered label map has all classes of {shown}: {', '.join(sorted(names))}",
            "A plugin can add one in the group ecstfl.label_maps; `ecstfl plugins` lists those there are.",
        )
    return found


def map_with(names: Collection[str]) -> str | None:
    """Registered name of a label map that has all these class names; the usual ones first, then the shortest."""
    maps = {}
    for registered in registry.index("label_maps"):
        try:
            maps[registered] = label_map_from(registered)
        except RegistryError:
            continue  # a broken plugin is shown by `ecstfl plugins` and must not stand in the way here
    others = sorted(maps.keys() - set(_USUAL_MAPS), key=lambda key: (len(maps[key]), key))
    return next((key for key in [*_USUAL_MAPS, *others] if key in maps and _holds(maps[key], names)), None)


def _holds(label_map: LabelMap, names: Collection[str]) -> bool:
    """Whether every name is a class, and no two names are the same class to this map."""
    try:
        found = {label_map.index(name) for name in names}
    except LabelMapError:
        return False
    return len(found) == len({canonical(name) for name in names})
