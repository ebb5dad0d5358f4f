"""Rows as segments, shares and changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from ecstfl_cli.engine.inference.results import FaceResult
from ecstfl_cli.engine.inference.source_summary import Tally
from ecstfl_cli.report.source import source_report
from ecstfl_cli.report.thumbnails import Thumbnail
from ecstfl_cli.report.timeline import downsample, timelines

HAPPY, SAD, NEUTRAL = 0, 1, 2


@dataclass(frozen=True)
class Row:
    time: float
    probs: tuple[float, ...]
    face: int = 0


def shown(*parts: tuple[int, float], fps: float = 10, start: float = 0.0, face: int = 0, height: float = 0.8):
    """Rows in which class k has `height` of the probability for so many seconds, for each (k, seconds)."""
    rows = []
    for k, seconds in parts:
        for _ in range(round(seconds * fps)):
            rest = (1 - height) / 2
            probs = tuple(height if j == k else rest for j in range(3))
            rows.append(Row(start + len(rows) / fps, probs, face))
    return rows


def spans(rows, **options) -> list[tuple[float, float, int]]:
    """(start, end, class) of each segment of the face that is seen longest."""
    segments = timelines(rows, **options)[0].segments
    return [(round(s.start, 3), round(s.end, 3), s.expression) for s in segments]


def test_segments_and_shares_of_one_face():
    (found,) = timelines(shown((NEUTRAL, 2), (HAPPY, 1), (NEUTRAL, 1)))
    assert [(s.start, round(s.end, 6), s.expression) for s in found.segments] == [(0, 2, 2), (2, 3, 0), (3, 4, 2)]
    assert found.shares.tolist() == pytest.approx([0.25, 0, 0.75])
    assert (found.dominant, found.seconds) == (NEUTRAL, pytest.approx(4))
    assert all(s.mean == pytest.approx(0.8) and s.peak == pytest.approx(0.8) for s in found.segments)


def test_a_flicker_shorter_than_the_minimum_joins_what_was_before():
    rows = shown((NEUTRAL, 2), (HAPPY, 0.3), (NEUTRAL, 1), (SAD, 1))
    assert timelines(rows)[0].shares.tolist() == pytest.approx([0.3 / 4.3, 1 / 4.3, 3 / 4.3]), "but it has its share"
    assert spans(rows) == [(0, 3.3, NEUTRAL), (3.3, 4.3, SAD)]
    assert len(spans(rows, min_duration=0.2)) == 4


def test_a_short_start_joins_what_comes_after():
    assert spans(shown((HAPPY, 0.2), (SAD, 2))) == [(0, 2.2, SAD)]


def test_short_runs_that_are_long_together_become_a_segment_of_their_likeliest_class():
    flicker = [(HAPPY, 0.3), (NEUTRAL, 0.2)] * 4
    assert spans(shown((SAD, 1), *flicker, (SAD, 1))) == [(0, 1, SAD), (1, 3, HAPPY), (3, 4, SAD)]


def test_a_class_takes_over_only_when_it_is_clearly_likelier():
    wobble = [Row(n / 10, (0.48, 0.52, 0) if n % 20 >= 10 else (0.52, 0.48, 0)) for n in range(60)]
    assert spans(wobble) == [(0, 6, HAPPY)]
    assert len(spans(wobble, hysteresis=0.0)) == 6


def test_a_face_that_was_away_has_two_segments_of_one_expression():
    (found,) = timelines(shown((HAPPY, 1)) + shown((HAPPY, 1), start=5))
    assert [(s.start, round(s.end, 6)) for s in found.segments] == [(0, 1), (5, 6)]
    assert found.seconds == pytest.approx(2)
    # A few frames in which the detector missed it are no absence.
    assert len(timelines(shown((HAPPY, 1)) + shown((HAPPY, 1), start=1.4))[0].segments) == 1


def test_a_stretch_shorter_than_the_minimum_between_two_absences_is_kept():
    rows = shown((HAPPY, 1)) + shown((SAD, 0.2), start=3) + shown((HAPPY, 1), start=6)
    assert spans(rows) == [(0, 1, HAPPY), (3, 3.2, SAD), (6, 7, HAPPY)]


def test_faces_come_with_the_longest_first_whatever_the_order_of_the_rows():
    rows = shown((SAD, 1), face=0) + shown((HAPPY, 3), face=7)
    rng = np.random.default_rng(0)
    found = timelines([rows[i] for i in rng.permutation(len(rows))])
    assert [timeline.face for timeline in found] == [7, 0]


def test_no_rows_and_a_single_row():
    assert timelines([]) == []
    (found,) = timelines([Row(1.0, (0.2, 0.7, 0.1))])
    assert [(s.start, s.expression, s.peak) for s in found.segments] == [(1.0, SAD, 0.7)]
    assert found.shares.tolist() == [0, 1, 0]


def test_thinned_frames_make_longer_steps_and_no_absences():
    rows = shown((HAPPY, 10), (SAD, 10), fps=0.5)
    assert spans(rows) == [(0, 10, HAPPY), (10, 20, SAD)]


def test_the_last_row_does_not_last_beyond_the_end():
    rows = shown((0, 2), fps=5)
    (whole,), (cut,), (at_the_end,) = (timelines(rows, end) for end in (None, 1.9, 1.8))
    assert whole.seconds == pytest.approx(2.0)
    assert cut.seconds == cut.segments[-1].end == pytest.approx(1.9)
    assert at_the_end.seconds == pytest.approx(1.801)


def test_segments_cover_the_time_a_face_is_seen_whatever_the_probabilities():
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.full(7, 0.5), 5000)
    times = np.cumsum(rng.choice([0.04, 0.08, 3.0], 5000, p=[0.9, 0.095, 0.005]))
    (found,) = timelines([Row(t, tuple(p)) for t, p in zip(times, probs, strict=True)])
    assert sum(s.end - s.start for s in found.segments) == pytest.approx(found.seconds)
    assert found.shares.sum() == pytest.approx(1)
    assert all(b.start >= a.end - 1e-9 for a, b in zip(found.segments, found.segments[1:], strict=False))


def test_a_long_timeline_is_drawn_with_fewer_points_that_keep_the_means():
    (found,) = timelines(shown((HAPPY, 600), (SAD, 600)))
    times, probs, width = downsample(found.times, found.probs, 1000)
    assert len(times) == 1000
    assert width == pytest.approx(1.2, abs=0.01)
    assert probs.sum(axis=1) == pytest.approx(np.ones(1000))
    assert probs[:, HAPPY].mean() == pytest.approx(found.probs[:, HAPPY].mean(), abs=0.01)
    assert downsample(found.times, found.probs, 20000)[2] == 0


def test_rounded_times_of_rows_keep_the_thumbnails_of_their_segments():
    """Rows come from a table with four decimals; thumbnails have the times of the frames."""
    rows = shown(*[(k % 3, 31 / 30) for k in range(24)], fps=30)
    starts = [segment.start for segment in timelines(rows)[0].segments]
    kept = [Thumbnail(row.time, 0, int(np.argmax(row.probs)), 0.8, b"") for row in rows if row.time in starts]
    assert len(kept) == 24
    rounded = [Row(round(row.time, 4), row.probs) for row in rows]
    assert len(source_report("a", rounded, 24.8, kept).faces[0].thumbnails) == 24


@pytest.mark.parametrize("step", [0.04, 3.0])
def test_the_summary_counts_what_the_timeline_counts(step: float):
    """Faces that are gone for a while, and windows that lie seconds apart."""
    tally, rows = Tally("a", "video", 3), []
    for n in range(2500):
        seen = [face for face in (0, 1) if (n // 20) % (face + 3)]
        # Expressions that last, so that hysteresis and short stretches change nothing.
        best = int(np.random.default_rng(n // 50).integers(3))
        probs = tuple(0.9 if k == best else 0.05 for k in range(3))
        results = [FaceResult("a", n, n * step, face, (0, 0, 1, 1), 1.0, probs, 1) for face in seen]
        tally.add(n * step, results)
        rows += results
    summary = tally.finish(seconds=2500 * step)
    for face in summary.shown:
        (found,) = [one for one in timelines(rows, summary.duration) if one.face == face.face]
        assert sum(face.seconds) == pytest.approx(found.seconds)
        assert np.array(face.seconds) / sum(face.seconds) == pytest.approx(found.shares, abs=0.02)
