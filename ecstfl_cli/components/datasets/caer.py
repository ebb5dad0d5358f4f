"""CAER, clips of television shows, and CAER-S, frames of them, in seven expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ecstfl_cli.api import PreparedDataset, Reporter
from ecstfl_cli.components.datasets.class_folders import MODALITY, Kind, class_rows, samples_in, strays_note
from ecstfl_cli.components.datasets.reading import entries, first_existing, labelled_folders
from ecstfl_cli.components.label_maps import caer
from ecstfl_cli.errors import DataError


class CAERDataset:
    """`{train,validation,test}/<emotion>/*.avi`."""

    name = "caer"
    kind: Kind = "videos"
    splits: Mapping[str, str] = {"train": "train", "val": "validation", "test": "test"}
    title = "CAER (Lee et al., ICCV 2019)"
    # Numbered files and nothing else tell the release from other trees of class folders.
    files = re.compile(r"\d+\.(avi|mp4)", re.IGNORECASE)

    def recognise(self, root: Path) -> bool:
        """Whether every split has the seven classes, and numbered files in the first of them."""
        folders = [first_existing(root, name) for name in self.splits.values()]
        return all(folder is not None and self._has_classes(folder) for folder in folders)

    def _has_classes(self, folder: Path) -> bool:
        classes, _ = labelled_folders(folder, caer)
        files = entries(folder / classes[0][0])[1] if classes else []
        return len({label for _, label in classes}) == len(caer) and any(map(self.files.fullmatch, files))

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """All splits that there are. Raises DataError without a train folder, or where it has no samples."""
        found = {split: first_existing(root, name) for split, name in self.splits.items()}
        folders = {split: folder for split, folder in found.items() if folder}
        if "train" not in folders or not any(
            samples_in(folders["train"] / name, self.kind) for name, _ in labelled_folders(folders["train"], caer)[0]
        ):
            raise DataError(
                f"{root} has no {self.kind} in train/<emotion>/",
                f"Wanted: {', '.join(self.splits.values())} with them.",
            )
        rows = {split: class_rows(folder, root, caer, self.kind) for split, folder in folders.items()}
        strays_note([*folders.values()], caer, reporter)
        reporter.note("assumed, the layout being known from others' code: a folder's name is its emotion")
        return PreparedDataset(self.name, MODALITY[self.kind], rows, "caer", self.title)


class CAERSDataset(CAERDataset):
    """`{train,test}/<emotion>/0001.png`."""

    name = "caer_s"
    kind = "images"
    splits: Mapping[str, str] = {"train": "train", "test": "test"}
    title = "CAER-S (Lee et al., ICCV 2019)"
    files = re.compile(r"\d+\.(png|jpg)", re.IGNORECASE)
