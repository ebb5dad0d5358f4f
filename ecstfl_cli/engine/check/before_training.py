"""The cheap check before a run: what the lists and a glance at the files tell, in a fraction of a second."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ecstfl_cli.engine.check import report as reports
from ecstfl_cli.engine.data.manifest import read_manifest_for
from ecstfl_cli.engine.data.samples import Sample
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, listing
from ecstfl_cli.extra_columns import read_extra_columns
from ecstfl_cli.files import sha256

Lists = Mapping[str, Sequence[Sample]]


def check_before_training(
    lists: Lists, files: Mapping[str, Sequence[str]], num_frames: int | None, reporter: Reporter
) -> None:
    """Warn of what would make the scores of a run wrong; `lists` are samples by name, the training list is `train`.

    `files` are the path files of each list, `num_frames` what a view of a clip takes. Warns of samples and subjects
    that are in training and in another list, and of what `ecstfl prepare --check` called wrong in these lists; notes
    short clips. Raises DataError where the training list gives one sample two labels.
    """
    train = lists["train"]
    _stop_on_two_labels(train)
    others = {name: samples for name, samples in lists.items() if name != "train"}
    for name, samples in others.items():
        _warn_of_shared(train, samples, name, reporter)
    _warn_of_subjects(files, reporter)
    if num_frames:
        _note_short(lists, num_frames, reporter)
    _tell_verdicts(files, reporter)


def _stop_on_two_labels(train: Sequence[Sample]) -> None:
    first: dict[Path, Sample] = {}
    twice = [
        f"{sample.clip_id}: label {sample.label}, and {before.label}"
        for sample in train
        if (before := first.setdefault(sample.source, sample)).label != sample.label
    ]
    if twice:
        raise DataError(
            f"the training list gives {len(twice)} samples another label than before:\n{listing(twice)}",
            "At most one can be right: remove the wrong rows. `ecstfl prepare --check` finds copies under other paths.",
        )


def _warn_of_shared(train: Sequence[Sample], samples: Sequence[Sample], name: str, reporter: Reporter) -> None:
    sources = {sample.source for sample in train}
    digests = {sample.digest: sample for sample in train if sample.digest}
    same = [sample for sample in samples if sample.source in sources]
    copies = [sample for sample in samples if sample.source not in sources and sample.digest in digests]
    if same:
        reporter.warn(
            f"{len(same)} of {len(samples)} {name} samples are in the training list too, e.g. {same[0].clip_id}: "
            "scores on them are too high"
        )
    if copies:
        reporter.warn(
            f"{len(copies)} of {len(samples)} {name} samples are copies of training samples, e.g. {copies[0].clip_id} "
            f"of {digests[copies[0].digest].clip_id}: scores on them are too high"
        )


def _warn_of_subjects(files: Mapping[str, Sequence[str]], reporter: Reporter) -> None:
    subjects = {name: _subjects(paths) for name, paths in files.items()}
    for name, found in subjects.items():
        both = sorted(found & subjects["train"]) if name != "train" else []
        if both:
            reporter.warn(
                f"{len(both)} of {len(found)} subjects of {name} are in the training list too, e.g. {both[0]}: the "
                "score says how well known faces are recognised, not new ones"
            )


def _subjects(files: Sequence[str]) -> set[str]:
    return {subject for file in files for subject in read_extra_columns(file, skip_bad=True).subjects or ()} - {""}


def _note_short(lists: Lists, num_frames: int, reporter: Reporter) -> None:
    frames = Counter(sample.n_frames for samples in lists.values() for sample in samples if sample.n_frames)
    short = sum(n for length, n in frames.items() if length < num_frames)
    if short:
        reporter.note(
            f"{short} of {frames.total()} clips have fewer than the {num_frames} frames of a view, the shortest "
            f"{min(frames)}: their frames are repeated"
        )


def _tell_verdicts(files: Mapping[str, Sequence[str]], reporter: Reporter) -> None:
    """What `prepare --check` said of the manifests of these lists, where the lists are still as they were then."""
    lists: dict[Path, list[Path]] = {}
    for file in dict.fromkeys(Path(file) for paths in files.values() for file in paths):
        manifest = read_manifest_for(file)
        if manifest:
            lists.setdefault(Path(manifest["path"]), []).append(file)
    unchecked = []
    for manifest_path, listed in lists.items():
        found = reports.read(manifest_path.with_name(f"{manifest_path.stem}_check.json"))
        if found is None or any(found["sha256"].get(str(file.resolve())) != sha256(file) for file in listed):
            unchecked.append(str(manifest_path))
            continue
        for line in reports.wrong_in(found):
            reporter.warn(f"`ecstfl prepare --check` said of {manifest_path.stem}: {line}")
    if unchecked:
        commands = " and ".join(f"`ecstfl prepare --check {shlex.quote(manifest)}`" for manifest in unchecked)
        say = "says" if len(unchecked) == 1 else "say"
        reporter.note(f"not read in full yet: {commands} {say} what is damaged, copied or leaked")
