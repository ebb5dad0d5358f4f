"""Colours, the same in plots, annotated pictures and reports. Importing this module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

# Okabe and Ito's palette: told apart with colour-blind eyes and in grey.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# One colour per expression. The seven that every label map shares keep 0.11 or more between any two of them in OKLab,
# also as protanopes, deuteranopes and tritanopes see them (Okabe and Ito's with a grey keep 0.03), and each stands out
# from white (2.55 to 1 and more) and from a dark page (3 to 1).
EXPRESSIONS = {
    "happy": "#DB8A00",
    "sad": "#1570F0",
    "neutral": "#989999",
    "angry": "#CB1401",
    "surprise": "#4DA7EE",
    "disgust": "#227155",
    "fear": "#965CA5",
    "contempt": "#8E06A4",
    "calm": "#5FA88A",
    "anxiety": "#B0558B",
    "helplessness": "#7A6A4F",
    "disappointment": "#5D6B8C",
}
# For classes of a user's own label map.
OTHERS = ("#A35A2A", "#3F8E9E", "#B8506A", "#6C8A2B", "#5B59C2", "#8A7B3D", "#2F7FB5", "#A0489C")


def expression_colours(names: Sequence[str]) -> list[str]:
    """A colour `#RRGGBB` for each class name: an expression has the same one in every label map."""
    others = 0
    colours = []
    for name in names:
        if name in EXPRESSIONS:
            colours.append(EXPRESSIONS[name])
        else:
            colours.append(OTHERS[others % len(OTHERS)])
            others += 1
    return colours


def rgb(colour: str) -> tuple[int, int, int]:
    """`#RRGGBB` as three numbers, 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def text_on(colour: str) -> str:
    """Black or white, whichever is read more easily on `colour` (WCAG's contrast)."""
    return "#000000" if luminance(colour) > 0.179 else "#FFFFFF"


def luminance(colour: str) -> float:
    """WCAG's relative luminance of `#RRGGBB`, 0 (black) to 1 (white)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
