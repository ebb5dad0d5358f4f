"""The catalogue and downloads, against a real server in this process."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights import catalogue
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import label_map_from

NAME = "r3d_dfew"
CONTENT = bytes(range(256)) * 6000


@dataclass
class Server:
    """What the server has and how well it behaves; `requests` are the Range headers it was asked for."""

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    content_type: str = "application/binary"
    status: int = 200
    ranges: bool = True
    honours_if_range: bool = True
    breaks_after: int | None = None
    requests: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requests.append(asked)
            if state.status != 200:
                self.send_error(state.status)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) if asked and state.ranges else 0
            condition = self.headers.get("If-Range")
            if condition and state.honours_if_range and condition != state.etag:
                start = 0
            total = len(state.content)
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Content-Type", state.content_type)
            self.send_header("Content-Length", str(total - start))
            self.end_headers()
            self.wfile.write(state.content[start : state.breaks_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}/file?dl=1"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        running.shutdown()


def _download(server: Server, folder: Path) -> Path:
    return catalogue.download(NAME, folder, Reporter(), server.url)


def _interrupt(server: Server, folder: Path, after: int = 500_000) -> None:
    server.breaks_after = after
    with pytest.raises(CheckpointError, match="stopped after"):
        _download(server, folder)
    server.breaks_after = None


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_the_four_released_checkpoints_are_listed_with_licence_and_source() -> None:
    known = {entry.name: entry for entry in catalogue.entries()}
    assert {"r3d_dfew", "r3d_ECSTFL_dfew", "resnet18_rafdb", "resnet18_ECSTFL_rafdb"} <= known.keys()
    for entry in known.values():
        assert entry.licence
        assert entry.where
        assert len(label_map_from(entry.label_map)) == entry.classes
    assert known["r3d_ECSTFL_dfew"].war == 64.08
    assert known["r3d_dfew"].url is not None
    assert "dl=1" in known["r3d_dfew"].url
    assert "assumed" in known["resnet18_rafdb"].label_map_note
    assert (known["resnet18_rafdb"].input_spec.modality, known["resnet18_rafdb"].input_spec.size) == ("img", 224)


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(CheckpointError, match="no checkpoint 'r3d_defw'") as caught:
        catalogue.find("r3d_defw")
    assert "'r3d_dfew'" in caught.value.hint


def test_files_that_only_a_person_can_fetch_say_where_they_are_and_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="by hand") as caught:
        catalogue.download("resnet18_rafdb", tmp_path, Reporter())
    assert "pan.baidu.com" in caught.value.hint
    assert "50ff" in caught.value.hint
    assert str(tmp_path / "resnet18_rafdb.pth") in caught.value.hint


# --- fetching --------------------------------------------------------------------------------------------------------


def test_a_download_is_put_in_place_with_its_sha256(tmp_path: Path, server: Server) -> None:
    path = _download(server, tmp_path / "new folder")
    assert path == tmp_path / "new folder" / "r3d_dfew.pth"
    assert path.read_bytes() == CONTENT
    line = path.with_name("r3d_dfew.pth.sha256").read_text()
    assert line == f"{hashlib.sha256(CONTENT).hexdigest()}  r3d_dfew.pth\n"
    assert sorted(p.name for p in path.parent.iterdir()) == ["r3d_dfew.pth", "r3d_dfew.pth.sha256"]


def test_progress_covers_the_whole_file(tmp_path: Path, server: Server) -> None:
    class Counting(Reporter):
        done = total = 0

        @contextmanager
        def progress(self, *asked: Any, **_options: Any) -> Iterator[Callable[..., None]]:
            def advance(n: int) -> None:
                self.done += n

            self.total = asked[1]
            yield advance

    reporter = Counting()
    catalogue.download(NAME, tmp_path, reporter, server.url)
    assert reporter.done == reporter.total == len(CONTENT) // 1000


def test_a_file_that_is_there_is_verified_and_not_fetched_again(tmp_path: Path, server: Server) -> None:
    path = _download(server, tmp_path)
    _download(server, tmp_path)
    assert len(server.requests) == 1
    assert path.read_bytes() == CONTENT


def test_an_interrupted_transfer_is_continued(tmp_path: Path, server: Server) -> None:
    _interrupt(server, tmp_path)
    assert not (tmp_path / "r3d_dfew.pth").exists()
    assert (tmp_path / "r3d_dfew.pth.part").stat().st_size == 500_000
    assert _download(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=500000-"]
    assert not list(tmp_path.glob("*.part*"))


def test_a_transfer_that_breaks_twice_is_continued_twice(tmp_path: Path, server: Server) -> None:
    _interrupt(server, tmp_path, 300_000)
    _interrupt(server, tmp_path, 900_000)
    assert _download(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=900000-"]


def test_a_server_without_ranges_sends_it_all_again(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    _interrupt(server, tmp_path)
    assert _download(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_file_that_changed_between_the_parts_is_begun_anew(
    tmp_path: Path, server: Server, honours_if_range: bool
) -> None:
    _interrupt(server, tmp_path)
    server.content, server.etag, server.honours_if_range = CONTENT[::-1], '"two"', honours_if_range
    assert _download(server, tmp_path).read_bytes() == CONTENT[::-1]


def test_a_file_that_changed_its_length_without_an_etag_is_begun_anew(tmp_path: Path, server: Server) -> None:
    server.etag = None
    _interrupt(server, tmp_path)
    server.content = CONTENT[::-1] + b"more"
    assert _download(server, tmp_path).read_bytes() == server.content


def test_a_file_that_became_shorter_than_its_part_is_begun_anew(tmp_path: Path, server: Server) -> None:
    server.etag = None
    _interrupt(server, tmp_path)
    server.content = b"short"
    assert _download(server, tmp_path).read_bytes() == b"short"


def test_a_part_from_another_address_is_not_continued(tmp_path: Path, server: Server) -> None:
    _interrupt(server, tmp_path)
    catalogue.download(NAME, tmp_path, Reporter(), server.url + "&mirror=2")
    assert server.requests == [None, None]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [(b"<!DOCTYPE html><html>expired</html>", "application/binary"), (b"Sign in", "text/html; charset=utf-8")],
)
def test_a_web_page_is_not_taken_for_the_file(
    tmp_path: Path, server: Server, content: bytes, content_type: str
) -> None:
    server.content, server.content_type = content, content_type
    with pytest.raises(CheckpointError, match="a web page instead of the file") as caught:
        _download(server, tmp_path)
    assert str(tmp_path / "r3d_dfew.pth") in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_server_says_how_to_fetch_by_hand(tmp_path: Path, server: Server) -> None:
    server.status = 404
    with pytest.raises(CheckpointError, match="answered 404") as caught:
        _download(server, tmp_path)
    assert "By hand: fetch r3d_dfew.pth" in caught.value.hint


def test_an_unreachable_server_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be reached"):
        catalogue.download(NAME, tmp_path, Reporter(), "http://127.0.0.1:9/file")


def test_only_web_addresses_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(CheckpointError, match="not an http or https address"):
        catalogue.download(NAME, tmp_path, Reporter(), (tmp_path / "secret").as_uri())


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be made a folder"):
        _download(server, tmp_path / "file")


# --- SHA-256 ---------------------------------------------------------------------------------------------------------


def test_another_content_is_refused_after_the_first_download(tmp_path: Path, server: Server) -> None:
    path = _download(server, tmp_path)
    path.unlink()
    server.content, server.etag = CONTENT[::-1], '"two"'
    with pytest.raises(CheckpointError, match=hashlib.sha256(CONTENT).hexdigest()):
        _download(server, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["r3d_dfew.pth.sha256"]
    server.content = CONTENT
    assert _download(server, tmp_path).read_bytes() == CONTENT


def test_a_file_changed_on_disk_is_refused_and_kept(tmp_path: Path, server: Server) -> None:
    path = _download(server, tmp_path)
    path.write_bytes(b"changed")
    with pytest.raises(CheckpointError, match="has SHA-256"):
        _download(server, tmp_path)
    assert path.read_bytes() == b"changed"


def test_a_file_put_there_by_hand_is_recorded_then_verified(tmp_path: Path) -> None:
    entry = catalogue.find("resnet18_rafdb")
    path = tmp_path / entry.file
    assert catalogue.state(entry, tmp_path) == "absent"
    path.write_bytes(b"weights")
    assert catalogue.state(entry, tmp_path) == "present"
    assert catalogue.download("resnet18_rafdb", tmp_path, Reporter()) == path
    assert catalogue.state(entry, tmp_path) == "verified"
    path.write_bytes(b"other weights")
    assert catalogue.state(entry, tmp_path) == "changed"


def test_the_record_is_one_that_sha256sum_writes(tmp_path: Path) -> None:
    entry = catalogue.find("resnet18_rafdb")
    (tmp_path / entry.file).write_bytes(b"weights")
    (tmp_path / f"{entry.file}.sha256").write_text(f"{hashlib.sha256(b'weights').hexdigest().upper()} *{entry.file}\n")
    assert catalogue.state(entry, tmp_path) == "verified"


def test_a_record_that_is_no_sha256_is_named(tmp_path: Path) -> None:
    entry = catalogue.find("resnet18_rafdb")
    (tmp_path / entry.file).write_bytes(b"weights")
    (tmp_path / f"{entry.file}.sha256").write_text("nonsense\n")
    with pytest.raises(CheckpointError, match="does not hold a SHA-256"):
        catalogue.state(entry, tmp_path)


def test_a_sha256_of_the_catalogue_counts_before_any_record(tmp_path: Path) -> None:
    entry = catalogue.find("resnet18_rafdb")
    (tmp_path / entry.file).write_bytes(b"weights")
    catalogue.download(entry.name, tmp_path, Reporter())
    digest = hashlib.sha256(b"weights").hexdigest()
    assert catalogue.state(replace(entry, sha256=digest), tmp_path) == "verified"
    assert catalogue.state(replace(entry, sha256="0" * 64), tmp_path) == "changed"
