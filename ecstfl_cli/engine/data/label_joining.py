"""Samples of one label map for a model of another: joined by name, and left out only when told to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ecstfl_cli.engine.data.samples import Sample
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, LabelMapError
from ecstfl_cli.labels import DROP_HINT, Join, LabelMap, join, label_map_from, side_by_side


def join_for(own: LabelMap, model: LabelMap, drop: bool) -> Join:
    """How a file's labels are joined to a model's. Raises LabelMapError where classes would be lost and not `drop`."""
    joined = join(own, model)
    if not drop:
        try:
            joined.complete()
        except LabelMapError as error:
            raise LabelMapError(error.message, f"{error.hint}\n{DROP_HINT}") from None
    return joined


def require_one_map(file: Path, said: LabelMap, by: str, manifest: Mapping[str, Any] | None, way_out: str) -> LabelMap:
    """`said`, which `by` says is the map of a path file's labels.

    Raises LabelMapError where the manifest beside the file says another: indices would become other classes.
    """
    written = manifest.get("label_map") if manifest else None
    if manifest and written and (recorded := label_map_from(written)).names != said.names:
        raise LabelMapError(
            f"whose labels {file} holds is told in two ways: {by} and {manifest['path']}:\n"
            + side_by_side(said, recorded),
            f"{way_out}, or prepare the data again with --label-map {said.name}.",
        )
    return said


def joined_samples(
    samples: Sequence[Sample], joined: Join, file: str, reporter: Reporter
) -> tuple[list[Sample], dict[str, int]]:
    """Samples with labels of the join's target, and how many of each class were left out, which is said.

    Raises DataError where none is left.
    """
    if joined.indices == tuple(range(len(joined.indices))):
        return list(samples), {}
    kept: list[Sample] = []
    lost: Counter[int] = Counter()
    for sample in samples:
        label = joined.indices[sample.label] if sample.label >= 0 else -1
        if label is None:
            lost[sample.label] += 1
        else:
            kept.append(replace(sample, label=label))
    dropped = {name: lost[i] for i, name in enumerate(joined.source.names) if lost[i]}
    if dropped:
        counts = ", ".join(f"{name} {n}" for name, n in dropped.items())
        reporter.warn(
            f"{file}: {lost.total()} of {len(samples)} samples are left out, because the label map "
            f"{joined.target.name!r} lacks their classes: {counts}"
        )
    if not kept:
        raise DataError(
            f"no sample of {file} is left: label map {joined.target.name!r} has none of their classes",
            f"`ecstfl labels compare {joined.source.name} {joined.target.name}` shows how the two fit.",
        )
    return kept, dropped
