"""The reference release's flags: its model names, default files and hyperparameters, with a recipe or without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecstfl_cli.api import Modality
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, RecipeError, listing, suggest
from ecstfl_cli.recipe import DataSection, Recipe
from ecstfl_cli.recipe_loading import RecipeDraft

ANNOTATION = Path("annotation")
EC_STFL_TERMS = ("ec_stfl", "ec_stfl_paper")
GAMMA = 10.0
SIZE = {"img": 224, "video": 112}
SUFFIX = {"img": ".csv", "video": ".txt"}
PLAIN_LIST = {"img": "Imgs", "video": "Videos"}
DEFAULT_MODEL = {"img": "resnet18_ECSTFL", "video": "r3d_ECSTFL"}


@dataclass(frozen=True)
class ReferenceModel:
    """One model name of the release. `checkpoint` are the released weights that it starts from, None for scratch."""

    name: str
    modality: Modality
    backbone: str
    gamma: float = 0.0
    checkpoint: str | None = None


def _models() -> dict[str, ReferenceModel]:
    kinds: tuple[tuple[str, Modality, str, str], ...] = (
        ("resnet18", "img", "torchvision/resnet18", "rafdb"),
        ("r3d", "video", "torchvision/r3d_18", "dfew"),
    )
    found = []
    for stem, modality, backbone, data in kinds:
        for name, gamma in ((stem, 0.0), (f"{stem}_ECSTFL", GAMMA)):
            released = f"{name}_{data}"
            found.append(ReferenceModel(name, modality, backbone, gamma))
            found.append(ReferenceModel(released, modality, backbone, gamma, released))
    return {model.name: model for model in found}


REFERENCE_MODELS = _models()
NEVER_RELEASED = {"resnet18_mscele1m": "it appears in the README of the reference release, but was never released"}


@dataclass(frozen=True)
class Flags:
    """Options of `ecstfl finetune` that set recipe values; None where one was not given.

    The names are the reference release's, and ours for what it does not have.
    """

    type: str | None = None
    model_name: str | None = None
    list_file_train: str | None = None
    list_file_val: str | None = None
    val_split: float | None = None
    gamma: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    momentum: float | None = None
    wd: float | None = None
    scheduler_stepsize: int | None = None
    workers: int | None = None
    device: str | None = None
    precision: str | None = None
    seed: int | None = None
    data_root: str | None = None
    label_map: str | None = None
    drop_classes: bool | None = None
    skip_bad: bool | None = None
    output: str | None = None
    save_every: int | str | None = None
    max_minutes: float | None = None
    compile: bool | None = None
    detect_anomaly: bool | None = None
    trackers: list[str] | None = None

    def name_a_model(self) -> bool:
        """Whether they are enough to train without a recipe."""
        return self.type is not None or self.model_name is not None


# What each flag sets; those that need more thought have functions of their own below.
SETS = {
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "workers": "train.workers",
    "device": "train.device",
    "precision": "train.precision",
    "lr": "optimizer.lr",
    "momentum": "optimizer.momentum",
    "wd": "optimizer.weight_decay",
    "scheduler_stepsize": "schedule.step_size",
    "seed": "seed",
    "data_root": "data.root",
    "drop_classes": "data.drop_classes",
    "skip_bad": "data.skip_bad",
    "label_map": "label_map",
    "output": "output",
    "save_every": "train.save_every",
    "max_minutes": "train.max_minutes",
    "compile": "train.compile",
    "detect_anomaly": "train.detect_anomaly",
    "trackers": "train.trackers",
}
# Flags that would do nothing beside another optimiser or schedule.
NEEDS = {"momentum": ("optimizer", "sgd"), "scheduler_stepsize": ("schedule", "step")}


def reference_model(name: str | None, modality: str | None) -> ReferenceModel:
    """The model that `--model-name` or, without it, `--type` means.

    Raises RecipeError for an unknown name, one that was never released, or one of the other type.
    """
    chosen = name if name is not None else DEFAULT_MODEL[modality or "video"]
    models = ", ".join(REFERENCE_MODELS)
    if chosen in NEVER_RELEASED:
        raise RecipeError(f"there is no model {chosen!r}: {NEVER_RELEASED[chosen]}", f"Models: {models}")
    if chosen not in REFERENCE_MODELS:
        raise RecipeError(
            f"unknown model name {chosen!r}",
            f"{suggest(chosen, REFERENCE_MODELS)}Models: {models}. Any other backbone: a recipe with model.backbone "
            "(`ecstfl recipes` lists recipes, `ecstfl plugins` backbones).",
        )
    model = REFERENCE_MODELS[chosen]
    if modality is not None and modality != model.modality:
        others = [m.name for m in REFERENCE_MODELS.values() if m.modality == modality]
        raise RecipeError(
            f"--model-name {chosen} is a model of type {model.modality}, and --type is {modality}",
            f"Leave --type out, or use one of {', '.join(others)}.",
        )
    return model


def recipe_from_flags(
    flags: Flags, overrides: Sequence[str] = (), *, reporter: Reporter, annotation: Path = ANNOTATION
) -> Recipe:
    """The reference release's experiment that the flags describe: its protocol, its default lists in `annotation`.

    What is not set here (SGD, StepLR, epochs, batch, augmentation, frame sampling) is the recipe schema's default,
    which is the release's. Raises RecipeError for flags that are wrong, DataError where no default list is found.
    """
    model = reference_model(flags.model_name, flags.type)
    losses: dict[str, Any] = {"cross_entropy": {"weight": 1.0}}
    if model.gamma:
        losses["ec_stfl"] = {"weight": model.gamma}
    values = {
        "name": model.name,
        "description": f"the reference release's protocol for {model.name}",
        "input": {"modality": model.modality, "size": SIZE[model.modality]},
        "model": {"backbone": model.backbone, "checkpoint": model.checkpoint},
        "losses": losses,
    }
    draft = RecipeDraft(values, "flags")
    draft.override(overrides)
    _apply(draft, flags)
    # Wrong flags are said before missing lists.
    given = draft.recipe(components=True).data
    _add_default_lists(draft, given, model, annotation, reporter)
    return draft.recipe(components=True)


def recipe_with_flags(draft: RecipeDraft, flags: Flags, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe with `--set` overrides and, after these, flags. `--model-name` replaces the network and its first
    weights; the losses stay the recipe's. Raises RecipeError listing everything that is wrong.
    """
    if flags.model_name is not None:
        model = reference_model(flags.model_name, flags.type)
        network: dict[str, Any] = {"backbone": model.backbone, "checkpoint": model.checkpoint}
        for key, value in {**network, "args": {}, "temporal_head": None, "temporal_args": {}}.items():
            draft.set(("model", key), value, "--model-name")
        draft.set(("input", "modality"), model.modality, "--model-name")
    elif flags.type is not None:
        draft.set(("input", "modality"), flags.type, "--type")
    draft.override(overrides)
    _apply(draft, flags)
    return draft.recipe(components=True)


def _apply(draft: RecipeDraft, flags: Flags) -> None:
    for flag, target in SETS.items():
        value = getattr(flags, flag)
        if value is None:
            continue
        option, path = f"--{flag.replace('_', '-')}", target.split(".")
        if flag in NEEDS:
            section, needed = NEEDS[flag]
            present = draft.get(section, "name")
            if present != needed and not str(present).startswith("timm/"):
                draft.complain(path, f"has no effect: {section}.name is {present}, not {needed}", option)
                continue
        draft.set(path, value, option)
    if flags.list_file_train is not None:
        draft.set(("data", "train"), [flags.list_file_train], "--list-file-train")
    _apply_validation(draft, flags)
    if flags.gamma is not None:
        _apply_gamma(draft, flags.gamma)


def _apply_validation(draft: RecipeDraft, flags: Flags) -> None:
    """`--list-file-val` is the list to choose the best epoch on; where a split does that, it is the test list."""
    if flags.val_split is not None:
        given = draft.get("data", "val")
        if flags.val_split > 0 and given:
            if not draft.get("data", "test"):
                draft.set(("data", "test"), given, "--val-split")
            draft.set(("data", "val"), [], "--val-split")
        draft.set(("data", "val_split"), flags.val_split, "--val-split")
    if flags.list_file_val is not None:
        key = "test" if draft.get("data", "val_split") else "val"
        draft.set(("data", key), [flags.list_file_val], "--list-file-val")


def _apply_gamma(draft: RecipeDraft, gamma: float) -> None:
    """gamma is the weight of the EC-STFL term; without one, a gamma above 0 adds the reference's."""
    losses = draft.get("losses")
    terms = [name for name in losses if name.rpartition(":")[2] in EC_STFL_TERMS] if isinstance(losses, dict) else []
    if len(terms) > 1:
        several = f"gamma is the weight of one EC-STFL term, and here are {len(terms)}: {', '.join(terms)}"
        draft.complain(("losses",), f"{several}; use --set losses.NAME.weight={gamma:g}", "--gamma")
    elif terms or gamma != 0:
        draft.set(("losses", terms[0] if terms else "ec_stfl", "weight"), gamma, "--gamma")


# --- default lists ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lists:
    """A training list and the lists beside it, None where there is none."""

    train: Path
    val: Path | None
    test: Path | None


def _add_default_lists(
    draft: RecipeDraft, given: DataSection, model: ReferenceModel, annotation: Path, reporter: Reporter
) -> None:
    """Fill in the lists that were not given, and say which were taken."""
    found = _beside(Path(given.lists("train")["train"][0])) if given.train else default_lists(model, annotation)
    if not given.train:
        draft.set(("data", "train"), [str(found.train)], "default list")
        reporter.note(f"training list {found.train}")
    if given.val or given.test:
        return
    val, test = (None, found.test or found.val) if given.val_split else (found.val, found.test)
    for key, file, purpose in (("val", val, "validation"), ("test", test, "test")):
        if file:
            draft.set(("data", key), [str(file)], "default list")
            reporter.note(f"{purpose} list {file}")


def default_lists(model: ReferenceModel, annotation: Path) -> Lists:
    """The release's default lists: those named after the model, else `Imgs_` or `Videos_`, else the only ones there.

    Raises DataError where there are none, or several to choose from.
    """
    suffix = SUFFIX[model.modality]
    named = [annotation / f"{name}_train{suffix}" for name in (model.name, PLAIN_LIST[model.modality])]
    for train in named:
        if train.is_file():
            return _beside(train)
    others = [_beside(train) for train in sorted(annotation.glob(f"*_train{suffix}"))]
    pairs = [lists for lists in others if lists.val or lists.test]
    if len(pairs) == 1:
        return pairs[0]
    if pairs:
        raise DataError(
            f"several training lists to choose from in {annotation}:\n" + listing([str(p.train) for p in pairs]),
            f"Choose one: --list-file-train {pairs[0].train}",
        )
    looked = [*map(str, named), f"{annotation / f'*_train{suffix}'} with *_test{suffix} or *_val{suffix} beside it"]
    raise DataError(
        f"no training list: --list-file-train was not given, and none of the default lists for {model.name} is there:\n"
        + listing(looked),
        "Write path files with `ecstfl prepare --data-root DIR`, or pass --list-file-train FILE.",
    )


def _beside(train: Path) -> Lists:
    """A training list with those named like it: `x_train.csv` with `x_val.csv` and `x_test.csv`."""
    head, found, tail = train.name.rpartition("train")
    partners = [train.with_name(f"{head}{split}{tail}") for split in ("val", "test")] if found else []
    val, test = (partner if partner.is_file() else None for partner in partners) if found else (None, None)
    return Lists(train, val, test)
