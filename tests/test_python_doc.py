"""The examples of docs/python.md, run one after the other as a reader would, on media of drawn faces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ecstfl_cli.engine.weights.model_source import shipped_model
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.media.video import probe
from tests.drawn_faces import drawn_scene, write_frames
from tests.small_model import save_small_model

TEXT = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python( no-run)?\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with every file that the examples name."""
    try:
        shipped_model()
    except CheckpointError:
        pytest.skip("the weights that ship are not in this checkout")
    monkeypatch.chdir(tmp_path)
    frames = drawn_scene((1,), frames=12)
    write_frames(tmp_path / "talk.mp4", frames)
    Image.fromarray(drawn_scene((1, 3))[0]).save("party.jpg")
    Image.new("RGB", (320, 240), (40, 90, 40)).save("empty.jpg")
    Path("notes.txt").write_text("not a picture", encoding="utf-8")
    Path("frames_of_talk").mkdir()
    pictures = [Image.fromarray(frame) for frame in frames[:6]]
    for n, picture in enumerate(pictures):
        picture.save(f"frames_of_talk/{n + 8}.png")
        picture.crop((80, 12, 280, 220)).resize((48, 48)).save(f"crop_{n}.jpg")
    pictures[0].save("wave.gif", save_all=True, append_images=pictures[1:3], duration=[200, 300, 100], loop=0)
    save_small_model(tmp_path / "clip_model.safetensors", "video")
    return tmp_path


def test_every_example_runs_and_shows_what_it_says(media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    shown: list[str] = []
    for skipped, code in BLOCKS:
        program = compile(code, "docs/python.md", "exec")
        if not skipped:
            exec(program, names)
        shown.append(capsys.readouterr().out)
    said = "".join(shown)
    assert len(BLOCKS) >= 15
    assert "talk.mp4" in shown[0]
    assert "('happy', 'sad', 'neutral', 'angry', 'surprise', 'disgust', 'fear')" in shown[1]
    assert shown[2].count("face 0") == 12
    assert Path("talk.csv").read_text(encoding="utf-8").count("\n") == 13
    assert "empty.jpg: no face was found" in said
    assert "notes.txt: cannot read image" in said
    assert "cannot open video missing.mp4" in said
    assert "('party.jpg', 1, " in said
    assert "('image 1', 1, " in said
    assert "(0.0, 0.0, 48.0, 48.0) 1.0" in said
    assert "0.44\n0.5\n0.2\n1.8\n" in said
    assert "3 12\n" in said
    assert (media / "annotated.mp4").stat().st_size > 5000
    assert probe(media / "annotated_fully.mp4").n_frames == 12
    assert "data:image/jpeg" in (media / "report.html").read_text(encoding="utf-8")
    assert re.search(r"^0\.0 to \d\.\d s: \w+$", said, re.MULTILINE)
    assert "(2, 7)" in said
    assert re.search(r"\[\(0\.\d+, 12, '\w+'\)\]", said)
