"""Path files from elsewhere, re-rooted to where the data is on this machine, with a manifest."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ecstfl_cli import extra_columns, pathfile
from ecstfl_cli.components.datasets.path_files import map_with
from ecstfl_cli.engine.data import manifest as manifests
from ecstfl_cli.engine.data.label_joining import require_one_map
from ecstfl_cli.engine.data.manifest import Split, read_manifest_for
from ecstfl_cli.engine.preparation.prepared import (
    Prepared,
    RerootedFile,
    clean_name,
    split_key,
    write_rejected,
    written_together,
)
from ecstfl_cli.engine.preparation.reroot import RerootResult, reroot
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError
from ecstfl_cli.labels import INDEX, LabelMap, label_map_from
from ecstfl_cli.pathfile import UNKNOWN, Problem

_SPLIT = re.compile(r"(?<![a-z])(train|val|validation|test)(?![a-z])", re.IGNORECASE)


def reroot_files(
    files: Sequence[Path],
    root: Path,
    *,
    label_map: str | None = None,
    name: str | None = None,
    out: Path,
    skip_bad: bool = False,
    reporter: Reporter,
) -> Prepared:
    """Re-root path files to `root` and write them to `out` under their own names, with a manifest; see `reroot`.

    Rows that do not resolve are kept as they were and returned as problems, or with `skip_bad` left out. The files
    themselves, and any other that `prepare` did not write, are never overwritten: the new one is then called
    `<stem>_rerooted`. Without `label_map` that of the file's manifest counts. Raises DataError for files of both
    kinds, of one name, or with labels outside the map; nothing is written then.
    """
    named_map = _map_of(files, label_map)
    results = [reroot(file, root, named_map[1] if named_map else None) for file in files]
    modality = results[0].table.modality
    if any(result.table.modality != modality for result in results):
        raise DataError("some of the files list images and some clips", "Re-root one kind at a time.")
    targets = _targets(files, out)
    splits: dict[str, Split] = {}
    for result, target in zip(results, targets, strict=True):
        key = _split_of(target.stem)
        extra = extra_columns.sidecar(target) if extra_columns.sidecar(result.table.path).is_file() else None
        splits[target.stem if key in splits else key] = Split(target, _new_rows(result, named_map, skip_bad), extra)
    manifest = manifests.build(
        clean_name(name or _common_name(files) or root.resolve().name),
        named_map,
        splits,
        modality=modality,
        dataset=None,
        source=", ".join(map(str, files)),
        data_root=os.path.abspath(root),  # noqa: PTH100 (as above)
    )
    if not manifests.is_ours(file := out / f"{manifest['name']}.json"):
        raise DataError(f"{file} would be overwritten", "Choose another --name or --out, or move it away.")
    manifest = manifests.check_name(out, manifest)
    written = [RerootedFile(result, target) for result, target in zip(results, targets, strict=True)]
    rejects: list[Path] = []
    with written_together(out, manifest) as folder:
        for result, target in written:
            if result.recounted:
                reporter.note(f"{target}: {result.recounted} frame counts corrected to what is on disk")
            pathfile.write_atomically(folder / target.name, result.text(keep_unresolved=not skip_bad))
            extra_columns.carry_over(result.table.path, folder / target.name, _moves(result, skip_bad))
            if skip_bad:
                rejects += write_rejected(folder / f"{target.stem}_rejects.csv", result.problems())
    problems = [problem for result in results for problem in result.problems()]
    return Prepared(
        manifest, out / f"{manifest['name']}.json", problems, [out / file.name for file in rejects], written
    )


def _moves(result: RerootResult, skip_bad: bool) -> dict[str, str]:
    """New paths of the rows by their old ones."""
    return {
        row.field.path: row.hit.path if row.hit else row.field.path for row in result.rows if row.hit or not skip_bad
    }


def _map_of(files: Sequence[Path], wanted: str | None) -> tuple[str | list[str], LabelMap] | None:
    """The label map of path files: as asked for, else by their manifests, else one that has their class names."""
    tables = [pathfile.read_table(file) for file in files]
    known: list[str | list[str] | None] = []  # Classes of one's own are a list, which a set does not take.
    for file in files:
        found = read_manifest_for(file)
        if wanted:
            require_one_map(file, label_map_from(wanted), "--label-map", found, "Leave --label-map out")
        if found and found["label_map"] not in known:
            known.append(found["label_map"])
    labels = {field.label for table in tables for field in table.fields} - {"", UNKNOWN}
    by_name = map_with(labels) if labels and not any(map(INDEX.fullmatch, labels)) else None
    name = wanted or (known[0] if len(known) == 1 else None) or by_name
    if name is None:
        return None
    label_map = label_map_from(name)
    strange: list[Problem] = []
    for table in tables:
        read = pathfile.scan(table.path, root=None, label_map=label_map, require_labels=False)
        strange += [problem for problem in read.problems if problem not in table.problems]
    if strange:
        raise pathfile.problems_error(
            f"{len(strange)} labels are outside label map {name!r}",
            strange,
            "Mend or remove these lines, or name another map with --label-map; `ecstfl labels` lists them.",
        )
    return name, label_map


def _targets(files: Sequence[Path], out: Path) -> list[Path]:
    """Where each re-rooted file is written: its own name in `out`, unless that is a file to be kept."""
    names = Counter(file.name for file in files)
    twice = sorted(name for name, n in names.items() if n > 1)
    if twice:
        raise DataError(
            f"several files are called {', '.join(twice)}", "Re-root them one by one, each with its own --out."
        )
    inputs = {file.resolve() for file in files}

    def is_kept(target: Path, file: Path) -> bool:
        written = [target, *([extra_columns.sidecar(target)] if extra_columns.sidecar(file).is_file() else [])]
        return target.resolve() in inputs or not all(map(manifests.is_ours, written))

    targets = []
    for file in files:
        target = out / file.name
        if is_kept(target, file):
            target = out / f"{file.stem}_rerooted{file.suffix}"
        if is_kept(target, file):
            raise DataError(f"{target} would be overwritten", "Choose another --out, or move it away.")
        targets.append(target)
    return targets


def _common_name(files: Sequence[Path]) -> str:
    """What the files' names share besides their splits: `Videos` of Videos_train and Videos_test."""
    bases = {_SPLIT.sub("", file.stem).strip("_-. ") for file in files}
    return bases.pop() if len(bases) == 1 else ""


def _split_of(stem: str) -> str:
    found = _SPLIT.findall(stem)
    return split_key(found[-1]) if found else stem


def _new_rows(
    result: RerootResult, named_map: tuple[str | list[str], LabelMap] | None, skip_bad: bool
) -> list[tuple[str, int | str | None]]:
    if not result.resolved:
        raise pathfile.problems_error(
            f"none of the {result.total} rows of {result.table.path} is found under the data root",
            result.problems(),
            "Give the folder that holds the images or clips, or one up to two levels above it.",
        )
    rows = [row for row in result.rows if row.hit or not skip_bad]
    return [(row.hit.path if row.hit else row.field.path, _label(row.field.label, named_map)) for row in rows]


def _label(text: str, named_map: tuple[str | list[str], LabelMap] | None) -> int | str | None:
    if text in ("", UNKNOWN):
        return None
    if named_map:
        return named_map[1].parse(text)
    return int(text) if INDEX.fullmatch(text) else text
