"""`ecstfl infer` on pictures, videos and streams, as a user calls it and sees it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.drawn_faces import write_frames
from tests.small_model import save_small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model") / "stills.safetensors", "img")


@pytest.fixture
def infer(cli: Callable, tmp_path: Path, model: Path) -> Callable:
    """`infer("a.jpg", …)` runs the command in `tmp_path`; results are in `o`."""
    return functools.partial(_infer, cli, tmp_path, model)


def _infer(cli: Callable, cwd: Path, model: Path, *args: str):  # type: ignore[no-untyped-def]
    return cli("infer", *args, "--model", model, "--device", "cpu", "--out", "o", "-j", "0", cwd=cwd)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with two pictures, a video, and files that are neither."""
    for n in range(2):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    frames = np.random.default_rng(5).integers(0, 256, (25, 48, 48, 3), dtype=np.uint8)
    write_frames(tmp_path / "talk.mp4", list(frames))
    (tmp_path / "bad.jpg").write_text("no picture")
    (tmp_path / "notes.md").touch()
    return tmp_path


def test_the_screen_says_what_each_source_shows_and_what_was_wrong(infer: Callable, media: Path) -> None:
    result = infer(".")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    rows = pd.read_csv(media / "o" / "predictions.csv")
    first = rows.iloc[0]
    assert lines[0] == f"0.png  {first.expression} {first[f'prob_{first.expression}']:.2f}"
    assert "talk.mp4  0:01.0  1 face" in lines
    assert "  face 0  0:00.0 to 0:01.0  " in result.stdout
    assert any(line.startswith("3 images, 2 faces  ") for line in lines)
    assert "problem: cannot read image bad.jpg: is not an image" in lines
    assert lines[-3:] == ["wrote o/predictions.csv", "wrote o/problems.csv", "wrote o/summary.json"]
    assert "3 images, 1 video" in result.stderr
    assert "1 other file passed over: 1 .md" in result.stderr
    assert "stills.safetensors: timm/test_resnet" in result.stderr


def test_json_is_one_document_with_the_rows_and_nothing_else(infer: Callable, media: Path) -> None:
    result = infer("talk.mp4", "bad.jpg", "--json", "--every", "5")
    document = json.loads(result.stdout)
    assert document["inputs"] == ["talk.mp4", "bad.jpg"]
    assert document["predictions"] == json.loads((media / "o" / "predictions.json").read_text())
    assert [row["frame"] for row in document["predictions"]] == [0, 5, 10, 15, 20]
    assert [bool(source["problem"]) for source in document["sources"]] == [False, True]
    assert document == {
        **json.loads((media / "o" / "summary.json").read_text()),
        "predictions": document["predictions"],
    }


def test_settings_are_told(infer: Callable, media: Path) -> None:
    assert infer("talk.mp4", "--detect-every", "7", "--fps", "5").exit_code == 0
    settings = json.loads((media / "o" / "summary.json").read_text())["settings"]
    assert (settings["detect_every"], settings["fps"]) == (7, 5)


def test_a_list_on_standard_input(infer: Callable, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1.png\0gone.png\0talk.mp4\0")))
    result = infer("-", "-0")
    assert result.exit_code == 0
    assert pd.read_csv(media / "o" / "predictions.csv")["source"].unique().tolist() == ["1.png", "talk.mp4"]
    assert "gone.png" in result.stdout


def test_what_cannot_be_used_together_is_said(infer: Callable, media: Path) -> None:
    (media / "list.csv").write_text("filePath,expression\n0.png,0\n")
    result = infer("list.csv", "--annotate", "--fps", "3")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--fps, --annotate: not for path files" in result.stderr
    assert "--smoothing, --null: not for path files" in infer("list.csv", "--smoothing", "0", "-0").stderr
    assert "--drop-classes: not for videos and images" in infer("talk.mp4", "--drop-classes").stderr
    assert "--out: not for --resume" in infer("--resume", "o").stderr
    assert "--data-root: not for videos and images" in infer("talk.mp4", "--data-root", ".").stderr
    assert infer("talk.mp4", "--every", "2", "--fps", "3").exit_code == 2
    assert infer("talk.mp4", "--every", "0").exit_code == 2
    for wrong in ("0", "31", "often"):
        refused = infer("talk.mp4", "--detect-every", wrong)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "'--detect-every'" in refused.stderr
    assert "I/N" in infer("talk.mp4", "--shard", "5/4").stderr
    assert "--type video asks for clips" in infer("talk.mp4", "--type", "video").stderr
    assert not (media / "o").exists()


def test_what_a_shells_pattern_matches_beside_media_is_passed_over(infer: Callable, media: Path) -> None:
    (media / "list.csv").write_text("filePath,expression\n0.png,0\n")
    (media / "frames.txt").mkdir()
    shutil.copy(media / "1.png", media / "frames.txt")
    assert "notes.md: is neither a picture nor a video" in infer("notes.md").stderr
    result = infer("0.png", "frames.txt", "list.csv", "notes.md")
    assert result.exit_code == 0
    assert "2 other files passed over: 1 .csv, 1 .md" in result.stderr
    assert pd.read_csv(media / "o" / "predictions.csv")["source"].tolist() == ["0.png", "frames.txt/1.png"]


def test_parts_and_merging(infer: Callable, cli: Callable, media: Path) -> None:
    first = infer("talk.mp4", "0.png", "--shard", "1/2")
    assert first.stdout == ""
    assert "this part is done; 1 of 2 sources are other parts'" in first.stderr
    result = cli("infer", "--merge", "o", cwd=media)
    assert result.exit_code == 1
    assert "1 of 2 sources are not done" in result.stderr
    for wrong in (["talk.mp4"], ["--every", "2"], ["--report"], ["--workers", "2"]):
        result = cli("infer", "--merge", "o", *wrong, cwd=media)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"{wrong[0]}: not" in result.stderr
    assert "wrote o/predictions.csv" in infer("talk.mp4", "0.png", "--shard", "2/2").stdout


def test_merged_parts_are_shown_as_json_too(cli: Callable, media: Path, model: Path) -> None:
    for part in ("1", "2"):
        cli("infer", "talk.mp4", "0.png", "--model", model, "--shard", f"{part}/2", "--out", part, cwd=media)
        shutil.copytree(media / part, media / "whole", dirs_exist_ok=True)
    document = json.loads(cli("infer", "--merge", "whole", "--json", cwd=media).stdout)
    assert {row["source"] for row in document["predictions"]} == {"talk.mp4", "0.png"}


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no Unicode")
def test_a_name_that_is_no_unicode_is_shown_escaped_and_ends_nothing(media: Path, model: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(media / "0.png", media / name)
    command = [sys.executable, "-m", "ecstfl_cli", "infer", name, "--model", str(model), "--report", "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*command, "--out", "o"], cwd=media, env=environment, capture_output=True, check=True)
    assert b"caf\\udce9.png" in done.stdout
    assert b"caf\\udce9.png" in (media / "o" / "report.html").read_bytes()


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(media: Path) -> Iterator[str]:
    """The address of a server of the media folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(media))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_a_stream_gives_each_row_as_a_line_of_json(infer: Callable, media: Path, server: str) -> None:
    frames = np.random.default_rng(5).integers(0, 256, (20, 48, 48, 3), dtype=np.uint8)
    write_frames(media / "live.ts", list(frames))
    result = infer(f"{server}/live.ts", "--json", "--max-seconds", "0.4")
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows == json.loads((media / "o" / "predictions.json").read_text())
    assert len(rows) == 10
    assert rows[0]["source"] == f"{server}/live.ts"


def test_a_cameras_pictures_over_http_have_the_times_at_which_they_come(infer: Callable, media: Path) -> None:
    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                for n in range(16):
                    jpeg = io.BytesIO()
                    Image.new("RGB", (40, 40), (8 * n, 0, 0)).save(jpeg, "jpeg")
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {jpeg.tell()}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg.getvalue() + b"\r\n")
                    time.sleep(0.1)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        infer(f"http://127.0.0.1:{running.server_address[1]}/video")
        running.shutdown()
    times = pd.read_csv(media / "o" / "predictions.csv")["time"]
    assert len(times) > 8
    # FFmpeg would say 0.04 s from one to the next.
    assert times.iloc[-1] / (len(times) - 1) > 0.08


def test_a_stream_that_is_not_there_is_an_error(infer: Callable, server: str) -> None:
    result = infer(f"{server}/gone.ts")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "404 Not Found" in result.stderr


def test_the_screen_follows_a_stream(infer: Callable, media: Path, server: str) -> None:
    frames = [np.full((48, 48, 3), 30 if n < 20 else 220, np.uint8) for n in range(40)]
    write_frames(media / "live.ts", frames)
    lines = infer(f"{server}/live.ts", "--smoothing", "0").stdout.splitlines()
    rows = pd.read_csv(media / "o" / "predictions.csv")
    assert lines[0].split() == [
        "0:00.3",
        "face",
        "0",
        rows["expression"][0],
        f"{rows.filter(like='prob_').iloc[8].max():.2f}",
    ]


def test_ctrl_c_ends_a_stream_with_complete_files_and_exit_code_0(media: Path, model: Path) -> None:
    frames = np.random.default_rng(5).integers(0, 256, (200, 48, 48, 3), dtype=np.uint8)
    content = write_frames(media / "live.ts", list(frames)).read_bytes()
    os.mkfifo(media / "pipe")
    command = [sys.executable, "-m", "ecstfl_cli", "infer", "pipe", "--model", str(model), "--out", "o", "--json"]
    with (media / "errors").open("w") as errors:
        process = subprocess.Popen(command, cwd=media, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout
    with (media / "pipe").open("wb", buffering=0) as pipe:
        threading.Thread(target=_send, args=(pipe, content), daemon=True).start()
        lines = [process.stdout.readline()]
        process.send_signal(signal.SIGINT)
        # Not communicate(), which would miss lines that came together with the first: they wait in this file's buffer.
        lines += process.stdout
    assert process.wait(60) == 0, (media / "errors").read_text()
    rows = [json.loads(line) for line in lines]
    assert rows == json.loads((media / "o" / "predictions.json").read_text())
    assert len(pd.read_csv(media / "o" / "predictions.csv")) == len(rows)


def _send(pipe: io.RawIOBase, content: bytes) -> None:
    with contextlib.suppress(OSError):  # Nobody listens any more.
        pipe.write(content)


def test_the_docs_name_options_that_there_are(cli: Callable) -> None:
    known = set(re.findall(r"--?[a-z0-9][a-z-]*", cli("infer", "--help").stdout))
    text = (Path(__file__).parents[2] / "docs" / "infer.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--nproc-per-node"}
    assert len(named) > 15
    assert named <= known, named - known
