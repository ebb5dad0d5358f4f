"""HTML made of parts, with every text escaped, and the small parts that pages repeat."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.report.thumbnails import Thumbnail


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


def clock(seconds: float) -> str:
    """`0:02.4`, `1:02:03`: minutes and seconds, tenths below an hour."""
    tenths = round(10 * seconds)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600
    if hours:
        return f"{hours}:{minutes:02d}:{rest // 10:02d}"
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"


def time_span(seconds: float) -> str:
    """`2.4 s`, `3 min 5 s`, `1 h 2 min`: how long something is."""
    whole = round(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def shares_bar(shares: NDArray[np.float64], names: Sequence[str], colours: Sequence[str]) -> Markup:
    """Parts of a whole, (K,) that sum to 1, as a bar with a part for each class of 1 in 200 and more."""
    if not len(shares):
        return Markup("")
    shown = [k for k in range(len(shares)) if shares[k] >= 0.005]
    texts = [f"{names[k]} {100 * shares[k]:.0f}%" for k in sorted(shown, key=lambda k: -shares[k])]
    parts = [
        tag(
            "i",
            "",
            style=f"width:{100 * shares[k]:.2f}%;background:{colours[k]}",
            title=f"{names[k]} {100 * shares[k]:.0f}%",
        )
        for k in shown
    ]
    return tag("div", join(*parts), class_="shares", role="img", aria_label=", ".join(texts))


def thumbnail_image(thumbnail: Thumbnail, alt: str) -> Markup:
    """The picture inside of the page."""
    data = base64.b64encode(thumbnail.jpeg).decode()
    return tag("img", None, src=f"data:image/jpeg;base64,{data}", alt=alt, width=112, height=112, loading="lazy")
