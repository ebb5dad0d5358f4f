"""`prepare --faces`: the rows of a data set, of path files or of bare videos become rows of face crops."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ecstfl_cli import extra_columns, pathfile
from ecstfl_cli.api import Modality, PathRow, PreparedDataset
from ecstfl_cli.engine.data.manifest import read_manifest_for
from ecstfl_cli.engine.preparation.face_clip import CropJob, Cropped, Kind
from ecstfl_cli.engine.preparation.face_crops import TABLE, FaceCropping, crop_sources
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.media.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key
from ecstfl_cli.pathfile import Problem


@dataclass(frozen=True)
class FaceRows:
    """Rows of crops by split, and what has none: `unreadable` could not be read, in `faceless` no face was found.

    `notes` are of rows that were cropped in part.
    """

    rows: dict[str, list[PathRow]]
    folder: Path
    sources: int
    crops: int
    unreadable: list[Problem]
    faceless: list[Problem]
    notes: list[Problem]

    @property
    def table(self) -> Path:
        """The parquet file with boxes and scores."""
        return self.folder / TABLE


def crop_rows(
    rows: Mapping[str, Sequence[PathRow]],
    modality: Modality,
    root: str,
    folder: Path,
    cropping: FaceCropping,
    reporter: Reporter,
) -> FaceRows:
    """Crop the main face of every sample into `folder`, laid out as the samples are below `root`.

    Raises DataError where no sample of a split has a face, and as `crop_sources` does.
    """
    sources = list(dict.fromkeys(row.path for split in rows.values() for row in split))
    targets = _targets(sources, root, ".jpg" if modality == "img" else "")
    jobs = [CropJob(path, target, _kind(path, modality)) for path, target in zip(sources, targets, strict=True)]
    cropped = {result.source: result for result in crop_sources(jobs, folder, cropping, reporter)}
    made = FaceRows({}, folder, len(sources), sum(len(result.rows) for result in cropped.values()), [], [], [])
    for key, split in rows.items():
        made.rows[key] = _rows_of(key, split, cropped, made)
        if not made.rows[key]:
            raise pathfile.problems_error(
                f"no sample of the {key} split has a face", [*made.unreadable, *made.faceless], "Lower --min-score?"
            )
    return made


def _rows_of(key: str, split: Sequence[PathRow], cropped: Mapping[str, Cropped], made: FaceRows) -> list[PathRow]:
    """The split's rows that have crops; what is to be said of the others goes to the lists of `made`."""
    kept = []
    for number, row in enumerate(split, start=1):
        result = cropped[row.path]
        problem = Problem(Path(key), number, row.path, result.problem or result.note)
        if result.problem:
            (made.unreadable if result.unreadable else made.faceless).append(problem)
            continue
        if result.note:
            made.notes.append(problem)
        path = os.path.abspath(made.folder / result.target)  # noqa: PTH100 (Path.resolve would replace links)
        is_clip = not result.target.endswith(".jpg")
        kept.append(replace(row, path=path, n_frames=len(result.rows) if is_clip else None))
    return kept


def _kind(path: str, modality: Modality) -> Kind:
    if modality == "img":
        return "image"
    return "video" if Path(path).suffix.lower() in VIDEO_SUFFIXES and not Path(path).is_dir() else "frames"


def _targets(sources: Sequence[str], root: str, suffix: str) -> list[str]:
    """Where crops go: as the sources lie below `root`, without their endings; with them where two would be the same."""
    inside = [_below(path, root) for path in sources]
    bare = [str(Path(path).with_suffix("")) if Path(path).suffix.lower() in _ENDINGS else path for path in inside]
    counts: dict[str, int] = {}
    for path in bare:
        counts[path] = counts.get(path, 0) + 1
    chosen = [b if counts[b] == 1 else full.replace(".", "_") for b, full in zip(bare, inside, strict=True)]
    return [Path(path + suffix).as_posix() for path in chosen]


_ENDINGS = VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _below(path: str, root: str) -> str:
    """The path from `root`; of one that is elsewhere, the whole of it, so that none lands outside of the crops."""
    relative = os.path.relpath(path, root)
    if Path(relative).parts[:1] in ((), (os.pardir,)):
        return os.path.abspath(path).removeprefix(Path(path).anchor)  # noqa: PTH100 (as above)
    return relative


class ListedFiles:
    """Path files as a data set: each is a split, with the label map of its manifest, or else `label_map`."""

    def __init__(self, files: Sequence[Path], label_map: str | None) -> None:
        self._files = files
        self._label_map = label_map

    def recognise(self, root: Path) -> bool:
        """Whatever the root: the files are given."""
        return root.is_dir()

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:  # noqa: ARG002
        """The rows of the files. Raises DataError where they do not belong together."""
        names = [manifest.get("label_map") for file in self._files if (manifest := read_manifest_for(file))]
        if any(name != names[0] for name in names):
            raise DataError("the path files have different label maps", "Crop those of one label map at a time.")
        label_map = names[0] if names and names[0] and len(names) == len(self._files) else self._label_map
        modalities = {pathfile.modality_of(file) for file in self._files}
        if len(modalities) > 1:
            raise DataError("some of the files list images and some clips", "Crop one kind at a time.")
        labels = label_map_from(label_map) if label_map else None
        lists = [extra_columns.read_rows(file, root, labels, require_labels=True) for file in self._files]
        parts = [file.stem.split("_") for file in self._files]
        # `dfew_fold1_train` and `dfew_fold1_test` are the splits `train` and `test` of `dfew_fold1`.
        shared = os.path.commonprefix(parts)[: min(map(len, parts)) - 1]  # noqa: RUF071 (of lists of words)
        splits = {"_".join(words[len(shared) :]): rows for words, rows in zip(parts, lists, strict=True)}
        source = ", ".join(map(str, self._files))
        return PreparedDataset("_".join(shared) or "lists", modalities.pop(), splits, label_map, source)


class BarePictures:
    """Videos and images without labels as a data set: files, and folders that are searched for them.

    A folder stands for the videos below it, and for its subfolders of frames, which are clips; where it holds images
    only, for these.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self._places = places

    def recognise(self, root: Path) -> bool:
        """Whatever the root: the places are given."""
        return root.is_dir()

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:  # noqa: ARG002
        """One split `all`. Raises DataError where there is nothing, or images and clips."""
        clips: list[str] = []
        images: list[str] = []
        for place in self._places:
            if place.is_dir():
                found = _searched(place)
                clips += found[0]
                images += found[1]
            elif place.suffix.lower() in IMAGE_SUFFIXES:
                images.append(str(place))
            else:
                clips.append(str(place))
        if clips and images:
            raise DataError(
                f"there are clips ({clips[0]} …) and single images ({images[0]} …)", "Crop one kind at a time."
            )
        if not clips and not images:
            raise DataError(f"no videos, frame folders or images in {', '.join(map(str, self._places))}")
        rows = [PathRow(os.path.abspath(path)) for path in dict.fromkeys(clips or images)]  # noqa: PTH100 (as above)
        name = (self._places[0].resolve().name if len(self._places) == 1 else root.resolve().name) or "pictures"
        stem = Path(name).stem if Path(name).suffix.lower() in _ENDINGS else name
        return PreparedDataset(stem, "video" if clips else "img", {"all": rows}, None)


def _searched(place: Path) -> tuple[list[str], list[str]]:
    """Clips and images of a folder, in natural order."""
    clips: list[str] = []
    images: list[str] = []
    for folder, subfolders, files in os.walk(place):
        subfolders[:] = sorted((name for name in subfolders if not name.startswith(".")), key=natural_key)
        seen = sorted((name for name in files if not name.startswith(".")), key=natural_key)
        clips += [os.path.join(folder, name) for name in seen if _has(name, VIDEO_SUFFIXES)]  # noqa: PTH118
        pictures = [os.path.join(folder, name) for name in seen if _has(name, IMAGE_SUFFIXES)]  # noqa: PTH118
        if pictures and Path(folder) != place:
            clips.append(folder)
        else:
            images += pictures
    return clips, images


def _has(name: str, endings: Iterable[str]) -> bool:
    return os.path.splitext(name)[1].lower() in endings  # noqa: PTH122 (a Path each is slow)


def common_root(places: Sequence[Path]) -> Path:
    """The folder that everything given lies in, or a single folder itself."""
    folders = [os.path.abspath(place if place.is_dir() else place.parent) for place in places]  # noqa: PTH100
    return Path(os.path.commonpath(folders))


def plugin_for(files: Sequence[Path], label_map: str | None) -> ListedFiles | BarePictures:
    """What reads FILES: path files, or videos, images and folders. Raises DataError where they are mixed or missing."""
    missing = [file for file in files if not file.exists()]
    if missing:
        raise DataError("no such file or folder: " + ", ".join(map(str, missing)))
    lists = [file for file in files if file.suffix.lower() in pathfile.SUFFIXES.values() and file.is_file()]
    if lists and len(lists) != len(files):
        raise DataError("path files and pictures cannot be cropped together", f"Crop {lists[0]} on its own.")
    return ListedFiles(files, label_map) if lists else BarePictures(files)
