"""What `prepare` leaves behind, and the names it gives: shared by reading a release and re-rooting lists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecstfl_cli.engine.data import manifest as manifests
from ecstfl_cli.engine.data.samples import write_rejects
from ecstfl_cli.engine.preparation.reroot import RerootResult
from ecstfl_cli.errors import DataError
from ecstfl_cli.extra_columns import sidecar
from ecstfl_cli.files import complete_files
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.pathfile import Problem, modality_of
from ecstfl_cli.resources import shipped

if TYPE_CHECKING:
    from ecstfl_cli.engine.preparation.prepare_faces import FaceRows

DEFAULT_OUT = Path("annotation")
_RECIPE_LIST = re.compile(rf"^ +train: {DEFAULT_OUT}/(\S+)$", re.MULTILINE)


class RerootedFile(NamedTuple):
    """A path file re-rooted and where the new one was written."""

    result: RerootResult
    written_to: Path


@dataclass(frozen=True)
class Prepared:
    """What was written: the manifest with its path, and the rows that are not where they should be."""

    manifest: dict[str, Any]
    path: Path
    problems: list[Problem]
    rejects: list[Path]
    rerooted: Sequence[RerootedFile] = ()
    faces: FaceRows | None = None


def clean_name(name: str) -> str:
    """A name that can begin file names. Raises DataError where nothing of it is left."""
    cleaned = re.sub(r"[^\w.-]+", "_", name).strip("._-")
    if not cleaned:
        raise DataError(f"{name!r} cannot name a data set", "Use letters, digits, _, . and - in --name.")
    return cleaned


def split_key(key: str) -> str:
    """A split's name as files carry it: `Validation` is `val`."""
    return re.sub(r"validation$", "val", key.lower())


def write_rejected(path: Path, problems: Sequence[Problem]) -> list[Path]:
    """Write the rows that were left out, where there are any; the files written."""
    if not problems:
        return []
    write_rejects(path, problems)
    return [path]


@contextmanager
def written_together(out: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to write the files of a manifest to; they and it appear in `out` together, or none of them.

    What older `.txt` files of these names had beside them, and these have not, is removed. A process that is killed
    while it moves the files leaves a manifest that says so, and the next one completes them. Raises DataError where
    they cannot be written.
    """
    try:
        with complete_files(out, last=f"{manifest['name']}.json") as folder:
            yield folder
            stale = [path for path in _sidecars(out, manifest) if manifests.is_ours(path)]
            names = {*(path.name for path in (*folder.iterdir(), *stale)), *manifest.get("unfinished", ())}
            mark = manifests.write(folder, {**manifest, "unfinished": sorted(names)})
            mark.replace(out / mark.name)
            manifests.write(folder, manifest)
            for path in stale:
                path.unlink()
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror}", "Choose a folder that can be written to.") from error


def _sidecars(out: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Files of extra columns beside the path files in `out` that the manifest does not name."""
    videos = [file for name in manifest["files"].values() if modality_of(file := out / name) == "video"]
    return [path for path in map(sidecar, videos) if path.is_file() and path.name not in manifest["extra"].values()]


def next_command(prepared: Prepared) -> str:
    """The command that uses what was written: a shipped recipe of the same name, else the plain flags."""
    files = prepared.manifest["files"]
    folder = prepared.path.parent
    recipe = shipped("recipes") / f"{prepared.manifest['name']}.yaml"
    if folder == DEFAULT_OUT and recipe.is_file():
        wanted = _RECIPE_LIST.findall(recipe.read_text(encoding="utf-8"))
        if wanted and wanted[0] in files.values():
            return f"ecstfl finetune recipes/{recipe.name}"
    train = next((key for key in files if key == "train" or key.endswith("_train")), None)
    if train is None:
        return f"ecstfl infer {shlex.quote(str(folder / next(iter(files.values()))))}"
    flags = ["--type", prepared.manifest["modality"], "--list-file-train", str(folder / files[train])]
    fold = train.removesuffix("train")
    held_out = next((files[fold + key] for key in ("val", "test") if fold + key in files), None)
    flags += ["--list-file-val", str(folder / held_out)] if held_out else ["--val-split", "0.1"]
    own = prepared.manifest["label_map"]
    if isinstance(own, list):
        flags += ["--set", f"label_map=[{', '.join(own)}]"]
    elif isinstance(own, str) and not set(label_map_from(own).names) <= set(label_map_from("dfew").names):
        flags += ["--label-map", own]  # A model of dfew's classes, which is the default, would lack some.
    return shlex.join(["ecstfl", "finetune", *flags])
