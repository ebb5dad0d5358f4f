"""Label maps: named, ordered lists of canonical class names, joined by name and never by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from ecstfl_cli.errors import LabelMapError, suggest

SYNONYMS: dict[str, str] = {
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "anger": "angry",
    "surprised": "surprise",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "contemptuous": "contempt",
}


def canonical(name: str) -> str:
    """The canonical spelling of a class name: lower case, synonyms folded (`Anger` -> `angry`)."""
    folded = name.strip().lower()
    return SYNONYMS.get(folded, folded)


@dataclass(frozen=True)
class LabelMap:
    """A named, ordered list of classes; index k of a path file or a logit means `names[k]`.

    `synonyms` adds spellings that only this map accepts, e.g. `{"calm": "neutral"}`.
    """

    name: str
    names: tuple[str, ...]
    synonyms: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(canonical(n) for n in self.names))
        if len(set(self.names)) != len(self.names):
            raise LabelMapError(f"label map {self.name!r} names a class twice: {', '.join(self.names)}")
        if not self.names:
            raise LabelMapError(f"label map {self.name!r} has no classes")

    def __len__(self) -> int:
        return len(self.names)

    def describe(self) -> str:
        """`0 happy, 1 sad, …`"""
        return ", ".join(f"{i} {n}" for i, n in enumerate(self.names))

    def index(self, name: str) -> int:
        """Index of a class name or synonym. Raises LabelMapError for a name outside the map."""
        folded = canonical(self.synonyms.get(name.strip().lower(), name))
        if folded not in self.names:
            raise LabelMapError(
                f"{name!r} is not a class of label map {self.name!r}",
                f"{suggest(folded, self.names)}Its classes: {self.describe()}",
            )
        return self.names.index(folded)

    def parse(self, text: str) -> int:
        """Index for a label as written in a path file: an index (`3`) or a class name (`angry`)."""
        text = text.strip()
        if text.lstrip("+-").isdigit():
            index = int(text)
            if not 0 <= index < len(self.names):
                raise LabelMapError(
                    f"label {index} is outside label map {self.name!r}", f"Its classes: {self.describe()}"
                )
            return index
        return self.index(text)


def side_by_side(left: LabelMap, right: LabelMap) -> str:
    """The two maps as two columns, for messages about maps that do not fit."""
    width = max(len(left.name), *(len(n) + 3 for n in left.names)) + 2
    rows = [f"  {left.name:<{width}}{right.name}"]
    for i, (a, b) in enumerate(zip_longest(left.names, right.names)):
        rows.append(f"  {f'{i} {a}' if a else '':<{width}}{f'{i} {b}' if b else ''}".rstrip())
    return "\n".join(rows)


def remap(source: LabelMap, target: LabelMap) -> list[int]:
    """For each index of `source` the index of the same class in `target`.

    Raises LabelMapError, with both lists side by side, where a class of `source` has no counterpart.
    """
    missing = [n for n in source.names if n not in target.names]
    if missing:
        raise LabelMapError(
            f"label map {source.name!r} has classes that {target.name!r} lacks: {', '.join(missing)}\n"
            + side_by_side(source, target),
            "Choose a label map that holds every class of the data.",
        )
    return [target.names.index(n) for n in source.names]


def label_map_from(value: str | Sequence[str]) -> LabelMap:
    """A label map from the registry by name, or an unnamed one from a list of class names."""
    if isinstance(value, str):
        from ecstfl_cli import registry

        found = registry.load("label_maps", value)
        return found if isinstance(found, LabelMap) else found()
    return LabelMap("custom", tuple(value))
