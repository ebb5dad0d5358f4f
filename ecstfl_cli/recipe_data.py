"""The recipe's section `data`: which path files, with whose labels, split and joined how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Problem = tuple[tuple[str, ...], str]
# What pydantic adds to the place of an error: which form of a value it was; no key of the recipe.
BRANCHES = ("(path)", "(section)", "(lists)", "(by name)")


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors and values are not coerced across types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def must_be(what: str) -> WrapValidator:
    """One sentence where a union of types or a pattern would report every branch."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("must_be", "must be {what}", {"what": what}) from error

    return WrapValidator(validate)


LabelMapValue = Annotated[str | list[str], must_be("the name of a label map, or a list of class names in index order")]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class PathFileSection(Section):
    """A path file with what differs from the rest of `data`; a plain path is one without."""

    file: str = Field(description="the path file")
    name: Name | None = Field(
        default=None, description="data set that its metrics go by; what `prepare` called it, or the file, if not given"
    )
    label_map: LabelMapValue | None = Field(default=None, description="in place of data.label_map")
    root: str | None = Field(default=None, description="in place of data.root")
    weight: Annotated[float, Field(gt=0, le=100)] = Field(
        default=1.0,
        description="how often training sees each of its samples in an epoch: 2 twice, 0.5 in every other epoch",
    )


def _is_entry(value: Any) -> bool:
    return isinstance(value, PathFileSection) or (isinstance(value, Mapping) and "file" in value)


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) or _is_entry(value) else value


def _form_of_item(value: Any) -> str:
    return BRANCHES[1] if isinstance(value, (Mapping, PathFileSection)) else BRANCHES[0]


def _form_of_lists(value: Any) -> str:
    return BRANCHES[3] if isinstance(value, Mapping) and not _is_entry(value) else BRANCHES[2]


class _OneOrMoreSchema:
    """In the JSON Schema, the forms that `_one_or_more` and the choice between lists let through."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        forms = [form for part in found.pop("oneOf", [found]) for form in part.get("anyOf", [part])]
        items = [] if len(forms) > 1 else forms[0]["items"]["oneOf"]
        closed = [{**f, "additionalProperties": False} if "patternProperties" in f else f for f in forms]
        return {"anyOf": [*items, *closed]}


PathFile = Annotated[
    Annotated[str, Tag(BRANCHES[0])] | Annotated[PathFileSection, Tag(BRANCHES[1])], Discriminator(_form_of_item)
]
PathFiles = Annotated[list[PathFile], BeforeValidator(_one_or_more), _OneOrMoreSchema()]
NamedPathFiles = Annotated[
    Annotated[PathFiles, Tag(BRANCHES[2])] | Annotated[dict[Name, PathFiles], Tag(BRANCHES[3])],
    Discriminator(_form_of_lists),
    _OneOrMoreSchema(),
]


class DataSection(Section):
    """Where the samples are. Relative paths in a path file are looked up under `root`, else beside the file.

    Path files are given as paths, or as sections of `file` and what differs for it: `label_map`, `root`, `weight`.
    """

    train: PathFiles = Field(default_factory=list, description="path files to train on; one needs no list")
    val: NamedPathFiles = Field(
        default_factory=list,
        description="path files to choose the best epoch on; by name, each is evaluated and the first one chooses",
    )
    test: NamedPathFiles = Field(
        default_factory=list, description="path files to report last and best on, after training; by name, each of them"
    )
    val_split: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="fraction of the training list held out for choosing the best epoch, stratified and seeded",
    )
    val_split_by: Literal["sample", "subject"] = Field(
        default="sample", description="what val_split deals out: with subject, nobody is in both parts"
    )
    root: str | None = Field(default=None, description="folder that relative paths start from")
    label_map: LabelMapValue | None = Field(
        default=None, description="label map of the path files, where neither `prepare` noted one nor it is the model's"
    )
    drop_classes: bool = Field(
        default=False, description="leave samples out whose class the model's label map lacks, instead of stopping"
    )
    any_modality: bool = Field(
        default=False,
        description="take stills into a model for clips, as clips of one repeated frame, and clips into one for "
        "stills: a frame at random in training, the middle one in evaluation",
    )
    soft_labels: bool = Field(
        default=False, description="train cross-entropy on the annotators' votes that `prepare` kept with the lists"
    )
    teachers: list[str] = Field(
        default_factory=list,
        description="predictions.csv files that `ecstfl infer` wrote of the training lists: their mean is learnt from "
        "beside the labels (knowledge distillation)",
    )
    teacher_weight: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="the share of data.teachers in what is learnt; the rest is the label's"
    )
    skip_bad: bool = Field(
        default=False, description="leave unreadable rows out, into a rejects file, instead of stopping"
    )

    @property
    def has_soft_targets(self) -> bool:
        """Whether training has shares of the classes in place of labels."""
        return self.soft_labels or bool(self.teachers)

    def entries(self, split: Literal["train", "val", "test"]) -> dict[str, list[PathFileSection]]:
        """Path files by the list that they belong to: `train`, `val`, or `val_<name>` for each named list."""
        files = getattr(self, split)
        lists = {f"{split}_{n}": listed for n, listed in files.items()} if isinstance(files, dict) else {split: files}
        return {
            name: [PathFileSection(file=item) if isinstance(item, str) else item for item in listed]
            for name, listed in lists.items()
            if listed
        }

    def lists(self, split: Literal["train", "val", "test"]) -> dict[str, list[str]]:
        """The files of `entries`: by the name that metrics go by, `val`, or `val_<name>` for each named list."""
        return {name: [entry.file for entry in entries] for name, entries in self.entries(split).items()}

    def inconsistencies(self) -> list[Problem]:
        """Settings that contradict each other, as (key path, what is wrong)."""
        found: list[Problem] = []
        if self.val and self.val_split:
            found.append((("data", "val_split"), "give either data.val or data.val_split, not both"))
        if self.val_split_by != "sample" and not self.val_split:
            found.append((("data", "val_split_by"), "has no effect without data.val_split"))
        for split in ("val", "test"):
            weighted = [e.file for listed in self.entries(split).values() for e in listed if e.weight != 1]
            if weighted:
                found.append((("data", split), f"weight is for data.train only, and {weighted[0]} has one"))
        return found
