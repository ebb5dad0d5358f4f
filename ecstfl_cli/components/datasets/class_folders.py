"""Folders named like classes: the layout of AFEW, SFEW, CAER, CAER-S, and of many a data set of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Literal

from ecstfl_cli.api import Modality, PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.path_files import map_with
from ecstfl_cli.components.datasets.reading import below, entries, first_existing, labelled_folders, require_choice
from ecstfl_cli.errors import DataError
from ecstfl_cli.labels import LabelMap, canonical, label_map_from
from ecstfl_cli.media.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES

Kind = Literal["images", "videos", "frames"]
MODALITY: dict[Kind, Modality] = {"images": "img", "videos": "video", "frames": "video"}
_SUFFIXES: dict[Kind, frozenset[str]] = {"images": IMAGE_SUFFIXES, "videos": VIDEO_SUFFIXES}
_SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}


class ClassFoldersDataset:
    """`{train,val,test}/<class>/`, or `<class>/` alone, with images, videos, or folders of frames in the classes.

    Asked after all others, and only recognised where every class folder is named by one registered label map; forced,
    it takes any names, in alphabetical order. `kind` is `images`, `videos` or `frames`; `auto` is what there is.
    """

    def __init__(self, *, kind: str = "auto") -> None:
        require_choice("kind", kind, ("auto", *MODALITY))
        self.kind = kind

    def recognise(self, root: Path) -> bool:
        """Whether there are two classes or more, all of one registered label map, and something in the first."""
        names = {canonical(name) for folder in _splits(root).values() for name in entries(folder)[0]}
        return len(names) > 1 and map_with(names) is not None and bool(_kinds(root))

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """All samples. Raises DataError where there are no class folders, or both stills and clips in them."""
        splits = _splits(root)
        names = {name for folder in splits.values() for name in entries(folder)[0]}
        if len({canonical(name) for name in names}) < 2:
            raise DataError(
                f"{root} has no two folders named like classes",
                "Wanted: train/happy/…, train/sad/… or just happy/…, sad/…",
            )
        label_map, registered = _label_map(names)
        kind = self._kind(root)
        rows = {split: class_rows(folder, root, label_map, kind) for split, folder in splits.items()}
        if list(splits.values()) == [root]:
            reporter.note("no folders of splits: all samples are in train; `finetune --val-split 0.1` holds some out")
        reporter.note(f"assumed: a folder's name is its class, {label_map.describe()}; its {kind} are the samples")
        name = root.resolve().name or "data"
        return PreparedDataset(name, MODALITY[kind], rows, registered or label_map.names, f"class folders of {root}")

    def _kind(self, root: Path) -> Kind:
        found = _kinds(root)
        for kind in MODALITY:
            if self.kind == kind or (self.kind == "auto" and found == [kind]):
                return kind
        kinds = " and ".join(found) or "neither images, videos nor folders of frames"
        raise DataError(
            f"the class folders of {root} hold {kinds}", f"Say which with --option kind={'|'.join(found or MODALITY)}."
        )


def class_rows(folder: Path, root: Path, label_map: LabelMap, kind: Kind) -> list[PathRow]:
    """The samples in the folders of `folder` that are named like classes, class by class in natural order."""
    return [
        PathRow(f"{below(folder, root)}/{name}/{sample}".removeprefix("./"), label)
        for name, label in labelled_folders(folder, label_map)[0]
        for sample in samples_in(folder / name, kind)
    ]


def samples_in(folder: Path, kind: Kind) -> list[str]:
    """Names of the images, videos, or folders of frames in a folder, in natural order."""
    folders, files = entries(folder)
    if kind == "frames":
        return folders
    return [name for name in files if PurePath(name).suffix.lower() in _SUFFIXES[kind]]


def strays_note(folders: Sequence[Path], label_map: LabelMap, reporter: Reporter) -> None:
    """Say which folders were left out because their names are no classes."""
    strays = [str(folder / name) for folder in folders for name in labelled_folders(folder, label_map)[1]]
    if strays:
        reporter.note(f"left out, not named like classes: {', '.join(strays[:5])}{' …' * (len(strays) > 5)}")


def _splits(root: Path) -> dict[str, Path]:
    found = {split: first_existing(root, *names) for split, names in _SPLITS.items()}
    return {split: folder for split, folder in found.items() if folder} or {"train": root}


def _kinds(root: Path) -> list[Kind]:
    """What the class folders hold; folders count where there is nothing else."""
    folders = [split / name for split in _splits(root).values() for name in entries(split)[0]]
    files: list[Kind] = [kind for kind in ("images", "videos") if any(samples_in(f, kind) for f in folders)]
    return files or [kind for kind in ("frames",) if any(samples_in(f, kind) for f in folders)]


def _label_map(names: set[str]) -> tuple[LabelMap, str | None]:
    """The registered map that has all the names, else one of just these, in alphabetical order."""
    registered = map_with({canonical(name) for name in names})
    if registered:
        return label_map_from(registered), registered
    return label_map_from(sorted({canonical(name) for name in names})), None
