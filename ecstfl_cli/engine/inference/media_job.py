"""The work of one `infer` on media: its sources in units, and a folder that knows which of them are done.

While it is not finished, everything lies in OUT/unfinished: job.json (settings and sources), rows/, a csv for each unit
that is done, and journals, one a shard, with a line for each. Any process that sees the folder can do the rest, or put
the parts together.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ecstfl_cli.engine.inference.defaults import DETECT_EVERY, SMOOTHING, STRIDE, WINDOW
from ecstfl_cli.engine.inference.results import columns
from ecstfl_cli.engine.inference.source_summary import SourceSummary
from ecstfl_cli.engine.inference.sources import UNFINISHED, Found, MediaSource
from ecstfl_cli.errors import EcstflError, OutputError, listing
from ecstfl_cli.files import complete_file
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.row_tables import join_tables

VERSION = 1
JOB = "job.json"
# Images that are looked at, and lost when a process ends, together.
IMAGES = 128
# What is written last.
RESULT = "summary.json"
# Seconds: a process that has made the folder of a job and not begun it in this time has been killed.
BEGINS_WITHIN = 5.0


class FinishedError(EcstflError):
    """Another process has finished the job that was to be begun."""


@dataclass(frozen=True)
class MediaSettings:
    """What was asked for, as far as the result depends on it; a job goes on with the same only."""

    inputs: tuple[str, ...] = ()
    camera: str | None = None
    model: str = ""
    weights: str = ""
    flip: bool = False
    faces: bool | str = "auto"
    every: int = 1
    fps: float | None = None
    detect_every: int = DETECT_EVERY
    smoothing: float = SMOOTHING
    window: float = WINDOW
    stride: float = STRIDE
    min_score: float | None = None
    frame_rate: float | None = None
    max_seconds: float | None = None
    formats: tuple[str, ...] = ("csv",)
    annotate: bool = False
    report: bool = False

    @property
    def thinned(self) -> bool:
        """Whether frames of videos are passed over."""
        return self.every > 1 or self.fps is not None

    def differences(self, wanted: MediaSettings) -> list[str]:
        """A line for each setting in which `wanted` is another."""
        return [
            f"{field.name.replace('_', ' ')}: {_shown(getattr(self, field.name))} there, "
            f"{_shown(getattr(wanted, field.name))} now"
            for field in fields(self)
            if getattr(self, field.name) != getattr(wanted, field.name)
        ]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "not set" if value is None else str(value)


@dataclass(frozen=True)
class Unit:
    """What one process does at a time: a video, or up to 128 images."""

    index: int
    sources: tuple[MediaSource, ...]
    part: str = ""

    @property
    def name(self) -> str:
        """How its files begin."""
        return f"{self.index:06}{self.part}"

    def halves(self) -> tuple[Unit, Unit]:
        """Its sources in two units with files of their own."""
        middle = len(self.sources) // 2
        first, second = self.sources[:middle], self.sources[middle:]
        return replace(self, sources=first, part=f"{self.part}a"), replace(self, sources=second, part=f"{self.part}b")


@dataclass(frozen=True)
class Shard:
    """This process's part: of every `count` units the one at `index`, from 0."""

    index: int = 0
    count: int = 1

    def describe(self) -> str:
        """For people, who count from 1."""
        return f"{self.index + 1}/{self.count}"


class Job:
    """The folder of a job; see the module. `settings`, `model` and `sources` are those of whoever began it, in the
    working directory `begun_in`."""

    def __init__(
        self,
        out: Path,
        settings: MediaSettings,
        model: Mapping[str, Any],
        sources: Sequence[MediaSource],
        shard: Shard,
        begun_in: str = "",
    ) -> None:
        self.begun_in, self.is_begun_here = begun_in, False
        self.out, self.settings, self.model, self.shard = out, settings, dict(model), shard
        self.sources = tuple(sources)
        self.units = _units(self.sources)
        self._done: dict[int, list[SourceSummary]] = {}
        self._read_journals()

    # --- beginning and going on --------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        out: Path,
        settings: MediaSettings,
        model: Mapping[str, Any],
        find: Callable[[], Found],
        shard: Shard,
    ) -> tuple[Job, Found | None]:
        """The unfinished job in `out` where there is one with these settings, else a new one with what `find` gives.

        `model` says of the model what results should. Found is None where the job was there. Raises EcstflError where
        its settings are others, with what differs; FinishedError where a result is there by now.
        """
        if is_unfinished(out):
            job = cls._load(out, shard)
            job._require(settings)
            return job, None
        found = find()
        begun = _begin(out, settings, model, found.sources)
        # Of several processes that begin at once, all go by what is there now.
        job = cls._load(out, shard)
        job.is_begun_here = begun
        if not begun:
            job._require(settings)
        return job, found

    @classmethod
    def resume(cls, out: Path, shard: Shard) -> Job:
        """The unfinished job in `out`, whatever its settings. Raises EcstflError where there is none."""
        if not is_unfinished(out):
            finished = (out / "predictions.csv").exists()
            raise EcstflError(
                f"{out} holds no unfinished result" + (": it is finished" if finished else ""),
                "" if finished else "Name the folder that an interrupted `ecstfl infer` wrote to.",
            )
        return cls._load(out, shard)

    @classmethod
    def _load(cls, out: Path, shard: Shard) -> Job:
        path = out / UNFINISHED / JOB
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise EcstflError(f"{path} is of another version of ecstfl", "Finish it with that, or remove it.")
            stored = content["settings"]
            for name in ("inputs", "formats"):
                stored[name] = tuple(stored[name])
            sources = [MediaSource(name, kind) for name, kind in content["sources"]]
            begun_in = content.get("begun_in", "")
            return cls(out, MediaSettings(**stored), content["model"], sources, shard, begun_in)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EcstflError(f"{path} cannot be read: {error}", f"Remove {path.parent} and begin again.") from error

    def _require(self, settings: MediaSettings) -> None:
        if different := self.settings.differences(settings):
            raise EcstflError(
                f"{self.out} holds an unfinished result of other settings:\n" + listing(different),
                f"Finish it with `ecstfl infer --resume {self.out}`, name another folder with --out, or remove it.",
            )

    # --- what is done ------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where parts lie until they are put together."""
        return self.out / UNFINISHED

    @property
    def labels(self) -> LabelMap:
        """The model's classes."""
        return LabelMap(self.model["label_map"], tuple(self.model["labels"]))

    @property
    def columns(self) -> list[str]:
        """Those of the rows."""
        return columns(self.labels)

    @functools.cached_property
    def common_folder(self) -> Path:
        """The deepest folder that holds all sources that are files."""
        parents = {normal_path(source.name).parent for source in self.sources if not source.live}
        try:
            return Path(os.path.commonpath(parents)) if parents else Path.cwd()
        except ValueError as error:  # They lie on several drives.
            raise EcstflError(
                f"annotated copies have no common folder: {error}", "Start one command a drive."
            ) from error

    def rows(self, unit: Unit) -> Path:
        """The csv of a unit's rows."""
        return self.folder / "rows" / f"{unit.name}.csv"

    def thumbnails(self, unit: Unit) -> Path:
        """The small pictures of a unit, for the report."""
        return self.folder / "thumbnails" / f"{unit.name}.jsonl"

    def join(self, parts: Sequence[Unit], unit: Unit) -> None:
        """Put the files of a unit's parts together as the unit's."""
        join_tables([self.rows(part) for part in parts], self.columns, self.rows(unit))
        if self.settings.report:
            lines = [self.thumbnails(part).read_text() for part in parts if self.thumbnails(part).exists()]
            with complete_file(self.thumbnails(unit)) as partial:
                partial.write_text("".join(lines))
        for part in parts:
            self.rows(part).unlink()
            self.thumbnails(part).unlink(missing_ok=True)

    def require_sources(self) -> None:
        """Raises EcstflError where this is another working directory, from which none of what is left is found."""
        names = [source.name for unit in self.left() for source in unit.sources if not source.live]
        if not names or self.begun_in in ("", str(Path.cwd())) or any(Path(name).exists() for name in names):
            return
        raise EcstflError(
            f"{names[0]} is not here: {self.out} was begun in {self.begun_in}",
            f"Go on from there: cd {shlex.quote(self.begun_in)}; "
            f"ecstfl infer --resume {shlex.quote(str(normal_path(str(self.out))))}",
        )

    def left(self) -> list[Unit]:
        """Units of this shard that are not done, in order."""
        mine = self.units[self.shard.index :: self.shard.count]
        return [unit for unit in mine if unit.index not in self._done]

    def done(self) -> list[SourceSummary]:
        """Summaries of the sources that are done, in the job's order."""
        return [summary for index in sorted(self._done) for summary in self._done[index]]

    def record(self, unit: Unit, summaries: Sequence[SourceSummary]) -> None:
        """Note that a unit's files are complete."""
        journal = self.folder / f"journal-{self.shard.index + 1}-of-{self.shard.count}.jsonl"
        line = json.dumps({"unit": unit.index, "sources": [summary.to_dict() for summary in summaries]})
        try:
            with journal.open("a", encoding="utf-8") as file:
                # After a line that was cut off, a new one begins.
                file.write(f"\n{line}\n")
        except OSError as error:
            raise OutputError.of(journal, error) from error
        self._done[unit.index] = list(summaries)

    def complete(self) -> bool:
        """Whether all units are done, those of other shards too."""
        self._read_journals()
        return len(self._done) == len(self.units)

    def missing(self) -> int:
        """How many sources are not done."""
        return sum(len(unit.sources) for unit in self.units if unit.index not in self._done)

    def remove(self) -> None:
        """Remove what was needed while the job was unfinished, and the folder where nothing else is in it."""
        # First what says that it is unfinished: to other processes it is whole or not there.
        (self.folder / JOB).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.out.is_dir() and not any(self.out.iterdir()):
            self.out.rmdir()

    def _read_journals(self) -> None:
        for journal in sorted(self.folder.glob("journal-*.jsonl")):
            with suppress(FileNotFoundError):  # Another process may be putting the parts together.
                self._read_journal(journal)

    def _read_journal(self, journal: Path) -> None:
        for line in journal.read_text(encoding="utf-8").splitlines():
            try:
                content = json.loads(line) if line else None
            except ValueError:  # It was cut off when its process ended.
                continue
            if content and content["unit"] < len(self.units):
                summaries = [SourceSummary.from_dict(values) for values in content["sources"]]
                self._done[content["unit"]] = summaries


def normal_path(name: str) -> Path:
    """An absolute path without `..`, links as they are."""
    return Path(os.path.abspath(name))  # noqa: PTH100 (Path.absolute keeps `..`, and Path.resolve follows links)


def is_unfinished(out: Path) -> bool:
    """Whether a folder holds a job that is not finished."""
    return (out / UNFINISHED / JOB).is_file()


def _units(sources: Sequence[MediaSource]) -> list[Unit]:
    """Consecutive images together, everything else by itself; it depends on the sources alone."""
    groups: list[list[MediaSource]] = []
    for source in sources:
        joins = groups and source.kind == "image" and groups[-1][0].kind == "image" and len(groups[-1]) < IMAGES
        if joins:
            groups[-1].append(source)
        else:
            groups.append([source])
    return [Unit(index, tuple(group)) for index, group in enumerate(groups)]


def _begin(out: Path, settings: MediaSettings, model: Mapping[str, Any], sources: Sequence[MediaSource]) -> bool:
    """Begin a job, unless another process does so at this moment, which is then waited for; whether it was begun here.

    Raises FinishedError where a result is there: another process has been quicker.
    """
    folder = out / UNFINISHED
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            for _ in range(round(BEGINS_WITHIN / 0.05)):
                if is_unfinished(out):
                    return False
                if (out / RESULT).exists():
                    break
                time.sleep(0.05)
        if (out / RESULT).exists():
            shutil.rmtree(folder, ignore_errors=True)
            raise FinishedError(f"{out} holds a result by now", "Name another folder with --out, or remove it.")
    except OSError as error:
        raise OutputError.of(folder, error) from error
    content = {
        "version": VERSION,
        "begun_in": str(Path.cwd()),
        "settings": asdict(settings),
        "model": dict(model),
        "sources": [[source.name, source.kind] for source in sources],
    }
    path = out / UNFINISHED / JOB
    try:
        (path.parent / "rows").mkdir(parents=True, exist_ok=True)
        with complete_file(path) as partial:
            # ASCII, in which JSON holds names that are no Unicode, too.
            partial.write_text(json.dumps(content, indent=1), encoding="ascii")
    except OSError as error:
        raise OutputError.of(path, error) from error
    return True
