"""RAF-DB, basic expressions: stills from the web, cropped and aligned."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.reading import (
    LEAVES,
    below,
    first_existing,
    inside,
    read_lines,
    require_choice,
    required,
    settle,
)
from ecstfl_cli.components.label_maps import rafdb
from ecstfl_cli.pathfile import Problem

# The release spells it so.
_LISTS = tuple(
    f"{folder}EmoLabel/list_{word}_label.txt" for folder in ("", "basic/") for word in ("patition", "partition")
)


class RAFDBDataset:
    """`EmoLabel/list_patition_label.txt` and `Image/aligned/`, in the data root or in `basic/`.

    `images` takes the `aligned` faces or the `original` pictures.
    """

    def __init__(self, *, images: str = "aligned") -> None:
        require_choice("images", images, ("aligned", "original"))
        self.images = images

    def recognise(self, root: Path) -> bool:
        """Whether the list is there."""
        return first_existing(root, *_LISTS) is not None

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """Train and test, as the files' names say. Raises DataError for a list that is missing or wrong."""
        path = required(root, "list", *_LISTS)
        images = required(path.parent.parent, f"{self.images} images", f"Image/{self.images}")
        splits: dict[str, list[PathRow]] = {"train": [], "test": []}
        problems: list[Problem] = []
        for line, (text,) in read_lines(path):
            written, _, label = text.rpartition(" ")
            name = inside(written)
            split = name.partition("_")[0]
            if split not in splits or not re.fullmatch(r"[1-7]", label):
                wrong = f"wanted `train_00001.jpg 5` with a label from 1 to {len(rafdb)}, found {text!r}"
                problems.append(Problem(path, line, written, wrong if name or not written else LEAVES))
                continue
            if self.images == "aligned":
                name = f"{PurePath(name).stem.removesuffix('_aligned')}_aligned{PurePath(name).suffix}"
            splits[split].append(PathRow(f"{below(images, root)}/{name}", int(label) - 1))
        settle(problems, root)
        reporter.note(f"images are those in {images}")
        return PreparedDataset("rafdb", "img", splits, "rafdb", "RAF-DB, basic expressions (Li et al., CVPR 2017)")
