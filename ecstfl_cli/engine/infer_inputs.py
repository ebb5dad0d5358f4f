"""What `infer` is pointed at: path files, images, frame folders and directories of them, as samples."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecstfl_cli import pathfile
from ecstfl_cli.api import Modality
from ecstfl_cli.engine.label_joining import joined_samples
from ecstfl_cli.engine.manifest import latest_manifest, read_manifest_for
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.samples import KIND, Sample, check_on_disk, load_samples, write_rejects
from ecstfl_cli.errors import DataError, LabelMapError, listing, suggest
from ecstfl_cli.labels import Join, LabelMap, join, label_map_from
from ecstfl_cli.media.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES, frame_names, natural_key
from ecstfl_cli.media.sources import is_video_file, open_clip, read_still
from ecstfl_cli.media.video import count_frames
from ecstfl_cli.pathfile import SUFFIXES, Problem

# The lists that the reference release reads where none is named.
REFERENCE_FILES: dict[Modality, tuple[str, str]] = {
    "img": ("annotation_infer/Imgs_test.csv", "annotation/Imgs_test.csv"),
    "video": ("annotation_infer/Videos_test.txt", "annotation/Videos_test.txt"),
}
_TAKES: dict[Modality, str] = {
    "img": "stills: images, folders of images, .csv path files",
    "video": "clips: folders of frames, directories of such folders, .txt path files",
}
_NO_VIDEO = "a video is not read beside path files"
_EXTRACT = "Look at videos with a command of their own: ecstfl infer VIDEO"
_LIST_MODALITY: dict[str, Modality] = {suffix: modality for modality, suffix in SUFFIXES.items()}


@dataclass(frozen=True)
class Source:
    """How inputs become samples: the model's modality and label map, and what was said about the data."""

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


def modality_of_inputs(inputs: Sequence[Path]) -> Modality | None:
    """The modality that files among the inputs ask for; None where they do not tell, or disagree."""
    by_suffix: dict[str, Modality] = {**dict.fromkeys(IMAGE_SUFFIXES, "img"), **_LIST_MODALITY}
    told = {by_suffix[suffix] for path in inputs if (suffix := path.suffix.lower()) in by_suffix}
    return told.pop() if len(told) == 1 else None


def gather(inputs: Sequence[Path], source: Source) -> list[Sample]:
    """The samples of all inputs, in their order, checked on disk; labels are indices of the model's map.

    A directory is searched: every image of it for stills; for clips every folder that holds images. Raises DataError
    for inputs that do not exist or do not fit the model, and for unreadable samples unless they are to be skipped.
    """
    _require_fit(inputs, source)
    found: list[list[Sample]] = []
    direct: list[Sample] = []
    for path in inputs:
        if path.is_file() and path.suffix.lower() in _LIST_MODALITY:
            found.append(_read_list(path, source))
        else:
            samples = _search(path, source) if path.is_dir() else [_sample(path)]
            found.append(samples)
            direct += samples
    bad = _unreadable(direct, source) if direct else {}
    return [sample for samples in found for sample in samples if str(sample.source) not in bad]


def _require_fit(inputs: Sequence[Path], source: Source) -> None:
    wrong: list[str] = []
    hints: list[str] = []
    for path in inputs:
        problem, hint = _misfit(path, source.modality)
        if problem:
            wrong.append(f"{path}: {problem}")
            hints.append(hint)
    if wrong:
        hints.append(f"The model takes {_TAKES[source.modality]}. Another is named with --model.")
        hint = "\n".join(text for text in dict.fromkeys(hints) if text)
        raise DataError("these inputs cannot be used:\n" + listing(wrong), hint)


def _misfit(path: Path, modality: Modality) -> tuple[str, str]:
    """What is wrong with an input and how to mend it; empty where nothing is."""
    suffix = path.suffix.lower()
    if not path.exists():
        parent = path.parent
        names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        return f"no such file or folder. {suggest(path.name, names)}".rstrip(" ."), ""
    if path.is_dir():
        return "", ""
    if suffix in VIDEO_SUFFIXES:
        return _NO_VIDEO, _EXTRACT
    if suffix in IMAGE_SUFFIXES:
        return ("", "") if modality == "img" else ("is one image", "")
    if suffix not in _LIST_MODALITY:
        return f"is neither an image nor a path file ({', '.join(_LIST_MODALITY)})", ""
    return ("", "") if _LIST_MODALITY[suffix] == modality else (f"lists {KIND[_LIST_MODALITY[suffix]]}", "")


# --- path files ------------------------------------------------------------------------------------------------------


def _read_list(path: Path, source: Source) -> list[Sample]:
    own_map = source.data_label_map or _manifest_label_map(path)
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


def _manifest_label_map(path: Path) -> LabelMap | None:
    manifest = read_manifest_for(path)
    return label_map_from(manifest["label_map"]) if manifest and manifest["label_map"] else None


# --- images and folders ----------------------------------------------------------------------------------------------


def _sample(path: Path) -> Sample:
    return Sample(path, -1, str(path))


def _search(folder: Path, source: Source) -> list[Sample]:
    """The samples under a folder, in natural order. Raises DataError where there is none."""
    videos = 0
    samples: list[Sample] = []
    clips = source.modality == "video"
    for place, images, others in _walk(folder, set(), into_clips=not clips):
        videos += sum(1 for name in others if Path(name).suffix.lower() in VIDEO_SUFFIXES)
        if clips and images:
            samples.append(_sample(place))
        elif images:
            samples += [_sample(place / name) for name in images]
    if not samples:
        if videos:
            raise DataError(f"{folder} holds no images, and {_NO_VIDEO}; video files: {videos}", _EXTRACT)
        raise DataError(f"{folder} holds no images", f"The model takes {_TAKES[source.modality]}.")
    if videos:
        source.reporter.warn(f"{folder}: {_NO_VIDEO}; video files left out: {videos}")
    one_clip = clips and samples[0].source == folder
    found = f"one clip of {len(frame_names(folder))} frames" if one_clip else f"{len(samples)} {KIND[source.modality]}"
    source.reporter.note(f"{folder}: {found}")
    return samples


def _walk(folder: Path, seen: set[str], *, into_clips: bool) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, images, other files) of a folder and those below it; links are followed, but no folder comes twice."""
    identity = os.path.realpath(folder)
    if identity in seen:
        return
    seen.add(identity)
    try:
        images = frame_names(folder)
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    folders = sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: natural_key(entry.name))
    yield folder, images, [entry.name for entry in entries if entry not in folders]
    if images and not into_clips:
        return
    for below in folders:
        yield from _walk(below, seen, into_clips=into_clips)


def _unreadable(samples: Sequence[Sample], source: Source) -> set[str]:
    """The locations that cannot be read. Raises DataError with all of them unless they are to be skipped."""
    found = check_on_disk([str(sample.source) for sample in samples], source.modality, source.reporter)
    problems = {location: disk.problem for location, disk in found.items() if disk.problem}
    if problems:
        _settle(problems, len(found), source.rejects, source)
    return set(problems)


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
