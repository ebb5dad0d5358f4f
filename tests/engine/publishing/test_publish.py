"""Publishing a model: calibrated weights that predict the same, and a card with what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ecstfl_cli.api import FaceCrop, InputSpec, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.inference.infer import infer
from ecstfl_cli.engine.publishing.publish import publish
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import load_native, save_checkpoint
from ecstfl_cli.engine.weights.model_source import open_model
from ecstfl_cli.errors import CheckpointError, DataError, EcstflError
from ecstfl_cli.labels import LabelMap

LABELS = LabelMap("three", ("happy", "sad", "neutral"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    spec = ModelSpec("grid_cnn", 3)
    network = build_model(spec, "img")
    with torch.no_grad():
        network.head.weight *= 2000  # far too sure of itself
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, model=spec, input=InputSpec("img", 24), labels=LABELS, metrics={"epoch": 7})
    return path


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "about.yaml"
    about = {key: f"my {key}" for key in ("name", "summary", "data", "licence", "use")}
    path.write_text(yaml.safe_dump({**about, "limits": ["it is random"]}), encoding="utf-8")
    return path


def test_a_published_model_predicts_the_same_with_probabilities_that_are_nearer_the_truth(
    model: Path, card: Path, tiny_images: Callable, tmp_path: Path
) -> None:
    data = tiny_images(classes=3, per_class=8)
    out = tmp_path / "out" / "mine.safetensors"
    crop = FaceCrop(align="eyes", margin=0.3)
    done = publish(model, [data.test], card=card, out=out, face_crop=crop, device="cpu", reporter=Reporter())
    before, after = (
        infer([data.test], model=path, device="cpu", out=tmp_path / path.stem, reporter=Reporter()).predictions
        for path in (model, out)
    )
    assert (before.predicted == after.predicted).all()
    assert done.calibration["temperature"] > 1
    assert after.probs.max(axis=1).mean() < before.probs.max(axis=1).mean()
    expected = before.probs.astype(np.float64) ** (1 / done.calibration["temperature"])
    assert after.probs == pytest.approx(expected / expected.sum(axis=1, keepdims=True), abs=2e-3)
    written = load_native(out)
    assert written.card["name"] == "my name"
    assert written.input.face_crop == replace(crop, size=24), "cut at the model's size"
    assert written.metrics["published"]["war"] == pytest.approx(done.metrics.war)


def test_a_bias_of_each_class_is_folded_in_and_the_card_says_what_it_did(
    model: Path, card: Path, tiny_images: Callable, tmp_path: Path
) -> None:
    data = tiny_images(classes=3, per_class=8)
    checkpoint = load_native(model)
    spoilt = tmp_path / "spoilt.safetensors"
    # Small weights, so that there is something to gain, and a class that is never named.
    state = {**checkpoint.state, "head.weight": checkpoint.state["head.weight"] / 2000}
    state["head.bias"] = state["head.bias"] + torch.tensor([-9.0, 0, 0])
    save_checkpoint(spoilt, state, model=checkpoint.model, input=checkpoint.input, labels=LABELS)
    out = tmp_path / "mine.safetensors"
    # The list itself, for want of a model that tells anything of another one.
    done = publish(spoilt, [data.test], card=card, out=out, bias_files=[data.test], device="cpu", reporter=Reporter())
    before, after = (
        infer([data.test], model=path, device="cpu", out=tmp_path / path.stem, reporter=Reporter()).predictions
        for path in (spoilt, out)
    )
    biased = before.probs * np.exp(done.bias["values"])
    assert (after.predicted == biased.argmax(axis=1)).all()
    expected = biased ** (1 / done.calibration["temperature"])
    assert after.probs == pytest.approx(expected / expected.sum(axis=1, keepdims=True), abs=2e-3)
    assert done.metrics.war == pytest.approx(after.metrics().war)
    assert done.bias["war_before"] == pytest.approx(before.metrics().war)
    assert done.bias["values"][0] > 5
    assert (before.predicted != 0).all()
    assert f"Without it: WAR {done.bias['war_before']:.2f}" in done.card.read_text(encoding="utf-8")
    assert load_native(out).metrics["published"]["bias"]["samples"] == len(before.target)


def test_a_label_map_is_for_the_lists_that_need_it(
    model: Path, card: Path, tiny_images: Callable, tmp_path: Path
) -> None:
    """The bias is fitted on lists that `prepare` wrote, the probabilities on one of another order that it did not."""
    data = tiny_images(classes=3, per_class=4)
    other = LabelMap("other", ("neutral", "sad", "happy"))
    listed = {key: replace_labels(getattr(data, key), order) for key, order in (("train", "012"), ("test", "210"))}
    about = {"format": "ecstfl-annotation/1", "name": "known", "label_map": list(LABELS.names), "written_at": "0"}
    (data.root / "known.json").write_text(json.dumps({**about, "files": {"train": data.train.name}}))
    out = tmp_path / "mine.safetensors"
    done = publish(
        model, [listed["test"]], card=card, out=out, bias_files=[listed["train"]], label_map=other, device="cpu",
        reporter=Reporter(),
    )  # fmt: skip
    same = infer([listed["test"]], model=out, label_map=other, device="cpu", out=tmp_path / "o", reporter=Reporter())
    assert done.metrics.war == pytest.approx(same.metrics.war)
    assert done.bias is not None


def replace_labels(listed: Path, order: str) -> Path:
    """A path file whose label i is the i-th of `order` from now on."""
    header, *rows = listed.read_text().splitlines()
    lines = [f"{path},{order[int(label)]}" for path, label in (row.rsplit(",", 1) for row in rows)]
    listed.write_text("\n".join([header, *lines]) + "\n")
    return listed


def test_a_model_of_grey_pictures_sees_the_brightness_of_colours(
    model: Path, card: Path, tiny_images: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "mine.safetensors"
    publish(model, [tiny_images().test], card=card, out=out, grey=True, device="cpu", reporter=Reporter())
    colour = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    luma = np.round(colour @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    grey = np.repeat(luma[..., None], 3, axis=3)
    before, after = (open_model(path, device="cpu", reporter=Reporter()) for path in (model, out))
    with torch.inference_mode():
        old, new, seen = (
            net.logits(torch.from_numpy(frames)).softmax(dim=1)
            for net, frames in ((before, grey), (after, grey), (after, colour))
        )
    temperature = load_native(out).metrics["published"]["calibration"]["temperature"]
    scaled = old ** (1 / temperature)
    assert new.numpy() == pytest.approx((scaled / scaled.sum(dim=1, keepdim=True)).numpy(), abs=1e-3)
    assert seen.numpy() == pytest.approx(new.numpy(), abs=0.1), "but for the rounding of grey levels"


def test_half_the_size_holds_what_was_measured(model: Path, card: Path, tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=8)
    out = tmp_path / "half.safetensors"
    done = publish(model, [data.test], card=card, out=out, half=True, device="cpu", reporter=Reporter())
    before, after = load_native(model).state, load_native(out).state
    halved = {key for key, tensor in after.items() if tensor.dtype == torch.float16}
    assert halved == {key for key, tensor in before.items() if tensor.ndim >= 2 and not key.startswith("head.")}
    for key in halved:
        assert torch.equal(after[key], before[key].half())
    assert "stored in fp16" in done.card.read_text(encoding="utf-8")
    found = infer([data.test], model=out, device="cpu", out=tmp_path / "found", reporter=Reporter()).predictions
    assert found.metrics().war == pytest.approx(done.metrics.war)
    network = open_model(out, device="cpu", reporter=Reporter())
    assert network.logits(torch.zeros((1, 24, 24, 3), dtype=torch.uint8)).dtype == torch.float32


def test_weights_too_large_for_half_are_told(model: Path, card: Path, tiny_images: Callable, tmp_path: Path) -> None:
    checkpoint = load_native(model)
    key = next(key for key, tensor in checkpoint.state.items() if tensor.ndim == 4)
    checkpoint.state[key][0] = 1e6
    save_checkpoint(model, checkpoint.state, model=checkpoint.model, input=checkpoint.input, labels=checkpoint.labels)
    with pytest.raises(CheckpointError, match=rf"too large for fp16: {key}"):
        publish(model, [tiny_images().test], card=card, out=tmp_path / "x.safetensors", half=True, reporter=Reporter())


@pytest.mark.pictures
def test_the_card_says_what_was_measured(model: Path, card: Path, tiny_images: Callable, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    done = publish(model, [tiny_images().test], card=card, out=out, device="cpu", reporter=Reporter())
    text = done.card.read_text(encoding="utf-8")
    assert done.card == tmp_path / "mine.md"
    assert f"WAR **{done.metrics.war:.2f}**" in text
    assert "my licence" in text
    assert "- it is random" in text
    for picture in done.pictures:
        with Image.open(picture) as opened:
            assert opened.width > 500
        assert f"({picture.name})" in text
    assert [picture.name for picture in done.pictures] == ["mine_confusion.png", "mine_calibration.png"]


def test_no_folder_of_this_machine_is_published(model: Path, card: Path, tiny_images: Callable, tmp_path: Path) -> None:
    checkpoint = load_native(model)
    recipe = {
        "model": {"checkpoint": "/home/me/runs/a/best.safetensors"},
        "data": {"teachers": ["/home/me/teacher/predictions.csv", "teacher_2/predictions.csv"]},
        "distillation": {"teacher": ["/home/me/teacher.safetensors", "other"], "weight": 0.9, "size": None},
        "output": "/home/me/runs",
    }
    save_checkpoint(
        model, checkpoint.state, model=checkpoint.model, input=checkpoint.input, labels=LABELS, recipe=recipe
    )
    out = tmp_path / "mine.safetensors"
    publish(model, [tiny_images().test], card=card, out=out, device="cpu", reporter=Reporter())
    assert load_native(out).recipe == {
        "model": {"checkpoint": "best.safetensors"},
        "data": {"teachers": ["teacher/predictions.csv", "teacher_2/predictions.csv"]},
        "distillation": {"teacher": ["teacher.safetensors", "other"], "weight": 0.9, "size": None},
        "output": "runs",
    }
    assert "/home/me" not in out.with_suffix(".md").read_text(encoding="utf-8")


def test_a_card_with_missing_and_unknown_keys_is_refused_before_anything_is_written(
    model: Path, tiny_images: Callable, tmp_path: Path
) -> None:
    card = tmp_path / "about.yaml"
    card.write_text("name: x\nsumary: y\n", encoding="utf-8")
    with pytest.raises(EcstflError, match=r"sumary.*|licence.*"):
        publish(model, [tiny_images().test], card=card, out=tmp_path / "mine.safetensors", reporter=Reporter())
    assert not (tmp_path / "mine.safetensors").exists()


def test_samples_without_labels_cannot_calibrate(
    model: Path, card: Path, tiny_images: Callable, tmp_path: Path
) -> None:
    data = tiny_images()
    lines = data.test.read_text(encoding="utf-8").splitlines()
    data.test.write_text("\n".join([*lines[:-1], lines[-1].rsplit(",", 1)[0] + ",-1"]), encoding="utf-8")
    with pytest.raises(DataError, match="no label"):
        publish(model, [data.test], card=card, out=tmp_path / "mine.safetensors", device="cpu", reporter=Reporter())


def test_the_command_publishes(model: Path, card: Path, tiny_images: Callable, tmp_path: Path, cli: Callable) -> None:
    out = tmp_path / "mine.safetensors"
    args = ("checkpoints", "publish", model, tiny_images().test, "--card", card, "--out", out)
    done = cli(*args, "--face-align", "box", "--face-margin", "0.2")
    assert done.exit_code == 0, done.stderr
    assert "temperature" in done.stdout
    assert load_native(out).input.face_crop == FaceCrop(align="box", margin=0.2, size=24)
    assert "cut out by centerface, box, margin 0.2" in cli("checkpoints", "show", out).stdout
    assert cli(*args, "--face-align", "nose").exit_code == 2
