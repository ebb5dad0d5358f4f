"""The HTML report of a job, from the parts of its units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ecstfl_cli.engine.inference.media_job import Job
from ecstfl_cli.engine.inference.media_worker import read_thumbnails
from ecstfl_cli.engine.inference.source_summary import SourceSummary
from ecstfl_cli.media.row_tables import read_table
from ecstfl_cli.report.html import write_report
from ecstfl_cli.report.sections import GALLERY
from ecstfl_cli.report.source import SourceReport, source_report


class _Row(NamedTuple):
    face: int
    time: float
    probs: tuple[float, ...]


def write_media_report(job: Job, sources: list[SourceSummary], path: Path) -> None:
    """Write the report of `sources`, those of all units in order. One source's rows are in memory at a time."""
    summaries = iter(sources)
    reports: list[SourceReport] = []
    pictured = 0
    for unit in job.units:
        rows = _rows(job.rows(unit))
        thumbnails = read_thumbnails(job.thumbnails(unit))
        for _ in unit.sources:
            source = next(summaries)
            pictures = next(thumbnails, [])
            if source.kind == "image":  # No more than are shown: there may be very many.
                pictures = pictures if pictured < GALLERY else []
            problems = [source.problem] if source.problem else []
            own = list(islice(rows, source.rows))
            # A video of which nothing could be read has no duration: it is no picture, either.
            duration = None if source.kind == "image" else source.duration or 0.0
            report = source_report(source.name, own, duration, pictures, problems, read=not source.failed)
            if source.kind == "image":
                pictured += sum(bool(face.thumbnails) for face in report.faces)
            reports.append(report)
    write_report(path, reports, job.labels.names, _model_facts(job), asdict(job.settings))


def _model_facts(job: Job) -> dict[str, Any]:
    """What the report says of the model: its card where it has one, and how well it did where that was measured."""
    about, card = job.model, dict(job.model.get("card") or {})
    measured = dict(job.model.get("measured") or {})
    accuracy: dict[str, Any] = {
        label: f"{measured[key]:.1f}%" for key, label in (("war", "WAR"), ("uar", "UAR")) if key in measured
    }
    per_class = measured.get("per_class") or {}
    recalls = {name: values.get("recall") for name, values in per_class.items()}
    accuracy |= {f"recall of {name}": f"{recall:.1f}%" for name, recall in recalls.items() if recall is not None}
    return {
        "model": card.pop("name", "") or about["source"],
        **card,
        "file": about["source"],
        "Weights (SHA-256, first 12 digits)": job.settings.weights,
        "backbone": about["backbone"],
        "classes": list(about["labels"]),
        "accuracy": accuracy or None,
        "calibration": _calibration(measured.get("calibration") or {}),
        "Computed by": f"{about['runtime']} on {about['device']}, {about['precision']}",
    }


def _calibration(measured: Mapping[str, Any]) -> dict[str, str] | None:
    """How far the probabilities are from how often they are right, before and after temperature scaling."""
    facts = {
        f"expected calibration error {when} scaling": f"{100 * measured[key]:.1f}%"
        for when, key in (("before", "ece_before"), ("after", "ece_after"))
        if key in measured
    }
    if "temperature" in measured:
        facts["temperature"] = f"{measured['temperature']:.3f}, in the weights already"
    return facts or None


def _rows(path: Path) -> Iterator[_Row]:
    for batch in read_table(path):
        columns = batch.to_pydict()
        probs = [columns[name] for name in columns if name.startswith("prob_")]
        yield from map(_Row, columns["face"], columns["time"], zip(*probs, strict=True))
