"""The recipe schema: one experiment, typed. Loading, overrides and collected errors are in `recipe_loading`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ecstfl_cli.api import FrameSampling, InputSpec, ModelSpec
from ecstfl_cli.recipe_data import NAME_PATTERN, DataSection, LabelMapValue, Section, must_be

Fraction = Annotated[float, Field(ge=0, le=1)]
Problem = tuple[tuple[str, ...], str]


OptimizerName = Annotated[
    str, Field(pattern=r"^(sgd|adamw|timm/[a-z0-9_]+)$"), must_be("sgd, adamw or timm/NAME, e.g. timm/lamb")
]
ScheduleName = Annotated[
    str,
    Field(pattern=r"^(step|cosine|constant|timm/[a-z0-9_]+)$"),
    must_be("step, cosine, constant or timm/NAME, e.g. timm/poly"),
]
Frozen = Annotated[
    Annotated[int, Field(ge=0)] | list[str],
    must_be("the number of first stages to freeze, or a list of parameter name prefixes"),
]
Teachers = Annotated[
    str | Annotated[list[str], Field(min_length=1)], must_be("the name of a model, or a list of several")
]
Side = Annotated[int, Field(ge=8, le=4096)]
TeacherSize = Annotated[
    Side | list[Side] | None, must_be("a side of 8 to 4096 pixels, or a list of one for each teacher")
]
Workers = Annotated[Annotated[int, Field(ge=0)] | Literal["auto"], must_be("a whole number from 0, or auto")]
SaveEvery = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)? ?min$")],
    must_be("a number of steps, e.g. 500, or of minutes, e.g. 15min"),
]


class SamplingSection(Section):
    """Which frames of a clip are read; see api.FrameSampling."""

    scheme: Literal["segments", "uniform"] = "segments"
    segments: Annotated[int, Field(ge=1)] = 8
    duration: Annotated[int, Field(ge=1)] = 2
    frames: Annotated[int, Field(ge=1)] = 16


class FaceCropSection(Section):
    """How faces are cut out of pictures; see api.FaceCrop."""

    detector: str = "centerface"
    min_score: Fraction = 0.5
    align: Literal["eyes", "box"] = "box"
    margin: Annotated[float, Field(ge=-0.4, le=2)] = 0.1
    size: Annotated[int, Field(ge=16, le=4096)] = 224


class InputSection(Section):
    """What the model sees; stored with its weights. See api.InputSpec."""

    modality: Literal["img", "video"] = "video"
    size: Side = 112
    sampling: SamplingSection = Field(default_factory=SamplingSection)
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] = Field(default_factory=lambda: [0.0, 0.0, 0.0])
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)] = Field(
        default_factory=lambda: [1.0, 1.0, 1.0]
    )
    face_crop: FaceCropSection | None = Field(
        default=None, description="how `infer` cuts faces out of pictures; must be what the training crops look like"
    )

    def to_spec(self) -> InputSpec:
        """The api.InputSpec that components take."""
        plain = self.model_dump()
        return InputSpec.from_dict({**plain, "sampling": FrameSampling(**plain["sampling"]).__dict__})


class RandAugmentSection(Section):
    """RandAugment (Cubuk et al. 2020): `ops` operations in a row, each of strength `magnitude` of 30."""

    ops: Annotated[int, Field(ge=0)] = 0
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class AugmentSection(Section):
    """Training augmentation, the same for every frame of a clip. The defaults are the reference release's."""

    size: Side | None = Field(
        default=None,
        description="H = W in training, input.size if not given; random crops enlarge faces, so that less than it is "
        "faster and fits the evaluation better (Touvron et al. 2019)",
    )
    random_resized_crop: bool = True
    scale: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.08, 1.0], description="area of the crop, as a fraction of the frame"
    )
    ratio: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [3 / 4, 4 / 3], description="width over height of the crop"
    )
    hflip: Fraction = Field(default=0.5, description="probability of a horizontal flip")
    rand_augment: RandAugmentSection = Field(default_factory=RandAugmentSection)
    erasing: Fraction = Field(default=0.0, description="probability of erasing a random rectangle")
    mixup: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="alpha of mixup (Zhang et al. 2018); 0 is off"
    )
    cutmix: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="alpha of CutMix (Yun et al. 2019); 0 is off; with mixup, one of the two at random"
    )
    mix_prob: Fraction = Field(
        default=1.0, description="part of the batches that are mixed; pairwise losses are left out of those"
    )


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

    freeze: Frozen = Field(
        default_factory=list,
        description="what is not trained: the first stages, by number, or parameters by name prefix (net.layer1)",
    )

    def to_spec(self, num_classes: int) -> ModelSpec:
        """The api.ModelSpec that builds the network."""
        return ModelSpec(self.backbone, num_classes, self.args, self.temporal_head, self.temporal_args)


class DistillationSection(Section):
    """Trained models to learn from beside the labels, which see each batch as the network does, mixed or cropped."""

    teacher: Teachers = Field(
        description="a checkpoint file, a run folder or a name of the catalogue, of the same modality; of several, the "
        "mean of their probabilities counts"
    )
    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="the share of what the teacher says in what is learnt; the rest is that of `losses`"
    )
    size: TeacherSize = Field(
        default=None,
        description="H = W that batches are resized to for the teacher, its own input size if not given; one for all "
        "teachers or one for each",
    )
    flip: bool = Field(
        default=False, description="the teacher sees each batch and its mirror image, as `ecstfl infer --flip` does"
    )

    @property
    def teachers(self) -> list[tuple[str, int | None]]:
        """Each teacher with the size of its pictures, None being its own."""
        names = [self.teacher] if isinstance(self.teacher, str) else self.teacher
        sizes = self.size if isinstance(self.size, list) else [self.size] * len(names)
        return list(zip(names, sizes, strict=True))

    def inconsistencies(self) -> list[Problem]:
        """Settings that contradict each other, as (key path, what is wrong)."""
        count = 1 if isinstance(self.teacher, str) else len(self.teacher)
        if isinstance(self.size, list) and len(self.size) != count:
            return [(("distillation", "size"), f"names {len(self.size)} sizes, and there are {count} teachers")]
        return []


class LossSection(Section):
    """One term of the objective. The weight of `ec_stfl` is the paper's lambda, the reference release's gamma."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    args: dict[str, Any] = Field(default_factory=dict)


class OptimizerSection(Section):
    """`weight_decay` is coupled for sgd and decoupled for adamw; `momentum` is for sgd and whatever else has one.

    `timm/NAME` is an optimiser of timm's factory, `args` its other arguments.
    """

    name: OptimizerName = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    args: dict[str, Any] = Field(default_factory=dict)
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="learning rate of each stage, as a fraction of the next stage's; the head has lr"
    )
    lr_factors: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="learning rate of parameters by name prefix, as a multiple of lr"
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="largest norm of the gradient of all parameters together"
    )


class ScheduleSection(Section):
    """Learning rate over the epochs.

    `step` multiplies by `factor` every `step_size` epochs, `cosine` falls to `min_lr`, `constant` stays. `timm/NAME` is
    a schedule of timm's factory, `args` its other arguments.
    """

    name: ScheduleName = "step"
    step_size: Annotated[int, Field(ge=1)] = 50
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    args: dict[str, Any] = Field(default_factory=dict)


class TrainSection(Section):
    """How the engine runs. `device`, `workers` and `parallel` choose the machine's part, not the result."""

    epochs: Annotated[int, Field(ge=1)] = 200
    batch_size: Annotated[int, Field(ge=1)] = Field(
        default=32, description="samples in a batch, of all processes together"
    )
    accumulate: Annotated[int, Field(ge=1)] = Field(
        default=1, description="batches whose mean gradient makes one update; pairwise losses see one batch each"
    )
    drop_last: bool = Field(default=True, description="leave the incomplete last batch of an epoch out")
    workers: Workers = Field(default="auto", description="processes that load samples, for each training process")
    device: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    select_by: Literal["war", "uar"] = Field(
        default="war", description="metric on the validation samples that picks the best"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="decay of an exponential moving average of the weights, which is what is evaluated and kept",
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="stop after so many epochs without a better one on the validation samples"
    )
    max_steps: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="stop after so many steps, for trying out"
    )
    max_minutes: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="save and stop after so many minutes; --resume continues for as many more"
    )
    save_every: SaveEvery | None = Field(
        default=None, description="save the state within an epoch, too: every so many steps, or minutes (15min)"
    )
    compile: bool = Field(default=False, description="compile the network with torch.compile")
    detect_anomaly: bool = Field(
        default=False, description="find the layer whose output or gradient is first not finite; slow"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="with several processes: the whole network in each, or sharded among them"
    )
    sync_batchnorm: bool = Field(
        default=True, description="with several processes: batch norm over the batch of all of them"
    )
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        default_factory=list, description="where curves, confusion matrices and sample predictions are logged besides"
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
    distillation: DistillationSection | None = None
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
        model, augment = self.model, self.augment
        found: list[Problem] = []
        if not any(term.weight > 0 for term in self.losses.values()):
            found.append((("losses",), "at least one term needs a weight above 0"))
        found += self.data.inconsistencies()
        found += self.distillation.inconsistencies() if self.distillation else []
        if model.temporal_head and self.input.modality == "img":
            found.append((("model", "temporal_head"), "is for clips, and input.modality is img"))
        if model.temporal_args and not model.temporal_head:
            found.append((("model", "temporal_args"), "has no effect without model.temporal_head"))
        for key, (low, high) in (("scale", augment.scale), ("ratio", augment.ratio)):
            if low > high:
                found.append((("augment", key), f"is [lowest, highest], and {low:g} is above {high:g}"))
        if self.train.compile and self.train.detect_anomaly:
            found.append((("train", "detect_anomaly"), "looks at single layers, which train.compile melts into one"))
        if augment.mix_prob == 0 and (augment.mixup or augment.cutmix):
            found.append((("augment", "mix_prob"), "is 0, so that mixup and cutmix have no effect"))
        if self.schedule.name == "cosine" and self.schedule.min_lr > self.optimizer.lr:
            found.append((("schedule", "min_lr"), f"is above optimizer.lr, {self.optimizer.lr:g}"))
        return found

    def run_parent(self) -> Path:
        """The folder that holds this recipe's runs."""
        return Path(self.output) / self.name
