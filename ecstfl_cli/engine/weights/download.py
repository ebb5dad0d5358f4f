"""One file over HTTP: with progress, resumed where it stopped, never left half-written under its final name."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ecstfl_cli import __version__
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import CheckpointError

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class _Version:
    """Which content a partial file belongs to. `validator` is its ETag or date, `total` its length in bytes."""

    url: str
    validator: str | None
    total: int | None


def fetch(url: str, target: Path, reporter: Reporter) -> Path:
    """Fetch `url` into `TARGET.part` and return that path; the caller checks it and moves it into place.

    A part of an earlier attempt is continued where the server still has the same content and serves ranges, else begun
    anew. Raises CheckpointError where the server cannot be reached, stops early, or answers with a web page; what has
    come so far is kept for the next attempt.
    """
    if not url.startswith(("http://", "https://")):
        raise CheckpointError(f"{url} is not an http or https address")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{target.parent} cannot be made a folder: {error.strerror}") from error
    known = _known(part, url)
    if not known or part.stat().st_size != known.total:
        with _explained(url):
            _receive(url, part, known, reporter)
    _state_path(part).unlink()
    return part


def _receive(url: str, part: Path, known: _Version | None, reporter: Reporter) -> None:
    response, start = _open(url, part, known)
    with closing(response):
        version = _Version(url, _validator(response.headers), _total(response))
        first = response.read(_CHUNK)
        if start == 0:
            _refuse_page(url, response.headers, first)
            _state_path(part).write_text(json.dumps(asdict(version)), encoding="utf-8")
        else:
            reporter.note(f"continuing after {start / 1e6:.1f} MB")
        received = _write(response, first, part, start, version.total, reporter)
    if version.total is not None and received != version.total:
        raise CheckpointError(
            f"the transfer from {url} stopped after {received / 1e6:.1f} of {version.total / 1e6:.1f} MB",
            "Run the same command again: it continues from there.",
        )


def _open(url: str, part: Path, known: _Version | None) -> tuple[Any, int]:
    """The answer, and how many bytes of `part` it follows on."""
    start = part.stat().st_size if known else 0
    if known and start:
        try:
            response = _request(url, start, known.validator)
        except urllib.error.HTTPError as error:
            # Not satisfiable: the content has become shorter than what we have of it.
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
        else:
            if response.status != http.client.PARTIAL_CONTENT:
                return response, 0
            content_range = response.headers.get("Content-Range", "")
            # Last-Modified may be left out of an answer to If-Range (RFC 9110, section 15.3.7).
            unchanged = _validator(response.headers) in (None, known.validator) and _total(response) == known.total
            if unchanged and content_range.startswith(f"bytes {start}-"):
                return response, start
            response.close()
    return _request(url, 0, None), 0


def _request(url: str, start: int, validator: str | None) -> Any:
    headers = {"User-Agent": f"ecstfl/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS)


def _write(response: Any, first: bytes, part: Path, start: int, total: int | None, reporter: Reporter) -> int:
    received = start
    # Without a stated length there is no share to show, only what has come.
    kilobytes = -(-(total or 0) // 1000)
    with part.open("ab" if start else "wb") as file, reporter.progress(part.stem, kilobytes, unit="kB") as advance:
        chunk = first
        shown = 0
        while chunk:
            file.write(chunk)
            received += len(chunk)
            advance(-(-received // 1000) - shown)
            shown = -(-received // 1000)
            chunk = response.read(_CHUNK)
    return received


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _known(part: Path, url: str) -> _Version | None:
    """What a part on disk belongs to; None where there is none that could be continued from this address."""
    state = _state_path(part)
    if not part.is_file() or not state.is_file():
        return None
    try:
        version = _Version(**json.loads(state.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None
    return version if version.url == url else None


def _validator(headers: Any) -> str | None:
    """A strong ETag, else the date of last change: what If-Range may carry (RFC 9110, section 13.1.5)."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _total(response: Any) -> int | None:
    """Length of the whole content in bytes, where the server states it."""
    if response.status == http.client.PARTIAL_CONTENT:
        stated = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        stated = response.headers.get("Content-Length", "")
    return int(stated) if stated.isdigit() else None


def _refuse_page(url: str, headers: Any, first: bytes) -> None:
    if headers.get_content_type() == "text/html" or first.lstrip().startswith(b"<"):
        raise CheckpointError(
            f"{url} answered with a web page instead of the file",
            "The link may have expired, or shows the file instead of sending it (a Dropbox link sends it with dl=1).",
        )


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"{url} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise CheckpointError(f"{url} cannot be reached: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(
            f"the transfer from {url} failed: {error or type(error).__name__}",
            "Run the same command again: it continues where it stopped.",
        ) from error
