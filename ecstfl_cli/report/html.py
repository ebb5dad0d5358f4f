"""The report: one HTML page that needs neither a network nor other files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli import __version__
from ecstfl_cli.media.atomic import complete_file
from ecstfl_cli.report.markup import Markup, clock, join, join_lines, shares_bar, tag, thumbnail_image, time_span
from ecstfl_cli.report.palette import expression_colours, text_on
from ecstfl_cli.report.source import FaceReport, SourceReport, thinned

# What a page may hold of charts' points and of pictures, in all; each face gets its part of it.
ALL_POINTS, FEWEST_POINTS = 400_000, 200
ALL_THUMBNAILS, MOST_THUMBNAILS = 2_400, 24
# Images in the gallery and rows in its table, and problems that are listed.
GALLERY, GALLERY_ROWS, PROBLEMS = 240, 2_000, 200
# A table of segments is open where it is short.
OPEN_SEGMENTS = 12

LIMITS = (
    "The model sees what a face shows, not what a person feels. Probabilities are those of posed and acted or "
    "search-engine pictures like the ones it was trained on; they err more on profiles, covered, small, blurred or "
    "badly lit faces, and may err more for some groups of people than for others. Decisions about people should not "
    "rest on them."
)


@dataclass(frozen=True)
class _Page:
    """What all parts of a page share: class names, their colours and the text colour on each of them."""

    names: Sequence[str]
    colours: Sequence[str]
    inks: Sequence[str]


def write_report(
    path: Path,
    sources: Sequence[SourceReport],
    names: Sequence[str],
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    title: str = "Facial expressions",
) -> None:
    """Write the page for `sources` (see `source.source_report`), whose K classes are called `names`.

    `model` is the model card and `settings` what the run was asked to do: labels with texts, numbers, lists or further
    mappings. Every text may hold any letters. The page's size is bounded: with many faces each has fewer points and
    pictures, and the page says so.
    """
    colours = expression_colours(names)
    page = _Page(names, colours, [text_on(colour) for colour in colours])
    videos = _bounded([source for source in sources if source.duration is not None])
    images = [source for source in sources if source.duration is None]
    parts = [
        _header(title, videos, images),
        _class_buttons(page) if any(source.faces for source in videos) else "",
        tag(
            "main",
            join_lines(
                _problems(sources),
                _index(page, videos) if len(videos) > 1 else "",
                *(_source(page, i, source) for i, source in enumerate(videos)),
                _images(page, images),
                _facts("model", "Model", {**model, "Limits of all such models": LIMITS}),
                _facts("settings", "Settings", settings),
            ),
            id="content",
        ),
        tag("footer", f"Made by ecstfl {__version__}, {datetime.now().astimezone().isoformat(' ', 'minutes')}."),
    ]
    with complete_file(path) as partial:
        partial.write_text(_document(title, join_lines(*parts), _data(page, videos)), encoding="utf-8")


def _document(title: str, body: Markup, data: str) -> str:
    own = files("ecstfl_cli.report")
    style = own.joinpath("page.css").read_text(encoding="utf-8")
    script = own.joinpath("page.js").read_text(encoding="utf-8")
    # The policy lets the browser refuse whatever would need a network.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="generator" content="ecstfl {__version__}">
{tag("title", title)}
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the results</a>
{body}
<script type="application/json" id="data">{data}</script>
<script>
{script}</script>
</body>
</html>
"""


def _bounded(videos: Sequence[SourceReport]) -> list[SourceReport]:
    """The sources with as many points and thumbnails a face as the page can hold."""
    faces = max(1, sum(len(source.faces) for source in videos))
    points = max(FEWEST_POINTS, ALL_POINTS // faces)
    pictures = min(MOST_THUMBNAILS, max(1, ALL_THUMBNAILS // faces))
    return [replace(source, faces=tuple(thinned(face, points, pictures) for face in source.faces)) for source in videos]


def _data(page: _Page, videos: Sequence[SourceReport]) -> str:
    """What the page's script draws, as JSON that can stand in a page: milliseconds and thousandths."""
    content = {
        "classes": list(page.names),
        "colours": page.colours,
        "inks": page.inks,
        "sources": [{"end": _end(source), "faces": [_series(face) for face in source.faces]} for source in videos],
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    # No `</script>` and no comment can begin in it, and no line ends that JavaScript counts.
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _series(face: FaceReport) -> dict[str, Any]:
    return {
        "t": (1000 * face.times).round().astype(int).tolist(),
        "p": (1000 * face.probs).round().astype(int).T.tolist(),
        "gap": round(1000 * face.gap),
        "segments": [[round(s.start, 3), round(s.end, 3), s.expression, round(1000 * s.mean)] for s in face.segments],
    }


def _end(source: SourceReport) -> float:
    """Seconds that the time axis shows."""
    return round(max([source.duration or 0.0, *(face.last for face in source.faces)]), 3)


# --- the top of the page ----------------------------------------------------------------------------------------------


def _header(title: str, videos: Sequence[SourceReport], images: Sequence[SourceReport]) -> Markup:
    faces = sum(len(source.faces) + source.more_faces for source in [*videos, *images])
    counts = [
        _count(len(videos), "video") if videos else "",
        f"{time_span(sum(source.duration or 0 for source in videos))} of it" if videos else "",
        _count(len(images), "image") if images else "",
        _count(faces, "face"),
        _count(sum(source.n_rows for source in [*videos, *images]), "row"),
    ]
    lead = ", ".join(text for text in counts if text)
    links = [
        ("sources", "Sources") if len(videos) > 1 else None,
        ("images", "Images") if images else None,
        ("model", "Model"),
        ("settings", "Settings"),
    ]
    jumps = join(*(join(tag("a", text, href=f"#{anchor}"), " ") for anchor, text in (one for one in links if one)))
    return tag(
        "header",
        join(tag("h1", title), tag("p", lead, class_="soft"), tag("nav", jumps, class_="small", aria_label="Parts")),
    )


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def _class_buttons(page: _Page) -> Markup:
    buttons = [
        tag("button", join(_swatch(page, k), name), type="button", aria_pressed="true", data_class=k)
        for k, name in enumerate(page.names)
    ]
    return tag("div", join(*buttons), class_="classes", role="group", aria_label="Expressions shown in the charts")


def _swatch(page: _Page, k: int) -> Markup:
    return tag("span", "", class_="swatch", style=f"background:{page.colours[k]}", aria_hidden="true")


def _expression(page: _Page, k: int) -> Markup:
    return tag("span", join(_swatch(page, k), page.names[k]), class_="expression")


def _problems(sources: Sequence[SourceReport]) -> Markup:
    problems = [(source.name, problem) for source in sources for problem in source.problems]
    if not problems:
        return Markup("")
    items = [tag("li", join(tag("b", name), f": {problem}")) for name, problem in problems[:PROBLEMS]]
    if len(problems) > PROBLEMS:
        items.append(tag("li", f"… and {len(problems) - PROBLEMS} more"))
    heading = tag("h2", _count(len(problems), "problem"), id="problems-title")
    return tag("section", join(heading, tag("ul", join(*items), class_="problems")), aria_labelledby="problems-title")


def _index(page: _Page, videos: Sequence[SourceReport]) -> Markup:
    header = _sortable_head(("source", ""), ("length", "number"), ("faces", "number"), ("mostly", ""), ("shares", ""))
    rows = []
    for i, source in enumerate(videos):
        shares = source.shares
        mostly: Markup | str = _expression(page, int(shares.argmax())) if shares.size else "no face"
        faces = len(source.faces) + source.more_faces
        rows.append(
            tag(
                "tr",
                join(
                    tag("td", tag("a", source.name, href=f"#source-{i}"), class_="name"),
                    tag(
                        "td", clock(source.duration or 0.0), class_="number", data_value=round(source.duration or 0, 3)
                    ),
                    tag("td", str(faces), class_="number"),
                    tag("td", mostly),
                    tag("td", shares_bar(shares, page.names, page.colours)),
                ),
            )
        )
    search = _filter("#sources tbody tr", "Find a source") if len(videos) > 8 else ""
    table = tag("table", join_lines(header, tag("tbody", join_lines(*rows))), class_="wide sortable")
    body = join(tag("h2", "Sources", id="sources-title"), search, tag("div", table, class_="table"))
    return tag("section", body, id="sources", aria_labelledby="sources-title")


def _sortable_head(*columns: tuple[str, str]) -> Markup:
    cells = [tag("th", tag("button", name, type="button"), scope="col", class_=kind or None) for name, kind in columns]
    return tag("thead", tag("tr", join(*cells)))


def _filter(selector: str, label: str) -> Markup:
    return tag("input", None, type="search", data_filter=selector, placeholder=label, aria_label=label)


# --- videos -----------------------------------------------------------------------------------------------------------


def _source(page: _Page, i: int, source: SourceReport) -> Markup:
    facts = [time_span(source.duration or 0.0), _count(len(source.faces) + source.more_faces, "face")]
    parts = [
        tag("h2", source.name, id=f"source-{i}-title"),
        tag("p", ", ".join([*facts, _count(source.n_rows, "row")]), class_="soft small"),
        *(tag("p", problem, class_="small soft") for problem in source.problems[:5]),
    ]
    if not source.faces:
        parts.append(tag("p", "No face was found."))
    elif len(source.faces) > 1:
        parts += [shares_bar(source.shares, page.names, page.colours), _key(page, source.shares)]
    parts += [_face(page, i, j, face) for j, face in enumerate(source.faces)]
    if source.more_faces:
        parts.append(tag("p", f"{_count(source.more_faces, 'more face')}, seen for shorter, not shown.", class_="soft"))
    return tag("section", join_lines(*parts), id=f"source-{i}", class_="source", aria_labelledby=f"source-{i}-title")


def _key(page: _Page, shares: NDArray[np.float64]) -> Markup:
    order = sorted(range(len(shares)), key=lambda k: -shares[k])
    items = [
        tag("li", join(_swatch(page, k), f"{page.names[k]} {_percent(shares[k])}")) for k in order if shares[k] > 0
    ]
    return tag("ul", join(*items), class_="key")


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 or share == 0 else "<1%"


def _face(page: _Page, i: int, j: int, face: FaceReport) -> Markup:
    name = f"face-{i}-{j}"
    title = f"Face {face.face}"
    best = max(face.thumbnails, key=lambda one: one.prob, default=None)
    about = (
        f"Seen from {clock(face.first)} to {clock(face.last)}, {time_span(face.seconds)} in all; "
        f"mostly {page.names[face.dominant]} ({_percent(face.shares[face.dominant])})."
    )
    heading = join(tag("h3", title, id=f"{name}-title"), tag("p", about, class_="small soft"))
    header = tag("header", join(thumbnail_image(best, "") if best else "", tag("div", heading)))
    return tag(
        "article",
        join_lines(
            header,
            shares_bar(face.shares, page.names, page.colours),
            _key(page, face.shares),
            _chart(i, j, face),
            _film(page, face),
            _segments(page, face),
        ),
        class_="face",
        aria_labelledby=f"{name}-title",
    )


def _chart(i: int, j: int, face: FaceReport) -> Markup:
    name = f"face-{i}-{j}"
    zooms = (
        ("in", "Zoom in", "+"),
        ("out", "Zoom out", "−"),
        ("left", "Earlier", "←"),
        ("right", "Later", "→"),
        ("whole", "Whole length", "whole"),
    )
    buttons = [tag("button", text, type="button", data_zoom=key, aria_label=label) for key, label, text in zooms]
    hint = "Drag to zoom in, double-click for the whole; with the keyboard: arrows, + and −, 0."
    if face.width:
        hint += f" Each point is the mean of {face.width:.2g} s; segments and shares are of every row."
    tools = tag("div", join(*buttons, tag("span", hint, class_="small soft", id=f"{name}-hint")), class_="tools")
    chart = tag(
        "div",
        tag("noscript", tag("p", "The chart needs JavaScript, which is switched off here. The table below does not.")),
        id=name,
        class_="chart",
        data_source=i,
        data_face=j,
        data_readout=f"{name}-readout",
        tabindex=0,
        role="group",
        aria_label=f"Probability of each expression of face {face.face} over time",
        aria_describedby=f"{name}-hint",
    )
    return join(tools, chart, tag("p", "", id=f"{name}-readout", class_="hidden", aria_live="polite"))


def _film(page: _Page, face: FaceReport) -> Markup:
    """Thumbnails in the order of their times; each sets the chart's cursor."""
    items = []
    for one in face.thumbnails:
        name, colour = page.names[one.expression], page.colours[one.expression]
        text = join(tag("b", name, style=f"border-color:{colour}"), f"{clock(one.time)}, {_percent(one.prob)}")
        picture = thumbnail_image(one, f"Face {face.face}, {name}, at {clock(one.time)}")
        items.append(tag("li", tag("button", join(picture, text), type="button", data_time=round(one.time, 3))))
    return tag("ol", join(*items), class_="film", aria_label="Pictures at changes") if items else Markup("")


def _segments(page: _Page, face: FaceReport) -> Markup:
    head = [("from", "number"), ("to", "number"), ("seconds", "number"), ("expression", ""), ("mean", "number")]
    head += [("peak", "number"), ("at", "number")]
    rows = [
        tag(
            "tr",
            join(
                tag("td", clock(s.start), class_="number", data_value=round(s.start, 3)),
                tag("td", clock(s.end), class_="number", data_value=round(s.end, 3)),
                tag("td", f"{s.end - s.start:.1f}", class_="number"),
                tag("td", _expression(page, s.expression)),
                tag("td", _percent(s.mean), class_="number", data_value=round(s.mean, 4)),
                tag("td", _percent(s.peak), class_="number", data_value=round(s.peak, 4)),
                tag("td", clock(s.peak_time), class_="number", data_value=round(s.peak_time, 3)),
            ),
        )
        for s in face.segments
    ]
    table = tag("table", join_lines(_sortable_head(*head), tag("tbody", join_lines(*rows))), class_="sortable")
    summary = tag("summary", _count(len(rows), "segment"))
    return tag(
        "details", join(summary, tag("div", table, class_="table")), open=True if len(rows) <= OPEN_SEGMENTS else None
    )


# --- images, model and settings ---------------------------------------------------------------------------------------


def _images(page: _Page, images: Sequence[SourceReport]) -> Markup:
    if not images:
        return Markup("")
    faces = [(source, face) for source in images for face in source.faces]
    without = [source for source in images if not source.faces]
    pictured = [(source, face) for source, face in faces if face.thumbnails][:GALLERY]
    cards = [_card(page, source, face) for source, face in pictured]
    head = _sortable_head(("image", ""), ("face", "number"), ("expression", ""), ("probability", "number"), ("all", ""))
    rows = [_image_row(page, source, face) for source, face in faces[:GALLERY_ROWS]]
    rows += [_image_row(page, source, None) for source in without[: max(0, GALLERY_ROWS - len(rows))]]
    notes = []
    if len(faces) > len(pictured) and pictured:
        notes.append(f"The first {len(pictured):,} of {_count(len(faces), 'face')} are pictured.")
    if len(faces) + len(without) > len(rows):
        notes.append(f"The first {len(rows):,} rows are listed; the predictions' file has all of them.")
    body = join_lines(
        tag("h2", "Images", id="images-title"),
        tag("p", f"{_count(len(images), 'image')}, {_count(len(faces), 'face')}, {len(without)} without a face."),
        _filter("#images .gallery li, #images tbody tr", "Find an image") if len(images) > 8 else "",
        *(tag("p", note, class_="soft small") for note in notes),
        tag("ul", join_lines(*cards), class_="gallery") if cards else "",
        tag(
            "div",
            tag("table", join_lines(head, tag("tbody", join_lines(*rows))), class_="wide sortable"),
            class_="table",
        ),
    )
    return tag("section", body, id="images", aria_labelledby="images-title")


def _card(page: _Page, source: SourceReport, face: FaceReport) -> Markup:
    k = face.dominant
    picture = thumbnail_image(face.thumbnails[0], f"{source.name}, face {face.face}, {page.names[k]}")
    probs = face.probs[0]
    caption = join(
        _expression(page, k),
        f" {_percent(probs[k])}",
        shares_bar(probs, page.names, page.colours),
        tag("span", source.name, class_="name", title=source.name),
    )
    return tag("li", join(picture, caption))


def _image_row(page: _Page, source: SourceReport, face: FaceReport | None) -> Markup:
    if face is None:
        cells = [tag("td", "", class_="number", data_value=-1), tag("td", "no face")]
        cells += [tag("td", "", class_="number", data_value=-1), tag("td", "")]
    else:
        prob = float(face.probs[0][face.dominant])
        cells = [
            tag("td", str(face.face), class_="number"),
            tag("td", _expression(page, face.dominant)),
            tag("td", _percent(prob), class_="number", data_value=round(prob, 4)),
            tag("td", shares_bar(face.probs[0], page.names, page.colours)),
        ]
    return tag("tr", join(tag("td", source.name, class_="name"), *cells))


def _facts(anchor: str, title: str, facts: Mapping[str, Any]) -> Markup:
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section", join(heading, _definitions(facts)), id=anchor, aria_labelledby=f"{anchor}-title")


def _definitions(facts: Mapping[str, Any]) -> Markup:
    pairs = [
        join(tag("dt", str(key)), tag("dd", _value(value))) for key, value in facts.items() if value not in (None, "")
    ]
    return tag("dl", join_lines(*pairs))


def _value(value: Any) -> Markup | str:
    if isinstance(value, Mapping):
        rows = [tag("tr", join(tag("th", str(key), scope="row"), tag("td", _value(one)))) for key, one in value.items()]
        return tag("table", tag("tbody", join_lines(*rows)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_value(one)) for one in value)
    return str(value)
