"""Drawing on pictures: a box, a name and a bar chart of probabilities for each face."""

from __future__ import annotations

import functools
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ecstfl_cli.files import complete_file
from ecstfl_cli.palette import expression_colours, rgb, text_on

# Bars of this many classes at most; with more classes the likeliest are shown.
MAX_BARS = 8
FEW_BARS = 3
# Pictures smaller than this are enlarged by a whole number: a name in them could not be read.
MIN_SIDE = 240
# Endings of formats that keep photographs as they are; others are written as PNG.
# What a thin picture is enlarged to, at most.
MAX_SIDE = 4096
# Endings that a drawn copy keeps, and the longest side that each format takes.
KEPT_SUFFIXES = {
    ".jpg": 65535,
    ".jpeg": 65535,
    ".webp": 16383,
    **dict.fromkeys((".png", ".bmp", ".tif", ".tiff"), 2**31 - 1),
}

Rect = tuple[float, float, float, float]
Side = Literal["right", "left", "below", "above", "inside"]
SIDES: tuple[Side, ...] = ("right", "left", "below", "above", "inside")


class AnnotatedFace(Protocol):
    """What is drawn of a row: `box` (left, top, right, bottom) in pixels, `face` its id, `probs` (K,)."""

    @property
    def face(self) -> int: ...
    @property
    def box(self) -> tuple[float, float, float, float]: ...
    @property
    def probs(self) -> Sequence[float]: ...


@dataclass
class _Chart:
    """Where a face's bar chart stands, and how many bars it has."""

    rect: Rect
    side: Side
    bars: int


@dataclass
class _Tag:
    """Where a face's name stands, and what it says; `place` is the candidate that was taken."""

    rect: Rect
    text: str
    place: int


@dataclass
class Annotator:
    """Draws faces of one source with the class names `names`, coloured by expression.

    Sizes follow the picture's, and in a crowd the faces', too. Names and charts keep inside of the picture and apart
    from each other, and off other faces as far as there is room; where a crowd leaves none a chart shrinks to the
    likeliest classes and then goes, the name stays, in short. Both keep their side from one frame to the next.
    """

    names: Sequence[str]
    _sides: dict[int, Side] = field(default_factory=dict, init=False, repr=False)
    _places: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.names = tuple(self.names)
        self._colours = expression_colours(self.names)

    def draw(self, image: NDArray[np.uint8], rows: Sequence[AnnotatedFace]) -> NDArray[np.uint8]:
        """A copy of `image`, (H, W, 3) uint8 RGB, with `rows` drawn on it.

        A picture whose shorter side is below 240 pixels comes back larger by a whole number, so that it can be read.
        """
        factor = enlargement(*image.shape[:2])
        if factor > 1:
            image = image.repeat(factor, axis=0).repeat(factor, axis=1)
        if not rows:
            return image.copy()
        canvas = Image.fromarray(image)
        faces = sorted(rows, key=lambda row: _area(row.box), reverse=True)
        boxes = [_scaled(row.box, factor) for row in faces]
        pen = _Pen(ImageDraw.Draw(canvas, "RGBA"), canvas.size, self.names, self._colours, boxes)
        for row, box in zip(faces, boxes, strict=True):
            pen.box(box, _likeliest(row.probs))
        tags = self._tags(pen, faces, boxes)
        taken = [tag.rect for tag in tags]
        charts = self._charts(pen, faces, boxes, taken)
        for chart, row in charts:
            pen.chart(chart, row.probs)
        for row, tag in zip(faces, tags, strict=True):
            pen.tag(tag, _likeliest(row.probs))
        drawn = image.copy()
        for rect in [*(pen.outer(box) for box in boxes), *taken, *(chart.rect for chart, _ in charts)]:
            _copy(canvas, drawn, rect)
        return drawn

    def _tags(self, pen: _Pen, faces: Sequence[AnnotatedFace], boxes: Sequence[Rect]) -> list[_Tag]:
        """A name for each face: where it hides no face, else a short one where it hides least."""
        tags: list[_Tag] = []
        for i, row in enumerate(faces):
            name = self.names[_likeliest(row.probs)]
            last = self._places.get(row.face)
            others = [box for k, box in enumerate(boxes) if k != i]
            texts = (f"{name} · face {row.face}", f"{name} {row.face}")
            tags.append(pen.tag_place(texts, boxes[i], [tag.rect for tag in tags], others, last))
        self._places = {row.face: tag.place for row, tag in zip(faces, tags, strict=True)}
        return tags

    def _charts(
        self, pen: _Pen, faces: Sequence[AnnotatedFace], boxes: Sequence[Rect], tags: Sequence[Rect]
    ) -> list[tuple[_Chart, AnnotatedFace]]:
        """A chart for each face, of one number of bars: all classes where every face has room for them, else a few."""
        full = min(len(self.names), MAX_BARS)
        placed: list[tuple[_Chart, AnnotatedFace]] = []
        for bars in dict.fromkeys((full, min(full, FEW_BARS))):
            taken, placed = list(tags), []
            for i, row in enumerate(faces):
                chart = self._chart(pen, row.face, bars, i, boxes, taken)
                if chart:
                    placed.append((chart, row))
                    taken.append(chart.rect)
            if len(placed) == len(faces):
                break
        self._sides = {row.face: chart.side for chart, row in placed}
        return placed

    def _chart(
        self, pen: _Pen, face: int, bars: int, i: int, boxes: Sequence[Rect], taken: Sequence[Rect]
    ) -> _Chart | None:
        """The free place beside face `i` that hides least of it, its last one first; None where there is no room."""
        last = self._sides.get(face)
        best: tuple[float, _Chart] | None = None
        for side in sorted(SIDES, key=lambda side: side != last):
            rect = pen.chart_place(boxes[i], side, bars)
            if rect is None or any(_overlap(rect, other) > 0 for other in taken):
                continue
            area = _area(rect)
            if sum(_overlap(rect, box) for k, box in enumerate(boxes) if k != i) > 0.05 * area:
                continue
            hidden = _overlap(rect, boxes[i]) / area
            if hidden <= (0.3 if side == last else 0.15):
                return _Chart(rect, side, bars)
            if bars <= FEW_BARS and (best is None or hidden < best[0]):
                best = hidden, _Chart(rect, side, bars)
        return best[1] if best else None


def enlargement(height: int, width: int) -> int:
    """By which whole number a picture of this size is enlarged before it is drawn on; 1 for all but tiny ones.

    A thin one is not enlarged beyond MAX_SIDE.
    """
    return max(1, min(-(-MIN_SIDE // max(1, min(height, width))), MAX_SIDE // max(1, height, width)))


def annotate_image(
    image: NDArray[np.uint8],
    rows: Sequence[AnnotatedFace],
    names: Sequence[str],
    path: Path,
    taken: Container[Path] = (),
) -> Path:
    """Write `image`, (H, W, 3) uint8 RGB, with `rows` drawn on it; the path it got.

    The format is the one that `path`'s ending says; where that is none of JPEG, PNG, WebP, BMP or TIFF, or takes no
    picture so large, it is PNG, and `.png` is added to the name, with `_` where that is `taken`. Raises OSError,
    without an errno where it cannot be encoded, ValueError and MemoryError.
    """
    drawn = Annotator(names).draw(image, rows)
    if max(drawn.shape) > KEPT_SUFFIXES.get(path.suffix.lower(), 0):
        path = path.with_name(f"{path.name}.png")
        while path in taken:
            path = path.with_name(f"{path.stem}_.png")
    with complete_file(path) as partial:
        # The quality is of JPEG and WebP; the others pass over it.
        Image.fromarray(drawn).save(partial, quality=92)
    return path


# --- one picture -----------------------------------------------------------------------------------------------------


class _Pen:
    """Places and draws the parts on one picture, whose size sets theirs, in a crowd with that of the `boxes`."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        size: tuple[int, int],
        names: Sequence[str],
        colours: Sequence[str],
        boxes: Sequence[Rect],
    ) -> None:
        self.pen, self.size, self.names, self.colours = draw, size, names, colours
        width, height = size
        crowded = len(boxes) > 2
        self.em = max(12, round((0.019 if crowded else 0.024) * (width * height) ** 0.5))
        if crowded:
            self.em = max(12, min(self.em, round(0.2 * float(np.median([box[3] - box[1] for box in boxes])))))
        self.ascii = all(name.isascii() for name in names)
        self.line = max(2, round(self.em / 6))
        self.pad = max(2, round(self.em / 3))
        self.row = round(1.25 * self.em)
        self.name_width = max(self._width(name) for name in names)
        self.bar_width = round(4.5 * self.em)
        self.percent_width = self._width("100%")

    def outer(self, box: Rect) -> Rect:
        """What `box` draws on, and a little more."""
        grow = self.line + 2
        return box[0] - grow, box[1] - grow, box[2] + grow, box[3] + grow

    def box(self, box: Rect, k: int) -> None:
        left, top, right, bottom = (round(v) for v in box)
        for grow, width, colour in ((self.line // 2 + 1, self.line + 2, (0, 0, 0)), (0, self.line, self._colour(k))):
            if right - left > 2 * grow and bottom - top > 2 * grow:
                outline = (left - grow, top - grow, right + grow, bottom + grow)
                self.pen.rectangle(outline, outline=colour, width=width)

    def tag_place(
        self, texts: Sequence[str], box: Rect, taken: Sequence[Rect], others: Sequence[Rect], last: int | None
    ) -> _Tag:
        """The first of `texts` above the box, else below, where it was `last` first; else the place, inside the box or
        moved down past other names, where the last of `texts` hides least of the `others`' faces."""
        height = self.row + self.pad
        left, top, _, bottom = box
        starts = [top - height - self.line, bottom + self.line, top + self.line]
        starts += [max(0.0, top) + n * (height + 1) for n in range(12)]
        best: tuple[float, _Tag] | None = None
        for text in texts:
            width = self._width(text) + 2 * self.pad
            for place in sorted(range(len(starts)), key=lambda place: place != last):
                start = starts[place]
                if place < 3 and not 0 <= start <= self.size[1] - height:
                    continue
                rect = self._inside((left, start, left + width, start + height))
                if any(_overlap(rect, other) > 0 for other in taken):
                    continue
                hidden = sum(_overlap(rect, other) for other in others)
                # Inside of its own box where that is large enough.
                away = place > 2 and rect[1] > bottom
                if not hidden and not away and (place < 2 or 4 * height <= bottom - top):
                    return _Tag(rect, text, place)
                # Far from its face it would be taken for another one's.
                hidden += place * _area(rect) if away else 0.5 * _overlap(rect, box)
                if best is None or hidden < best[0]:
                    best = hidden, _Tag(rect, text, place)
        if best is None:
            rect = self._inside((left, starts[0], left + self._width(texts[-1]) + 2 * self.pad, starts[0] + height))
            return _Tag(rect, texts[-1], 0)
        return best[1]

    def tag(self, tag: _Tag, k: int) -> None:
        rect, text = tag.rect, tag.text
        self.pen.rectangle(rect, fill=self._colour(k), outline=(0, 0, 0))
        middle = (rect[1] + rect[3]) / 2
        self._text(rect[0] + self.pad, middle, text, rgb(text_on(self.colours[k])))

    def chart_place(self, box: Rect, side: Side, bars: int) -> Rect | None:
        """The rectangle of a chart on one side of a box, moved into the picture; None where it is larger than that."""
        width = 4 * self.pad + self.name_width + self.bar_width + self.percent_width
        height = bars * self.row + 2 * self.pad
        if width > self.size[0] or height > self.size[1]:
            return None
        gap = 2 * self.line
        left, top, right, bottom = box
        # Above and below leave room for the name.
        label = self.row + self.pad + 2 * self.line
        corner = {
            "right": (right + gap, top),
            "left": (left - gap - width, top),
            "below": (left, bottom + label),
            "above": (left, top - label - height),
            "inside": (left + gap, bottom - gap - height),
        }[side]
        return self._inside((*corner, corner[0] + width, corner[1] + height))

    def chart(self, chart: _Chart, probs: Sequence[float]) -> None:
        left, top, right, _ = chart.rect
        self.pen.rectangle(chart.rect, fill=(12, 14, 18, 176))
        start, end = left + 2 * self.pad + self.name_width, right - 2 * self.pad - self.percent_width
        likeliest = np.argsort(-np.asarray(probs), kind="stable")
        # All classes keep the label map's order, so that the eye finds them again; of a few the likeliest is first.
        shown = sorted(likeliest[: chart.bars]) if chart.bars > FEW_BARS else likeliest[: chart.bars]
        for row, k in enumerate(shown):
            middle = top + self.pad + (row + 0.5) * self.row
            half = 0.32 * self.row
            fill = (255, 255, 255) if k == likeliest[0] else (200, 204, 210)
            self._text(left + self.pad, middle, self.names[k], fill)
            self.pen.rectangle((start, middle - half, end, middle + half), fill=(255, 255, 255, 40))
            length = float(probs[k]) * (end - start)
            if length >= 1:
                self.pen.rectangle((start, middle - half, start + length, middle + half), fill=self._colour(k))
            percent = f"{100 * probs[k]:.0f}%"
            self._text(right - self.pad - self._width(percent), middle, percent, fill)

    def _width(self, text: str) -> int:
        return _letters(text, self.em, self.ascii).width

    def _text(self, left: float, middle: float, text: str, fill: tuple[int, int, int]) -> None:
        letters = _letters(text, self.em, self.ascii)
        self.pen.bitmap((round(left), round(middle - letters.height / 2)), letters, fill)

    def _colour(self, k: int) -> tuple[int, int, int]:
        return rgb(self.colours[k])

    def _inside(self, rect: Rect) -> Rect:
        """The rectangle moved into the picture."""
        left, top, right, bottom = rect
        width, height = self.size
        dx = max(0.0, -left) or min(0.0, width - 1 - right)
        dy = max(0.0, -top) or min(0.0, height - 1 - bottom)
        left, top = max(0.0, left + dx), max(0.0, top + dy)
        return left, top, left + rect[2] - rect[0], top + rect[3] - rect[1]


@functools.lru_cache(maxsize=2048)
def _letters(text: str, size: int, ascii_only: bool) -> Image.Image:
    """A text as a mask: rendering letters takes longer than all else, and videos show the same ones again."""
    font = _font(size, ascii_only)
    mask = Image.new("L", (ceil(font.getlength(text)), sum(font.getmetrics())))
    ImageDraw.Draw(mask).text((0, 0), text, font=font, fill=255)
    return mask


@functools.lru_cache(maxsize=32)
def _font(size: int, ascii_only: bool) -> ImageFont.FreeTypeFont:
    """Pillow's own font, which comes with it; for letters that it lacks, DejaVu Sans, which comes with matplotlib."""
    if ascii_only:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def _copy(canvas: Image.Image, pixels: NDArray[np.uint8], rect: Rect) -> None:
    """One part of a canvas into the same place of an array: the whole would take as long as all of the drawing."""
    height, width = pixels.shape[:2]
    left, top = max(0, floor(rect[0])), max(0, floor(rect[1]))
    right, bottom = min(width, ceil(rect[2]) + 1), min(height, ceil(rect[3]) + 1)
    if left < right and top < bottom:
        pixels[top:bottom, left:right] = np.asarray(canvas.crop((left, top, right, bottom)))


def _likeliest(probs: Sequence[float]) -> int:
    return int(np.argmax(probs))


def _scaled(box: Rect, factor: int) -> Rect:
    left, top, right, bottom = (v * factor for v in box)
    return left, top, right, bottom


def _area(rect: Rect) -> float:
    return max(0.0, rect[2] - rect[0]) * max(0.0, rect[3] - rect[1])


def _overlap(a: Rect, b: Rect) -> float:
    return _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
