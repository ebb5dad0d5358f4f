"""CK+: posed expressions in the laboratory, from neutral to the peak; 327 of 593 sequences are labelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.reading import (
    below,
    entries,
    first_existing,
    read_text,
    require_choice,
    required,
    settle,
    subject_folds,
)
from ecstfl_cli.components.label_maps import ckplus, ckplus7
from ecstfl_cli.errors import DataError
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.frames import frame_names
from ecstfl_cli.pathfile import Problem

_IMAGES = ("cohn-kanade-images", "extended-cohn-kanade-images/cohn-kanade-images")
_LABELS = ("Emotion", "Emotion_labels/Emotion")


class _Sequence(NamedTuple):
    folder: Path
    subject: str
    label: int


class CKPlusDataset:
    """`cohn-kanade-images/S005/001/*.png` with `Emotion/S005/001/*_emotion.txt`.

    `frames` is `apex`, the last frame of each labelled sequence, as stills, or `sequence`, all of them as a clip.
    Subjects are dealt to `folds`, in the order of their numbers. The label map has no neutral, which nothing is.
    """

    def __init__(self, *, frames: str = "apex", folds: int = 10) -> None:
        require_choice("frames", frames, ("apex", "sequence"))
        self.frames = frames
        self.folds = folds

    def recognise(self, root: Path) -> bool:
        """Whether images and labels are there."""
        return first_existing(root, *_IMAGES) is not None and first_existing(root, *_LABELS) is not None

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """Labelled sequences by subject. Raises DataError for labels that are wrong, or sequences without frames."""
        images = required(root, "images", *_IMAGES)
        problems: list[Problem] = []
        found = list(_labelled(required(root, "labels", *_LABELS), images, problems))
        # Who has made neutral sequences of it needs the map with neutral.
        label_map = ckplus if any(ckplus.names[s.label] == "neutral" for s in found) else ckplus7
        rows = [self._row(sequence, root, label_map, problems) for sequence in found]
        settle(problems, root)
        if not rows:
            raise DataError(f"{root} holds no labelled sequence", "Wanted: Emotion/S005/001/*_emotion.txt")
        every = sum(len(entries(images / subject)[0]) for subject in entries(images)[0])
        reporter.note(f"{len(rows)} of {every} sequences are labelled")
        reporter.note("assumed, the layout being known from others' code: the peak is a sequence's last frame")
        splits = subject_folds([row for row in rows if row], self.folds)
        source = f"CK+, {self.frames} (Lucey et al., CVPR workshops 2010)"
        if self.frames == "apex":
            return PreparedDataset("ckplus", "img", splits, label_map.name, source)
        return PreparedDataset("ckplus_sequence", "video", splits, label_map.name, source)

    def _row(self, sequence: _Sequence, root: Path, label_map: LabelMap, problems: list[Problem]) -> PathRow | None:
        label = label_map.index(ckplus.names[sequence.label])
        path = below(sequence.folder, root)
        try:
            names = frame_names(sequence.folder)
        except OSError as error:
            names = []
            problems.append(Problem(sequence.folder, 0, "", f"labelled, but cannot be read: {error.strerror}"))
        if self.frames == "sequence":
            return PathRow(path, label, len(names), subject=sequence.subject)
        if not names:
            return None
        return PathRow(f"{path}/{names[-1]}", label, subject=sequence.subject)


def _labelled(labels: Path, images: Path, problems: list[Problem]) -> Iterator[_Sequence]:
    for subject in entries(labels)[0]:
        for sequence in entries(labels / subject)[0]:
            files = [name for name in entries(labels / subject / sequence)[1] if name.endswith("_emotion.txt")]
            if not files:
                continue
            path = labels / subject / sequence / files[0]
            text = read_text(path).strip()
            # Written as `   3.0000000e+00`.
            try:
                label = float(text)
            except ValueError:
                label = -1.0
            if label in range(len(ckplus)):
                yield _Sequence(images / subject / sequence, subject, int(label))
            else:
                problems.append(Problem(path, 1, "", f"emotion {text!r} is not 0 to {len(ckplus) - 1}"))
