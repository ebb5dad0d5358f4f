"""FERV39k: clips of 22 scenes in seven expressions, one split over all scenes."""

from __future__ import annotations

import re
from pathlib import Path

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.reading import LEAVES, below, first_existing, inside, read_lines, required, settle
from ecstfl_cli.components.label_maps import ferv39k
from ecstfl_cli.pathfile import Problem

_HEADER = re.compile(r"(path|video|clip|name)\b.*label", re.IGNORECASE)


class FERV39kDataset:
    """`2_ClipsforFaceCrop/<scene>/<emotion>/<clip>/` with the lists of `4_setups/All_scenes/`."""

    def recognise(self, root: Path) -> bool:
        """Whether the training list over all scenes is there."""
        return first_existing(root, *_lists("train")) is not None

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """The split over all scenes. Raises DataError for lists that are missing or wrong."""
        clips = required(root, "clips", "2_ClipsforFaceCrop", "ClipsforFaceCrop")
        problems: list[Problem] = []
        splits = {
            split: _rows(required(root, f"{split} list", *_lists(split)), below(clips, root), problems)
            for split in ("train", "test")
        }
        settle(problems, root)
        reporter.note(
            f"assumed, the layout being known from others' code: clips in {clips}, a list's line is `clip label`"
        )
        return PreparedDataset("ferv39k", "video", splits, "ferv39k", "FERV39k, all scenes (Wang et al., CVPR 2022)")


def _lists(split: str) -> tuple[str, ...]:
    return tuple(f"4_setups/All_scenes/{split}_All{suffix}" for suffix in (".csv", ".txt"))


def _rows(path: Path, prefix: str, problems: list[Problem]) -> list[PathRow]:
    rows = []
    for i, (line, (text,)) in enumerate(read_lines(path)):
        if i == 0 and _HEADER.search(text):
            continue
        clip, _, word = re.sub(r"[\s,]+(?=[^\s,]+$)", "\t", text).partition("\t")
        name, label = inside(clip.strip('"')), ferv39k.find(word.strip('"'))
        if name and label is not None:
            rows.append(PathRow(f"{prefix}/{name}", label))
        else:
            wrong = f"label {word!r} is not one of {', '.join(ferv39k.names)}" if name else LEAVES
            problems.append(Problem(path, line, clip, wrong))
    return rows
