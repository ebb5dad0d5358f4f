"""The report as a page: complete in itself, escaped, bounded, and drawn by a real browser where there is one."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.palette import EXPRESSIONS
from ecstfl_cli.report.html import write_report
from ecstfl_cli.report.source import FACES, SourceReport, source_report
from ecstfl_cli.report.thumbnails import Thumbnail, ThumbnailKeeper

DFEW = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
MODEL = {"Name": "small", "Licence": "Apache-2.0", "Calibration": {"temperature": 1.3, "ECE after": 0.0142}}
SETTINGS = {"Command": "ecstfl infer talk.mp4 --report", "Every": 1}
NASTY = """<img src=x onerror="alert('1')"> & </script><!-- "quoted" \u2028.mp4"""
VOID = {"img", "input", "meta", "link", "br", "hr"}


@dataclass(frozen=True)
class Row:
    time: float
    probs: tuple[float, ...]
    face: int = 0
    box: tuple[float, float, float, float] = (10, 10, 50, 50)


def row(time: float, expression: str, face: int = 0, height: float = 0.7) -> Row:
    rest = (1 - height) / 6
    return Row(time, tuple(height if name == expression else rest for name in DFEW), face)


def talk(seconds: float = 6, fps: float = 10, face: int = 0) -> list[Row]:
    """Neutral, then happy, then neutral again: a third of the time each."""
    n = round(seconds * fps)
    return [row(k / fps, "happy" if n / 3 <= k < 2 * n / 3 else "neutral", face) for k in range(n)]


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 120, 90)).save(file, "JPEG")
    return file.getvalue()


def picture_at(time: float, expression: str, face: int = 0) -> Thumbnail:
    return Thumbnail(time, face, DFEW.index(expression), 0.7, jpeg())


class Page(HTMLParser):
    """Elements with their attributes, checked for being nested properly, and all text but scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: dict[str | None, str] = {}
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            identity = [attributes for name, attributes in self.elements if name == "script"][-1].get("id")
            self.scripts[identity] = self.scripts.get(identity, "") + data
        elif "style" not in self.open:
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        return [
            found for name, found in self.elements if name == tag and all(found.get(k) == v for k, v in wanted.items())
        ]

    @property
    def data(self) -> dict:
        return json.loads(self.scripts["data"])


def written(path: Path, sources: list[SourceReport], model=MODEL, settings=SETTINGS) -> Page:
    write_report(path, sources, DFEW, model, settings)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def two_videos_and_images() -> list[SourceReport]:
    pictures = [picture_at(1.0, "neutral"), picture_at(3.0, "happy"), picture_at(5.0, "neutral")]
    return [
        source_report("talk.mp4", talk(), 6.0, pictures),
        source_report("duo.mp4", talk() + talk(3, face=1), 6.0),
        source_report("smile.jpg", [row(0.0, "happy")], None, [picture_at(0.0, "happy")]),
        source_report("wall.jpg", [], None),
    ]


# --- the page --------------------------------------------------------------------------------------------------------


def test_a_page_shows_each_face_its_segments_the_pictures_at_changes_model_and_settings(tmp_path):
    page = written(tmp_path / "report.html", two_videos_and_images())
    assert len(page.all("article", class_="face")) == 3
    assert len(page.all("div", class_="chart")) == 3
    # Three segments of each face that goes from neutral to happy and back.
    assert page.text.count("3 segments") == 3
    assert [button["data-time"] for button in page.all("button") if "data-time" in button] == ["1.0", "3.0", "5.0"]
    for text in ("mostly neutral (67%)", "happy 33%", "no face", "small", "Apache-2.0", "0.0142", "--report"):
        assert text in page.text
    assert "2 videos, 12.0 s of it, 2 images, 4 faces, 151 rows" in page.text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_charts_data_are_in_the_page(tmp_path):
    data = written(tmp_path / "report.html", two_videos_and_images()).data
    assert data["classes"] == list(DFEW)
    assert data["colours"] == [EXPRESSIONS[name] for name in DFEW]
    talk_data, duo = data["sources"]
    assert (talk_data["end"], len(talk_data["faces"]), len(duo["faces"])) == (6.0, 1, 2)
    face = talk_data["faces"][0]
    assert face["t"] == [100 * k for k in range(60)]
    assert face["p"][0][25] == 700
    assert face["p"][2][0] == 700
    assert [(start, end, k) for start, end, k, _ in face["segments"]] == [(0, 2, 2), (2, 4, 0), (4, 6, 2)]


def test_a_page_asks_for_nothing_outside_of_itself(tmp_path):
    page = written(tmp_path / "report.html", two_videos_and_images())
    for tag, attributes in page.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            target = attributes.get(key)
            assert target is None or target.startswith(("#", "data:image/jpeg;base64,")), (tag, target)
    assert not page.all("link")
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", source)
    policy = page.all("meta", http_equiv="Content-Security-Policy")[0]["content"] or ""
    assert "default-src 'none'" in policy
    assert re.findall(r"https?://[^\s\"<]+", source) == ["http://www.w3.org/2000/svg"]


def test_ids_are_unique_and_what_refers_to_them_finds_them(tmp_path):
    page = written(tmp_path / "report.html", two_videos_and_images())
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = ("aria-labelledby", "aria-describedby", "data-readout")
    wanted = [attributes[key] for _, attributes in page.elements for key in named if key in attributes]
    wanted += [(attributes["href"] or "")[1:] for attributes in page.all("a")]
    assert wanted
    assert set(wanted) <= set(ids)


def test_everything_has_a_name_for_those_who_do_not_see_it(tmp_path):
    page = written(tmp_path / "report.html", two_videos_and_images())
    assert all("alt" in attributes for attributes in page.all("img"))
    assert all(attributes.get("aria-label") for attributes in page.all("div", class_="shares"))
    assert all(attributes.get("tabindex") == "0" for attributes in page.all("div", class_="chart"))
    assert page.all("html")[0]["lang"] == "en"


def test_names_of_files_and_every_other_text_are_escaped(tmp_path):
    sources = [
        source_report(NASTY, talk(), 6.0, [picture_at(1.0, "neutral")], problems=[NASTY]),
        source_report(NASTY, [row(0.0, "happy")], None, [picture_at(0.0, "happy")]),
        source_report("b.mp4", [], 1.0),
    ]
    page = written(tmp_path / "a.html", sources, {NASTY: NASTY, "list": [NASTY]}, {"Command": {NASTY: NASTY}})
    assert {name for name, _ in page.elements} >= {"img", "script"}
    assert not [attributes for attributes in page.all("img") if "onerror" in attributes]
    assert len(page.scripts) == 2
    assert page.text.count(NASTY) >= 8
    write_report(tmp_path / "b.html", sources, [NASTY, *DFEW[1:]], {}, {})
    names = Page((tmp_path / "b.html").read_text(encoding="utf-8"))
    assert names.data["classes"][0] == NASTY
    assert len(names.scripts) == 2


def test_a_source_without_faces_and_a_report_without_sources_say_so(tmp_path):
    page = written(tmp_path / "a.html", [source_report("sky.mp4", [], 4.0, problems=["no face in 95 frames"])])
    assert page.text.count("no face in 95 frames") == 2
    assert not page.all("div", class_="chart")
    assert "No face was found." in written(tmp_path / "b.html", [source_report("sky.mp4", [], 4.0)]).text
    assert "0 faces, 0 rows" in written(tmp_path / "c.html", []).text


def test_shares_are_of_all_faces_also_of_those_that_are_not_shown():
    rows = [row(k / 10, "happy", face=face) for face in range(FACES) for k in range(20)]
    rows += [row(k / 10, "sad", face=face) for face in range(FACES, 2 * FACES) for k in range(10)]
    source = source_report("crowd.mp4", rows, 2.0)
    assert (len(source.faces), source.more_faces) == (FACES, FACES)
    assert source.shares.sum() == pytest.approx(1)
    assert source.shares.max() == pytest.approx(2 / 3)


def test_what_was_not_read_is_not_without_a_face(tmp_path):
    broken = {"problems": ["is empty (0 bytes)"], "read": False}
    sources = [source_report(name, [], 1.0) for name in ("sky.mp4", "sea.mp4")]
    sources += [source_report("zero.mp4", [], 0.0, **broken)]
    sources += [source_report("wall.jpg", [], None), source_report("cut.jpg", [], None, **broken)]
    text = written(tmp_path / "a.html", sources).text
    assert "2 images, 0 faces, 1 without a face, 1 not read." in text
    assert text.count("not read") == 3, "in the sentence, in the table of images and in that of sources"


def test_an_hour_is_drawn_with_fewer_points_and_the_page_says_so(tmp_path):
    rng = np.random.default_rng(0)
    rows = [Row(k / 25, tuple(p)) for k, p in enumerate(rng.dirichlet(np.full(7, 0.3), 90_000))]
    page = written(tmp_path / "a.html", [source_report("hour.mp4", rows, 3600.0)])
    assert len(page.data["sources"][0]["faces"][0]["t"]) == 6000
    assert "A point is the mean of 0.6 s" in page.text
    assert (tmp_path / "a.html").stat().st_size < 4e6


def test_of_very_many_segments_the_longest_are_listed_and_counted(tmp_path):
    parts = [DFEW[k % 7] for k in range(1500)]
    rows = [row(2 * k + n / 2, name) for k, name in enumerate(parts) for n in range(4)]
    one = source_report("a.mp4", rows, 3000.0)
    page = written(tmp_path / "a.html", [one], model={})
    assert "1,500 segments, the 500 longest of them listed" in page.text
    assert len(page.all("tr")) == 501
    assert len(page.data["sources"][0]["faces"][0]["segments"]) == 1500
    many = written(tmp_path / "b.html", [one] * 60, model={})
    assert len(many.all("tr")) <= 20_000 + 2 * 60 + 1
    assert len(many.data["sources"][0]["faces"][0]["segments"]) == 1000
    assert many.text.count("The strip has the 1,000 longest segments.") == 60


def test_hundreds_of_sources_stay_within_bounds(tmp_path):
    one = source_report("a.mp4", talk(100, 20), 100.0, [picture_at(k * 10.0, "neutral") for k in range(30)])
    page = written(tmp_path / "a.html", [one] * 250)
    assert len(page.all("div", class_="chart")) == 250
    assert sum(len(face["t"]) for source in page.data["sources"] for face in source["faces"]) <= 200_000
    assert len(page.all("img")) <= 2 * 2400
    assert len(page.all("input", type="search")) == 1


def test_a_gallery_of_thousands_is_cut_and_says_so(tmp_path):
    image = source_report("a.jpg", [row(0.0, "sad")], None, [picture_at(0.0, "sad")])
    page = written(tmp_path / "a.html", [image] * 3000)
    assert len(page.all("img")) == 240
    assert "The first 240 of 3,000 faces are pictured." in page.text
    assert "The first 2,000 rows are listed" in page.text


def test_sources_are_named_from_the_folder_that_holds_them_all(tmp_path):
    names = ["/data/talks/day 1/a.mp4", "/data/talks/day 2/a.mp4"]
    page = written(tmp_path / "a.html", [source_report(name, [], 1.0) for name in names])
    assert "rows, in /data/talksSources" in page.text
    assert page.text.count("day 1/a.mp4") == 2
    assert page.text.count("/data/talks/day 1") == 0
    for names in (["a.mp4", "b/c.mp4"], ["rtsp://host/one", "rtsp://host/two"]):
        page = written(tmp_path / "b.html", [source_report(name, [], 1.0) for name in names])
        assert all(name in page.text for name in names)


# --- thumbnails ------------------------------------------------------------------------------------------------------


def shades(k: int) -> np.ndarray:
    return np.full((120, 160, 3), k, np.uint8)


def test_thumbnails_are_taken_once_a_run_where_it_is_clearest():
    keeper = ThumbnailKeeper()
    for k in range(30):
        expression = "happy" if 10 <= k < 20 else "neutral"
        keeper.add(k / 10, shades(8 * k), [row(k / 10, expression, height=0.9 if k in (4, 14, 24) else 0.6)])
    kept = keeper.thumbnails()
    assert [(one.time, DFEW[one.expression], one.prob) for one in kept] == [
        (0.4, "neutral", 0.9),
        (1.4, "happy", 0.9),
        (2.4, "neutral", 0.9),
    ]
    for one, k in zip(kept, (4, 14, 24), strict=True):
        with Image.open(io.BytesIO(one.jpeg)) as image:
            assert image.size == (112, 112)
            assert np.asarray(image).mean() == pytest.approx(8 * k, abs=3)


def test_thumbnails_stay_few_however_long_the_source_and_the_long_runs_are_kept():
    keeper = ThumbnailKeeper(per_face=5, in_all=12)
    time = 0.0
    for run in range(300):
        for _ in range(40 if run in (100, 200) else 4):
            faces = [row(time, DFEW[run % 7], face=face) for face in range(4)]
            keeper.add(time, shades(100), faces)
            time += 0.1
    kept = keeper.thumbnails()
    assert len(kept) == 12
    assert max(sum(one.face == face for one in kept) for face in range(4)) <= 5
    assert {DFEW[one.expression] for one in kept} >= {DFEW[100 % 7], DFEW[200 % 7]}


def test_a_face_at_the_border_or_larger_than_the_picture_has_a_square_thumbnail():
    keeper = ThumbnailKeeper()
    boxes = [(-20, -20, 30, 30), (150, 100, 200, 160), (-50, -50, 400, 400), (5, 5, 6, 6)]
    rows = [Row(0.0, row(0.0, "happy").probs, face, box) for face, box in enumerate(boxes)]
    keeper.add(0.0, shades(100), rows)
    assert len(keeper.thumbnails()) == 4


def test_a_report_keeps_the_thumbnails_that_agree_with_a_segment():
    pictures = [picture_at(1.0, "neutral"), picture_at(1.5, "sad"), picture_at(3.0, "happy")]
    (face,) = source_report("a.mp4", talk(), 6.0, pictures).faces
    assert [(one.time, DFEW[one.expression]) for one in face.thumbnails] == [(1.0, "neutral"), (3.0, "happy")]


# --- a browser -------------------------------------------------------------------------------------------------------


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on the PATH")


def test_a_browser_draws_the_charts_without_an_error(tmp_path):
    program = browser()
    written(tmp_path / "report.html", [*two_videos_and_images(), source_report(NASTY, talk(), 6.0)])
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--window-size=1200,900"]
    command = [program, *flags, "--enable-logging=stderr", "--dump-dom", (tmp_path / "report.html").as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in result.stderr
    page = Page(result.stdout)
    assert page.all("html")[0].get("data-ready") == "true"
    assert len([attributes for attributes in page.all("svg") if attributes.get("viewbox")]) == 4
    lines = page.all("path", class_="line")
    assert len(lines) == 4 * len(DFEW)
    assert {attributes["stroke"] for attributes in lines} == {EXPRESSIONS[name] for name in DFEW}
    # Neutral starts high: 70% of 150 pixels above the base line at 158.
    neutral = next(attributes for attributes in lines if attributes["stroke"] == EXPRESSIONS["neutral"])
    assert (neutral["d"] or "").startswith("M38.0 53.0L")
    strips = [attributes for attributes in page.all("rect") if attributes.get("rx") == "2"]
    assert [strip["fill"] for strip in strips[:3]] == [EXPRESSIONS[name] for name in ("neutral", "happy", "neutral")]
