import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, recall_score

from ecstfl_cli.engine.inference.infer import InferResult
from ecstfl_cli.engine.inference.recogniser import Recogniser
from ecstfl_cli.engine.preparation.prepare import prepare_dataset
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import load_native, save_checkpoint
from ecstfl_cli.errors import CheckpointError, DataError, EcstflError, LabelMapError
from ecstfl_cli.labels import label_map_from
from tests.small_model import quick_infer, save_small_model

DFEW = label_map_from("dfew")


@pytest.fixture
def clip_model(tmp_path) -> Path:
    return save_small_model(tmp_path / "clips.safetensors")


@pytest.fixture
def still_model(tmp_path) -> Path:
    return save_small_model(tmp_path / "stills.safetensors", "img")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(*inputs, **options)` infers in `tmp_path`, without worker processes, on the CPU."""
    monkeypatch.chdir(tmp_path)
    return quick_infer


def names(result: InferResult) -> list[str]:
    return result.predictions.clip_ids


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.pictures
def test_a_path_file_gives_predictions_and_metrics_that_agree(run, tiny_clips, clip_model):
    data = tiny_clips(classes=4, per_class=3)
    result = run(data.test, model=clip_model, label_map=DFEW)
    table = pd.read_csv(result.out / "predictions.csv")
    assert table["path"].tolist() == [line.rsplit(" ", 2)[0] for line in data.test.read_text().splitlines()]
    assert table["label"].tolist() == [label for label in range(4) for _ in range(3)]
    probs = table[[f"prob_{name}" for name in DFEW.names]].to_numpy()
    assert probs.argmax(axis=1).tolist() == table["predicted"].tolist()
    assert [DFEW.names[i] for i in table["predicted"]] == table["predicted_name"].tolist()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    metrics = json.loads((result.out / "metrics.json").read_text())
    assert metrics["war"] == pytest.approx(100 * accuracy_score(table["label"], table["predicted"]))
    recalls = recall_score(table["label"], table["predicted"], labels=range(4), average="macro", zero_division=0)
    assert metrics["uar"] == pytest.approx(100 * recalls)
    assert np.array(metrics["confusion"]).sum() == 12
    assert metrics["per_class"]["fear"]["recall"] is None
    with Image.open(result.out / "confusion.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 500


def test_without_labels_there_are_predictions_only(run, tiny_clips, clip_model):
    data = tiny_clips()
    (data.root / "unknown.txt").write_text("".join(f"{p}\n" for p in sorted(data.root.glob("clips/test*"))))
    result = run(data.root / "unknown.txt", model=clip_model, formats=["csv", "json", "parquet"])
    assert result.metrics is None
    assert [path.name for path in result.files] == ["predictions.csv", "predictions.json", "predictions.parquet"]
    assert "metrics" not in result.to_dict()
    assert pd.read_parquet(result.out / "predictions.parquet")["label"].isna().all()


def test_rows_without_a_label_are_predicted_but_not_scored(run, tiny_images, still_model):
    data = tiny_images(classes=3, per_class=2)
    lines = data.test.read_text().splitlines()
    data.test.write_text("\n".join([*lines[:-1], lines[-1].replace(",2", ",")]) + "\n")
    result = run(data.test, model=still_model)
    assert len(names(result)) == 6
    assert result.metrics is not None
    assert sum(result.metrics.support) == 5


def test_batch_size_and_workers_do_not_change_the_result(run, tiny_clips, clip_model):
    data = tiny_clips()
    alone = run(data.test, model=clip_model, batch_size=1)
    together = run(data.test, model=clip_model, batch_size=4, workers=2)
    assert names(alone) == names(together)
    np.testing.assert_allclose(alone.predictions.probs, together.predictions.probs, atol=1e-5)
    assert len(set(alone.predictions.probs[:, 0].round(4))) > 3, "the model tells the clips apart"


def test_every_result_has_a_folder_of_its_own(run, tiny_images, still_model):
    listed = tiny_images().test
    folders = {run(listed, model=still_model).out for _ in range(3)}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {Path("runs/infer")}
    run(listed, model=still_model, out=Path("mine"))
    with pytest.raises(EcstflError, match=r"(?s)mine holds an earlier result: .*predictions\.csv.*--out"):
        run(listed, model=still_model, out=Path("mine"))


def test_a_failure_leaves_no_folder(run, still_model):
    with pytest.raises(DataError):
        run("missing.csv", model=still_model, out=Path("out"))
    assert not Path("out").exists()
    assert not Path("runs").exists()


# --- what it takes ---------------------------------------------------------------------------------------------------


def test_several_path_files_keep_their_order(run, tiny_clips, clip_model):
    data = tiny_clips(classes=2, per_class=1)
    result = run(data.train, data.test, model=clip_model)
    expected = [f"clips/{split}_{name}_0" for split in ("train", "test") for name in ("happy", "sad")]
    assert names(result) == expected
    assert result.predictions.target.tolist() == [0, 1, 0, 1]


def test_path_files_that_do_not_fit_the_model_are_listed_with_what_it_takes(run, tiny_images, clip_model, still_model):
    data = tiny_images()
    (data.root / "notes.md").touch()
    (data.root / "folder.txt").mkdir()
    wrong = [data.test, data.root / "notes.md", data.root / "folder.txt", data.root / "tset.csv"]
    with pytest.raises(DataError) as caught:
        run(*wrong, model=clip_model)
    reasons = ("lists images", "is no path file", "is no path file", "Did you mean 'test.csv'")
    for line, path, reason in zip(caught.value.message.splitlines()[1:], wrong, reasons, strict=True):
        assert f"{path}: " in line
        assert reason in line
    assert "The model takes clips: .txt path files" in caught.value.hint
    (data.root / "list.txt").write_text("clips/1 12 0\n")
    with pytest.raises(DataError, match=r"(?s)lists clips.*takes images: \.csv.*ecstfl infer - < LIST"):
        run(data.root / "list.txt", model=still_model)


def test_a_type_that_contradicts_the_model_is_an_error(run, tiny_images, clip_model):
    with pytest.raises(EcstflError, match=r"--type img asks for images, but .* takes clips"):
        run(tiny_images().test, model=clip_model, modality="img")


def test_unreadable_samples_are_reported_together_or_left_out(run, tiny_clips, clip_model):
    data = tiny_clips(classes=3, per_class=1)
    clips = data.root / "clips"
    (clips / "test_happy_0" / "3.jpg").write_bytes(b"")
    (clips / "test_sad_0" / "5.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"(?s)2 of \d.*test_happy_0.*3\.jpg.*test_sad_0.*5\.jpg.*--skip-bad"):
        run(data.test, model=clip_model)
    reporter = Reporter()
    result = run(data.test, model=clip_model, skip_bad=True, reporter=reporter)
    assert names(result) == ["clips/test_neutral_0"]
    assert "2 of" in reporter.warnings[0]
    assert len(pd.read_csv(next(result.out.glob("rejects*.csv")))) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_only_fails_when_decoded_is_reported_like_the_others(run, tmp_path, still_model, workers):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    for i in (1, 4):
        content = bytearray((folder / f"{i}.png").read_bytes())
        content[2000:2100] = bytes(100)
        (folder / f"{i}.png").write_bytes(content)
    listed = tmp_path / "list.csv"
    listed.write_text("path\n" + "".join(f"images/{i}.png\n" for i in range(6)))
    options = {"model": still_model, "workers": workers, "batch_size": 2}
    with pytest.raises(DataError) as caught:
        run(listed, **options)
    assert len(caught.value.message.splitlines()) == 3
    assert "1.png" in caught.value.message
    assert "4.png" in caught.value.message
    assert names(run(listed, skip_bad=True, **options)) == [f"images/{i}.png" for i in (0, 2, 3, 5)]


# --- labels ----------------------------------------------------------------------------------------------------------


def spoilt(model: Path, factor: float) -> Path:
    """The model with its classifier's weights times a factor."""
    found = load_native(model)
    state = {k: v * factor if v.ndim == 2 and len(v) == 7 else v for k, v in found.state.items()}
    path = model.with_name("spoilt.safetensors")
    save_checkpoint(path, state, model=found.model, input=found.input, labels=found.labels)
    return path


def test_outputs_that_are_not_numbers_are_no_predictions(run, tiny_images, still_model):
    """Of values too large for the number format, as may be in half precision."""
    data, model = tiny_images(), spoilt(still_model, float("inf"))
    with pytest.raises(CheckpointError, match=r"gives no numbers for 12 of 12 samples, e\.g\. images/test_happy_0"):
        run(data.test, model=model, label_map=DFEW)
    with pytest.raises(CheckpointError, match="gives no numbers"):
        Recogniser(model, device="cpu", faces=False).images(np.zeros((32, 32, 3), np.uint8))


def test_weights_that_are_not_numbers_are_not_opened(run, tiny_images, still_model):
    with pytest.raises(CheckpointError, match=r"holds values that are not numbers, in .*weight"):
        run(tiny_images().test, model=spoilt(still_model, float("nan")), label_map=DFEW)


def test_labels_are_joined_to_the_model_by_name(run, tiny_images, still_model):
    data = tiny_images(classes=3, per_class=1)
    data.test.write_text(data.test.read_text().replace("expression", "label"))
    result = run(data.test, model=still_model, label_map=label_map_from("fer2013"))
    assert [DFEW.names[i] for i in result.predictions.target] == ["angry", "disgust", "fear"]


def test_the_label_map_that_prepare_recorded_is_used(run, tiny_images, still_model, tmp_path):
    data = tiny_images(classes=3, per_class=1)
    options = {"dataset": "path_files", "label_map": "fer2013", "out": tmp_path / "annotation", "reporter": Reporter()}
    prepared = prepare_dataset(data.root, **options)
    reporter = Reporter()
    listed = prepared.path.parent / prepared.manifest["files"]["test"]
    result = run(listed, model=still_model, reporter=reporter)
    assert [DFEW.names[i] for i in result.predictions.target] == ["angry", "disgust", "fear"]
    assert not any("taken to be" in warning for warning in reporter.warnings)


def test_a_label_map_does_not_overrule_the_one_that_prepare_recorded(run, tiny_images, still_model, tmp_path):
    data = tiny_images(classes=3)
    prepare_dataset(data.root, label_map="fer2013", name="known", out=tmp_path / "lists", reporter=Reporter())
    listed = tmp_path / "lists" / "known_test.csv"
    with pytest.raises(LabelMapError, match=r"told in two ways: --label-map and .*known\.json"):
        run(listed, model=still_model, label_map=DFEW)
    # Beside a list that needs it, it is that one's alone.
    both = run(listed, data.test, model=still_model, label_map=DFEW).predictions.target
    assert [DFEW.names[i] for i in both] == ["angry"] * 4 + ["disgust"] * 4 + ["fear"] * 4 + [
        name for name in ("happy", "sad", "neutral") for _ in range(4)
    ]


def test_without_a_label_map_the_models_order_is_assumed_and_said(run, tiny_images, still_model):
    reporter = Reporter()
    result = run(tiny_images(classes=3, per_class=1).test, model=still_model, reporter=reporter)
    assert result.predictions.target.tolist() == [0, 1, 2]
    assert any("taken to be in the model's order: 0 happy, 1 sad" in warning for warning in reporter.warnings)


def test_class_names_need_no_label_map_and_no_warning(run, tiny_images, still_model):
    data = tiny_images(classes=2, per_class=1)
    text = data.test.read_text().replace(",0", ",Happy").replace(",1", ",sadness")
    data.test.write_text(text)
    reporter = Reporter()
    assert run(data.test, model=still_model, reporter=reporter).predictions.target.tolist() == [0, 1]
    assert not any("taken to be" in warning for warning in reporter.warnings)


def test_data_with_a_class_that_the_model_lacks_stops_with_both_lists(run, tiny_images, still_model):
    with pytest.raises(LabelMapError, match=r"(?s)contempt\n.*muxspace +dfew\n +0 angry +0 happy"):
        run(tiny_images().test, model=still_model, label_map=label_map_from("muxspace"))


# --- nothing named --------------------------------------------------------------------------------------------------


def test_without_inputs_the_test_list_that_prepare_wrote_last_is_taken(run, tiny_clips, clip_model, tmp_path):
    data = tiny_clips(classes=2, per_class=2)
    prepare_dataset(
        data.root, dataset="path_files", label_map="dfew", name="mine", out=tmp_path / "annotation", reporter=Reporter()
    )
    reporter = Reporter()
    result = run(model=clip_model, reporter=reporter)
    assert result.inputs == ["annotation/mine_test.txt"]
    assert len(names(result)) == 4
    assert any("the test split of mine" in note and "none was named" in note for note in reporter.notes)


def test_without_inputs_or_prepared_lists_the_reference_lists_are_taken_or_it_says_what_to_do(
    run, tiny_images, still_model, tmp_path
):
    with pytest.raises(DataError, match=r"(?s)annotation_infer/Imgs_test\.csv.*ecstfl prepare --data-root"):
        run(model=still_model)
    data = tiny_images(classes=2, per_class=1)
    for folder in ("annotation", "annotation_infer"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "Imgs_test.csv").write_text(data.test.read_text())
        result = run(model=still_model, data_root=data.root)
        assert result.inputs == [f"{folder}/Imgs_test.csv"]
        assert len(names(result)) == 2


def test_a_prepared_list_of_the_other_kind_is_not_taken(run, tiny_images, clip_model, tmp_path):
    data = tiny_images(classes=2, per_class=1)
    prepare_dataset(
        data.root, dataset="path_files", label_map="dfew", name="mine", out=tmp_path / "annotation", reporter=Reporter()
    )
    with pytest.raises(DataError, match="mine, lists images, the model takes clips"):
        run(model=clip_model)
