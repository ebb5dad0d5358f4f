"""`ecstfl prepare --pack`: the samples of a manifest re-encoded once, at the working size, into a few large files."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli import extra_columns, pathfile
from ecstfl_cli.api import Modality, PathRow
from ecstfl_cli.components.transforms import resize, shortened
from ecstfl_cli.engine.data import manifest as manifests
from ecstfl_cli.engine.data.manifest import Split
from ecstfl_cli.engine.data.samples import KIND
from ecstfl_cli.engine.preparation.prepared import clean_name, written_together
from ecstfl_cli.engine.processes import cores
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, EcstflError, listing
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.media.packed import INDEX, SUFFIX, Codec, PackWriter, encode, open_pack, safe_id
from ecstfl_cli.media.sources import is_video_file, open_clip, read_still
from ecstfl_cli.media.video import read_video

Fit = Literal["short", "stretch"]
_COMPUTED = {"format", "name", "label_map", "label_names", "files", "samples", "counts", "fingerprint", "extra"}
_COMPUTED |= {"version", "written_at", "path"}


@dataclass(frozen=True)
class Packing:
    """How frames are packed: `size` pixels, of the shorter side (`short`, never enlarged) or of both (`stretch`)."""

    size: int
    codec: Codec = "jpeg"
    quality: int = 95
    fit: Fit = "short"

    def flags(self) -> list[str]:
        """The flags of `ecstfl prepare` that say so."""
        told = {"": self.size, "-codec": self.codec, "-quality": self.quality, "-resize": self.fit}
        return [word for key, value in told.items() for word in (f"--pack{key}", str(value))]


@dataclass(frozen=True)
class Packed:
    """What was written: the manifest with its path, the pack, its samples, frames and bytes."""

    manifest: dict[str, Any]
    path: Path
    folder: Path
    samples: int
    frames: int
    bytes: int


class _Encoded(NamedTuple):
    id: str
    images: list[bytes]
    sizes: list[tuple[int, int]]


def pack(
    manifest: dict[str, Any], packing: Packing, *, out: Path, workers: int | None = None, reporter: Reporter
) -> Packed:
    """Pack every sample that the path files of a manifest list, and write path files of the packed ones to `out`.

    The pack appears complete or not at all; one of the same name stays whole until this one is. Subjects and votes are
    kept. Raises DataError where a sample cannot be read, and EcstflError where the pack cannot be written.
    """
    if not 8 <= packing.size <= 4096 or not 1 <= packing.quality <= 100:
        raise EcstflError(f"cannot pack at {packing.size} pixels and quality {packing.quality}", "8 to 4096; 1 to 100.")
    rows = _rows(manifest)
    name = clean_name(f"{manifest['name']}_pack{packing.size}")
    folder = Path(os.path.abspath(out)) / f"{name}{SUFFIX}"  # noqa: PTH100 (Path.resolve would replace the user's links)
    ids = _ids({row.path for listed in rows.values() for row in listed}, manifest)
    _refuse_foreign(manifest, name, folder, rows, out)
    command = shlex.join(["ecstfl", "prepare", manifest["path"], *packing.flags(), "--out", os.path.abspath(out)])  # noqa: PTH100
    settings = {"size": packing.size, "resize": packing.fit, "quality": packing.quality, "command": command}
    try:
        with _workplace(folder) as partial:
            counts = _write(PackWriter(partial, packing.codec, settings), ids, manifest, packing, workers, reporter)
            size = sum(file.stat().st_size for file in partial.iterdir())
            _put_in_place(partial, folder)
    except OSError as error:
        raise EcstflError(f"cannot write the pack {folder}: {error}", "Choose another --out, or make room.") from error
    moved = {key: [_moved(row, folder, ids[row.path], counts) for row in listed] for key, listed in rows.items()}
    written = _path_files(manifest, name, moved, packing, out)
    return Packed(written, out / f"{name}.json", folder, len(ids), sum(counts.values()), size)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` for this process alone; what one that was killed left there is removed.

    Raises EcstflError where another process is at work.
    """
    from filelock import FileLock, Timeout

    place = folder.with_name(f"{folder.name}.part")
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EcstflError(f"another process is writing the pack {folder}", "Wait until it has stopped.") from None
    try:
        shutil.rmtree(place / "pack", ignore_errors=True)
        (place / "pack").mkdir()
        yield place / "pack"
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()


def _put_in_place(partial: Path, folder: Path) -> None:
    """Move a pack to its place. One that is there is whole until its index is replaced, in one rename."""
    shards = {file.name for file in partial.iterdir()} - {INDEX}
    if folder.exists():
        for name in shards:
            (partial / name).replace(folder / name)
        (partial / INDEX).replace(folder / INDEX)
    else:
        partial.rename(folder)
    open_pack.cache_clear()
    for shard in folder.glob("*.arrow"):
        if shard.name not in shards:
            shard.unlink()


def _refuse_foreign(manifest: dict[str, Any], name: str, folder: Path, rows: Iterable[str], out: Path) -> None:
    """Raise DataError where a file or folder would be overwritten that `prepare` did not write."""
    suffix = pathfile.SUFFIXES[manifest["modality"]]
    files = [*(out / f"{name}_{key}{suffix}" for key in rows), out / f"{name}.json"]
    foreign = [file for file in files if not manifests.is_ours(file)]
    foreign += [folder] if folder.exists() and not (folder / INDEX).is_file() else []
    if foreign:
        raise DataError(
            "what `ecstfl prepare` did not write would be overwritten:\n" + listing([str(file) for file in foreign]),
            "Choose another --out, or move it away.",
        )


def _moved(row: PathRow, folder: Path, id: str, counts: Mapping[str, int]) -> PathRow:
    return replace(row, path=f"{folder}/{id}", n_frames=counts[id])


def _rows(manifest: dict[str, Any]) -> dict[str, list[PathRow]]:
    """The rows of each path file, with absolute paths."""
    labels = label_map_from(manifest["label_map"]) if manifest["label_map"] else None
    files = manifest["files"].items()
    return {key: extra_columns.read_rows(Path(file), None, labels, require_labels=False) for key, file in files}


def _ids(paths: Iterable[str], manifest: dict[str, Any]) -> dict[str, str]:
    """An id for each path: what it is below the data root, or below the folder that all of them share."""
    listed = sorted(paths)
    root = manifest.get("faces_root") or manifest.get("data_root") or ""
    if not root or not all(Path(path).is_relative_to(root) for path in listed):
        root = os.path.commonpath([os.path.dirname(path) for path in listed])  # noqa: PTH120
    return {path: safe_id(os.path.relpath(path, root)) for path in listed}


def _write(
    writer: PackWriter,
    ids: dict[str, str],
    manifest: dict[str, Any],
    packing: Packing,
    workers: int | None,
    reporter: Reporter,
) -> dict[str, int]:
    """Encode in threads, a few samples ahead of the writer; the frames of each sample by id."""
    modality = manifest["modality"]
    threads = workers or cores()
    try:
        with (
            ThreadPoolExecutor(threads) as pool,
            reporter.progress("packing", len(ids), KIND[modality]) as advance,
        ):
            for encoded in _ahead(pool, ids, modality, packing, 4 * threads):
                writer.add(*encoded)
                advance(1)
        return writer.finish()
    finally:
        writer.close()


def _ahead(
    pool: ThreadPoolExecutor, ids: dict[str, str], modality: Modality, packing: Packing, ahead: int
) -> Iterator[_Encoded]:
    left = iter(ids.items())
    waiting = [pool.submit(_encoded, path, id, modality, packing) for path, id in islice(left, ahead)]
    while waiting:
        done = waiting.pop(0).result()
        waiting += [pool.submit(_encoded, path, id, modality, packing) for path, id in islice(left, 1)]
        yield done


def _encoded(path: str, id: str, modality: Modality, packing: Packing) -> _Encoded:
    images: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    for frame in _frames(Path(path), modality):
        fitted = resize(frame[None], packing.size)[0] if packing.fit == "stretch" else shortened(frame, packing.size)
        images.append(encode(fitted, packing.codec, packing.quality))
        sizes.append((fitted.shape[0], fitted.shape[1]))
    if not images:
        raise DataError(f"{path} holds no images", "Run `ecstfl prepare --check`.")
    return _Encoded(id, images, sizes)


def _frames(path: Path, modality: Modality) -> Iterator[NDArray[np.uint8]]:
    """Every frame of a sample, one at a time."""
    if modality == "img":
        yield read_still(path)
    elif is_video_file(path):
        yield from (frame.pixels for frame in read_video(path))
    else:
        try:
            clip = open_clip(path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", "Run `ecstfl prepare --check`.") from error
        yield from (clip.read([i])[0] for i in range(len(clip)))


def _path_files(
    manifest: dict[str, Any], name: str, rows: dict[str, list[PathRow]], packing: Packing, out: Path
) -> dict[str, Any]:
    labels = label_map_from(manifest["label_map"]) if manifest["label_map"] else None
    suffix = pathfile.SUFFIXES[manifest["modality"]]
    files = {key: out / f"{name}_{key}{suffix}" for key in rows}
    origin = {key: value for key, value in manifest.items() if key not in _COMPUTED}
    told = {"size": packing.size, "resize": packing.fit, "codec": packing.codec, "quality": packing.quality}
    written = manifests.build(
        name,
        (manifest["label_map"], labels) if labels else None,
        {
            key: Split(file, [(r.path, r.label) for r in rows[key]], extra_columns.sidecar_of(file, rows[key]))
            for key, file in files.items()
        },
        **{**origin, "pack": {"of": manifest["name"], **told, "folder": f"{name}{SUFFIX}"}},
    )
    with written_together(out, written) as folder:
        for key, file in files.items():
            extra_columns.write(folder / file.name, rows[key], manifest["modality"], labels.names if labels else ())
    return written
