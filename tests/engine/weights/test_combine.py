"""Several checkpoints as one: what it says, in whose classes, and what else can be done with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli.api import FaceCrop, FrameSampling
from ecstfl_cli.engine.publishing.publish import publish
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.distillation import open_teacher
from ecstfl_cli.engine.weights.checkpoint import load_native, save_checkpoint
from ecstfl_cli.engine.weights.combine import average, ensemble
from ecstfl_cli.engine.weights.export import export
from ecstfl_cli.engine.weights.model_source import open_model
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap, label_map_from
from tests.small_model import save_small_model
from tests.small_run import small_recipe

DFEW = label_map_from("dfew")
TURNED = LabelMap("turned", tuple(reversed(DFEW.names)))


def logprobs(model: Path, frames: Tensor) -> Tensor:
    with torch.inference_mode():
        return open_model(model, device="cpu", reporter=Reporter()).logits(frames).log_softmax(dim=1)


def frames(size: int, *lengths: int) -> Tensor:
    shape = (3, *lengths, size, size, 3)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def together(models: list[Path], folder: Path) -> Path:
    out = folder / "both.safetensors"
    ensemble(models, out=out, reporter=Reporter())
    return out


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    return [
        save_small_model(tmp_path / "small.safetensors", "img", size=32),
        save_small_model(tmp_path / "large.safetensors", "img", size=64, labels=TURNED, seed=1),
    ]


def test_it_says_the_mean_of_what_the_models_say_each_at_its_size_and_by_class_name(
    members: list[Path], tmp_path: Path
) -> None:
    small, large = members
    out = together(members, tmp_path)
    checkpoint = load_native(out)
    assert checkpoint.labels.names == DFEW.names
    assert checkpoint.input.size == 64
    seen = frames(64)
    shrunk = F.interpolate(seen.permute(0, 3, 1, 2).float(), (32, 32), mode="bilinear", antialias=True)
    theirs = logprobs(small, shrunk.permute(0, 2, 3, 1)), logprobs(large, seen).flip(1)
    found = open_model(out, device="cpu", reporter=Reporter()).logits(seen)
    torch.testing.assert_close(found, (theirs[0] + theirs[1]) / 2, rtol=1e-4, atol=1e-4)


def test_clips_are_resized_frame_by_frame(tmp_path: Path) -> None:
    models = [save_small_model(tmp_path / f"{n}.safetensors", size=size) for n, size in enumerate((32, 48))]
    out = together(models, tmp_path)
    seen = frames(48, 4)
    shrunk = F.interpolate(seen.flatten(0, 1).permute(0, 3, 1, 2).float(), (32, 32), mode="bilinear", antialias=True)
    small = logprobs(models[0], shrunk.permute(0, 2, 3, 1).unflatten(0, (3, 4)))
    expected = (small + logprobs(models[1], seen)) / 2
    torch.testing.assert_close(
        open_model(out, device="cpu", reporter=Reporter()).logits(seen), expected, rtol=1e-4, atol=1e-4
    )


def test_it_is_exported_as_any_other(members: list[Path], tmp_path: Path) -> None:
    out = together(members, tmp_path)
    done = export(out, reporter=Reporter())
    assert done.comparison.same_class == done.comparison.samples
    assert done.comparison.difference < 1e-4


def test_it_is_published_and_teaches_as_any_other(members: list[Path], tiny_images: Callable, tmp_path: Path) -> None:
    about = {key: f"my {key}" for key in ("name", "summary", "data", "licence", "use")}
    card = tmp_path / "about.yaml"
    card.write_text(yaml.safe_dump({**about, "limits": []}), encoding="utf-8")
    out = together(members, tmp_path)
    data = tiny_images()
    published = tmp_path / "published.safetensors"
    done = publish(
        out,
        [data.test],
        card=card,
        out=published,
        bias_files=[data.train],
        device="cpu",
        half=True,
        reporter=Reporter(),
    )
    assert done.card.is_file()
    expected = logprobs(out, frames(64)) + torch.tensor(done.bias["values"])
    found = logprobs(published, frames(64))
    scaled = (expected / done.calibration["temperature"]).log_softmax(dim=1)
    torch.testing.assert_close(found, scaled, rtol=2e-2, atol=2e-2)
    teacher = open_teacher(small_recipe(data, tmp_path, distillation={"teacher": str(published)}), DFEW, Reporter())
    assert teacher is not None
    torch.testing.assert_close(teacher(frames(64)), found.exp())


def test_faces_are_cut_out_as_for_the_first_that_says_how(members: list[Path], tmp_path: Path) -> None:
    last = load_native(members[1])
    crop = FaceCrop(align="box", margin=0.06, size=64)
    save_checkpoint(
        members[1], last.state, model=last.model, input=replace(last.input, face_crop=crop), labels=last.labels
    )
    out = together(members[::-1], tmp_path)
    assert load_native(out).input.face_crop == crop
    assert load_native(out).labels.names == TURNED.names


def test_models_that_cannot_be_averaged_are_refused_with_the_reason(members: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    six = save_small_model(tmp_path / "six.safetensors", "img", labels=LabelMap("six", DFEW.names[:6]))
    clips = save_small_model(tmp_path / "clips.safetensors")
    longer = load_native(clips)
    sampling = FrameSampling(scheme="uniform", frames=8)
    save_checkpoint(
        tmp_path / "longer.safetensors",
        longer.state,
        model=longer.model,
        input=replace(longer.input, sampling=sampling),
        labels=longer.labels,
    )
    for models, message in (
        ([members[0]], "two models at least"),
        ([members[0], six], "they differ in classes"),
        ([members[0], clips], "they differ in modality"),
        ([clips, tmp_path / "longer.safetensors"], "they differ in sampling"),
        ([members[0], tmp_path / "none.safetensors"], "none"),
    ):
        with pytest.raises(CheckpointError, match=message):
            ensemble(models, out=out, reporter=Reporter())
    with pytest.raises(CheckpointError, match=r"does not end in \.safetensors"):
        ensemble(members, out=tmp_path / "out.pth", reporter=Reporter())
    assert not out.exists()


def test_weights_are_averaged_by_their_shares(tmp_path: Path) -> None:
    models = [save_small_model(tmp_path / f"{seed}.safetensors", "img", seed=seed) for seed in range(3)]
    states = [load_native(model).state for model in models]
    out = tmp_path / "mean.safetensors"
    average(models, out=out, reporter=Reporter())
    found = load_native(out)
    for key, tensor in found.state.items():
        expected = states[0][key] if not tensor.is_floating_point() else sum(state[key] for state in states) / 3
        torch.testing.assert_close(tensor, expected)
    assert (found.input, found.labels.names) == (load_native(models[0]).input, DFEW.names)
    average(models, out=out, shares=[2, 1, 1], reporter=Reporter())
    expected = (2 * states[0]["head.weight"] + states[1]["head.weight"] + states[2]["head.weight"]) / 4
    torch.testing.assert_close(load_native(out).state["head.weight"], expected)
    average([models[0], models[0]], out=out, reporter=Reporter())
    torch.testing.assert_close(logprobs(out, frames(32)), logprobs(models[0], frames(32)))


def test_weights_that_cannot_be_averaged_are_refused_with_the_reason(members: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    other = save_small_model(tmp_path / "other.safetensors", "img", backbone="grid_cnn")
    for models, shares, message in (
        ([members[0], other], None, "of another network"),
        (members, None, "other classes than"),
        ([members[0]] * 2, [1.0], "there are 2 models, and the shares are 1"),
        ([members[0]] * 2, [1.0, 0.0], "Give a positive number for each model"),
        ([members[0]], None, "two models at least"),
    ):
        with pytest.raises(CheckpointError) as caught:
            average(models, out=out, shares=shares, reporter=Reporter())
        assert message in str(caught.value)
    assert not out.exists()
