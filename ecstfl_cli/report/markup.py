"""HTML made of parts, with every text escaped, and the small parts that pages repeat."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.palette import expression_colours, text_on
from ecstfl_cli.report.thumbnails import Thumbnail
from ecstfl_cli.wording import percent


class Markup(str):
    """Text that is HTML already; any other text is escaped where it joins some."""

    __slots__ = ()


def join(*parts: Markup | str) -> Markup:
    """The parts one after another, escaped where they are not HTML yet."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def join_lines(*parts: Markup | str) -> Markup:
    """As `join`, each part that is not empty on a line of its own."""
    return Markup("\n".join(join(part) for part in parts if part))


def tag(name: str, content: Markup | str | None, **attributes: Any) -> Markup:
    """An element. `class_` is class, `data_value` data-value; None leaves an attribute out, True has no value.

    Content None is an element that has no end, such as img.
    """
    texts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        key = key.rstrip("_").replace("_", "-")
        texts.append(key if value is True else f'{key}="{escape(str(value))}"')
    start = f"<{' '.join(texts)}>"
    return Markup(start if content is None else f"{start}{join(content)}</{name}>")


def sortable_head(*columns: tuple[str, str]) -> Markup:
    """The head of a table that the page's script sorts: names, each with `number` or an empty text."""
    cells = [tag("th", tag("button", name, type="button"), scope="col", class_=kind or None) for name, kind in columns]
    return tag("thead", tag("tr", join(*cells)))


def search_field(selector: str, label: str) -> Markup:
    """A field that hides those of the elements whose text does not have what is typed."""
    return tag("input", None, type="search", data_filter=selector, placeholder=label, aria_label=label)


def thumbnail_image(thumbnail: Thumbnail, alt: str) -> Markup:
    """The picture inside of the page."""
    data = base64.b64encode(thumbnail.jpeg).decode()
    return tag("img", None, src=f"data:image/jpeg;base64,{data}", alt=alt, width=112, height=112, loading="lazy")


class Classes:
    """The K classes with their colours, as parts of a page."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.colours = expression_colours(self.names)
        self.inks = [text_on(colour) for colour in self.colours]

    def swatch(self, k: int) -> Markup:
        """A small field of the class's colour."""
        return tag("span", "", class_="swatch", style=f"background:{self.colours[k]}", aria_hidden="true")

    def named(self, k: int) -> Markup:
        """The class's name beside its colour."""
        return tag("span", join(self.swatch(k), self.names[k]), class_="expression")

    def bar(self, shares: NDArray[np.float64]) -> Markup:
        """Parts of a whole, (K,) that sum to 1, as a bar with a part for each class of 1 in 200 and more."""
        if not len(shares):
            return Markup("")
        shown = [k for k in range(len(shares)) if shares[k] >= 0.005]
        texts = {k: f"{self.names[k]} {percent(shares[k])}" for k in sorted(shown, key=lambda k: -shares[k])}
        parts = [
            tag("i", "", style=f"width:{100 * shares[k]:.2f}%;background:{self.colours[k]}", title=texts[k])
            for k in shown
        ]
        return tag("div", join(*parts), class_="shares", role="img", aria_label=", ".join(texts.values()))

    def key(self, shares: NDArray[np.float64]) -> Markup:
        """What a bar's parts are, the largest first."""
        order = [k for k in (-shares).argsort(kind="stable").tolist() if shares[k] > 0]
        items = [tag("li", join(self.swatch(k), f"{self.names[k]} {percent(shares[k])}")) for k in order]
        return tag("ul", join(*items), class_="key")
