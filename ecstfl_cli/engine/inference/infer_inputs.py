"""Path files that `infer` evaluates, as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecstfl_cli import pathfile
from ecstfl_cli.api import Modality
from ecstfl_cli.engine.data.label_joining import joined_samples, require_one_map
from ecstfl_cli.engine.data.manifest import latest_manifest, read_manifest_for
from ecstfl_cli.engine.data.samples import KIND, Sample, load_samples, write_rejects
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, LabelMapError, listing, suggest
from ecstfl_cli.labels import Join, LabelMap, join, label_map_from
from ecstfl_cli.media.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ecstfl_cli.media.sources import is_video_file, open_clip, read_still
from ecstfl_cli.media.video import count_frames
from ecstfl_cli.pathfile import SUFFIXES, Problem

# The lists that the reference release reads where none is named.
REFERENCE_FILES: dict[Modality, tuple[str, str]] = {
    "img": ("annotation_infer/Imgs_test.csv", "annotation/Imgs_test.csv"),
    "video": ("annotation_infer/Videos_test.txt", "annotation/Videos_test.txt"),
}
_LIST_MODALITY: dict[str, Modality] = {suffix: modality for modality, suffix in SUFFIXES.items()}


@dataclass(frozen=True)
class Source:
    """How inputs become samples: the model's modality and label map, and what was said about the data.

    `data_label_map` is that of the lists of which `ecstfl prepare` recorded none.
    """

    modality: Modality
    labels: LabelMap
    data_label_map: LabelMap | None
    data_root: Path | None
    skip_bad: bool
    rejects: Path
    reporter: Reporter
    drop_classes: bool = False
    # Filled as lists are read: samples left out with drop_classes, by path file and class.
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)


def are_path_files(inputs: Sequence[str | Path]) -> bool:
    """Whether inputs are for evaluation: path files alone, or nothing at all, which means those prepared last."""
    return all(Path(name).suffix.lower() in _LIST_MODALITY and not Path(name).is_dir() for name in inputs)


def lists_media(path: Path) -> bool:
    """Whether the first line of a list is no more than the name of a picture or video."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return Path(file.readline().strip()).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    except OSError:
        return False


def modality_of_inputs(inputs: Sequence[Path]) -> Modality | None:
    """The modality that the path files ask for; None where they do not tell, or disagree."""
    told = {_LIST_MODALITY[suffix] for path in inputs if (suffix := path.suffix.lower()) in _LIST_MODALITY}
    return told.pop() if len(told) == 1 else None


def gather(inputs: Sequence[Path], source: Source) -> list[Sample]:
    """The samples of all path files, in their order, checked on disk; labels are indices of the model's map.

    Raises DataError for path files that do not exist or do not fit the model, and for unreadable samples unless they
    are to be skipped.
    """
    wrong = [f"{path}: {problem}" for path in inputs if (problem := _misfit(path, source.modality))]
    if wrong:
        raise DataError(
            "these path files cannot be used:\n" + listing(wrong),
            f"The model takes {KIND[source.modality]}: {SUFFIXES[source.modality]} path files. Another is named with "
            "--model. A list of photographs and videos, one a line, is read by `ecstfl infer - < LIST`.",
        )
    recorded = [recorded_label_map(path) for path in inputs]
    if source.data_label_map and all(recorded):  # For lists of which `prepare` recorded none it is needed.
        for path in inputs:
            manifest = read_manifest_for(path)
            require_one_map(path, source.data_label_map, "--label-map", manifest, "Leave --label-map out")
    maps = [own or source.data_label_map for own in recorded]
    return [sample for path, own in zip(inputs, maps, strict=True) for sample in _read_list(path, own, source)]


def _misfit(path: Path, modality: Modality) -> str:
    """What is wrong with a path file; empty where nothing is."""
    if not path.exists():
        parent = path.parent
        names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        return f"no such file. {suggest(path.name, names)}".rstrip(" .")
    suffix = path.suffix.lower()
    if suffix not in _LIST_MODALITY or path.is_dir():
        return f"is no path file ({', '.join(_LIST_MODALITY)})"
    return "" if _LIST_MODALITY[suffix] == modality else f"lists {KIND[_LIST_MODALITY[suffix]]}"


def _read_list(path: Path, own_map: LabelMap | None, source: Source) -> list[Sample]:
    joined = _joined(path, own_map or source.labels, source)
    rejects = source.rejects.with_name(f"{source.rejects.stem}_{path.stem}.csv")
    samples = load_samples(
        [path],
        modality=source.modality,
        root=source.data_root,
        label_map=joined.source,
        require_labels=False,
        skip_bad=source.skip_bad,
        rejects=rejects,
        counts=path.parent if read_manifest_for(path) else None,
        reporter=source.reporter,
    )
    if own_map is None and pathfile.has_indices(path):
        source.reporter.warn(
            f"{path} does not say whose its indices are; they are taken to be in the model's order: "
            f"{source.labels.describe()}. Another order is set with --label-map."
        )
    samples, dropped = joined_samples(samples, joined, str(path), source.reporter)
    if dropped:
        source.dropped[str(path)] = dropped
    return samples


def _joined(path: Path, own_map: LabelMap, source: Source) -> Join:
    """How the list's labels are joined to the model's. Raises LabelMapError where classes would be lost unasked."""
    joined = join(own_map, source.labels)
    if joined.missing and not source.drop_classes:
        try:
            joined.complete()
        except LabelMapError as error:
            raise LabelMapError(
                f"{path} cannot be compared with the model: {error.message}",
                "Use a model that has every class of the data, leave the samples of these classes out with "
                "--drop-classes, or give the folder of the samples instead of the path file.",
            ) from error
    return joined


def recorded_label_map(path: Path) -> LabelMap | None:
    """The label map of a path file as `prepare` recorded it, if it did."""
    manifest = read_manifest_for(path)
    return label_map_from(manifest["label_map"]) if manifest and manifest["label_map"] else None


def decodable(samples: Sequence[Sample], source: Source) -> list[Sample]:
    """The samples whose images decode from end to end, for when one that passed the quicker check on disk does not.

    Raises DataError with all that do not unless they are to be skipped.
    """
    problems: dict[str, str] = {}
    with source.reporter.progress("decoding", len(samples), KIND[source.modality]) as advance:
        for sample in samples:
            try:
                _decode(sample.source, source.modality)
            except DataError as error:
                problems[str(sample.source)] = error.message
            advance(1)
    if problems:
        _settle(problems, len(samples), source.rejects.with_name("rejects_decoding.csv"), source)
    return [sample for sample in samples if str(sample.source) not in problems]


def _decode(path: Path, modality: Modality) -> None:
    """Decode all of a sample. Raises DataError where a part of it cannot be."""
    if modality == "img":
        read_still(path)
    elif is_video_file(path):
        count_frames(path)
    else:
        clip = open_clip(path)
        for i in range(len(clip)):
            clip.read([i])


def _settle(problems: Mapping[str, str], total: int, rejects: Path, source: Source) -> None:
    """Stop on samples that cannot be read, or write and report them where they are to be skipped."""
    what = f"{len(problems)} of {total} {KIND[source.modality]} cannot be read"
    if not source.skip_bad or len(problems) == total:
        hint = "" if source.skip_bad else "Mend them, or leave them out with --skip-bad."
        raise DataError(f"{what}:\n" + listing([f"{path}: {problem}" for path, problem in problems.items()]), hint)
    write_rejects(rejects, [Problem(Path(path), 0, path, problem) for path, problem in problems.items()])
    source.reporter.warn(f"{what} and are left out; listed in {rejects}")


# --- nothing was named -----------------------------------------------------------------------------------------------


def default_input(modality: Modality, folder: Path = Path("annotation")) -> tuple[Path, str]:
    """The path file where none is named, and why it: what `prepare` wrote last, else the reference release's default.

    Raises DataError, saying what to do, where there is none for the modality.
    """
    manifest = latest_manifest(folder)
    if manifest and manifest["modality"] == modality:
        split = _held_out(manifest["files"])
        return _short(Path(manifest["files"][split])), f"the {split} split of {manifest['name']}, prepared last"
    for name in REFERENCE_FILES[modality]:
        if Path(name).is_file():
            return Path(name), "the reference release's default list"
    raise _nothing_to_do(modality, manifest)


def _held_out(files: dict[str, str]) -> str:
    """The split to predict on: test, else val, else what there is; folds have names such as `fold1_test`."""
    for wanted in ("test", "val"):
        for split in files:
            if split == wanted or split.endswith(f"_{wanted}"):
                return split
    return next(iter(files))


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _nothing_to_do(modality: Modality, manifest: dict[str, Any] | None) -> DataError:
    searched = " nor ".join(REFERENCE_FILES[modality])
    message = f"no input was named, and there is none to take: neither {searched}"
    if manifest:
        other = f"lists {KIND[manifest['modality']]}, the model takes {KIND[modality]}"
        message += f"; what `prepare` wrote last, {manifest['name']}, {other}"
    return DataError(
        message,
        "Name what to look at, e.g. `ecstfl infer talk.mp4` or `ecstfl infer FOLDER`, or make path files: "
        "ecstfl prepare --data-root DIR.",
    )
