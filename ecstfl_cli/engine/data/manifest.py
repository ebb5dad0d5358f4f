"""The manifest beside path files: what `prepare` wrote, from where, and whose the labels are.

While its files are put in place it names them as `unfinished`, so that `prepare` knows them again, and nothing else
takes them, should it be killed in between.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ecstfl_cli import __version__
from ecstfl_cli.engine.data.samples import fingerprint_of
from ecstfl_cli.errors import DataError, suggest
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.pathfile import SUFFIXES, write_atomically

FORMAT = "ecstfl-annotation/1"
_PER_SPLIT = ("files", "samples", "counts", "fingerprint", "extra")


@dataclass(frozen=True)
class Split:
    """One path file of a data set: its path and its rows as (path, label); a label is an index, a name or None.

    `extra` is the file beside it with subjects and soft labels, where it has one; see `extra_columns`.
    """

    file: Path
    rows: Sequence[tuple[str, int | str | None]]
    extra: Path | None = None


def build(
    name: str, label_map: tuple[str | list[str], LabelMap] | None, splits: Mapping[str, Split], **origin: Any
) -> dict[str, Any]:
    """A manifest of `splits`; `label_map` is its registered name, or its classes, and the map; `origin` goes in as is.

    `counts` are samples by class name, or by label as written where there is no map; `fingerprint` is that of
    `engine.data.samples.fingerprint` for the same list, None where labels are names without a map.
    """
    names = label_map[1].names if label_map else ()
    return {
        "format": FORMAT,
        "name": name,
        **origin,
        "label_map": label_map[0] if label_map else None,
        "label_names": list(names) or None,
        "files": {key: split.file.name for key, split in splits.items()},
        "samples": {key: len(split.rows) for key, split in splits.items()},
        "counts": {key: _counts([label for _, label in split.rows], names) for key, split in splits.items()},
        "fingerprint": {key: _fingerprint(split.rows) for key, split in splits.items()},
        "extra": {key: split.extra.name for key, split in splits.items() if split.extra},
        "version": __version__,
        "written_at": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
    }


def _counts(labels: Sequence[int | str | None], names: Sequence[str]) -> dict[str, int]:
    found = Counter(labels)
    unknown = found.pop(None, 0)
    if names:
        counts = {name: found[i] for i, name in enumerate(names)}
    else:
        counts = {str(label): found[label] for label in sorted(found, key=lambda x: (isinstance(x, str), x))}
    return {**counts, "unknown": unknown} if unknown else counts


def _fingerprint(rows: Sequence[tuple[str, int | str | None]]) -> str | None:
    pairs = [(path, -1 if label is None else label) for path, label in rows if not isinstance(label, str)]
    return fingerprint_of(pairs) if len(pairs) == len(rows) else None


def latest_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in `folder` that was written last, of those that have a path file left; None without one.

    `files` maps splits to absolute paths, `path` is the manifest's own. Raises DataError where it is not finished.
    """
    found = [manifest for manifest in all_in(folder) if manifest["files"]]
    latest = max(found, key=lambda manifest: (manifest["written_at"], manifest["path"]), default=None)
    return latest and require_finished(latest)


def read_manifest_for(pathfile: Path) -> dict[str, Any] | None:
    """The manifest beside a path file that names it, the newest of several; None where `prepare` did not write it.

    Raises DataError where `prepare` was stopped while it wrote the file.
    """
    file = str(pathfile.parent.resolve() / pathfile.name)
    found = [manifest for manifest in all_in(pathfile.parent) if file in manifest["files"].values()]
    newest = max(found, key=lambda manifest: manifest["written_at"], default=None)
    return require_finished(newest) if newest and pathfile.name in newest.get("unfinished", ()) else newest


def require_finished(manifest: dict[str, Any]) -> dict[str, Any]:
    """`manifest` itself. Raises DataError where `prepare` was stopped while it wrote its files."""
    if not manifest.get("unfinished"):
        return manifest
    raise DataError(
        f"`ecstfl prepare` did not finish putting the path files of {manifest['path']} in place",
        "Run it again with the same options; it completes them.",
    )


def all_in(folder: Path) -> list[dict[str, Any]]:
    """Every manifest in `folder`, as `read` gives it, by name of file."""
    return [found for path in sorted(folder.glob("*.json")) if (found := read(path))]


def read(path: Path) -> dict[str, Any] | None:
    """A manifest with its paths made absolute and files that are gone left out; None for any other JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return None
    folder = path.parent.resolve()
    there = {key: file for key, name in found["files"].items() if (file := folder / name).is_file()}
    return {**found, "files": {key: str(file) for key, file in there.items()}, "path": str(folder / path.name)}


def check_name(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """`manifest`, joined with one of the same name and origin in `folder` that holds other files.

    Raises DataError where that one is of another data root, modality, label map or options of the data set, which its
    files would lose.
    """
    old = read(folder / f"{manifest['name']}.json")
    new_files = set(manifest["files"].values())
    left = {key: file for key, file in (old["files"] if old else {}).items() if Path(file).name not in new_files}
    if old is None or not left:
        return dict(manifest)
    told_apart = ("data_root", "modality", "label_map", *(["options"] if "options" in manifest else []))
    if any((old.get(key) or None) != (manifest.get(key) or None) for key in told_apart):
        told = [f"data root {old.get('data_root')}", f"label map {old.get('label_map')}"]
        told += [f"options {old['options']}"] if old.get("options") else []
        raise DataError(
            f"{old['path']} describes other path files: {', '.join(told)}, "
            f"{', '.join(Path(file).name for file in left.values())}",
            "Give these another name with --name, or delete that manifest and its files.",
        )
    joined = dict(manifest)
    for part in _PER_SPLIT:
        parts = old.get(part, {})
        values = {key: Path(parts[key]).name if part == "files" else parts[key] for key in left if key in parts}
        taken = {_free(key, left[key], manifest): value for key, value in values.items()}
        joined[part] = {**taken, **manifest[part]}
    unfinished = set(old.get("unfinished", ())).intersection(Path(file).name for file in left.values())
    return {**joined, "unfinished": sorted(unfinished)} if unfinished else joined


def _free(key: str, file: str, manifest: Mapping[str, Any]) -> str:
    return Path(file).stem if key in manifest["files"] else key


def write(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Write a manifest as `<name>.json`. Raises DataError where the folder cannot be written to."""
    path = folder / f"{manifest['name']}.json"
    write_atomically(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return path


def is_ours(file: Path) -> bool:
    """Whether `prepare` may write this path file, file beside one, or manifest: it wrote what is there, or none is."""
    return not file.exists() or any(file.name in _names(manifest) for manifest in all_in(file.parent))


def _names(manifest: Mapping[str, Any]) -> set[str]:
    """Every file that is of a manifest, and its own."""
    paths = (manifest["path"], *manifest["files"].values())
    return {*(Path(path).name for path in paths), *manifest.get("extra", {}).values(), *manifest.get("unfinished", ())}


def manifest_to_use(given: Path | None, out: Path) -> dict[str, Any]:
    """The manifest that `given` names, or without it the one in `out` that was written last.

    Raises DataError where there is none.
    """
    if given:
        return _named_manifest(given, out)
    manifest = latest_manifest(out)
    if manifest is None:
        raise DataError(
            f"no path files that `ecstfl prepare` wrote are in {out}",
            "Prepare them with --data-root DIR, or give path files, the name of a manifest or a recipe to check.",
        )
    return manifest


def _named_manifest(given: Path, out: Path) -> dict[str, Any]:
    """The manifest of this name in `out`, or at this path."""
    path = given if given.suffix == ".json" else out / f"{given}.json"
    manifest = read(path)
    if manifest is None and given.suffix.lower() in SUFFIXES.values():
        beside = read_manifest_for(given)
        raise DataError(
            f"{given} is a path file, not a manifest",
            f"Give the manifest beside it, with all its splits: {beside['path']}"
            if beside
            else "Make one, of a data set with all its splits: `ecstfl prepare --data-root DIR`.",
        )
    if manifest is None:
        known = [found["name"] for found in all_in(out)]
        there = f"Manifests in {out}: {', '.join(known)}." if known else f"{out} holds no manifest."
        raise DataError(
            f"{given} is neither a path file (.csv, .txt), nor a recipe (.yaml), nor a manifest",
            f"{suggest(str(given), known)}{there}",
        )
    if not manifest["files"]:
        raise DataError(
            f"the path files of {path} are gone", "Prepare them again with `ecstfl prepare --data-root DIR`."
        )
    return require_finished(manifest)
