"""The recipe schema: one experiment, typed. Loading, overrides and collected errors are in `recipe_loading`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ecstfl_cli.api import FrameSampling, InputSpec, ModelSpec

Fraction = Annotated[float, Field(ge=0, le=1)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Problem = tuple[tuple[str, ...], str]


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _name_or_classes(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        # A union reports every branch; the reader needs one sentence.
        raise PydanticCustomError(
            "label_map", "must be the name of a label map, or a list of class names in index order"
        ) from error


PathFiles = Annotated[
    list[str],
    BeforeValidator(_one_or_more),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
LabelMapValue = Annotated[str | list[str], WrapValidator(_name_or_classes)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors and values are not coerced across types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class DataSection(Section):
    """Where the samples are. Relative paths in a path file are looked up under `root`, else beside the file."""

    train: PathFiles = Field(default_factory=list, description="path files to train on; one needs no list")
    val: PathFiles = Field(default_factory=list, description="path files to choose the best epoch on")
    test: PathFiles = Field(default_factory=list, description="path files to report last and best on, after training")
    val_split: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="fraction of the training list held out for choosing the best epoch, stratified and seeded",
    )
    root: str | None = Field(default=None, description="folder that relative paths start from")
    label_map: LabelMapValue | None = Field(
        default=None, description="label map of the path files, where neither `prepare` noted one nor it is the model's"
    )
    skip_bad: bool = Field(
        default=False, description="leave unreadable rows out, into a rejects file, instead of stopping"
    )


class SamplingSection(Section):
    """Which frames of a clip are read; see api.FrameSampling."""

    scheme: Literal["segments", "uniform"] = "segments"
    segments: Annotated[int, Field(ge=1)] = 8
    duration: Annotated[int, Field(ge=1)] = 2
    frames: Annotated[int, Field(ge=1)] = 16


class InputSection(Section):
    """What the model sees; stored with its weights. See api.InputSpec."""

    modality: Literal["img", "video"] = "video"
    size: Annotated[int, Field(ge=8, le=4096)] = 112
    sampling: SamplingSection = Field(default_factory=SamplingSection)
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] = Field(default_factory=lambda: [0.0, 0.0, 0.0])
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)] = Field(
        default_factory=lambda: [1.0, 1.0, 1.0]
    )
    face_crop: str = "as_given"

    def to_spec(self) -> InputSpec:
        """The api.InputSpec that components take."""
        plain = self.model_dump()
        return InputSpec.from_dict({**plain, "sampling": FrameSampling(**plain["sampling"]).__dict__})


class AugmentSection(Section):
    """Training augmentation, the same for every frame of a clip. The defaults are the reference release's."""

    random_resized_crop: bool = True
    scale: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.08, 1.0], description="area of the crop, as a fraction of the frame"
    )
    ratio: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [3 / 4, 4 / 3], description="width over height of the crop"
    )
    hflip: Fraction = Field(default=0.5, description="probability of a horizontal flip")


class ModelSection(Section):
    """The network and where its first weights come from."""

    backbone: str = Field(default="torchvision/r3d_18", description="registry name; `ecstfl plugins` lists them")
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the backbone")
    temporal_head: Literal["mean", "lstm", "gru", "transformer"] | None = Field(
        default=None, description="how an image backbone serves clips"
    )
    temporal_args: dict[str, Any] = Field(default_factory=dict)
    checkpoint: str | None = Field(default=None, description="weights to start from: a file or a name of the catalogue")
    replace_head: bool = Field(
        default=False, description="allow the checkpoint's head to have other classes, and replace it"
    )

    def to_spec(self, num_classes: int) -> ModelSpec:
        """The api.ModelSpec that builds the network."""
        return ModelSpec(self.backbone, num_classes, self.args, self.temporal_head, self.temporal_args)


class LossSection(Section):
    """One term of the objective. The weight of `ec_stfl` is the paper's lambda, the reference release's gamma."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    args: dict[str, Any] = Field(default_factory=dict)


class OptimizerSection(Section):
    """`momentum` is for sgd; `weight_decay` is coupled for sgd and decoupled for adamw."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4


class ScheduleSection(Section):
    """Learning rate over the epochs.

    `step` multiplies by `factor` every `step_size` epochs, `cosine` falls to `min_lr`, `constant` stays.
    """

    name: Literal["step", "cosine", "constant"] = "step"
    step_size: Annotated[int, Field(ge=1)] = 50
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    min_lr: Annotated[float, Field(ge=0)] = 0.0


class TrainSection(Section):
    """How the engine runs. `device` and `workers` choose the machine's part, not the result."""

    epochs: Annotated[int, Field(ge=1)] = 200
    batch_size: Annotated[int, Field(ge=1)] = 32
    workers: Annotated[int, Field(ge=0)] = 4
    device: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    select_by: Literal["war", "uar"] = Field(
        default="war", description="metric on the validation samples that picks the best"
    )
    max_steps: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="stop after so many steps, for trying out"
    )


class Recipe(Section):
    """One experiment. `losses` maps a registry name to its term of the weighted sum."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str = ""
    label_map: LabelMapValue = Field(
        default="dfew", description="classes of the model: a registered label map, or class names in index order"
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="of the weights, the order, the augmentation, the split"
    )
    data: DataSection = Field(default_factory=DataSection)
    input: InputSection = Field(default_factory=InputSection)
    augment: AugmentSection = Field(default_factory=AugmentSection)
    model: ModelSection = Field(default_factory=ModelSection)
    losses: dict[str, LossSection] = Field(default_factory=lambda: {"cross_entropy": LossSection()})
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    schedule: ScheduleSection = Field(default_factory=ScheduleSection)
    train: TrainSection = Field(default_factory=TrainSection)
    output: str = Field(default="runs", description="folder that run folders are made in")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if problems := self.inconsistencies():
            text = "; ".join(f"{'.'.join(path)}: {what}" for path, what in problems)
            raise PydanticCustomError("inconsistent", "{text}", {"text": text, "problems": problems})
        return self

    def inconsistencies(self) -> list[Problem]:
        """Settings that contradict each other, as (key path, what is wrong)."""
        data, model, augment = self.data, self.model, self.augment
        found: list[Problem] = []
        if not any(term.weight > 0 for term in self.losses.values()):
            found.append((("losses",), "at least one term needs a weight above 0"))
        if data.val and data.val_split:
            found.append((("data", "val_split"), "give either data.val or data.val_split, not both"))
        if model.temporal_head and self.input.modality == "img":
            found.append((("model", "temporal_head"), "is for clips, and input.modality is img"))
        if model.temporal_args and not model.temporal_head:
            found.append((("model", "temporal_args"), "has no effect without model.temporal_head"))
        for key, (low, high) in (("scale", augment.scale), ("ratio", augment.ratio)):
            if low > high:
                found.append((("augment", key), f"is [lowest, highest], and {low:g} is above {high:g}"))
        if self.schedule.name == "cosine" and self.schedule.min_lr > self.optimizer.lr:
            found.append((("schedule", "min_lr"), f"is above optimizer.lr, {self.optimizer.lr:g}"))
        return found

    def run_parent(self) -> Path:
        """The folder that holds this recipe's runs."""
        return Path(self.output) / self.name
