"""Label maps: named, ordered lists of canonical class names, joined by name and never by index."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from ecstfl_cli.errors import LabelMapError, RegistryError, suggest

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
DROP_HINT = "Or leave the samples of these classes out: data.drop_classes: true in a recipe, --drop-classes."
INDEX = re.compile(r"[+-]?[0-9]+")


def canonical(name: str) -> str:
    """The canonical spelling of a class name: lower case, synonyms folded (`Anger` -> `angry`)."""
    folded = name.strip().lower()
    return SYNONYMS.get(folded, folded)


@dataclass(frozen=True)
class LabelMap:
    """A named, ordered list of classes; index k of a path file or a logit means `names[k]`.

    `synonyms` adds names that only this map takes for one of its classes, e.g. `{"calm": "neutral"}`; whatever folds
    into such a name counts too. Raises LabelMapError for no classes, one class named twice (`happy`, `Happiness`), a
    name that reads as an index, a synonym of no class.
    """

    name: str
    names: tuple[str, ...]
    synonyms: Mapping[str, str] = field(default_factory=dict, hash=False)
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(canonical(n) for n in self.names))
        extra = {canonical(synonym): canonical(n) for synonym, n in self.synonyms.items()}
        object.__setattr__(self, "synonyms", extra)
        where = f"label map {self.name!r}"
        if not self.names:
            raise LabelMapError(f"{where} has no classes")
        if len(set(self.names)) != len(self.names):
            raise LabelMapError(f"{where} names a class twice: {', '.join(self.names)}")
        if unfit := [n for n in self.names if not n or INDEX.fullmatch(n)]:
            raise LabelMapError(f"{where} has class names that are empty or read as indices: {unfit}")
        if strays := sorted(set(extra.values()) - set(self.names)):
            raise LabelMapError(f"{where} has synonyms of classes it lacks: {', '.join(strays)}", self.describe())

    def __len__(self) -> int:
        return len(self.names)

    def describe(self) -> str:
        """`0 happy, 1 sad, …`"""
        return ", ".join(f"{i} {n}" for i, n in enumerate(self.names))

    def index(self, name: str) -> int:
        """Index of a class name or synonym. Raises LabelMapError for a name outside the map."""
        found = self.find(name)
        if found is None:
            raise LabelMapError(
                f"{name!r} is not a class of label map {self.name!r}",
                f"{suggest(canonical(name), self.names)}Its classes: {self.describe()}",
            )
        return found

    def find(self, name: str) -> int | None:
        """Index of a class name or synonym, None for a name outside the map."""
        folded = self.synonyms.get(canonical(name), canonical(name))
        return self.names.index(folded) if folded in self.names else None

    def parse(self, text: str) -> int:
        """Index for a label as written in a path file: an index (`3`) or a class name (`angry`)."""
        text = text.strip()
        if INDEX.fullmatch(text):
            index = int(text)
            if not 0 <= index < len(self.names):
                raise LabelMapError(
                    f"label {index} is outside label map {self.name!r}", f"Its classes: {self.describe()}"
                )
            return index
        return self.index(text)


def spellings(label_map: LabelMap, name: str) -> list[str]:
    """Other names that a map reads as its class `name`, sorted."""
    every = {*SYNONYMS, *label_map.synonyms} - {name}
    return sorted(n for n in every if label_map.find(n) == label_map.index(name))


def side_by_side(left: LabelMap, right: LabelMap) -> str:
    """The two maps as two columns, for messages about maps that do not fit."""
    width = max(len(left.name), *(len(n) + 3 for n in left.names)) + 2
    rows = [f"  {left.name:<{width}}{right.name}"]
    for i, (a, b) in enumerate(zip_longest(left.names, right.names)):
        rows.append(f"  {f'{i} {a}' if a else '':<{width}}{f'{i} {b}' if b else ''}".rstrip())
    return "\n".join(rows)


@dataclass(frozen=True)
class Join:
    """How the classes of `source` are found in `target`: `indices[k]` is class k there, None where there is none.

    Several classes may become one, where the target's synonyms say so.
    """

    source: LabelMap
    target: LabelMap
    indices: tuple[int | None, ...]

    @property
    def missing(self) -> list[str]:
        """Classes of the source without a counterpart."""
        return [name for name, index in zip(self.source.names, self.indices, strict=True) if index is None]

    @property
    def unused(self) -> list[str]:
        """Classes of the target that no class of the source becomes."""
        return [name for index, name in enumerate(self.target.names) if index not in self.indices]

    @property
    def gathered(self) -> dict[str, list[str]]:
        """Classes of the target that several of the source become, with these."""
        found: dict[str, list[str]] = {}
        for name, index in zip(self.source.names, self.indices, strict=True):
            if index is not None:
                found.setdefault(self.target.names[index], []).append(name)
        return {name: members for name, members in found.items() if len(members) > 1}

    def matrix(self) -> list[list[float]]:
        """(K_source, K_target): each row has a 1 for what its class becomes, or none."""
        return [[float(index == column) for column in range(len(self.target))] for index in self.indices]

    def complete(self) -> list[int]:
        """The indices. Raises LabelMapError, with both lists side by side, where a class has no counterpart."""
        if self.missing:
            raise LabelMapError(
                f"label map {self.source.name!r} has classes that {self.target.name!r} lacks: "
                f"{', '.join(self.missing)}\n{side_by_side(self.source, self.target)}",
                "Choose a label map that holds every class of the data.",
            )
        return [index for index in self.indices if index is not None]


def join(source: LabelMap, target: LabelMap) -> Join:
    """How the classes of `source` are found in `target`, by name or by a synonym of `target`."""
    return Join(source, target, tuple(target.find(name) for name in source.names))


def remap(source: LabelMap, target: LabelMap) -> list[int]:
    """For each index of `source` the index of the same class in `target`. Raises LabelMapError as `Join.complete`."""
    return join(source, target).complete()


def label_map_from(value: str | Sequence[str]) -> LabelMap:
    """A label map from the registry by name, or one named `custom` from a list of class names.

    Raises RegistryError where the name is unknown, ambiguous or broken, LabelMapError where the list makes no map.
    """
    if not isinstance(value, str):
        return LabelMap("custom", tuple(value))
    from ecstfl_cli import registry

    found = registry.load("label_maps", value)
    if not isinstance(found, LabelMap):
        owner = registry.find("label_maps", value).owner
        raise RegistryError(
            f"label map {value!r} of {owner} is not an api.LabelMap ({type(found).__name__})",
            "`ecstfl plugins --group label_maps --check` shows which label maps can be used.",
        )
    return found
