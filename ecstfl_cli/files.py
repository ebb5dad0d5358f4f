"""Files that appear under their final name only when they are complete; and what a file holds, in one number."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, moved there when the block ends; after an error nothing is left of it.

    Missing parent folders are made. The ending stays: some writers go by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` have left. Nobody may be writing it now."""
    name = re.compile(rf"{re.escape(path.stem)}\.\d+\.part{re.escape(path.suffix)}")
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        if name.fullmatch(other.name):
            other.unlink(missing_ok=True)


@contextmanager
def complete_files(folder: Path, last: str) -> Iterator[Path]:
    """A folder inside `folder` to write files to, moved out when the block ends; after an error none of them is left.

    The one called `last` is moved last: whoever finds it finds all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(".part", ".", folder))
    try:
        yield partial
        for file in sorted(partial.iterdir(), key=lambda file: file.name == last):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
