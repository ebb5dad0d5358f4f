"""Tables of many rows in flat memory: a csv that grows while rows come, joined, and turned into JSON and parquet."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from ecstfl_cli.errors import EcstflError, OutputError, suggest
from ecstfl_cli.files import complete_file

Row = Mapping[str, Any]
# Bytes of csv that are converted at a time, some 60,000 rows: a row group of the parquet file.
BLOCK = 8 << 20
WHOLE, TEXT = frozenset({"frame", "face", "frames"}), frozenset({"source", "expression"})


class RowTable:
    """A csv of rows with the keys `columns`; a context manager.

    Each call of `write` leaves whole lines in the file, which appears under its name when the context ends; after an
    error nothing is left of it. Names that are no Unicode are written with backslashes. Raises OutputError.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns
        self._stack = ExitStack()

    def __enter__(self) -> RowTable:
        try:
            partial = self._stack.enter_context(complete_file(self.path))
            file = partial.open("w", newline="", encoding="utf-8", errors="backslashreplace")
            self._file = self._stack.enter_context(file)
            self._writer = csv.DictWriter(self._file, self.columns, lineterminator="\n")
            self._quoting = csv.DictWriter(self._file, self.columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
            self._writer.writeheader()
        except OSError as error:
            self._stack.close()
            raise OutputError.of(self.path, error) from error
        return self

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows, in their order."""
        try:
            # Before Python 3.13 csv does not quote what ends a line on other systems.
            returns = any("\r" in str(row.get("source", "")) for row in rows)
            (self._quoting if returns else self._writer).writerows(rows)
            self._file.flush()
        except OSError as error:
            raise OutputError.of(self.path, error) from error

    def append(self, part: Path) -> None:
        """Add the rows of another table with the same columns."""
        try:
            with part.open(encoding="utf-8", newline="") as file:
                file.readline()
                shutil.copyfileobj(file, self._file)
        except OSError as error:
            raise OutputError.of(self.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, traceback)
        except OSError as problem:
            raise OutputError.of(self.path, problem) from problem


def join_tables(parts: Sequence[Path], columns: Sequence[str], path: Path) -> None:
    """Write the csv files `parts`, which RowTable wrote with these columns, one after the other as one file."""
    with RowTable(path, columns) as table:
        for part in parts:
            table.append(part)


def convert_table(source: Path, path: Path) -> None:
    """Write the rows of a csv as `path`'s ending says: `.json`, a list of rows, or `.parquet`, in row groups.

    `frame`, `face` and `frames` are whole numbers, `source` and `expression` texts, all others floating-point numbers.
    Raises EcstflError for any other ending, and OutputError where writing fails.
    """
    convert = _CONVERTERS.get(path.suffix.lower())
    if convert is None:
        raise EcstflError(
            f"rows cannot be written as {path.name}",
            f"{suggest(path.suffix, _CONVERTERS)}Endings: .csv, {', '.join(_CONVERTERS)}",
        )
    try:
        with complete_file(path) as partial:
            convert(source, partial)
    except OSError as error:
        raise OutputError.of(path, error) from error


def read_table(path: Path) -> Iterator[Any]:
    """The rows of a csv as pyarrow record batches of some 60,000 rows, with the types of `convert_table`."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    with path.open(encoding="utf-8", newline="") as file:
        columns = next(csv.reader(file))
    kinds = {name: pa.int64() for name in WHOLE} | {name: pa.string() for name in TEXT}
    reader = arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=BLOCK, use_threads=False),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types={name: kinds.get(name, pa.float64()) for name in columns}, strings_can_be_null=False
        ),
    )
    with reader:
        # One without rows comes first, so that there is a schema where there are no rows.
        yield pa.RecordBatch.from_pylist([], schema=reader.schema)
        yield from reader


def _write_json(source: Path, path: Path) -> None:
    before = "[\n  "
    with path.open("w", encoding="utf-8") as file:
        for batch in read_table(source):
            for row in batch.to_pylist():
                file.write(before + json_line(row))
                before = ",\n  "
        file.write("[]\n" if before.startswith("[") else "\n]\n")


def _write_parquet(source: Path, path: Path) -> None:
    import pyarrow.parquet as pq

    batches = read_table(source)
    first = next(batches)
    with path.open("wb") as file, pq.ParquetWriter(file, first.schema) as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch)


_CONVERTERS: dict[str, Callable[[Path, Path], None]] = {".json": _write_json, ".parquet": _write_parquet}


def json_line(row: Row) -> str:
    """A row as JSON in one line."""
    return json.dumps(row, ensure_ascii=False)
