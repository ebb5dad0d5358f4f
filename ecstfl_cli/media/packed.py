"""Packed frames: a few Arrow files in place of a million images, memory-mapped, any frame of any clip at once.

A pack is a folder `NAME.pack` of `pack.json`, the index, and the shards that it names, `shard-00000-….arrow`: Arrow IPC
files, one record batch a clip or 64 stills, with the columns clip, frame, height, width, image (bytes of JPEG or PNG,
or uint8 RGB). pyarrow opens them as they are. A path file names a sample as `NAME.pack/<id>`.
"""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecstfl_cli.errors import DataError
from ecstfl_cli.files import sha256
from ecstfl_cli.media.decode import decode_image

try:
    import simplejpeg
except ImportError:  # No wheel for this platform: Pillow writes JPEG, too, and takes longer.
    simplejpeg = None

Codec = Literal["jpeg", "png", "raw"]
FORMAT = "ecstfl-pack/1"
SUFFIX = ".pack"
INDEX = "pack.json"
SHARD_BYTES = 256 << 20
_STILLS = 64


def split_packed(path: str | Path) -> tuple[Path, str] | None:
    """The pack and the sample's id in it; None for a path that is not inside of a pack."""
    text = str(path).replace(os.sep, "/")
    end = text.find(f"{SUFFIX}/") + len(SUFFIX)
    if end < len(SUFFIX) or not (Path(text[:end]) / INDEX).is_file():
        return None
    return Path(text[:end]), text[end + 1 :]


def encode(frame: NDArray[np.uint8], codec: Codec, quality: int) -> bytes:
    """A frame (H, W, 3) uint8 RGB as bytes; `quality` 1 to 100 is JPEG's."""
    if codec == "raw":
        return frame.tobytes()
    if codec == "jpeg" and simplejpeg is not None:
        pixels = np.ascontiguousarray(frame)
        return bytes(simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="444"))
    out = io.BytesIO()
    if codec == "jpeg":
        Image.fromarray(frame).save(out, "JPEG", quality=quality, subsampling=0)
    else:
        Image.fromarray(frame).save(out, "PNG", compress_level=3)
    return out.getvalue()


class PackWriter:
    """Writes shards to `folder`, which exists; `finish` writes the index. `settings` go into it as they are."""

    def __init__(self, folder: Path, codec: Codec, settings: dict[str, Any], shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._head = {"format": FORMAT, "codec": codec, **settings}
        self._clips: dict[str, tuple[int, int, int, int]] = {}
        self._rows: list[tuple[str, int, int, int, bytes]] = []
        self._shards: list[Path] = []
        self._writer: Any = None
        self._batches = self._bytes = 0

    def add(self, id: str, images: Sequence[bytes], sizes: Sequence[tuple[int, int]]) -> None:
        """One sample: its encoded frames and their (height, width)."""
        if self._rows and len(self._rows) + len(images) > _STILLS:
            self._flush()
        if self._writer is None:
            self._open()
        self._clips[id] = (len(self._shards) - 1, self._batches, len(self._rows), len(images))
        self._rows += [(id, i, *size, image) for i, (image, size) in enumerate(zip(images, sizes, strict=True))]
        if len(images) > 1:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        schema = self._schema()
        columns = [
            pa.array(column, kind) for column, kind in zip(zip(*self._rows, strict=True), schema.types, strict=True)
        ]
        batch = pa.record_batch(columns, schema=schema)
        self._writer.write_batch(batch)
        self._rows = []
        self._batches += 1
        self._bytes += batch.nbytes
        if self._bytes >= self._shard_bytes:
            self.close()

    def close(self) -> None:
        """End the shard that is being written."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._batches, self._bytes = None, 0, 0

    def finish(self) -> dict[str, int]:
        """Write the index, with each shard's size and SHA-256; the frames of each sample.

        Shards are named by what they hold, so that those of another pack can lie beside them.
        """
        if self._rows:
            self._flush()
        self.close()
        shards = []
        for path in self._shards:
            digest = sha256(path)
            named = path.rename(path.with_stem(f"{path.stem}-{digest[:12]}"))
            shards.append({"file": named.name, "bytes": named.stat().st_size, "sha256": digest})
        index = {**self._head, "shards": shards, "clips": self._clips}
        (self._folder / INDEX).write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
        return {id: place[3] for id, place in self._clips.items()}

    def _open(self) -> None:
        import pyarrow as pa

        self._shards.append(self._folder / f"shard-{len(self._shards):05d}.arrow")
        self._writer = pa.ipc.new_file(str(self._shards[-1]), self._schema())

    def _schema(self) -> Any:
        import pyarrow as pa

        kinds = [("clip", pa.string()), ("frame", pa.int32()), ("height", pa.int32()), ("width", pa.int32())]
        return pa.schema([*kinds, ("image", pa.large_binary())], metadata={"ecstfl": json.dumps(self._head)})


@dataclass
class Pack:
    """An open pack. Shards are mapped when they are first read, so that processes share the page cache and no more."""

    folder: Path
    index: dict[str, Any]
    _readers: dict[int, Any] = field(default_factory=dict, repr=False)

    def n_frames(self, id: str) -> int:
        """Frames of a sample. Raises DataError where the pack has no such sample, or not all of its shard."""
        shard, _, _, n_frames = self._place(id)
        self._reader(shard)
        return n_frames

    def read(self, id: str, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Frames (H, W, 3) uint8 RGB of a sample by index from 0. Raises DataError where the shard is damaged."""
        shard, batch, first, n_frames = self._place(id)
        if any(not 0 <= i < n_frames for i in indices):
            raise IndexError(f"{id} has {n_frames} frames, not one at each of {list(indices)}")
        rows = [first + i for i in indices]
        try:
            table = self._reader(shard).get_batch(batch)
            heights, widths, images = (table.column(name) for name in ("height", "width", "image"))
            if self.index["codec"] == "raw":
                return [
                    np.frombuffer(images[i].as_buffer(), np.uint8)
                    .reshape(heights[i].as_py(), widths[i].as_py(), 3)
                    .copy()
                    for i in rows
                ]
            return [decode_image(images[i].as_py(), f"{self.folder / id}") for i in rows]
        except DataError as error:
            raise self._damaged(shard, error.message) from error
        except (OSError, ValueError, IndexError) as error:
            raise self._damaged(shard, str(error)) from error

    def _place(self, id: str) -> tuple[int, int, int, int]:
        try:
            shard, batch, first, n_frames = self.index["clips"][id]
            return shard, batch, first, n_frames
        except KeyError as error:
            raise DataError(f"{self.folder} has no sample {id!r}", f"Pack it again: {self.command}") from error

    def _reader(self, shard: int) -> Any:
        if shard not in self._readers:
            import pyarrow as pa

            told = self.index["shards"][shard]
            path = self.folder / told["file"]
            size = path.stat().st_size if path.is_file() else -1
            if size != told["bytes"]:
                what = "is missing" if size < 0 else f"has {size} bytes, not {told['bytes']}"
                raise self._damaged(shard, what)
            try:
                self._readers[shard] = pa.ipc.open_file(pa.memory_map(str(path)))
            except (OSError, ValueError) as error:
                raise self._damaged(shard, str(error)) from error
        return self._readers[shard]

    @property
    def command(self) -> str:
        """What writes the pack again."""
        return str(self.index.get("command", "ecstfl prepare --pack SIZE"))

    def _damaged(self, shard: int, why: str) -> DataError:
        path = self.folder / self.index["shards"][shard]["file"]
        return DataError(f"the shard {path} is damaged: {why}", f"Write it again: {self.command}")

    def verify(self) -> None:
        """Compare every shard with its SHA-256. Raises DataError for the first that differs."""
        for number, told in enumerate(self.index["shards"]):
            self._reader(number)
            if sha256(self.folder / told["file"]) != told["sha256"]:
                raise self._damaged(number, "its SHA-256 is another")

    @functools.cached_property
    def damage(self) -> str:
        """What `verify` finds, empty where nothing; looked for once."""
        try:
            self.verify()
        except DataError as error:
            return error.message
        return ""


@functools.lru_cache(maxsize=8)
def open_pack(folder: Path) -> Pack:
    """The pack in a folder; one for each process. Raises DataError where its index cannot be read."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise DataError(f"{folder} is a pack of the format {index['format']}; this ecstfl reads {FORMAT}")
        return Pack(folder, {**index, "clips": dict(index["clips"]), "shards": list(index["shards"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read the pack {folder}: {error}", "Write it again: ecstfl prepare --pack.") from error


def safe_id(path: str) -> str:
    """A sample's id from its relative path. Raises DataError where it leads out of the pack."""
    id = str(PurePosixPath(path.replace(os.sep, "/")))
    if id.startswith("/") or ".." in PurePosixPath(id).parts:
        raise DataError(f"{path} leads out of the data root, and cannot be packed under that name")
    return id
