"""The face crop of a recipe whose lists `prepare --faces` wrote: how their crops were made is how `infer` has to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ecstfl_cli.api import FaceCrop
from ecstfl_cli.engine.data.manifest import read_manifest_for
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.run_folder import RunFolder
from ecstfl_cli.recipe import FaceCropSection, Recipe
from ecstfl_cli.recipe_loading import is_whole, load_recipe


def with_listed_face_crop(recipe: Recipe, reporter: Reporter) -> Recipe:
    """The recipe with the face crop that the manifests of its training lists tell, where it says none itself.

    Warns where its own differs from theirs, which then counts, and where theirs differ, so that none does.
    """
    found = _crops(entry if isinstance(entry, str) else entry.file for entry in recipe.data.train)
    crops = list(dict.fromkeys(found.values()))
    if not crops:
        return recipe
    told = "; ".join(f"{file}: {_described(crop)}" for file, crop in found.items())
    own = recipe.input.face_crop
    if own is not None:
        mine = FaceCrop(**own.model_dump())
        if crops != [mine]:
            reporter.warn(
                f"input.face_crop of the recipe is not how the training crops were made: `infer` will crop with "
                f"{_described(mine)}, and the lists were cropped with {told}. Remove it from the recipe to take theirs."
            )
        return recipe
    common = crops[0] if len(crops) == 1 else None
    if common is None:
        reporter.warn(
            f"the training lists were not cropped alike, so that the checkpoint does not say how: {told}. "
            "Set input.face_crop to what `infer` shall do."
        )
        return recipe
    section = FaceCropSection(**asdict(common))
    reporter.note(f"face crop of the training lists, kept with the checkpoint: {_described(common)}")
    return recipe.model_copy(update={"input": recipe.input.model_copy(update={"face_crop": section})})


def with_begun_face_crop(recipe: Recipe, run: RunFolder) -> Recipe:
    """The recipe of a run that goes on: where it says no face crop, with the one that the run was begun with."""
    if recipe.input.face_crop is not None or not is_whole(run.recipe):
        return recipe
    begun = load_recipe(run.recipe).input.face_crop
    return recipe.model_copy(update={"input": recipe.input.model_copy(update={"face_crop": begun})})


def _crops(files: Iterable[str]) -> dict[str, FaceCrop | None]:
    """The crop of each list; empty where none has one."""
    manifests = {file: read_manifest_for(Path(file)) for file in files}
    found = {
        file: FaceCrop(**manifest["face_crop"]) if manifest and manifest.get("face_crop") else None
        for file, manifest in manifests.items()
    }
    return found if any(found.values()) else {}


def _described(crop: FaceCrop | None) -> str:
    if crop is None:
        return "no face crop"
    return f"{crop.detector} from {crop.min_score}, align {crop.align}, margin {crop.margin}, size {crop.size}"
