"""What plugin authors import: the contracts, as protocols and small dataclasses.

Shape letters, the same everywhere: B batch, T frames, C channels, H height, W width, K classes,
D features. Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ecstfl_cli.errors import EcstflError
from ecstfl_cli.labels import LabelMap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

__all__ = [
    "Backbone",
    "Batch",
    "DatasetPlugin",
    "Detector",
    "EcstflError",
    "Exporter",
    "Face",
    "FaceCrop",
    "FrameSampling",
    "InputSpec",
    "LabelMap",
    "Loss",
    "LossContext",
    "Modality",
    "ModelSpec",
    "PathRow",
    "PreparedDataset",
    "Reporter",
]

Modality = Literal["img", "video"]


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a clip are read.

    `segments`: from each of `segments` offsets, `duration` consecutive frames (the reference release: 8 x 2).
    `uniform`: `frames` frames spread evenly over the clip.
    """

    scheme: Literal["segments", "uniform"] = "segments"
    segments: int = 8
    duration: int = 2
    frames: int = 16

    @property
    def num_frames(self) -> int:
        """T, the frames that one view of a clip has."""
        return self.segments * self.duration if self.scheme == "segments" else self.frames


@dataclass(frozen=True)
class FaceCrop:
    """How faces are cut out of pictures; part of the input spec, so that it travels with the weights.

    `detector` is a registry name, and faces below `min_score` (0 to 1) are left out. `align`: `eyes` turns the crop so
    that the eyes are level and sizes it by their distance, `box` takes the square about the detected box. `margin` is
    added on each side, as a fraction of the square's side; it may be negative. `size` is the crop's H = W in pixels.
    """

    detector: str = "centerface"
    min_score: float = 0.5
    align: Literal["eyes", "box"] = "box"
    margin: float = 0.1
    size: int = 224


@dataclass(frozen=True)
class InputSpec:
    """What a model expects to see; stored with its weights and used by `infer` and `export`.

    `size` is H = W in pixels. `resize`: `stretch` ignores the aspect (as the reference does), `crop` keeps it and
    takes the centre, `pad` keeps it and adds black. `mean` and `std` are per RGB channel on values in [0, 1].
    `face_crop` says how faces are cut out of pictures before that; None means that pictures are faces already, cropped
    by somebody else.
    """

    modality: Modality = "video"
    size: int = 112
    sampling: FrameSampling = field(default_factory=FrameSampling)
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    face_crop: FaceCrop | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the frames of one sample: (T, H, W, 3) for clips, (H, W, 3) for stills."""
        frames = (self.sampling.num_frames,) if self.modality == "video" else ()
        return (*frames, self.size, self.size, 3)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """An InputSpec from `to_dict`'s result; missing keys take their defaults."""
        plain = dict(values)
        if "sampling" in plain:
            plain["sampling"] = FrameSampling(**plain["sampling"])
        for key in ("mean", "std"):
            if key in plain:
                plain[key] = tuple(plain[key])
        # Checkpoints of the first versions say `as_given` where there is no crop of ours.
        crop = plain.get("face_crop")
        plain["face_crop"] = FaceCrop(**crop) if isinstance(crop, Mapping) else None
        return cls(**plain)


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is needed to build a network without its weights.

    `backbone` is a registry name (`torchvision/r3d_18`); `temporal_head` (`mean`, `lstm`, `gru`, `transformer`)
    lets an image backbone serve clips. `args` and `temporal_args` are keyword arguments of the two.
    """

    backbone: str
    num_classes: int
    args: Mapping[str, Any] = field(default_factory=dict)
    temporal_head: str | None = None
    temporal_args: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON; `ModelSpec(**values)` is its inverse."""
        return {
            "backbone": self.backbone,
            "num_classes": self.num_classes,
            "args": dict(self.args),
            "temporal_head": self.temporal_head,
            "temporal_args": dict(self.temporal_args),
        }


@dataclass
class Batch:
    """One collated batch. `frames` is uint8 RGB, (B, T, H, W, 3) for clips or (B, H, W, 3) for stills.

    `target` is (B,) int64, -1 where the label is unknown. `clip_ids` names the samples as their path file does.
    `soft_target` (B, K), shares that sum to 1, is there in training with `data.soft_labels` or `data.teachers`.
    """

    frames: Tensor
    target: Tensor
    clip_ids: list[str]
    soft_target: Tensor | None = None

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; what a DataLoader calls."""
        soft = None if self.soft_target is None else self.soft_target.pin_memory()
        return Batch(self.frames.pin_memory(), self.target.pin_memory(), self.clip_ids, soft)

    def to(self, device: Any) -> Batch:
        """The batch on a device, copied without waiting where memory is pinned."""
        soft = None if self.soft_target is None else self.soft_target.to(device, non_blocking=True)
        return Batch(
            self.frames.to(device, non_blocking=True), self.target.to(device, non_blocking=True), self.clip_ids, soft
        )


class Backbone(Protocol):
    """A network split at its classifier; an nn.Module whose forward is head(features(x)).

    A factory in the group `ecstfl.backbones` is called as `factory(num_classes, **args)`; one whose entry-point
    name ends in `/` serves a family and is called as `factory(name, num_classes, **args)`.
    x is float, (B, C, T, H, W) where `modality` is `video`, (B, C, H, W) where it is `img`.
    """

    modality: Modality
    num_features: int

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D), what the classifier and the feature losses see."""
        ...

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of features (B, D)."""
        ...

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one with K = `num_classes`."""
        ...


@dataclass(frozen=True)
class LossContext:
    """What a loss may need to know of the run: K, D and the samples of each class in the training list."""

    num_classes: int
    num_features: int
    class_counts: Sequence[int] = ()


class Loss(Protocol):
    """A module called as `loss(logits, features, target, batch)` that returns a scalar.

    logits (B, K), features (B, D), target (B,). A factory in the group `ecstfl.losses` is called as
    `factory(context, **args)` with a LossContext. `pairwise` losses compare samples of a batch with each other. One
    that trains on `batch.soft_target` (B, K) where a batch has it says so by `takes_soft_targets = True`.
    """

    pairwise: bool

    def __call__(self, logits: Tensor, features: Tensor, target: Tensor, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class PathRow:
    """One sample of a path file: an image, a folder of frames, or a video file.

    `label` is an index into the file's label map, None where unknown. `n_frames` may be left to `prepare`. `subject` is
    kept where a release names the person or the film, so that splits can keep them apart. `soft_label` is how many
    votes each class of the label map got, in any unit.
    """

    path: str
    label: int | None = None
    n_frames: int | None = None
    subject: str | None = None
    soft_label: Sequence[float] | None = None


@dataclass(frozen=True)
class PreparedDataset:
    """What a data set plugin hands to `ecstfl prepare`, which writes the path files and the manifest.

    `name` begins the names of the path files; options that change labels or samples should change it. `splits` maps
    `train`, `val`, `test` (or `fold1_train` …) to rows, whose paths are relative to the data root or absolute.
    `label_map` is a registered name, a list of class names where none is registered, or None where the release holds
    bare indices and does not say whose. `images` holds the uint8 pixels, (H, W) grey or (H, W, 3) RGB, of samples that
    the release does not keep as image files: `prepare` writes them, and paths found here are relative to where.
    """

    name: str
    modality: Modality
    splits: Mapping[str, Sequence[PathRow]]
    label_map: str | Sequence[str] | None
    source: str = ""
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


class Reporter(Protocol):
    """How a data set speaks to the user while it is read."""

    def note(self, message: str) -> None:
        """One line of information, such as what was assumed about the layout."""
        ...

    def warn(self, message: str) -> None:
        """One line that the user should not miss."""
        ...

    def progress(
        self, description: str, total: int, unit: str = "clips"
    ) -> AbstractContextManager[Callable[..., None]]:
        """A context that gives `advance(n)`, to be called after each batch of n units of `total`."""
        ...


class DatasetPlugin(Protocol):
    """One data set release, in the group `ecstfl.datasets`.

    A class; its keyword arguments are what `ecstfl prepare --option KEY=VALUE` can set. Or an instance, without any.
    """

    def recognise(self, root: Path) -> bool:
        """Whether `root` has this release's layout. Looks, reads no images, writes nothing."""
        ...

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """Read the release's splits. Raises EcstflError where the layout is not as published."""
        ...


@dataclass(frozen=True)
class Face:
    """One face in a picture, in its pixels: `box` is (left, top, right, bottom), `score` 0 to 1.

    `landmarks` are five points (x, y), as the viewer sees them: left eye, right eye, nose, left and right mouth corner;
    None where the detector gives none. A box may reach outside of the picture.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: tuple[tuple[float, float], ...] | None = None


class Detector(Protocol):
    """Finds faces, in the group `ecstfl.detectors`, whose factories are called as `factory(device=…, **args)`."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Faces of each RGB image (H, W, 3) uint8, best first; images of one size are computed as one batch."""
        ...


class Exporter(Protocol):
    """Writes a trained model for another runtime, in the group `ecstfl.exporters`.

    `graph` maps uint8 frames, (B, T, H, W, 3) or (B, H, W, 3), to (logits, probs): preprocessing is inside.
    `example` is such a batch. `metadata` are strings to store with the model. `suffix` is the file's ending.

    One that has to see real samples, to choose numbers by, says so by `needs_samples = True`: `example` are then up to
    128 of those that the user names, and the comparison is made on others, by their most probable class.
    """

    suffix: str

    def export(self, graph: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the model to `path`."""
        ...

    def run(self, path: Path, frames: Any) -> Any:
        """Logits (B, K) of uint8 frames (a numpy array) by the other runtime, for the comparison with PyTorch."""
        ...
