"""Files of `torch.save`, read without running anything they ask for; the unpickler is in `restricted_pickle`.

Tensors are read only when they are asked for, so an optimizer's state costs nothing, and land on the CPU whatever
device they were on.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ecstfl_cli.engine.weights.restricted_pickle import AsksForCodeError, RestrictedUnpickler, StorageRef, TensorRef
from ecstfl_cli.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_RESAVE = "Save its weights alone where they were made, `torch.save(model.state_dict(), FILE)`, and use that file."


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """A file of `torch.save`, open for reading tensors from it.

    Raises CheckpointError where the file asks for code, is damaged, or is something else.
    """
    with _explained(path):
        source = _Archive(path) if _kind(path) == "zip" else _Legacy(path)
    try:
        yield TorchFile(path, source)
    finally:
        source.close()


class TorchFile:
    """What a file of `torch.save` holds; see `open_torch_file`.

    `content` is what was saved: dicts, lists, plain values, a TensorRef for each tensor, and objects that hold nothing
    for everything else.
    """

    def __init__(self, path: Path, source: _Archive | _Legacy) -> None:
        self.path = path
        self.content = source.content
        self._source = source
        self._bases: dict[tuple[str, torch.dtype], Tensor] = {}

    def tensor(self, ref: TensorRef) -> Tensor:
        """The tensor, on the CPU; tensors that share memory in the file share it here."""
        with _explained(self.path):
            return self._tensor(ref)

    def _tensor(self, ref: TensorRef) -> Tensor:
        numbers = (ref.offset, *ref.size, *ref.stride)
        if not isinstance(ref.storage, StorageRef) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError("a tensor's place in the file is not given by whole numbers")
        if prod(ref.size) == 0:
            return torch.empty(ref.size, dtype=ref.dtype)
        count = ref.storage.numel * ref.storage.dtype.itemsize // ref.dtype.itemsize
        if ref.offset + sum((n - 1) * s for n, s in zip(ref.size, ref.stride, strict=True)) >= count:
            raise ValueError("a tensor reaches beyond its bytes")
        key = (ref.storage.key, ref.dtype)
        if key not in self._bases:
            self._bases[key] = torch.frombuffer(bytearray(self._source.bytes_of(ref.storage)), dtype=ref.dtype)
        return self._bases[key].as_strided(ref.size, ref.stride, ref.offset)


class _Archive:
    """The zip format, since PyTorch 1.6: `data.pkl` and one stored entry for each storage."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        try:
            names = self._zip.namelist()
            if any(n.endswith("/constants.pkl") or "/code/" in n for n in names):
                raise CheckpointError(f"{path} is a TorchScript program, not a file of weights", _RESAVE)
            pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
            if len(pickles) != 1:
                raise CheckpointError(f"{path} is a zip archive, but not one of torch.save", _RESAVE)
            self._root = pickles[0].removesuffix("data.pkl")
            if f"{self._root}byteorder" in names and self._zip.read(f"{self._root}byteorder") != b"little":
                raise CheckpointError(f"{path} was written on a big-endian machine", _RESAVE)
            with self._zip.open(pickles[0]) as file:
                self.content = RestrictedUnpickler(file).load()
        except BaseException:
            self.close()
            raise

    def bytes_of(self, storage: StorageRef) -> bytes:
        entry = self._zip.getinfo(f"{self._root}data/{storage.key}")
        if entry.file_size != storage.numel * storage.dtype.itemsize:
            raise ValueError(f"entry {entry.filename} has {entry.file_size} bytes")
        return self._zip.read(entry)

    def close(self) -> None:
        self._zip.close()


class _Legacy:
    """The format before: pickles in a row (magic number, version, machine, content, keys), then the bytes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            self._check_magic(path)
            if (
                RestrictedUnpickler(self._file).load() != 1001
                or not RestrictedUnpickler(self._file).load()["little_endian"]
            ):
                raise ValueError("an unknown version, or a big-endian machine")
            unpickler = RestrictedUnpickler(self._file)
            self.content = unpickler.load()
            self._positions: dict[str, int] = {}
            for key in RestrictedUnpickler(self._file).load():
                storage = unpickler.storages[key]
                (numel,) = struct.unpack("<q", self._file.read(8))
                if numel != storage.numel:
                    raise ValueError(f"storage {key} has {numel} elements")
                self._positions[key] = self._file.tell()
                self._file.seek(numel * storage.dtype.itemsize, 1)
        except BaseException:
            self.close()
            raise

    def _check_magic(self, path: Path) -> None:
        try:
            magic = RestrictedUnpickler(self._file).load()
        except AsksForCodeError:
            raise
        except Exception:
            magic = None
        if magic != _LEGACY_MAGIC:
            raise CheckpointError(
                f"{path} is neither a checkpoint of ecstfl nor a file of torch.save",
                "Give a .safetensors checkpoint, or a .pth file that holds a state dict.",
            )

    def bytes_of(self, storage: StorageRef) -> bytes:
        self._file.seek(self._positions[storage.key])
        wanted = storage.numel * storage.dtype.itemsize
        data = self._file.read(wanted)
        if len(data) != wanted:
            raise EOFError("the file ends too early")
        return data

    def close(self) -> None:
        self._file.close()


def _kind(path: Path) -> str:
    """`zip` or `legacy`, by content. Raises CheckpointError for what is plainly something else."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty", "Fetch it again.")
    if head.lstrip().startswith(b"<"):
        raise CheckpointError(
            f"{path} is a web page, not weights",
            "The site answered with a page instead of the file: a share link that shows it, or one that has expired. "
            "A Dropbox link downloads where it ends in dl=1.",
        )
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive, the format of PyTorch 0.1, which is not read here", _RESAVE)
    return "zip" if head.startswith(b"PK\x03\x04") else "legacy"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns whatever a damaged or hostile file provokes into one CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except AsksForCodeError as error:
        raise CheckpointError(
            f"{path} tries to run code while being read: it asks for {error}",
            f"Nothing was run. Weights need no code. If the file is your own: {_RESAVE}",
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or cut short: {error or type(error).__name__}",
            "Fetch it again, or copy it again from where it was made.",
        ) from error
