"""FER2013, stills of 48x48 grey pixels in a table, and FERPlus, ten votes for each of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.reading import first_existing, read_table, require_choice, required, settle
from ecstfl_cli.components.label_maps import fer2013
from ecstfl_cli.errors import DataError
from ecstfl_cli.pathfile import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 48
SPLITS = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
IMAGES = "fer2013_images"
_TABLES = ("fer2013.csv", "fer2013/fer2013.csv", "icml_face_data.csv")
_VOTES = ("fer2013new.csv", "FERPlus/fer2013new.csv")
_VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
_UNKNOWN = _VOTE_COLUMNS.index("unknown")


class Face(NamedTuple):
    """One row of `fer2013.csv`: its line, label, split, and pixels (48, 48) uint8."""

    line: int
    label: int
    usage: str
    pixels: NDArray[np.uint8]


class FER2013Dataset:
    """`fer2013.csv`: emotion, pixels, Usage. Training is train, PublicTest val, PrivateTest test."""

    def recognise(self, root: Path) -> bool:
        """Whether the table is there, and FERPlus's votes are not."""
        return first_existing(root, *_TABLES) is not None and first_existing(root, *_VOTES) is None

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """All rows; the pixels become image files. Raises DataError for a table that is wrong."""
        faces = read_faces(required(root, "table", *_TABLES), root, reporter)
        splits: dict[str, list[PathRow]] = {split: [] for split in SPLITS.values()}
        for i, face in enumerate(faces):
            splits[SPLITS[face.usage]].append(PathRow(image_name(i), face.label))
        source = "FER2013 (Goodfellow et al., ICML workshops 2013)"
        return PreparedDataset("fer2013", "img", splits, "fer2013", source, images_of(faces))


class FERPlusDataset:
    """`fer2013new.csv`, the votes, with `fer2013.csv` beside it, the pixels; their rows are in the same order.

    `rule` is `majority`: votes of one person are ignored, and the winner needs more than half of what remains; or
    `argmax`: most votes win. Either way images whose winner is unknown or no face are left out. The votes for the
    eight classes, by the rule counted, are the soft labels.
    """

    def __init__(self, *, rule: str = "majority") -> None:
        require_choice("rule", rule, ("majority", "argmax"))
        self.rule = rule

    def recognise(self, root: Path) -> bool:
        """Whether the votes are there."""
        return first_existing(root, *_VOTES) is not None

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """Rows with a winner. Raises DataError where a table is missing or wrong, or the two do not go together."""
        path = required(root, "votes", *_VOTES)
        table = first_existing(path.parent, *_TABLES) or first_existing(root, *_TABLES)
        if table is None:
            raise DataError(
                f"{root} holds the votes of FERPlus, and no pixels: fer2013.csv is missing",
                "FERPlus labels the images of FER2013: put its fer2013.csv beside fer2013new.csv.",
            )
        faces = read_faces(table, root, reporter)
        usages, votes = _read_votes(path, root)
        if [face.usage for face in faces] != usages:
            raise DataError(
                f"{path} and {table} do not go together: {len(usages)} and {len(faces)} rows, or in another order",
                "Both must be as published: row N of the one is row N of the other.",
            )
        labels, counted = winners(votes, self.rule)
        splits: dict[str, list[PathRow]] = {split: [] for split in SPLITS.values()}
        for i, (face, label) in enumerate(zip(faces, labels.tolist(), strict=True)):
            if label >= 0:
                row = PathRow(image_name(i), label, soft_label=counted[i].tolist())
                splits[SPLITS[face.usage]].append(row)
        reporter.note(f"{self.rule} rule: {(labels < 0).sum()} of {len(labels)} images have no winner and are left out")
        name = "ferplus" if self.rule == "majority" else f"ferplus_{self.rule}"
        source = f"FERPlus, {self.rule} rule (Barsoum et al., ICMI 2016)"
        return PreparedDataset(name, "img", splits, "ferplus", source, images_of(faces))


def image_name(row: int) -> str:
    """The image file of a row of `fer2013.csv`, counted from 0, named as FERPlus does."""
    return f"{IMAGES}/fer{row:07d}.png"


def images_of(faces: list[Face]) -> dict[str, NDArray[np.uint8]]:
    """The pixels of all rows by image file; the same for FER2013 and FERPlus, which may share the folder."""
    return {image_name(i): face.pixels for i, face in enumerate(faces)}


def winners(votes: NDArray[np.int64], rule: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels (N,), -1 without one, and the votes (N, 8) that the rule counts, of all votes (N, 10).

    The majority rule is that of the release's own code: votes of one person become 0, and what has more than half of
    the rest wins. Of several with the same votes the first wins.
    """
    counted = np.where(votes > 1, votes, 0) if rule == "majority" else votes
    best, total = counted.max(axis=1), counted.sum(axis=1)
    won = counted.argmax(axis=1)
    enough = 2 * best > total if rule == "majority" else best > 0
    return np.where(enough & (won < _UNKNOWN), won, -1), counted[:, :_UNKNOWN]


def read_faces(path: Path, root: Path, reporter: Reporter) -> list[Face]:
    """The rows of `fer2013.csv`. Raises DataError naming those that are wrong."""
    faces: list[Face] = []
    problems: list[Problem] = []
    reporter.note(f"reading the pixels in {path}")
    with warnings.catch_warnings():
        # NumPy warns of text that is no number, and reads what stands before it.
        warnings.simplefilter("error", DeprecationWarning)
        for line, (label, pixels, usage) in read_table(path, ("emotion", "pixels", "Usage")):
            values = _pixels(pixels)
            if not label.isdecimal() or int(label) >= len(fer2013):
                problems.append(Problem(path, line, "", f"emotion {label!r} is not 0 to {len(fer2013) - 1}"))
            elif usage not in SPLITS:
                problems.append(Problem(path, line, "", f"Usage {usage!r} is not one of {', '.join(SPLITS)}"))
            elif values is None:
                problems.append(Problem(path, line, "", f"pixels are not {SIZE * SIZE} numbers from 0 to 255"))
            else:
                faces.append(Face(line, int(label), usage, values))
    settle(problems, root)
    return faces


def _pixels(text: str) -> NDArray[np.uint8] | None:
    try:
        values = np.fromstring(text, dtype=np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        return None
    if len(values) != SIZE * SIZE or values.min() < 0 or values.max() > 255:
        return None
    return values.astype(np.uint8).reshape(SIZE, SIZE)


def _read_votes(path: Path, root: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Usage and votes (N, 10) of each row."""
    usages: list[str] = []
    votes: list[list[int]] = []
    problems: list[Problem] = []
    for line, (usage, *cells) in read_table(path, ("Usage", *_VOTE_COLUMNS)):
        if all(cell.isdecimal() for cell in cells):
            usages.append(usage)
            votes.append([int(cell) for cell in cells])
        else:
            problems.append(Problem(path, line, "", f"votes are whole numbers, not {', '.join(cells)}"))
    settle(problems, root)
    return usages, np.array(votes, dtype=np.int64).reshape(-1, len(_VOTE_COLUMNS))
