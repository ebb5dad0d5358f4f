"""MAFW: clips in eleven expressions and their compounds, five folds each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.reading import (
    LEAVES,
    below,
    entries,
    first_existing,
    inside,
    read_lines,
    require_choice,
    required,
    settle,
)
from ecstfl_cli.components.label_maps import mafw
from ecstfl_cli.errors import DataError
from ecstfl_cli.pathfile import Problem

FOLDS = range(1, 6)
_BETWEEN_WORDS = re.compile(r"[\s_,;&+|/]+")


class _Clip(NamedTuple):
    name: str
    classes: tuple[int, ...]


class MAFWDataset:
    """`data/{frames,clips}/` with the lists of `{single,compound}/{no_caption,with_caption}/set_1…5/`.

    `labels` is `single`, the eleven expressions, or `compound`, in which several of them together are a class of its
    own. `clips` takes the `frames` or the videos (`clips`); `auto` the first of them that there is.
    """

    def __init__(self, *, labels: str = "single", clips: str = "auto") -> None:
        require_choice("labels", labels, ("single", "compound"))
        require_choice("clips", clips, ("auto", "frames", "clips"))
        self.labels = labels
        self.clips = clips

    def recognise(self, root: Path) -> bool:
        """Whether there are single or compound lists of fold 1."""
        return any(_list(root, labels, "train", 1) for labels in ("single", "compound"))

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """All folds. Raises DataError for lists that are missing or wrong."""
        folder = required(root, "clips", *[f"data/{name}" for name in self._wanted()], *self._wanted())
        problems: list[Problem] = []
        clips: dict[str, list[_Clip]] = {}
        for fold in FOLDS:
            for split in ("train", "test"):
                path = _list(root, self.labels, split, fold)
                if path is None:
                    raise DataError(
                        f"{root} holds no {self.labels} {split} list of fold {fold}",
                        f"Wanted: {self.labels}/no_caption/set_{fold}/{split}.txt, or with_caption.",
                    )
                clips[f"fold{fold}_{split}"] = _clips(path, problems, single=self.labels == "single")
        settle(problems, root)
        frames = folder.name.lower() == "frames"
        prefix = below(folder, root)
        classes = _compounds(clips)
        splits = {
            split: [
                PathRow(f"{prefix}/{Path(name).stem if frames else name}", classes[labels]) for name, labels in found
            ]
            for split, found in clips.items()
        }
        reporter.note(f"clips are those in {folder}")
        source = f"MAFW, {self.labels} labels (Liu et al., ACM MM 2022)"
        if self.labels == "single":
            return PreparedDataset("mafw", "video", splits, "mafw", source)
        reporter.note(f"{len(classes)} compound classes in all folds, named by their words in the release's order")
        return PreparedDataset("mafw_compound", "video", splits, [_name(c) for c in classes], source)

    def _wanted(self) -> tuple[str, ...]:
        return ("frames", "clips") if self.clips == "auto" else (self.clips,)


def _list(root: Path, labels: str, split: str, fold: int) -> Path | None:
    """The list without captions, else the one with them; the release's lists may lie one folder further down."""
    places = ["", *(f"{name}/" for name in entries(root)[0] if name not in ("data", "single", "compound"))]
    captions = ("no_caption", "with_caption")
    return first_existing(root, *(f"{p}{labels}/{c}/set_{fold}/{split}.txt" for p in places for c in captions))


def _clips(path: Path, problems: list[Problem], *, single: bool) -> list[_Clip]:
    """Clip and classes of each line: `03747.mp4 anger`, with captions behind a further tab."""
    clips = []
    for line, (text,) in read_lines(path):
        written, *rest = text.split("\t") if "\t" in text else text.split(None, 1)
        words = [word for word in _BETWEEN_WORDS.split(rest[0].strip()) if word] if rest else []
        found = [mafw.find(word) for word in words]
        classes = tuple(sorted({label for label in found if label is not None}))
        name = inside(written)
        if not name:
            problems.append(Problem(path, line, written, LEAVES))
        elif None in found or not classes or (single and len(classes) > 1):
            wrong = f"label {rest[0] if rest else ''!r} is not of {', '.join(mafw.names)}"
            problems.append(Problem(path, line, written, wrong))
        else:
            clips.append(_Clip(name, classes))
    return clips


def _compounds(clips: Mapping[str, Sequence[_Clip]]) -> dict[tuple[int, ...], int]:
    """Index of each class: the single ones as in `mafw`, then the compounds that occur in any fold, by their words."""
    found = {clip.classes for rows in clips.values() for clip in rows}
    singles = [(i,) for i in range(len(mafw))]
    several = sorted((classes for classes in found if len(classes) > 1), key=lambda c: (len(c), c))
    return {classes: i for i, classes in enumerate([*singles, *several])}


def _name(classes: Sequence[int]) -> str:
    return "_".join(mafw.names[i] for i in classes)
