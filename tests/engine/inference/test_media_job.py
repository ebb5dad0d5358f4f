"""Jobs of `infer`: going on after an interruption, and parts that several processes do."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ecstfl_cli.cli import console
from ecstfl_cli.engine.inference import infer_media
from ecstfl_cli.engine.inference.infer_media import parse_shard
from ecstfl_cli.engine.inference.media_job import Job, Shard
from ecstfl_cli.engine.inference.media_result import merge, put_together
from ecstfl_cli.engine.inference.media_worker import Worker
from ecstfl_cli.engine.inference.result_folder import result_folder
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import EcstflError
from tests.dying_worker import DEADLY, dying_worker
from tests.looking import Look, picture, small_batch, table, video

# --- going on --------------------------------------------------------------------------------------------------------


def interrupted(look: Look, after: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Look at the small batch, and press Ctrl-C when `after` units are done."""
    look_at = Worker.look_at
    done = []

    def counted(self: Worker, unit: Any) -> Any:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(unit)
        return look_at(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "look_at", counted)
        with pytest.raises(KeyboardInterrupt):
            look("d", **options)


def test_sigterm_stops_a_job_as_ctrl_c_does(
    look: Look, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_batch()
    look_at, handler = Worker.look_at, signal.getsignal(signal.SIGTERM)

    def ended(self: Worker, unit: Any) -> Any:
        summaries = look_at(self, unit)
        if unit.index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return summaries

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "look_at", ended)
        with pytest.raises(KeyboardInterrupt) as stopped:
            look("d", reporter=console.reporter())
    assert stopped.value.args == (143,)
    assert "ecstfl infer --resume o" in " ".join(capsys.readouterr().err.split())
    assert signal.getsignal(signal.SIGTERM) is handler
    assert look("d").finished


def test_the_same_command_goes_on_where_it_was_interrupted(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batch()
    look("d", out=Path("whole"))
    interrupted(look, 2, monkeypatch)
    assert not Path("o/predictions.csv").exists()
    looked: list[str] = []
    monkeypatch.setattr(Worker, "look_at", _noting(looked))
    reporter = Reporter()
    look("d", reporter=reporter)
    assert looked == ["000002", "000003"]
    assert "going on in o: 4 of 6 sources are done" in reporter.notes
    assert Path("o/predictions.csv").read_bytes() == Path("whole/predictions.csv").read_bytes()
    assert pd.read_csv("o/problems.csv")["source"].tolist() == ["d/bad.mp4"]


def _noting(looked: list[str]) -> Callable:
    look_at = Worker.look_at

    def noting(self: Worker, unit: Any) -> Any:
        looked.append(unit.name)
        return look_at(self, unit)

    return noting


def test_resume_needs_the_folder_only(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batch()
    interrupted(look, 1, monkeypatch, every=2, detect_every=5)
    with pytest.raises(EcstflError, match=r"(?s)other settings:\n  every: 2 there, 3 now\n  detect every: 5 there, 4 "):
        look(resume=Path("o"), out=None, faces="auto", model="", every=3, detect_every=4)
    out = Path("o").absolute()
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(out)
        with pytest.raises(EcstflError, match=rf"(?s)d/.* is not here: .*begun in {out.parent}.*cd {out.parent}; "):
            look(resume=out, out=None, faces="auto", model="")
    look(resume=Path("o"), out=None, faces="auto", model="")
    assert table().query("source == 'd/b.mp4'")["frame"].tolist() == [0, 2, 4, 6, 8]
    with pytest.raises(EcstflError, match="o holds no unfinished result: it is finished"):
        look(resume=Path("o"))


def test_other_settings_are_refused_with_what_differs(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batch()
    interrupted(look, 1, monkeypatch)
    with pytest.raises(EcstflError) as caught:
        look("d", "d/0.png", smoothing=0.0, annotate=True)
    assert [line.strip() for line in caught.value.message.splitlines()[1:]] == [
        "inputs: d there, d d/0.png now", "smoothing: 0.3 there, 0.0 now", "annotate: False there, True now",
    ]  # fmt: skip


def test_a_journal_that_was_cut_off_loses_its_last_unit_only(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batch()
    interrupted(look, 3, monkeypatch)
    (journal,) = Path("o/unfinished").glob("journal-*")
    journal.write_bytes(journal.read_bytes()[:-30])
    assert len(Job.resume(Path("o"), Shard()).left()) == 2
    look("d")
    assert table()["source"].nunique() == 5


def test_of_a_copy_that_was_being_written_when_its_process_was_killed_nothing_is_left(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batch()
    interrupted(look, 1, monkeypatch, annotate=True)
    left, other = Path("o/annotated/b.4711.part.mp4"), Path("o/annotated/c.part.mp4")
    for path in (left, other):
        path.write_text("half a video")
    look("d", annotate=True)
    assert not left.exists()
    assert other.exists(), "what is called otherwise is of somebody else"
    assert Path("o/annotated/b.mp4").stat().st_size > 500


def test_files_that_came_since_are_not_looked_at(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batch()
    interrupted(look, 1, monkeypatch)
    picture("d/new.png")
    assert "d/new.png" not in [source.name for source in look("d").sources]


# --- parts -----------------------------------------------------------------------------------------------------------


def test_shards_together_give_what_one_process_gives(look: Look) -> None:
    small_batch()
    look("d", out=Path("one"), formats=("csv", "parquet"))
    options = {"formats": ("csv", "parquet")}
    second = look("d", shard=Shard(1, 3), **options)
    assert not second.finished
    assert second.missing == 5
    with pytest.raises(EcstflError, match="5 of 6 sources are not done"):
        merge(Path("o"))
    assert not look("d", shard=Shard(0, 3), **options).finished
    assert look("d", shard=Shard(2, 3), **options).finished
    for name in ("predictions.csv", "predictions.parquet", "problems.csv"):
        assert Path("o", name).read_bytes() == Path("one", name).read_bytes(), name


def test_of_two_parts_that_end_together_the_slower_one_has_the_whole_result_too(look: Look) -> None:
    small_batch()
    look("d", shard=Shard(0, 2))
    slower = Job.resume(Path("o"), Shard(0, 2))
    quicker = look("d", shard=Shard(1, 2))
    result = put_together(slower)
    assert result.finished
    assert result.sources == quicker.sources


def test_folders_that_were_copied_together_merge(look: Look) -> None:
    small_batch()
    look("d", out=Path("one"))
    look("d", out=Path("a"), shard=Shard(0, 2))
    look("d", out=Path("b"), shard=Shard(1, 2))
    shutil.copytree("b", "a", dirs_exist_ok=True)
    assert merge(Path("a")).finished
    assert Path("a/predictions.csv").read_bytes() == Path("one/predictions.csv").read_bytes()


def test_the_environment_of_torchrun_is_a_shard(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        result = look("d")
    assert result.finished
    with pytest.raises(EcstflError, match="one folder"):
        look("d", out=None)


@pytest.mark.parametrize(("rank", "count"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "0")])
def test_an_environment_that_names_no_part_is_refused(
    look: Look, monkeypatch: pytest.MonkeyPatch, rank: str, count: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(EcstflError, match=f"RANK={rank} and WORLD_SIZE={count}"):
        look(picture("a.png"))


def test_a_rank_alone_is_nobodys(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert look(picture("a.png")).finished


def test_workers_do_not_outlive_a_process_that_was_killed(tmp_path: Path) -> None:
    text = """
        import multiprocessing, os, signal, sys, time
        from ecstfl_cli.engine.processes import end_with_parent

        def work():
            end_with_parent()
            print("started", flush=True)
            time.sleep(30)
            print("outlived it", flush=True)

        if __name__ == "__main__":
            multiprocessing.get_context("spawn").Process(target=work).start()
            time.sleep(600)
    """
    script = tmp_path / "starts_a_worker.py"
    script.write_text(textwrap.dedent(text))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        # The worker holds the other end of the pipe while it lives.
        assert parent.stdout.read() == ""


def test_shards_are_counted_from_one() -> None:
    assert parse_shard("2/4") == Shard(1, 4)
    for wrong in ("0/4", "5/4", "2", "a/b", "1/-1", ""):
        with pytest.raises(EcstflError, match="I/N"):
            parse_shard(wrong)


def test_files_in_several_processes_give_the_same_rows(look: Look) -> None:
    small_batch()
    look("d", out=Path("one"))
    result = look("d", workers=2)
    assert [name for name, _ in result.problems] == ["d/bad.mp4"]
    one, two = table("one"), table()
    numbers = [name for name in one if one[name].dtype == float]
    np.testing.assert_allclose(one[numbers], two[numbers], atol=1e-4)
    pd.testing.assert_frame_equal(one.drop(columns=numbers), two.drop(columns=numbers))
    assert not multiprocessing.active_children()


def test_of_a_picture_that_ends_its_process_only_that_one_is_lost(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("d/a.png", 1)
    picture(f"d/{DEADLY}", 2)
    video("d/v.mp4")
    monkeypatch.setattr(infer_media, "_worker", dying_worker)
    result = look("d", workers=2, report=True)
    assert [(name, "died" in why) for name, why in result.problems] == [(f"d/{DEADLY}", True)]
    assert table()["source"].unique().tolist() == ["d/a.png", "d/v.mp4"]
    assert Path("o/report.html").is_file()


# --- at the same time ------------------------------------------------------------------------------------------------


def test_commands_without_a_folder_have_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with result_folder(None) as one, result_folder(None) as two:
        assert one != two
        (two / "predictions.csv").touch()
    assert not one.exists()
    assert two.exists()
    (two / "predictions.csv").unlink()
    with result_folder(two):
        pass
    assert two.exists(), "it was there before"


def test_of_two_commands_that_begin_in_one_folder_the_later_one_is_refused(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither saw the other when it looked; the models take seconds to open."""
    picture("a.png")
    picture("b.png")
    find = infer_media.find_sources

    def beginning(*words: Any, **options: Any) -> Any:
        monkeypatch.setattr(infer_media, "find_sources", find)
        with monkeypatch.context() as patch:
            patch.setattr(infer_media, "_look", interrupt)
            patch.setattr(Job, "remove", lambda _: None)
            with pytest.raises(KeyboardInterrupt):
                look("b.png")
        return find(*words, **options)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(infer_media, "find_sources", beginning)
    with pytest.raises(EcstflError, match=r"(?s)unfinished result of other settings.*inputs: b\.png there, a\.png now"):
        look("a.png")


def test_who_joins_a_job_and_is_stopped_leaves_it(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may be at work in it, though nothing is done yet."""
    picture("a.png")
    looking, within = infer_media._look, []

    def looks(*words: Any) -> None:
        if within:
            raise KeyboardInterrupt
        within.append(True)
        with pytest.raises(KeyboardInterrupt):
            look("a.png")
        looking(*words)

    monkeypatch.setattr(infer_media, "_look", looks)
    assert look("a.png").finished
    assert table()["source"].tolist() == ["a.png"]


def test_a_result_that_came_in_the_meantime_is_not_overwritten(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("a.png")
    picture("b.png")
    find = infer_media.find_sources

    def finishing(*words: Any, **options: Any) -> Any:
        monkeypatch.setattr(infer_media, "find_sources", find)
        look("b.png")
        return find(*words, **options)

    monkeypatch.setattr(infer_media, "find_sources", finishing)
    with pytest.raises(EcstflError, match="o holds a result by now"):
        look("a.png")
    assert table()["source"].tolist() == ["b.png"]
    assert not Path("o/unfinished").exists()


@pytest.mark.parametrize("while_it_begins", [False, True])
def test_a_shard_for_which_nothing_was_left_has_the_result(
    look: Look, monkeypatch: pytest.MonkeyPatch, while_it_begins: bool
) -> None:
    picture("a.png")
    find = infer_media.find_sources
    results = []

    def finishing(*words: Any, **options: Any) -> Any:
        monkeypatch.setattr(infer_media, "find_sources", find)
        results.append(look("a.png", shard=Shard(0, 2)))
        return find(*words, **options)

    if while_it_begins:
        monkeypatch.setattr(infer_media, "find_sources", finishing)
    else:
        results.append(look("a.png", shard=Shard(0, 2)))
    late = look("a.png", shard=Shard(1, 2))
    assert (late.finished, late.sources) == (True, results[0].sources)
    assert sorted(path.name for path in Path("o").iterdir()) == ["predictions.csv", "summary.json"]
    with pytest.raises(EcstflError, match="holds a result by now"):
        look("a.png", shard=Shard(1, 2), flip=True)


def test_half_written_pictures_are_removed(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batch()
    interrupted(look, 1, monkeypatch, annotate=True)
    left, other = Path("o/annotated/1.4711.part.png"), Path("o/annotated/x.4711.part.png")
    for path in (left, other):
        path.write_bytes(b"half")
    look("d", annotate=True)
    assert not left.exists()
    assert other.exists()
