"""What `infer` is pointed at, as a list of sources: images, videos, frame folders, cameras and streams."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from ecstfl_cli.errors import DataError, listing, suggest
from ecstfl_cli.media.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_address, natural_key
from ecstfl_cli.media.moving import is_animated
from ecstfl_cli.wording import counted

Kind = Literal["image", "video", "frames", "stream", "camera"]
# Sources that end when the user says so, and cannot be looked at again.
LIVE: frozenset[Kind] = frozenset({"stream", "camera"})
_WILDCARDS = re.compile(r"[*?[]")
# What a result keeps its annotated copies in, and its parts while it is not finished.
ANNOTATED, UNFINISHED = "annotated", "unfinished"
_NEITHER = "is neither a picture nor a video"
_HOLDS_NEITHER = "holds neither pictures nor videos"
# Endings shown of files that were passed over.
_ENDINGS = 5


@dataclass(frozen=True)
class MediaSource:
    """One thing to look at; `name` is what results call it: a path, an address, or a camera's number or name."""

    name: str
    kind: Kind

    @property
    def live(self) -> bool:
        """Whether frames come when they come."""
        return self.kind in LIVE


@dataclass
class Found:
    """Sources in the order of the inputs; how many files of which ending were passed over, and `empty` folders.

    `named` counts what sources were named by, so one that two inputs name twice.
    """

    sources: list[MediaSource] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    named: int = 0
    _seen: set[str] = field(default_factory=set, repr=False)

    def add(self, name: str, kind: Kind) -> None:
        """Take a source in, unless it is there already, perhaps by another name."""
        self.named += 1
        identity = name if kind in LIVE else os.path.realpath(name)
        if identity not in self._seen:
            self._seen.add(identity)
            self.sources.append(MediaSource(name, kind))

    def describe(self) -> str:
        """One line: how many sources of which kind."""
        words = {"image": "image", "video": "video", "frames": "frame folder", "stream": "stream", "camera": "camera"}
        counts = Counter(source.kind for source in self.sources)
        return ", ".join(counted(n, words[kind]) for kind, n in counts.items()) or "nothing"

    def describe_passed_over(self) -> str:
        """One line: how many files were passed over, by ending; empty where none was."""
        total = self.passed_over.total()
        common = [f"{n} {ending or 'without an ending'}" for ending, n in self.passed_over.most_common(_ENDINGS)]
        rest = len(self.passed_over) - len(common)
        more = f", {rest} more endings" if rest else ""
        told = (
            f"{total} other {'file' if total == 1 else 'files'} passed over: {', '.join(common)}{more}" if total else ""
        )
        return "; ".join(part for part in (told, *(f"{folder} {_HOLDS_NEITHER}" for folder in self.empty)) if part)


def find_sources(
    inputs: Sequence[str], *, listed: Sequence[str] = (), camera: str | None = None, folders_are_videos: bool = False
) -> Found:
    """The sources that inputs stand for, in their order; `listed` are paths of a list, which hold no wildcards.

    A directory is searched with all below it in natural order, without hidden files and folders and the annotated
    copies that `infer` wrote; links are followed, but no folder comes twice. Its images are stills, or where
    `folders_are_videos` each folder that holds images is one video. A pattern that the shell has left alone is
    expanded; `**` stands for any depth. What is neither picture nor video, or a folder without, is passed over where
    other inputs are.
    Raises DataError with all inputs that do not exist, and where none is a picture or video. What a list names wrongly
    becomes a source all the same, so that it is reported with the others that cannot be read.
    """
    found = Found()
    wrong: list[str] = []
    neither: dict[str, str] = {}
    for name in inputs:
        problem = _add(name, found, folders_are_videos)
        if problem.startswith((_NEITHER, _HOLDS_NEITHER)):
            neither[name] = problem
        elif problem:
            wrong.append(f"{name}: {problem}")
    if (found.sources or camera is not None) and not wrong:
        # A pattern that the shell has expanded matches what a folder may hold beside media.
        found.passed_over.update(Path(name).suffix.lower() for name in neither if neither[name] == _NEITHER)
        found.empty = [name for name in neither if neither[name] != _NEITHER]
    else:
        wrong += [f"{name}: {problem}" for name, problem in neither.items()]
    for name in listed:
        if _add(name, found, folders_are_videos, patterns=False):
            found.add(name, "video" if Path(name).suffix.lower() in VIDEO_SUFFIXES else "image")
    if wrong:
        raise DataError(
            "these inputs cannot be used:\n" + listing(wrong),
            "Inputs are images, videos, directories, patterns such as 'clips/*.mp4', addresses such as rtsp://…, "
            "path files (.csv, .txt), or - for a list on standard input.",
        )
    if camera is not None:
        found.add(camera, "camera")
    return found


def read_list(stream: IO[bytes], null: bool) -> list[str]:
    """The paths of a list, one a line, or ended by NUL characters as `find -print0` does; empty ones are left out."""
    separator = b"\0" if null else b"\n"
    names = (part if null else part.rstrip(b"\r") for part in stream.read().split(separator))
    return [os.fsdecode(name) for name in names if name]


def _add(name: str, found: Found, folders_are_videos: bool, *, patterns: bool = True) -> str:
    """Take in what an input stands for; what is wrong with it, or an empty string."""
    if is_address(name):
        found.add(name, "stream")
        return ""
    if not name.strip():
        return "an empty name"
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            return f"cannot be read: {error.strerror}"
        if patterns and _WILDCARDS.search(name):
            return _add_matches(name, found, folders_are_videos)
        return f"no such file or folder. {_near(path)}".rstrip(" .")
    if stat.S_ISDIR(mode):
        return _search(path, found, folders_are_videos)
    if stat.S_ISFIFO(mode):
        found.add(name, "stream")
    elif stat.S_ISCHR(mode):
        found.add(name, "camera")
    elif not (kind := _kind(path) or _kind_inside(path)):
        return _NEITHER
    else:
        found.add(name, kind)
    return ""


def _add_matches(pattern: str, found: Found, folders_are_videos: bool) -> str:
    names = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207 (keeps the pattern's spelling)
    if not names:
        return "no file or folder matches"
    for name in names:
        # A pattern may match what is not meant, as a directory may hold it.
        if _add(name, found, folders_are_videos, patterns=False):
            found.passed_over[Path(name).suffix.lower()] += 1
    return ""


def _near(path: Path) -> str:
    try:
        return suggest(path.name, [entry.name for entry in path.parent.iterdir()])
    except OSError:
        return ""


def _kind(path: Path) -> Kind | None:
    """What a file is by its ending; an image with several frames is a video."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix not in IMAGE_SUFFIXES:
        return None
    return "video" if is_animated(path) else "image"


def _kind_inside(path: Path) -> Kind | None:
    """What a file without a telling ending is."""
    from PIL import Image

    from ecstfl_cli.media.video import probe

    try:
        with path.open("rb") as file:
            # FFmpeg would find pictures in a zip file, where they are stored as they are.
            if file.read(4) == b"PK\3\4":
                return None
        with Image.open(path):
            return "video" if is_animated(path) else "image"
    except Exception:  # Pillow's readers raise almost anything on what is not an image.
        pass
    try:
        probe(path)
    except DataError:
        return None
    return "video"


def _search(folder: Path, found: Found, folders_are_videos: bool) -> str:
    named, others = found.named, found.passed_over.total()
    unreadable: list[OSError] = []
    for place, files in _walk(folder, unreadable):
        images = [name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES] if folders_are_videos else []
        if images:
            found.add(str(place), "frames")
        for name in files:
            if not _is_regular(place / name):  # Who reads a pipe waits for who writes to it.
                found.passed_over[Path(name).suffix.lower()] += 1
                continue
            kind = _kind(place / name) if "." in name else _kind_inside(place / name)
            if kind is None:
                found.passed_over[Path(name).suffix.lower()] += 1
            elif kind == "video" or not images:
                found.add(str(place / name), kind)
    for error in unreadable:
        # Its reader says why it cannot be read, as with every other source.
        found.add(str(error.filename), "frames")
    if found.named > named:
        return ""
    others = found.passed_over.total() - others
    return _HOLDS_NEITHER + (f" (other files: {others})" if others else "")


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # Its reader says what is wrong.
        return True


def _walk(folder: Path, unreadable: list[OSError]) -> Iterator[tuple[Path, list[str]]]:
    """(folder, its files) of a folder and those below it, in natural order, without what is hidden or was annotated.

    Links are followed, but no folder comes twice.
    """
    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, onerror=unreadable.append, followlinks=True):
        new = []
        for name in sorted(folders, key=natural_key):
            identity = os.path.realpath(os.path.join(place, name))  # noqa: PTH118 (a Path each is slow)
            if not name.startswith(".") and identity not in seen and not _is_annotated(Path(place, name)):
                seen.add(identity)
                new.append(name)
        folders[:] = new
        yield Path(place), sorted((name for name in files if not name.startswith(".")), key=natural_key)


def _is_annotated(folder: Path) -> bool:
    """Whether a folder holds the annotated copies of a result, finished or not."""
    result = folder.parent
    return folder.name == ANNOTATED and (
        ((result / "predictions.csv").is_file() and (result / "summary.json").is_file())
        or (result / UNFINISHED).is_dir()
    )
