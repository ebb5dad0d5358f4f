"""CREMA-D and RAVDESS: actors speak a few sentences in given emotions; everything is in the files' names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePath

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.reading import below, entries, first_existing, require_choice, subject_folds
from ecstfl_cli.components.label_maps import cremad
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.frames import VIDEO_SUFFIXES

_DEPTH = 2


class CREMADDataset:
    """`VideoFlash/1001_IEO_HAP_LO.flv`: actor, sentence, emotion, level; also with `.mp4` or other videos.

    Actors are dealt to `folds`, in the order of their numbers, so that none is in train and test of a fold.
    """

    _name = re.compile(r"(\d{4})_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)", re.IGNORECASE)

    def __init__(self, *, folds: int = 5) -> None:
        self.folds = folds

    def recognise(self, root: Path) -> bool:
        """Whether `VideoFlash`, or the root, holds a video so named."""
        return any(self._name.fullmatch(PurePath(path).stem) for path in self._videos(root))

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """All videos by actor. Raises DataError where there are none, or too few actors for the folds."""
        rows = []
        for path in self._videos(root):
            if match := self._name.fullmatch(PurePath(path).stem):
                rows.append(PathRow(path, cremad.index(match.group(2)), subject=match.group(1)))
        splits = _folds(rows, root, "1001_IEO_HAP_LO.flv in VideoFlash/", self.folds)
        reporter.note(f"{len(rows)} videos of {len({row.subject for row in rows})} actors")
        return PreparedDataset("cremad", "video", splits, "cremad", "CREMA-D (Cao et al., IEEE TAC 2014)")

    def _videos(self, root: Path) -> list[str]:
        folder = first_existing(root, "VideoFlash", "CREMA-D/VideoFlash") or root
        return _in(folder, root, entries(folder)[1])


class RAVDESSDataset:
    """`Actor_05/02-01-06-01-02-01-05.mp4`: modality, channel, emotion, intensity, statement, repetition, actor.

    A performance lies there with sound (modality 01) and without (02); where both are, the one without is taken.
    `channel` is `speech`, `song` or `both`. Actors are dealt to `folds`, in the order of their numbers.
    """

    _name = re.compile(r"(0[12])-(0[12])-(0[1-8])-\d\d-\d\d-\d\d-(\d\d)")

    def __init__(self, *, channel: str = "speech", folds: int = 6) -> None:
        require_choice("channel", channel, ("speech", "song", "both"))
        self.channel = channel
        self.folds = folds

    def recognise(self, root: Path) -> bool:
        """Whether an actor's folder holds a video so named."""
        return any(self._name.fullmatch(PurePath(path).stem) for path in _of_actors(root))

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """All performances by actor. Raises DataError where there are none, or too few actors for the folds."""
        performances: dict[str, PathRow] = {}
        for path in sorted(_of_actors(root), key=lambda path: PurePath(path).name):
            match = self._name.fullmatch(PurePath(path).stem)
            if match and self.channel in ("both", {"01": "speech", "02": "song"}[match.group(2)]):
                # Sorted by name, modality 02 comes after 01 and takes its place.
                row = PathRow(path, int(match.group(3)) - 1, subject=match.group(4))
                performances[PurePath(path).stem.partition("-")[2]] = row
        rows = sorted(performances.values(), key=lambda row: (row.subject or "", PurePath(row.path).name))
        splits = _folds(rows, root, f"02-01-06-01-02-01-05.mp4 ({self.channel}) in Actor_05/", self.folds)
        reporter.note(f"{len(rows)} videos of {len({row.subject for row in rows})} actors")
        name = "ravdess" if self.channel == "speech" else f"ravdess_{self.channel}"
        source = f"RAVDESS, {self.channel} (Livingstone and Russo, PLOS ONE 2018)"
        return PreparedDataset(name, "video", splits, "ravdess", source)


def _of_actors(root: Path) -> Iterator[str]:
    """Videos in folders `Actor_NN` of the root or of folders up to two levels below it."""
    level = [root]
    for _ in range(_DEPTH + 1):
        folders = [folder / name for folder in level for name in entries(folder)[0]]
        actors = [folder for folder in folders if re.fullmatch(r"actor_\d\d", folder.name, re.IGNORECASE)]
        for actor in actors:
            yield from _in(actor, root, entries(actor)[1])
        level = [folder for folder in folders if folder not in actors]


def _in(folder: Path, root: Path, files: list[str]) -> list[str]:
    prefix = "" if folder == root else f"{below(folder, root)}/"
    return [f"{prefix}{name}" for name in files if PurePath(name).suffix.lower() in VIDEO_SUFFIXES]


def _folds(rows: list[PathRow], root: Path, wanted: str, folds: int) -> dict[str, list[PathRow]]:
    if not rows:
        raise DataError(f"{root} holds no videos named as published", f"Wanted: {wanted}")
    return subject_folds(rows, folds)
