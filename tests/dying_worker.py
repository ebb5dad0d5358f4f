"""A worker whose process is killed at one picture, as a decoder's fault or the system's lack of memory may do."""

from __future__ import annotations

import os
import signal

from ecstfl_cli.engine.inference.infer_media import Compute, _recogniser
from ecstfl_cli.engine.inference.media_job import Job, MediaSettings, Unit
from ecstfl_cli.engine.inference.media_worker import Worker
from ecstfl_cli.engine.inference.source_summary import SourceSummary
from ecstfl_cli.engine.reporter import Reporter

DEADLY = "deadly.png"


class DyingWorker(Worker):
    def look_at(self, unit: Unit) -> list[SourceSummary]:
        if any(source.name.endswith(DEADLY) for source in unit.sources):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().look_at(unit)


def dying_worker(job: Job, settings: MediaSettings, compute: Compute, threads: int) -> Worker:
    return DyingWorker(job, _recogniser(settings, compute, Reporter(), threads))
