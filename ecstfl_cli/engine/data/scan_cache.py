"""What was read before, so that an interrupted or repeated check reads only what is new or changed: one SQLite file."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from ecstfl_cli.components.perceptual_hash import SIDE
from ecstfl_cli.engine.data.scan import Scan
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError

FILE = "checked.sqlite"
# Part of the stamp's meaning: raised whenever a Scan holds something else.
_VERSION = 1
_TABLES = """
create table if not exists scans (
    path blob primary key, stamp blob, n_frames int, digest blob, sizes text, hashes blob, thumbs blob,
    n_odd int, odd text
) without rowid;
create table if not exists counts (path blob primary key, stamp blob, n_frames int) without rowid;
"""


class ScanCache:
    """Scans, and frames of video files, by path with the stamp of the files; a context manager that closes the file.

    Several checks may use one at a time. A file of an older version or a damaged one is begun anew. Raises DataError
    where the folder cannot be written to.
    """

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                reporter.note(f"{self.path} is damaged and begun anew")
                self._connection.close()
                self.path.unlink()
                self._open()
        except (OSError, sqlite3.OperationalError) as error:
            raise self._error(error) from error

    def _open(self) -> None:
        self._connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        (version,) = self._connection.execute("pragma user_version").fetchone()
        if version != _VERSION:
            self._connection.execute("drop table if exists scans")
            self._connection.execute(f"pragma user_version = {_VERSION}")
        self._connection.executescript(_TABLES)
        self._connection.commit()

    def __enter__(self) -> ScanCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str, stamp: bytes) -> Scan | None:
        """The scan of a path, None where there is none or the files are no longer those."""
        row = self._connection.execute("select * from scans where path = ?", (_key(path),)).fetchone()
        if row is None or row[1] != stamp:
            return None
        _, _, n_frames, digest, sizes, hashes, thumbs, n_odd, odd = row
        return Scan(
            n_frames,
            digest,
            {(height, width): n for height, width, n in json.loads(sizes)},
            np.frombuffer(hashes, np.uint64),
            np.frombuffer(thumbs, np.uint8).reshape(-1, SIDE // 2, SIDE // 2),
            n_odd=n_odd,
            odd=json.loads(odd),
        )

    def put(self, scans: Iterable[tuple[str, bytes, Scan]]) -> None:
        """Keep scans without anything wrong, on disk when this returns. Raises DataError where the disk is full."""
        rows = [
            (
                _key(path),
                stamp,
                scan.n_frames,
                scan.digest,
                json.dumps([[*size, n] for size, n in scan.sizes.items()]),
                scan.hashes.tobytes(),
                scan.thumbs.tobytes(),
                scan.n_odd,
                json.dumps(scan.odd),
            )
            for path, stamp, scan in scans
        ]
        try:
            with self._connection:
                self._connection.executemany(f"insert or replace into scans values ({', '.join('?' * 9)})", rows)
        except sqlite3.Error as error:
            raise self._error(error) from error

    def n_frames(self, path: str, stamp: bytes) -> int | None:
        """Frames of a video file that was counted or scanned, None where it was not or is no longer that file.

        May be called by several threads, as `put_n_frames`.
        """
        wanted = "select n_frames from {} where path = ? and stamp = ?"
        with self._lock, suppress(sqlite3.Error):
            for table in ("counts", "scans"):
                row = self._connection.execute(wanted.format(table), (_key(path), stamp)).fetchone()
                if row:
                    return int(row[0])
        return None

    def put_n_frames(self, path: str, stamp: bytes, n_frames: int) -> None:
        """Keep the frames of a video file; where the disk is full they will be counted again."""
        with self._lock, suppress(sqlite3.Error), self._connection:
            self._connection.execute("insert or replace into counts values (?, ?, ?)", (_key(path), stamp, n_frames))

    def _error(self, error: Exception) -> DataError:
        return DataError(
            f"cannot write {self.path}, which keeps what a check has read: {error}",
            "Choose a folder that can be written to with --out, or free some space.",
        )


def _key(path: str) -> bytes:
    """An absolute path as bytes: file names need not be Unicode."""
    return os.path.abspath(path).encode("utf-8", "surrogateescape")  # noqa: PTH100 (a Path each is slow)
