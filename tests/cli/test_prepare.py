"""`ecstfl prepare`: path files that resolve on this machine, and a manifest that says whose labels they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecstfl_cli.components.datasets.path_files import PathFilesDataset
from ecstfl_cli.components.label_maps import dfew
from ecstfl_cli.engine.data.manifest import latest_manifest, read_manifest_for
from ecstfl_cli.engine.data.samples import class_counts, fingerprint, load_samples
from ecstfl_cli.engine.reporter import Reporter

PLUGIN = """
from pathlib import Path
from ecstfl_cli.api import PathRow, PreparedDataset

class Release:
    def recognise(self, root):
        {recognise}

    def prepare(self, root, reporter):
        rows = [PathRow(str(p.relative_to(root)), i % 7) for i, p in enumerate(sorted(root.rglob("*.jpg")))]
        splits = {{"fold1_train": rows, "validation": rows[:2]}}
        return PreparedDataset("my release", "img", splits, "fer2013", "a paper")
"""


@pytest.fixture
def release_plugin(fake_distribution: Callable) -> Callable[..., None]:
    """`release_plugin(name, recognise)` installs a data set of all JPEGs; `recognise` is a line of its method."""

    def make(name: str, recognise: str = "return (root / 'marker').exists()") -> None:
        module = f"{name}_mod"
        source = PLUGIN.format(recognise=recognise)
        fake_distribution(f"{name}-plug", {"datasets": {name: f"{module}:Release"}}, {f"{module}.py": source})

    return make


def manifest_at(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


# --- a data set in its folder ---------------------------------------------------------------------------------------


def test_a_folder_with_its_own_lists_becomes_absolute_path_files_and_a_manifest(cli, tiny_clips, tmp_path) -> None:
    data = tiny_clips()
    result = cli("prepare", "--data-root", data.root, "--label-map", "dfew", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    first = (tmp_path / "annotation" / "tiny_clips_train.txt").read_text().splitlines()[0]
    assert first == f"{data.root}/clips/train_happy_0 12 0"
    manifest = manifest_at(tmp_path / "annotation" / "tiny_clips.json")
    assert manifest["modality"] == "video"
    assert manifest["label_map"] == "dfew"
    assert manifest["label_names"] == list(dfew.names)
    assert manifest["files"] == {"train": "tiny_clips_train.txt", "test": "tiny_clips_test.txt"}
    assert manifest["samples"] == {"train": 9, "test": 9}
    assert manifest["counts"]["train"] == {**dict.fromkeys(dfew.names, 0), "happy": 3, "sad": 3, "neutral": 3}
    assert manifest["data_root"] == str(data.root)
    assert "Next: ecstfl finetune --type video" in result.stdout
    assert "--list-file-train annotation/tiny_clips_train.txt" in result.stdout


def test_what_was_written_loads_from_any_folder_with_the_fingerprint_of_the_manifest(
    cli, tiny_images, tmp_path, monkeypatch
) -> None:
    data = tiny_images()
    cli("prepare", "--data_root", data.root, "--out", tmp_path / "out", "--name", "faces")
    monkeypatch.chdir("/")
    samples = load_samples(
        [tmp_path / "out" / "faces_train.csv"], modality="img", root=None, label_map=dfew, reporter=Reporter()
    )
    assert class_counts(samples, 7) == [4, 4, 4, 0, 0, 0, 0]
    assert fingerprint(samples) == manifest_at(tmp_path / "out" / "faces.json")["fingerprint"]["train"]


def test_bare_indices_are_said_to_have_no_label_map(cli, tiny_images, tmp_path) -> None:
    result = cli("prepare", "--data-root", tiny_images().root, cwd=tmp_path)
    assert "--label-map" in result.stderr
    manifest = manifest_at(tmp_path / "annotation" / "tiny_images.json")
    assert manifest["label_map"] is None
    assert manifest["counts"]["train"] == {"0": 4, "1": 4, "2": 4}


def test_class_names_are_joined_to_a_label_map_that_has_them(cli, tiny_images, tmp_path) -> None:
    data = tiny_images(classes=2)
    for path in (data.train, data.test):
        path.write_text(path.read_text().replace(",0", ",Happiness").replace(",1", ",contempt"))
    result = cli("prepare", "--data-root", data.root, "--json", cwd=tmp_path)
    manifest = json.loads(result.stdout)["manifest"]
    assert manifest["label_map"] == "affectnet8"
    assert manifest["counts"]["train"]["contempt"] == 4
    data.train.write_text(data.train.read_text().replace("contempt", "boredom"))
    refused = cli("prepare", "--data-root", data.root, cwd=tmp_path)
    assert refused.exit_code == 1
    assert "boredom" in refused.stderr


def test_labels_outside_the_map_stop_it_before_anything_is_written(cli, tiny_images, tmp_path) -> None:
    data = tiny_images()
    data.test.write_text(data.test.read_text().replace(",2", ",9"))
    result = cli("prepare", "--data-root", data.root, "--label-map", "dfew", cwd=tmp_path)
    assert result.exit_code == 1
    assert result.stderr.count("'9' is not in label map 'dfew'") == 4
    assert not (tmp_path / "annotation").exists()


def test_counts_of_frames_are_corrected_and_missing_clips_reported(cli, tiny_clips, tmp_path) -> None:
    data = tiny_clips(frames=3)
    text = data.train.read_text().replace("happy_0 3", "happy_0 30").replace("train_sad_0", "train_gone")
    text = text.replace("train_sad_1", "gone.mp4")
    data.train.write_text(text)
    out = tmp_path / "annotation" / "tiny_clips_train.txt"
    result = cli("prepare", "--data-root", data.root, cwd=tmp_path)
    assert result.exit_code == 1
    assert "1 clips have another number of frames" in result.stderr
    assert "train:4" in result.stderr
    assert "train_gone: no such folder" in result.stderr
    assert "gone.mp4: no such file" in result.stderr
    assert f"{data.root}/clips/train_happy_0 3 0" in out.read_text()
    assert "train_gone" in out.read_text()
    skipped = cli("prepare", "--data-root", data.root, "--skip-bad", cwd=tmp_path)
    assert skipped.exit_code == 0
    assert "train_gone" not in out.read_text()
    assert "train_gone" in (tmp_path / "annotation" / "tiny_clips_rejects.csv").read_text()


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.csv", "val.csv", "test.csv"], {"train", "val", "test"}),
        (["Imgs_train.csv", "Imgs_test.csv"], {"train", "test"}),
        (["Train.txt", "validation.txt"], {"train", "val"}),
        (["subjects.csv", "trainer.txt", "train.json"], set()),
    ],
)
def test_lists_are_recognised_by_their_names(tmp_path: Path, names: list[str], splits: set[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("path,label\na.jpg,0\n" if name.endswith(".csv") else "clip 5 0\n")
    plugin = PathFilesDataset()
    assert plugin.recognise(tmp_path) == bool(splits)
    if splits:
        assert set(plugin.prepare(tmp_path, Reporter()).splits) == splits


def test_two_lists_of_one_split_are_not_chosen_between(cli, tiny_images, tmp_path) -> None:
    data = tiny_images()
    (data.root / "old_train.csv").write_bytes(data.train.read_bytes())
    result = cli("prepare", "--data-root", data.root, cwd=tmp_path)
    assert result.exit_code == 1
    assert "old_train.csv" in result.stderr


# --- which data set -------------------------------------------------------------------------------------------------


def test_a_plugin_that_recognises_the_folder_is_used_and_path_files_only_without_one(
    cli, tiny_images, release_plugin, tmp_path
) -> None:
    release_plugin("mine")
    data = tiny_images()
    before = json.loads(cli("prepare", "--data-root", data.root, "--json", cwd=tmp_path).stdout)
    assert before["manifest"]["dataset"] == "path_files"
    (data.root / "marker").touch()
    found = json.loads(cli("prepare", "--data-root", data.root, "--json", cwd=tmp_path).stdout)
    assert found["manifest"]["dataset"] == "mine"
    assert found["manifest"]["source"] == "a paper"
    assert found["written"] == ["annotation/my_release_val.csv", "annotation/my_release_fold1_train.csv"]


def test_labels_of_a_data_set_are_joined_by_name_to_the_map_asked_for(
    cli, tiny_images, release_plugin, tmp_path
) -> None:
    release_plugin("mine")
    flags = ("prepare", "--data-root", tiny_images().root, "--dataset", "mine", "--json")
    own = json.loads(cli(*flags, cwd=tmp_path).stdout)["manifest"]
    joined = json.loads(cli(*flags, "--label-map", "dfew", cwd=tmp_path).stdout)["manifest"]
    assert (own["label_map"], joined["label_map"]) == ("fer2013", "dfew")
    assert own["counts"]["fold1_train"] == {name: joined["counts"]["fold1_train"][name] for name in own["label_names"]}


def test_several_that_recognise_the_folder_are_named(cli, tiny_images, release_plugin, tmp_path) -> None:
    release_plugin("mine", "return True")
    release_plugin("yours", "return True")
    result = cli("prepare", "--data-root", tiny_images().root, cwd=tmp_path)
    assert result.exit_code == 1
    assert "mine, yours" in result.stderr
    assert "--dataset" in result.stderr


def test_a_broken_plugin_is_a_warning_and_no_more(
    cli, tiny_images, release_plugin, fake_distribution, tmp_path
) -> None:
    release_plugin("crash", "raise KeyError('layout')")
    fake_distribution("gone-plug", {"datasets": {"gone": "no_such_module:Release"}})
    result = cli("prepare", "--data-root", tiny_images().root, cwd=tmp_path)
    assert result.exit_code == 0
    assert "'crash' was not asked" in result.stderr
    assert "'gone' was not asked" in result.stderr
    asked = cli("prepare", "--data-root", tiny_images().root, "--dataset", "gone", cwd=tmp_path)
    assert asked.exit_code == 1
    assert "no_such_module" in asked.stderr


def test_a_folder_that_nothing_recognises_says_what_was_looked_for(cli, tmp_path) -> None:
    result = cli("prepare", "--data-root", tmp_path)
    assert result.exit_code == 1
    assert "afew" in result.stderr
    assert "demo" in result.stderr
    assert "path_files, class_folders" in result.stderr
    assert "train, val and test" in result.stderr


def test_a_missing_data_root_is_not_made_for_a_data_set_that_only_reads(cli, tmp_path) -> None:
    for flags in ((), ("--dataset", "path_files")):
        result = cli("prepare", "--data-root", tmp_path / "gone", *flags)
        assert result.exit_code == 1
        assert str(tmp_path / "gone") in result.stderr
        assert not (tmp_path / "gone").exists()


def test_a_folder_that_cannot_be_written_to_is_an_error(cli, tiny_images, tmp_path) -> None:
    (tmp_path / "file").touch()
    result = cli("prepare", "--data-root", tiny_images().root, "--out", tmp_path / "file")
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


# --- path files from elsewhere --------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tiny_clips: Callable, tmp_path: Path) -> tuple[Path, Path, Path]:
    """The data root, and a training and a test list as made on two other machines."""
    data = tiny_clips()
    train = tmp_path / "lists" / "Videos_train.txt"
    test = tmp_path / "lists" / "Videos_test.txt"
    train.parent.mkdir()
    windows = data.train.read_text().replace("clips/", "D:\\DFEW\\clips\\").replace("\n", "\r\n")
    train.write_bytes(windows.encode("utf-8-sig"))
    test.write_text(data.test.read_text().replace("clips/", "/home/x/my data/clips/"))
    return data.root, train, test


def test_lists_are_re_rooted_to_new_files_and_the_originals_stay(cli, foreign, tmp_path) -> None:
    root, train, test = foreign
    before = train.read_bytes(), test.read_bytes()
    result = cli("prepare", "--data-root", root, train, test, "--label-map", "dfew", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [str(train), "9", "9", "annotation/Videos_train.txt", "D:\\DFEW\\", "->", f"{root}/"] in lines
    assert (train.read_bytes(), test.read_bytes()) == before
    new = tmp_path / "annotation" / "Videos_test.txt"
    assert len(load_samples([new], modality="video", root=None, label_map=dfew, reporter=Reporter())) == 9
    manifest = manifest_at(tmp_path / "annotation" / "Videos.json")
    assert manifest["files"] == {"train": "Videos_train.txt", "test": "Videos_test.txt"}
    assert manifest["label_map"] == "dfew"


def test_rows_that_do_not_resolve_are_kept_reported_and_make_the_exit_code_1(cli, foreign, tmp_path) -> None:
    root, train, _ = foreign
    train.write_bytes(train.read_bytes() + b"D:\\DFEW\\clips\\lost 16 2\r\n")
    result = cli("prepare", "--data-root", root, train, cwd=tmp_path)
    assert result.exit_code == 1
    assert f"{train}:10: D:\\DFEW\\clips\\lost: not found" in result.stderr
    new = tmp_path / "annotation" / "Videos_train.txt"
    assert new.read_text().splitlines()[9] == "D:\\DFEW\\clips\\lost 16 2"
    skipped = cli("prepare", "--data-root", root, train, "--skip-bad", cwd=tmp_path)
    assert skipped.exit_code == 0
    assert len(new.read_text().splitlines()) == 9
    assert "lost" in (tmp_path / "annotation" / "Videos_train_rejects.csv").read_text()


def test_a_data_root_that_holds_none_of_the_rows_is_an_error_and_nothing_is_written(cli, foreign, tmp_path) -> None:
    _, train, _ = foreign
    (tmp_path / "empty").mkdir()
    result = cli("prepare", "--data-root", tmp_path / "empty", train, cwd=tmp_path)
    assert result.exit_code == 1
    assert "none of the 9 rows" in result.stderr
    assert not (tmp_path / "annotation").exists()


def test_the_input_and_files_of_others_are_never_overwritten(cli, foreign, tmp_path) -> None:
    root, train, test = foreign
    out = tmp_path / "annotation"
    out.mkdir()
    (out / "Videos_test.txt").write_text("by hand")
    own = out / train.name
    train.rename(own)
    before = own.read_bytes()
    for _ in range(2):
        result = cli("prepare", "--data-root", root, own, test, cwd=tmp_path)
        assert result.exit_code == 0, result.stderr
        assert own.read_bytes() == before
        assert (out / "Videos_test.txt").read_text() == "by hand"
    written = {"Videos_train_rerooted.txt", "Videos_test_rerooted.txt"}
    assert {path.name for path in out.iterdir()} == {own.name, "Videos_test.txt", "Videos.json", *written}


def test_a_data_set_does_not_overwrite_files_of_others_either(cli, tiny_images, tmp_path) -> None:
    (tmp_path / "tiny_images_train.csv").write_text("by hand")
    result = cli("prepare", "--data-root", tiny_images().root, "--out", tmp_path)
    assert result.exit_code == 1
    assert "tiny_images_train.csv" in result.stderr
    assert (tmp_path / "tiny_images_train.csv").read_text() == "by hand"


def test_files_with_one_name_or_of_both_kinds_are_refused(cli, foreign, tiny_images, tmp_path) -> None:
    root, train, _ = foreign
    (tmp_path / "fold2").mkdir()
    again = tmp_path / "fold2" / train.name
    again.write_bytes(train.read_bytes())
    assert "called Videos_train.txt" in cli("prepare", "--data-root", root, train, again, cwd=tmp_path).stderr
    assert "one kind" in cli("prepare", "--data-root", root, train, tiny_images().train, cwd=tmp_path).stderr


def test_a_label_outside_the_map_of_a_re_rooted_list_is_an_error(cli, foreign, tmp_path) -> None:
    root, train, _ = foreign
    train.write_bytes(train.read_bytes().replace(b"12 2", b"12 8"))
    result = cli("prepare", "--data-root", root, train, "--label-map", "dfew", cwd=tmp_path)
    assert result.exit_code == 1
    assert "3 labels are outside label map 'dfew'" in result.stderr


def test_class_names_of_a_re_rooted_list_stay_names_and_tell_their_map(cli, foreign, tmp_path) -> None:
    root, train, _ = foreign
    train.write_text(train.read_text(encoding="utf-8-sig").replace("12 0", "12 Happy").replace("12 1", "12 sad"))
    train.write_text(train.read_text().replace("12 2", "12 fear"))
    result = cli("prepare", "--data-root", root, train, "--json", cwd=tmp_path)
    manifest = json.loads(result.stdout)["manifest"]
    assert manifest["label_map"] == "dfew"
    assert manifest["counts"]["train"]["fear"] == 3
    assert "12 Happy" in (tmp_path / "annotation" / "Videos_train.txt").read_text()


# --- manifests ------------------------------------------------------------------------------------------------------


def test_the_manifest_written_last_and_the_one_of_a_path_file_are_found(cli, tiny_images, tiny_clips, tmp_path) -> None:
    out = tmp_path / "annotation"
    assert latest_manifest(out) is None
    cli("prepare", "--data-root", tiny_images().root, "--label-map", "dfew", cwd=tmp_path)
    cli("prepare", "--data-root", tiny_clips().root, cwd=tmp_path)
    (out / "other.json").write_text('{"name": "of another program"}')
    (out / "broken.json").write_text("{")
    latest = latest_manifest(out)
    assert latest is not None
    assert latest["name"] == "tiny_clips"
    assert latest["files"]["test"] == str(out / "tiny_clips_test.txt")
    of_images = read_manifest_for(out / "tiny_images_test.csv")
    assert of_images is not None
    assert of_images["label_map"] == "dfew"
    assert read_manifest_for(out / "unknown.csv") is None
    for path in out.glob("tiny_clips_*.txt"):
        path.unlink()
    latest = latest_manifest(out)
    assert latest is not None
    assert latest["name"] == "tiny_images", "a manifest whose files are gone does not count"


def test_re_rooting_one_list_after_the_other_keeps_both_in_the_manifest(cli, foreign, tmp_path) -> None:
    root, train, test = foreign
    cli("prepare", "--data-root", root, train, "--label-map", "dfew", cwd=tmp_path)
    cli("prepare", "--data-root", root, test, "--label-map", "dfew", cwd=tmp_path)
    manifest = manifest_at(tmp_path / "annotation" / "Videos.json")
    assert manifest["files"] == {"train": "Videos_train.txt", "test": "Videos_test.txt"}
    assert manifest["samples"] == {"train": 9, "test": 9}


def test_a_manifest_is_not_replaced_while_it_alone_knows_the_labels_of_other_files(cli, foreign, tmp_path) -> None:
    root, train, test = foreign
    cli("prepare", "--data-root", root, train, "--label-map", "dfew", cwd=tmp_path)
    result = cli("prepare", "--data-root", root, test, "--label-map", "fer2013", cwd=tmp_path)
    assert result.exit_code == 1
    assert "--name" in result.stderr
    assert not (tmp_path / "annotation" / "Videos_test.txt").exists()
    corrected = cli("prepare", "--data-root", root, train, "--label-map", "fer2013", cwd=tmp_path)
    assert corrected.exit_code == 0, "the same file with another map is a correction"


def test_wrong_usage_is_exit_code_2(cli, tmp_path) -> None:
    assert cli("prepare").exit_code == 2
    assert cli("prepare", "--data-root", tmp_path, "--dataset", "demo", "list.csv").exit_code == 2


# --- data at hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label_map", "samples"),
    [
        ("fer2013", "fer2013", {"train": 28114, "val": 3543}),
        ("ictfaces", "dfew", {"train": 700, "test": 200}),
        ("muxspace", "muxspace", {"train": 958, "test": 411}),
    ],
)
def test_real_data_is_prepared_to_its_published_counts(cli, real_data, tmp_path, name, label_map, samples) -> None:
    flags = ("prepare", "--data-root", real_data(name), "--label-map", label_map, "--json")
    result = cli(*flags, cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["manifest"]["samples"] == samples


def test_a_data_root_may_be_relative_to_the_current_folder(cli, tiny_images, tmp_path):
    data = tiny_images(classes=2, per_class=1)
    result = cli("prepare", "--data-root", data.root.relative_to(tmp_path), "--label-map", "dfew", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    lines = (tmp_path / "annotation" / f"{data.root.name}_train.csv").read_text(encoding="utf-8").splitlines()
    assert all(Path(line.split(",")[0]).is_file() for line in lines[1:])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data-root", ".", "--size", "96"], "--size: not for a run without --faces"),
        (["--data-root", ".", "--check-faces", "3"], "--check-faces: not for a run without --check"),
        (["--data-root", ".", "--pack-codec", "png"], "--pack-codec: not for a run without --pack"),
        (["--data-root", ".", "--workers", "2"], "--workers: not for a run without --faces or --pack"),
        (["--check", "a.csv", "--name", "b"], "--name: not for --check without --data-root"),
        (["--pack", "64", "--skip-bad"], "--skip-bad: not for --pack without --data-root"),
    ],
)
def test_options_that_would_do_nothing_are_refused(cli, tmp_path, words, told) -> None:
    result = cli("prepare", *words, cwd=tmp_path)
    assert result.exit_code == 1
    assert told in result.stderr
    assert not list(tmp_path.iterdir())


def test_lists_with_classes_of_their_own_are_rerooted(tiny_images, cli, tmp_path: Path) -> None:
    """Their manifest has a list of names in place of a label map's name."""
    data = tiny_images(classes=2)
    for name, label in (("bored", "happy"), ("excited", "sad")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for image in (data.root / "images").glob(f"*_{label}_*.jpg"):
            image.rename(tmp_path / "own" / name / image.name)
    made = cli("prepare", "--data-root", "own", "--dataset", "class_folders", "--out", "a", cwd=tmp_path)
    assert made.exit_code == 0, made.stderr
    assert "--set 'label_map=[bored, excited]'" in made.stdout + made.stderr
    lists = sorted((tmp_path / "a").glob("*.csv"))
    (tmp_path / "own").rename(tmp_path / "moved")
    result = cli("prepare", "--data-root", "moved", *lists, "--out", "b", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    (manifest,) = (tmp_path / "b").glob("*.json")
    assert json.loads(manifest.read_text())["label_map"] == ["bored", "excited"]
