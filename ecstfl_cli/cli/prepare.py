"""`ecstfl prepare`: from a data set on disk, or path files from elsewhere, to path files that resolve here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ecstfl_cli.cli import console
from ecstfl_cli.cli import prepare_options as options
from ecstfl_cli.cli.choices import FaceAlign, PackCodec, PackResize

if TYPE_CHECKING:
    from rich.table import Table

    from ecstfl_cli.engine.preparation.face_crops import FaceCropping
    from ecstfl_cli.engine.preparation.prepare_faces import FaceRows
    from ecstfl_cli.engine.preparation.prepared import Prepared


# What fits into a terminal of 80 columns.
_SPLITS_ACROSS, _CLASSES_ACROSS = 4, 8


def register(app: typer.Typer) -> None:
    """Add the command `prepare`."""
    app.command("prepare")(prepare)


def prepare(
    ctx: typer.Context,
    files: options.Files = None,
    data_root: options.DataRoot = None,
    dataset: options.DatasetName = None,
    option: options.DatasetOptions = None,
    label_map: options.LabelMapName = None,
    name: options.Name = None,
    out: options.Out = Path("annotation"),
    images: options.Images = None,
    skip_bad: options.SkipBad = False,
    check: options.Check = False,
    check_faces: options.CheckFaces = 200,
    faces: options.Faces = False,
    detector: options.DetectorName = "centerface",
    min_score: options.MinScore = 0.5,
    align: options.Align = FaceAlign.BOX,
    margin: options.Margin = 0.1,
    size: options.Size = 224,
    faces_out: options.FacesOut = None,
    workers: options.Workers = None,
    device: options.DeviceName = "auto",
    pack: options.Pack = None,
    pack_codec: options.PackCodecName = PackCodec.JPEG,
    pack_quality: options.PackQuality = 95,
    pack_resize: options.PackResizeName = PackResize.SHORT,
    as_json: options.AsJson = False,
) -> None:
    """Write path files for a data set, or re-root path files from another machine.

    Without FILES the data set in --data-root is recognised and its splits are written to --out as path files with
    absolute paths. With FILES their rows are looked up under --data-root, whatever prefix they carry, and new files
    are written; the originals stay. Rows that do not resolve are kept as they were and make the exit code 1.

    --check reads every frame of what was prepared, or of FILES where there is no --data-root, and tells what is
    missing, damaged, listed wrongly, or the same in training and test; the exit code is 1 where that would corrupt a
    result.

    --faces decodes, detects, tracks the main face and crops it, on all cores; run again, it continues. Boxes and scores
    are in faces.parquet beside the crops. Samples without a face are left out, into a rejects file. docs/faces.md
    tells more.
    """
    from ecstfl_cli.cli.check_table import check_data
    from ecstfl_cli.engine.preparation.plugin_choice import parse_options
    from ecstfl_cli.engine.preparation.prepare import prepare_dataset
    from ecstfl_cli.engine.preparation.reroot_files import reroot_files

    _refuse_what_does_nothing(ctx, check, faces, pack is not None, data_root is not None)
    reporter = console.TerminalReporter()
    packing = (pack, pack_codec.value, pack_quality, pack_resize.value) if pack else None
    if packing and data_root is None and not faces:
        if check or len(files or []) > 1:
            raise typer.BadParameter("without --data-root, --pack takes one manifest, and no --check")
        alone = _pack(files[0] if files else None, packing, out, workers, reporter)
        if as_json:
            console.print_json({"pack": alone})
        raise typer.Exit(0)
    if check and data_root is None:
        verdict = check_data(files or [], out, label_map, check_faces, as_json)
        if as_json:
            console.print_json(verdict)
        raise typer.Exit(verdict["verdict"] == "wrong")
    cropping = _cropping(detector, min_score, align, margin, size, faces_out, workers, device) if faces else None
    plugin: Any = dataset
    if cropping and files:
        plugin, data_root = _named_samples(files, label_map, data_root)
    if data_root is None:
        raise typer.BadParameter("say where the data is with --data-root, or check path files with --check")
    for flag, given in (("--dataset", dataset), ("--option", option), ("--images", images)):
        if files and given:
            raise typer.BadParameter(f"{flag} is for a data root without FILES")
    if files and not cropping:
        done = reroot_files(
            files, data_root, label_map=label_map, name=name, out=out, skip_bad=skip_bad, reporter=reporter
        )
    else:
        done = prepare_dataset(
            data_root,
            dataset=plugin,
            options=parse_options(option or []),
            label_map=label_map,
            name=name,
            out=out,
            images=images,
            faces=cropping,
            skip_bad=skip_bad,
            reporter=reporter,
        )
    if not as_json:
        _show(done, out)
    report = check_data([done.path], out, None, check_faces, as_json) if check else None
    packed = _pack(done.path, packing, out, workers, reporter) if packing else None
    if as_json:
        parts = ({"check": report} if report else {}) | ({"pack": packed} if packed else {})
        console.print_json(_plain(done, out) | parts)
    _report_problems(done, skip_bad, reporter)
    raise typer.Exit(report is not None and report["verdict"] == "wrong")


def _refuse_what_does_nothing(ctx: typer.Context, check: bool, faces: bool, pack: bool, has_root: bool) -> None:
    if not check:
        console.refuse(ctx, "a run without --check", panels=[options.CHECKING])
    if not faces:
        console.refuse(ctx, "a run without --faces", panels=[options.CROPPING])
    if not pack:
        console.refuse(ctx, "a run without --pack", panels=[options.PACKING])
    if not (faces or pack):
        console.refuse(ctx, "a run without --faces or --pack", "workers")
    if (pack or check) and not (has_root or faces):
        mode = "--pack" if pack else "--check"
        console.refuse(ctx, f"{mode} without --data-root", "dataset", "option", "name", "images", "skip_bad")


def _named_samples(files: list[Path], label_map: str | None, data_root: Path | None) -> tuple[Any, Path]:
    """What FILES name, as a data set whose faces can be cropped, and the folder that holds it."""
    from ecstfl_cli.engine.preparation.prepare_faces import common_root, plugin_for

    return plugin_for(files, label_map), data_root or common_root(files)


def _pack(
    named: Path | None,
    packing: tuple[Any, ...],
    out: Path,
    workers: int | None,
    reporter: console.TerminalReporter,
) -> dict[str, Any]:
    """Pack the samples of the named manifest, or of the newest in `out`, and say what was written."""
    from ecstfl_cli.engine.data.manifest import manifest_to_use
    from ecstfl_cli.engine.preparation.pack import Packing
    from ecstfl_cli.engine.preparation.pack import pack as pack_samples

    manifest = manifest_to_use(named, out)
    done = pack_samples(manifest, Packing(*packing), out=out, workers=workers, reporter=reporter)
    reporter.note(f"packed {done.samples} samples, {done.frames} frames, {done.bytes / 1e6:.1f} MB in {done.folder}")
    written = [str(out / file) for file in done.manifest["files"].values()]
    for file in [*written, done.path]:
        reporter.note(f"wrote {file}")
    return {
        "folder": str(done.folder),
        "samples": done.samples,
        "frames": done.frames,
        "bytes": done.bytes,
        "manifest_file": str(done.path),
        "written": written,
    }


def _cropping(
    detector: str,
    min_score: float,
    align: FaceAlign,
    margin: float,
    size: int,
    folder: Path | None,
    workers: int | None,
    device: str,
) -> FaceCropping:
    from ecstfl_cli.api import FaceCrop
    from ecstfl_cli.engine.preparation.face_crops import FaceCropping

    crop = FaceCrop(detector, min_score, align.value, margin, size)
    return FaceCropping(crop, folder, workers, device)


def _report_problems(done: Prepared, skip_bad: bool, reporter: console.TerminalReporter) -> None:
    """Say which rows were left out. Raises DataError for rows that could not be read, where that is not accepted."""
    from ecstfl_cli.errors import listing
    from ecstfl_cli.pathfile import problems_error

    rejects = ", ".join(map(str, done.rejects))
    for what, problems in (
        ("without a face, left out, into " + rejects, done.faces.faceless if done.faces else ()),
        ("cropped in part", done.faces.notes if done.faces else ()),
    ):
        if problems:
            reporter.warn(f"{_rows(len(problems))} {what}:\n{listing([str(problem) for problem in problems])}")
    if not done.problems:
        return
    # Lines that are no rows at all cannot be kept.
    broken = sum(len(file.result.table.problems) for file in done.rerooted)
    lost = f"{_rows(len(done.problems) - broken)} not found on disk" + (" or unreadable" if done.faces else "")
    if not skip_bad:
        kept = f"left out, into {rejects}" if done.faces else "kept as written"
        kept += f"; {_rows(broken)} in no right form, left out" if broken else ""
        advice = "Check --data-root, or pass --skip-bad to leave them out."
        if done.faces:
            advice = "Everything else is written. Pass --skip-bad to accept that and exit with 0."
        raise problems_error(f"{lost}, {kept}", done.problems, advice)
    lost += f", {_rows(broken)} in no right form" if broken else ""
    reporter.warn(f"{lost}, left out, into {rejects}:\n{listing([str(problem) for problem in done.problems])}")


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count > 1)}"


def _plain(done: Prepared, out: Path) -> dict[str, Any]:
    from ecstfl_cli.engine.preparation.prepared import next_command

    return {
        "manifest_file": str(done.path),
        "manifest": done.manifest,
        "written": [str(out / file) for file in done.manifest["files"].values()],
        "rerooted": [
            {
                "file": str(file.result.table.path),
                "rows": file.result.total,
                "resolved": file.result.resolved,
                "recounted": file.result.recounted,
                "prefix": file.result.prefix_note,
                "written_to": str(file.written_to),
            }
            for file in done.rerooted
        ],
        "unresolved": [{"file": str(p.file), "line": p.line, "path": p.path, "problem": p.text} for p in done.problems],
        "rejects": [str(path) for path in done.rejects],
        **({"faces": _plain_faces(done.faces)} if done.faces else {}),
        "next": next_command(done),
    }


def _plain_faces(faces: FaceRows) -> dict[str, Any]:
    def plain(problems: list[Any]) -> list[dict[str, Any]]:
        return [{"split": str(p.file), "line": p.line, "path": p.path, "problem": p.text} for p in problems]

    return {
        "folder": str(faces.folder),
        "table": str(faces.table),
        "sources": faces.sources,
        "crops": faces.crops,
        "without_face": plain(faces.faceless),
        "in_part": plain(faces.notes),
    }


def _show(done: Prepared, out: Path) -> None:
    from ecstfl_cli.engine.preparation.prepared import next_command

    if done.rerooted:
        _print_rerooted(done)
    console.out.print(_counts_table(done.manifest))
    for file in [*done.manifest["files"].values(), *done.manifest.get("extra", {}).values()]:
        console.out.print(f"wrote {out / file}", markup=False)
    console.out.print(f"wrote {done.path}", markup=False)
    if done.faces:
        crops = f"{done.faces.crops} face crops of {done.faces.sources} sources"
        console.out.print(f"{crops} in {done.faces.folder}, boxes and scores in {done.faces.table}", markup=False)
    is_labelled = any(set(counts) - {"unknown"} for counts in done.manifest["counts"].values())
    if done.manifest["label_map"] is None and is_labelled:
        console.err.print(
            "The labels are bare indices without a label map: they will be taken for the recipe's. If they are not, "
            "run this again with --label-map NAME; `ecstfl plugins` lists the label maps.",
            markup=False,
        )
    console.out.print(f"Next: {next_command(done)}", markup=False)


def _print_rerooted(done: Prepared) -> None:
    """Columns as wide as they need to be, because folded paths cannot be copied; one prefix a line."""
    rows = [("file", "rows", "resolved", "written to", "prefix found")]
    for file in done.rerooted:
        found = file.result
        first, *more = found.prefix_note.split("\n")
        rows.append((str(found.table.path), f"{found.total}", f"{found.resolved}", str(file.written_to), first))
        rows += [("", "", "", "", prefix) for prefix in more]
    console.print_columns(rows)


def _counts_table(manifest: dict[str, Any]) -> Table:
    """Classes down and splits across; the other way round where there are folds."""
    from rich.table import Table

    labels = manifest["label_map"] or "no label map"
    if not isinstance(labels, str):
        labels = f"{len(labels)} classes of its own"
    counts: dict[str, dict[str, int]] = manifest["counts"]
    classes = list(dict.fromkeys(name for split in counts.values() for name in split))
    title = f"{manifest['name']} ({manifest['modality']}, {labels})"
    if len(counts) <= _SPLITS_ACROSS:
        table = Table("class", title=title, title_justify="left")
        for split in counts:
            table.add_column(console.escaped(split), justify="right")
        for i, name in enumerate(classes):
            cells = [str(split.get(name, 0)) for split in counts.values()]
            table.add_row(console.escaped(name), *cells, end_section=i == len(classes) - 1)
        table.add_row("all", *(str(manifest["samples"][split]) for split in counts))
        return table
    table = Table("split", title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    # More classes than fit beside each other are in the manifest.
    shown = classes if len(classes) <= _CLASSES_ACROSS else []
    for name in [*shown, "all"]:
        table.add_column(console.escaped(name), justify="right")
    for split, found in counts.items():
        table.add_row(
            console.escaped(split), *(str(found.get(name, 0)) for name in [*shown]), str(manifest["samples"][split])
        )
    return table
