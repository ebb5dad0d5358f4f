"""DFEW: clips of films in seven expressions, five folds, ten votes a clip."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.reading import (
    LEAVES,
    below,
    first_existing,
    inside,
    read_table,
    require_choice,
    required,
    settle,
)
from ecstfl_cli.components.label_maps import dfew
from ecstfl_cli.errors import DataError
from ecstfl_cli.pathfile import Problem

FOLDS = range(1, 6)
CLIPS = ("clip_224x224", "clip_224x224_16f", "original")
_CLIP_COLUMNS = ("order", "video_name", "name", "clip", "id", "video")
Votes = Mapping[str, tuple[float, ...]]


class DFEWDataset:
    """The release with `Clip/` and `EmoLabel_DataSplit/`, or the older one with `data/` and `label/`.

    `clips` chooses the frames (`clip_224x224`), the sixteen that the release samples (`clip_224x224_16f`) or the videos
    (`original`); `auto` takes the first of them that there is. Votes come from `annotation.xlsx` where it is unpacked.
    """

    def __init__(self, *, clips: str = "auto") -> None:
        require_choice("clips", clips, ("auto", *CLIPS))
        self.clips = clips

    def recognise(self, root: Path) -> bool:
        """Whether fold 1's training list of either release is there."""
        return first_existing(root, *_lists("train", 1)) is not None

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """The single-labelled clips of all folds. Raises DataError for lists that are missing or wrong."""
        folder = self._clips(root)
        votes = _votes(root, reporter)
        problems: list[Problem] = []
        splits = {
            f"fold{fold}_{split}": _rows(
                required(root, f"{split} list of fold {fold}", *_lists(split, fold)), folder, root, votes, problems
            )
            for fold in FOLDS
            for split in ("train", "test")
        }
        settle(problems, root)
        _compare(splits, reporter)
        reporter.note(f"clips are those in {folder}")
        return PreparedDataset("dfew", "video", splits, "dfew", "DFEW, single-labelled (Jiang et al., ACM MM 2020)")

    def _clips(self, root: Path) -> Path:
        wanted = CLIPS if self.clips == "auto" else (self.clips,)
        older = ("data",) if self.clips in ("auto", "clip_224x224") else ()
        return required(root, "clips", *(f"Clip/{name}" for name in wanted), *older)


def _lists(split: str, fold: int) -> list[str]:
    spellings = ("single-labeled", "single_labeled", "single-labelled", "single_labelled")
    folders = [f"EmoLabel_DataSplit/{split}({spelling})" for spelling in spellings]
    return [*(f"{folder}/set_{fold}.csv" for folder in folders), f"label/single_{split}set_{fold}.csv"]


def _rows(path: Path, clips: Path, root: Path, votes: Votes, problems: list[Problem]) -> list[PathRow]:
    prefix = below(clips, root)
    rows = []
    for line, (written, label) in read_table(path, ("video_name", "label")):
        name = inside(written)
        number = _whole(label)
        if not name or number is None or not 1 <= number <= len(dfew):
            wrong = f"label {label!r} is not 1 to {len(dfew)}" if name else LEAVES
            problems.append(Problem(path, line, written, wrong))
            continue
        name = _padded(name)
        soft_label = votes.get(name.removesuffix(".mp4"))
        file = name if clips.name != "original" or name.endswith(".mp4") else _video(clips, name)
        rows.append(PathRow(f"{prefix}/{file}", number - 1, soft_label=soft_label))
    return rows


def _padded(name: str) -> str:
    """Clip folders have five digits, the lists may have fewer: 1, 00001, 1.0."""
    number = _whole(name)
    return f"{number:05d}" if number is not None else name


def _video(clips: Path, name: str) -> str:
    plain = f"{name.lstrip('0')}.mp4"
    return plain if (clips / plain).is_file() else f"{name}.mp4"


def _whole(text: Any) -> int | None:
    return int(float(text)) if re.fullmatch(r"\d+(\.0*)?", str(text).strip()) else None


def _compare(splits: Mapping[str, list[PathRow]], reporter: Reporter) -> None:
    """Warn where labels and votes disagree: one of the two is then not of this release."""
    differ: dict[str, int | None] = {}
    for rows in splits.values():
        for row in rows:
            if row.soft_label and row.soft_label[row.label or 0] < max(row.soft_label):
                differ[row.path] = row.label
    if differ:
        reporter.warn(
            f"{len(differ)} clips have a label that is not the class with most votes in annotation.xlsx: "
            f"{', '.join(list(differ)[:3])}{' …' * (len(differ) > 3)}"
        )


def _votes(root: Path, reporter: Reporter) -> Votes:
    """Votes for the seven classes by clip; empty without `annotation.xlsx`."""
    folders = ("", "Annotation/", "EmoLabel_DataSplit/", "label/", "Clip/")
    path = first_existing(root, *(f"{folder}annotation.xlsx" for folder in folders))
    if path is None:
        reporter.note("no annotation.xlsx: the path files have labels, and no vote distributions")
        return {}
    table = _sheet(path)
    header = [re.sub(r"^[\d\s._-]+", "", str(cell or "")).lower() for cell in table[0]]
    found = {dfew.find(name): i for i, name in enumerate(header)}
    columns = [found.get(k, -1) for k in range(len(dfew))]
    clip = next((header.index(name) for name in _CLIP_COLUMNS if name in header), -1)
    if clip < 0 or -1 in columns:
        raise DataError(
            f"{path} has no column for each class and the clip; its first line is {[c for c in table[0] if c]}",
            f"Wanted: {', '.join(dfew.names)}, and one of {', '.join(_CLIP_COLUMNS)}.",
        )
    try:
        return {
            _padded(str(row[clip])): tuple(float(row[i] or 0) for i in columns)
            for row in table[1:]
            if row[clip] is not None
        }
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"{path} holds votes that are no numbers: {error}") from error


def _sheet(path: Path) -> list[tuple[Any, ...]]:
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = [row for row in book.worksheets[0].iter_rows(values_only=True) if any(cell is not None for cell in row)]
        book.close()
    except Exception as error:  # openpyxl passes on whatever zip and XML readers raise on damaged files.
        raise DataError(
            f"{path} cannot be read: {type(error).__name__}: {error}",
            "Unpack the release again, or move the file away to prepare labels without votes.",
        ) from error
    if len(rows) < 2:
        raise DataError(f"{path} holds no votes", "Unpack the release again, or move the file away.")
    return rows
