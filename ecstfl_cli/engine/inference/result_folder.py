"""The folder that the results of one `infer` go to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from ecstfl_cli.errors import EcstflError, OutputError

RESULTS = Path("runs") / "infer"
_RESULT_FILES = (
    "predictions.csv",
    "predictions.json",
    "predictions.parquet",
    "summary.json",
    "metrics.json",
    "confusion.png",
    "rejects*.csv",
)


@contextmanager
def result_folder(out: Path | None) -> Iterator[Path]:
    """The folder to write to: `out`, or a new one that no other command takes. It is gone again where it stays empty.

    Raises EcstflError where it holds an earlier result.
    """
    ours = out is None or not out.exists()
    folder = _new_folder() if out is None else out
    if folder.exists() and not folder.is_dir():
        raise EcstflError(f"--out {folder} is a file", "Name a folder.")
    require_no_result(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):  # What holds something is not removed.
            for empty in ([folder] if ours else []) + ([RESULTS, RESULTS.parent] if out is None else []):
                empty.rmdir()


def require_no_result(folder: Path, patterns: Sequence[str] = _RESULT_FILES) -> None:
    """Raises EcstflError where a folder holds an earlier result."""
    earlier = sorted(path.name for pattern in patterns for path in folder.glob(pattern))
    if earlier:
        raise EcstflError(
            f"{folder} holds an earlier result: {', '.join(earlier)}", "Name another folder with --out, or remove it."
        )


def _new_folder() -> Path:
    """A folder of this command alone, also where many are started at once."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        for n in count():
            folder = RESULTS / (stamp if n == 0 else f"{stamp}-{n}")
            with suppress(FileExistsError):
                folder.mkdir(parents=True)  # Another command may have removed them, empty, in between.
                return folder
    except OSError as error:
        raise OutputError.of(RESULTS, error) from error
    raise AssertionError
