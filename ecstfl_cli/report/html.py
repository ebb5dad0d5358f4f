"""The report: one HTML page that needs neither a network nor other files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

from ecstfl_cli import __version__
from ecstfl_cli.files import complete_file
from ecstfl_cli.media.frames import is_address
from ecstfl_cli.report.markup import (
    Classes,
    Markup,
    join,
    join_lines,
    search_field,
    sortable_head,
    tag,
)
from ecstfl_cli.report.sections import image_section, video_section
from ecstfl_cli.report.source import FaceReport, SourceReport, thinned
from ecstfl_cli.wording import clock, counted, time_span

# What a page may hold of charts' points and of pictures, in all; each face gets its part of it.
ALL_POINTS, FEWEST_POINTS = 200_000, 200
ALL_THUMBNAILS, MOST_THUMBNAILS = 2_400, 24
ALL_SEGMENTS, FEWEST_SEGMENTS = 60_000, 100
# Table rows weigh more than segments of a strip.
ALL_ROWS, FEWEST_ROWS, MOST_ROWS = 20_000, 20, 500
# Problems that are listed, and that are in sight before the list is opened.
PROBLEMS, OPEN_PROBLEMS = 200, 8

LIMITS = (
    "The model sees what a face shows, not what a person feels. Probabilities are those of posed and acted or "
    "search-engine pictures like the ones it was trained on; they err more on profiles, covered, small, blurred or "
    "badly lit faces, and may err more for some groups of people than for others. Decisions about people should not "
    "rest on them."
)


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
    classes = Classes(names)
    folder, sources = _without_common_folder(sources)
    videos = _bounded([source for source in sources if source.duration is not None])
    images = [source for source in sources if source.duration is None]
    faces = max(1, sum(len(source.faces) for source in videos))
    rows = min(MOST_ROWS, max(FEWEST_ROWS, ALL_ROWS // faces))
    parts = [
        _header(title, folder, videos, images),
        _class_buttons(classes) if any(source.faces for source in videos) else "",
        tag(
            "main",
            join_lines(
                _problems(sources),
                _index(classes, videos) if len(videos) > 1 else "",
                *(video_section(classes, i, source, rows) for i, source in enumerate(videos)),
                image_section(classes, images),
                _facts("model", "Model", {**model, "Limits of all such models": LIMITS}),
                _facts("settings", "Settings", settings),
            ),
            id="content",
        ),
        tag("footer", f"Made by ecstfl {__version__}, {datetime.now().astimezone().isoformat(' ', 'minutes')}."),
    ]
    with complete_file(path) as partial:
        partial.write_text(_document(title, join_lines(*parts), _data(classes, videos)), "utf-8", "backslashreplace")


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


def _without_common_folder(sources: Sequence[SourceReport]) -> tuple[str, list[SourceReport]]:
    """The folder that holds all sources, empty where there is none, and the sources named from there."""
    folders = [source.name.replace("\\", "/").split("/")[:-1] for source in sources]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    common = [level[0] for level in levels]
    if not any(common) or any(is_address(source.name) for source in sources):
        return "", list(sources)
    length = len("/".join(common)) + 1
    return "/".join(common), [replace(source, name=source.name[length:]) for source in sources]


def _bounded(videos: Sequence[SourceReport]) -> list[SourceReport]:
    """The sources with as many points, thumbnails and segments a face as the page can hold."""
    faces = max(1, sum(len(source.faces) for source in videos))
    points = max(FEWEST_POINTS, ALL_POINTS // faces)
    pictures = min(MOST_THUMBNAILS, max(1, ALL_THUMBNAILS // faces))
    segments = max(FEWEST_SEGMENTS, ALL_SEGMENTS // faces)

    def fitted(source: SourceReport) -> SourceReport:
        return replace(source, faces=tuple(thinned(face, points, pictures, segments) for face in source.faces))

    return [fitted(source) for source in videos]


def _data(classes: Classes, videos: Sequence[SourceReport]) -> str:
    """What the page's script draws, as JSON that can stand in a page: milliseconds and thousandths."""
    content = {
        "classes": classes.names,
        "colours": classes.colours,
        "inks": classes.inks,
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


def _header(title: str, folder: str, videos: Sequence[SourceReport], images: Sequence[SourceReport]) -> Markup:
    faces = sum(len(source.faces) + source.more_faces for source in [*videos, *images])
    counts = [
        counted(len(videos), "video") if videos else "",
        f"{time_span(sum(source.duration or 0 for source in videos))} of it" if any(v.read for v in videos) else "",
        counted(len(images), "image") if images else "",
        counted(faces, "face"),
        counted(sum(source.n_rows for source in [*videos, *images]), "row"),
    ]
    lead = ", ".join(text for text in counts if text) + (f", in {folder}" if folder else "")
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


def _class_buttons(classes: Classes) -> Markup:
    buttons = [
        tag("button", join(classes.swatch(k), name), type="button", aria_pressed="true", data_class=k)
        for k, name in enumerate(classes.names)
    ]
    return tag("div", join(*buttons), class_="classes", role="group", aria_label="Expressions shown in the charts")


def _problems(sources: Sequence[SourceReport]) -> Markup:
    problems = [(source.name, problem) for source in sources for problem in source.problems]
    if not problems:
        return Markup("")
    items = [tag("li", join(tag("b", name), f": {problem}")) for name, problem in problems[:PROBLEMS]]
    if len(problems) > PROBLEMS:
        items.append(tag("li", f"… and {len(problems) - PROBLEMS} more"))
    heading = tag("h2", counted(len(problems), "problem"), id="problems-title")
    body = tag("ul", join(*items), class_="problems")
    if len(items) > OPEN_PROBLEMS:
        body = tag("details", join(tag("summary", "Show them"), body))
    return tag("section", join(heading, body), aria_labelledby="problems-title")


def _index(classes: Classes, videos: Sequence[SourceReport]) -> Markup:
    header = sortable_head(("source", ""), ("length", "number"), ("faces", "number"), ("mostly", ""), ("shares", ""))
    rows = []
    for i, source in enumerate(videos):
        shares = source.shares
        nothing = "no face" if source.read else "not read"
        mostly: Markup | str = classes.named(int(shares.argmax())) if shares.size else nothing
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
                    tag("td", classes.bar(shares)),
                ),
            )
        )
    search = search_field("#sources tbody tr", "Find a source") if len(videos) > 8 else ""
    table = tag("table", join_lines(header, tag("tbody", join_lines(*rows))), class_="wide sortable")
    body = join(tag("h2", "Sources", id="sources-title"), search, tag("div", table, class_="table"))
    return tag("section", body, id="sources", aria_labelledby="sources-title")


# --- model and settings ----


def _facts(anchor: str, title: str, facts: Mapping[str, Any]) -> Markup:
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section", join(heading, _definitions(facts)), id=anchor, aria_labelledby=f"{anchor}-title")


def _definitions(facts: Mapping[str, Any]) -> Markup:
    pairs = [
        join(tag("dt", _label(key)), tag("dd", _value(value)))
        for key, value in facts.items()
        if value not in (None, "")
    ]
    return tag("dl", join_lines(*pairs))


def _value(value: Any) -> Markup | str:
    if isinstance(value, Mapping):
        rows = [
            tag("tr", join(tag("th", _label(key), scope="row"), tag("td", _value(one)))) for key, one in value.items()
        ]
        return tag("table", tag("tbody", join_lines(*rows)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        texts = [_value(one) for one in value]
        if any(len(text) > 40 for text in texts):
            return tag("ul", join_lines(*(tag("li", text) for text in texts)))
        return join(*(join(", " if i else "", text) for i, text in enumerate(texts)))
    return str(value)


def _label(key: str) -> str:
    """`batch_size` as `Batch size`; other names as they are."""
    return key[:1].upper() + key[1:].replace("_", " ") if key.isidentifier() else key
