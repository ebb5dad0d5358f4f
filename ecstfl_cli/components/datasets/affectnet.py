"""AffectNet: stills from the web in eight expressions, as the release with csv lists and as the one with npy files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

import numpy as np

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.reading import (
    LEAVES,
    below,
    entries,
    first_existing,
    inside,
    read_table,
    require_choice,
    required,
    settle,
)
from ecstfl_cli.pathfile import Problem

CODES = (
    *("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry"),
    *("contempt", "none", "uncertain", "non-face"),
)
_LISTS = {"train": "training.csv", "val": "validation.csv"}
_PLACES = ("Manually_Annotated_file_lists/", "Manually_Annotated/Manually_Annotated_file_lists/", "")
_IMAGES = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
_COLUMNS = ("subDirectory_filePath", "expression")
# The validation list of one release has no header.
_WITHOUT_HEADER = (0, 6)
_THREADS = 8
_SOURCE = "AffectNet, {} classes, {} release (Mollahosseini et al., IEEE TAC 2017)"


class AffectNetDataset:
    """`Manually_Annotated_file_lists/{training,validation}.csv` with `Manually_Annotated_Images/`.

    `classes` is 7, or 8 with contempt; everything else (none, uncertain, non-face) is left out.
    """

    def __init__(self, *, classes: int = 7) -> None:
        require_choice("classes", classes, (7, 8))
        self.classes = classes

    def recognise(self, root: Path) -> bool:
        """Whether both lists and the images are there."""
        return all(first_existing(root, *_list(split)) for split in _LISTS) and bool(first_existing(root, *_IMAGES))

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """Train and val. Raises DataError for lists that are missing or wrong."""
        images = below(required(root, "images", *_IMAGES), root)
        splits, problems = {}, []
        for split in _LISTS:
            path = required(root, f"{split} list", *_list(split))
            found = []
            for line, (written, expression) in read_table(path, _COLUMNS, _WITHOUT_HEADER):
                name, code = inside(written), _code(expression)
                if not name or code is None:
                    wrong = f"expression {expression!r} is not 0 to {len(CODES) - 1}" if name else LEAVES
                    problems.append(Problem(path, line, written, wrong))
                else:
                    found.append((f"{images}/{name}", code))
            splits[split] = _rows(found, self.classes, split, reporter)
        settle(problems, root)
        reporter.note("the images are whole pictures, with a face somewhere: the lists' boxes are not applied")
        return _prepared(splits, self.classes, "csv")


class AffectNetNpyDataset:
    """`{train,val}_set/images/N.jpg` with `annotations/N_exp.npy`; `classes` as in AffectNetDataset."""

    def __init__(self, *, classes: int = 7) -> None:
        require_choice("classes", classes, (7, 8))
        self.classes = classes

    def recognise(self, root: Path) -> bool:
        """Whether both sets have images and annotations."""
        wanted = [f"{split}_set/{part}" for split in _LISTS for part in ("images", "annotations")]
        return all(first_existing(root, folder) for folder in wanted)

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """Train and val. Raises DataError for annotations that are missing, truncated, or no labels."""
        splits, problems = {}, []
        for split in _LISTS:
            folder = required(root, f"{split} set", f"{split}_set")
            images = required(folder, "images", "images")
            annotations = required(folder, "annotations", "annotations")
            names = entries(images)[1]
            codes = _read_all([annotations / f"{PurePath(name).stem}_exp.npy" for name in names], reporter)
            problems += [Problem(path, 1, "", code) for path, code in codes if isinstance(code, str)]
            prefix = below(images, root)
            found = [
                (f"{prefix}/{n}", code) for n, (_, code) in zip(names, codes, strict=True) if isinstance(code, int)
            ]
            splits[split] = _rows(found, self.classes, split, reporter)
        settle(problems, root)
        reporter.note("assumed, the layout being known from others' code: N_exp.npy holds the expression of N.jpg")
        return _prepared(splits, self.classes, "npy")


def _list(split: str) -> tuple[str, ...]:
    return tuple(f"{place}{_LISTS[split]}" for place in _PLACES)


def _code(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) < len(CODES) else None


def _read_all(paths: Sequence[Path], reporter: Reporter) -> list[tuple[Path, int | str]]:
    """The code in each file, or what is wrong with it."""
    codes: list[int | str] = []
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        reporter.progress("reading annotations", len(paths), "images") as advance,
    ):
        for code in pool.map(_read, paths, chunksize=256):
            codes.append(code)
            advance(1)
    return list(zip(paths, codes, strict=True))


def _read(path: Path) -> int | str:
    try:
        value = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return "no such file"
    except Exception as error:  # NumPy raises almost anything on damaged files
        return f"cannot be read: {error}"
    text = str(value.reshape(-1)[0]).strip() if value.size == 1 else f"{value.size} values"
    code = _code(text.removesuffix(".0"))
    return f"expression {text!r} is not 0 to {len(CODES) - 1}" if code is None else code


def _rows(found: Sequence[tuple[str, int]], classes: int, split: str, reporter: Reporter) -> list[PathRow]:
    left_out = Counter(CODES[code] for _, code in found if code >= classes)
    if left_out:
        reporter.note(f"{split}: left out {', '.join(f'{n} {name}' for name, n in left_out.most_common())}")
    return [PathRow(path, code) for path, code in found if code < classes]


def _prepared(splits: dict[str, list[PathRow]], classes: int, release: str) -> PreparedDataset:
    name = f"affectnet{classes}"
    return PreparedDataset(name, "img", splits, name, _SOURCE.format(classes, release))
