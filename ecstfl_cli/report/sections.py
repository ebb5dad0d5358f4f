"""The parts of the report that show sources: each video with its faces, and the gallery of images."""

from __future__ import annotations

from collections.abc import Sequence

from ecstfl_cli.report.markup import (
    Classes,
    Markup,
    join,
    join_lines,
    search_field,
    sortable_head,
    tag,
    thumbnail_image,
)
from ecstfl_cli.report.source import FaceReport, SourceReport, longest
from ecstfl_cli.wording import clock, counted, percent, time_span

# Images in the gallery and rows in its table.
GALLERY, GALLERY_ROWS = 240, 2_000
# A table of segments is open where it is short.
OPEN_SEGMENTS = 12


def video_section(classes: Classes, i: int, source: SourceReport, rows: int) -> Markup:
    """One video: its facts, and for each face shares, chart, thumbnails and at most `rows` segments in a table."""
    facts = [time_span(source.duration or 0.0), counted(len(source.faces) + source.more_faces, "face")]
    parts = [
        tag("h2", source.name, id=f"source-{i}-title"),
        tag("p", ", ".join([*facts, counted(source.n_rows, "row")]), class_="soft small"),
        *(tag("p", problem, class_="small soft") for problem in source.problems[:5]),
    ]
    if not source.faces and not source.problems:
        parts.append(tag("p", "No face was found."))
    elif len(source.faces) > 1:
        parts += [classes.bar(source.shares), classes.key(source.shares)]
    parts += [_face(classes, i, j, face, rows) for j, face in enumerate(source.faces)]
    if source.more_faces:
        parts.append(
            tag("p", f"{counted(source.more_faces, 'more face')}, seen for shorter, not shown.", class_="soft")
        )
    return tag("section", join_lines(*parts), id=f"source-{i}", class_="source", aria_labelledby=f"source-{i}-title")


def _face(classes: Classes, i: int, j: int, face: FaceReport, rows: int) -> Markup:
    name = f"face-{i}-{j}"
    title = f"Face {face.face}"
    best = max(face.thumbnails, key=lambda one: one.prob, default=None)
    about = (
        f"Seen from {clock(face.first)} to {clock(face.last)}, {time_span(face.seconds)} in all; "
        f"mostly {classes.names[face.dominant]} ({percent(face.shares[face.dominant])})."
    )
    heading = join(tag("h3", title, id=f"{name}-title"), tag("p", about, class_="small soft"))
    header = tag("header", join(thumbnail_image(best, "") if best else "", tag("div", heading)))
    return tag(
        "article",
        join_lines(
            header,
            classes.bar(face.shares),
            classes.key(face.shares),
            _chart(i, j, face),
            _film(classes, face),
            _segments(classes, face, rows),
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
    hint = [tag("span", "Drag to zoom in, double-click for the whole.", class_="hint")]
    hint.append(tag("span", " With the keyboard: arrows, + and −, 0.", class_="hint keys"))
    if any(segment.mean < 0.5 for segment in face.segments):
        hint.append(tag("span", " Pale: below 50% on average."))
    if len(face.segments) < face.n_segments:
        hint.append(tag("span", f" The strip has the {len(face.segments):,} longest segments."))
    if face.width:
        hint.append(
            tag("span", f" A point is the mean of {face.width:.2g} s; segments and shares are made from every row.")
        )
    tools = tag("div", join(*buttons, tag("span", join(*hint), class_="small soft", id=f"{name}-hint")), class_="tools")
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
    # Filled where points are denser than pixels; its height is there before, so that nothing jumps.
    coarse = tag("p", "", class_="coarse small soft")
    return join(tools, chart, coarse, tag("p", "", id=f"{name}-readout", class_="hidden", aria_live="polite"))


def _film(classes: Classes, face: FaceReport) -> Markup:
    """Thumbnails in the order of their times; each sets the chart's cursor."""
    items = []
    for one in face.thumbnails:
        name, colour = classes.names[one.expression], classes.colours[one.expression]
        text = join(tag("b", name, style=f"border-color:{colour}"), f"{clock(one.time)}, {percent(one.prob)}")
        picture = thumbnail_image(one, f"Face {face.face}, {name}, at {clock(one.time)}")
        items.append(tag("li", tag("button", join(picture, text), type="button", data_time=round(one.time, 3))))
    return tag("ol", join(*items), class_="film", aria_label="Pictures at changes") if items else Markup("")


def _segments(classes: Classes, face: FaceReport, most: int) -> Markup:
    head = [("from", "number"), ("to", "number"), ("seconds", "number"), ("expression", ""), ("mean", "number")]
    head += [("peak", "number"), ("at", "number")]
    rows = [
        tag(
            "tr",
            join(
                tag("td", clock(s.start), class_="number", data_value=round(s.start, 3)),
                tag("td", clock(s.end), class_="number", data_value=round(s.end, 3)),
                tag("td", f"{s.end - s.start:.1f}", class_="number"),
                tag("td", classes.named(s.expression)),
                tag("td", percent(s.mean), class_="number", data_value=round(s.mean, 4)),
                tag("td", percent(s.peak), class_="number", data_value=round(s.peak, 4)),
                tag("td", clock(s.peak_time), class_="number", data_value=round(s.peak_time, 3)),
            ),
        )
        for s in longest(face.segments, most)
    ]
    table = tag("table", join_lines(sortable_head(*head), tag("tbody", join_lines(*rows))), class_="sortable")
    left_out = f", the {len(rows):,} longest of them listed" if len(rows) < face.n_segments else ""
    summary = tag("summary", counted(face.n_segments, "segment") + left_out)
    return tag(
        "details", join(summary, tag("div", table, class_="table")), open=True if len(rows) <= OPEN_SEGMENTS else None
    )


# --- images ---------------------------------------------------------------------------------------


def image_section(classes: Classes, images: Sequence[SourceReport]) -> Markup:
    """All images: a gallery of their faces and a table. Empty without images."""
    if not images:
        return Markup("")
    faces = [(source, face) for source in images for face in source.faces]
    without = [source for source in images if not source.faces]
    unread = sum(not source.read for source in images)
    pictured = [(source, face) for source, face in faces if face.thumbnails][:GALLERY]
    cards = [_card(classes, source, face) for source, face in pictured]
    head = sortable_head(("image", ""), ("face", "number"), ("expression", ""), ("probability", "number"), ("all", ""))
    rows = [_image_row(classes, source, face) for source, face in faces[:GALLERY_ROWS]]
    rows += [_image_row(classes, source, None) for source in without[: max(0, GALLERY_ROWS - len(rows))]]
    notes = []
    if len(faces) > len(pictured) and pictured:
        notes.append(f"The first {len(pictured):,} of {counted(len(faces), 'face')} are pictured.")
    if len(faces) + len(without) > len(rows):
        notes.append(f"The first {len(rows):,} rows are listed; the predictions' file has all of them.")
    body = join_lines(
        tag("h2", "Images", id="images-title"),
        tag(
            "p",
            f"{counted(len(images), 'image')}, {counted(len(faces), 'face')}, {len(without) - unread} without a face"
            + (f", {unread} not read." if unread else "."),
        ),
        search_field("#images .gallery li, #images tbody tr", "Find an image") if len(images) > 8 else "",
        *(tag("p", note, class_="soft small") for note in notes),
        tag("ul", join_lines(*cards), class_="gallery") if cards else "",
        tag(
            "div",
            tag("table", join_lines(head, tag("tbody", join_lines(*rows))), class_="wide sortable"),
            class_="table",
        ),
    )
    return tag("section", body, id="images", aria_labelledby="images-title")


def _card(classes: Classes, source: SourceReport, face: FaceReport) -> Markup:
    k, several = face.dominant, len(source.faces) > 1
    picture = thumbnail_image(face.thumbnails[0], f"{source.name}, face {face.face}, {classes.names[k]}")
    probs = face.probs[0]
    caption = join(
        classes.named(k),
        f" {percent(probs[k])}",
        classes.bar(probs),
        tag("span", source.name + (f", face {face.face}" if several else ""), class_="name", title=source.name),
    )
    return tag("li", join(picture, caption))


def _image_row(classes: Classes, source: SourceReport, face: FaceReport | None) -> Markup:
    if face is None:
        cells = [tag("td", "", class_="number", data_value=-1), tag("td", "no face" if source.read else "not read")]
        cells += [tag("td", "", class_="number", data_value=-1), tag("td", "")]
    else:
        prob = float(face.probs[0][face.dominant])
        cells = [
            tag("td", str(face.face), class_="number"),
            tag("td", classes.named(face.dominant)),
            tag("td", percent(prob), class_="number", data_value=round(prob, 4)),
            tag("td", classes.bar(face.probs[0])),
        ]
    return tag("tr", join(tag("td", source.name, class_="name"), *cells))
