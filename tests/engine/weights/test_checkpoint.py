"""Native checkpoints: written and read exactly, found by name, and fitted to networks by class name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ecstfl_cli.api import FrameSampling, InputSpec, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import Checkpoint, load_native, save_checkpoint
from ecstfl_cli.engine.weights.fitting import build_network, initialise
from ecstfl_cli.engine.weights.opening import open_checkpoint
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap

LABELS = LabelMap("three", ("happy", "sad", "angry"), {"calm": "sad"})
SPEC = ModelSpec("timm/mobilenetv3_small_050", 3)
IMAGES = InputSpec("img", 32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
HEAD = "head.weight"


def _network(spec: ModelSpec = SPEC, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build_model(spec, "img").eval()


def _saved(path: Path, network: nn.Module, **changes: Any) -> Path:
    arguments: dict[str, Any] = {"model": SPEC, "input": IMAGES, "labels": LABELS, **changes}
    save_checkpoint(path, network, **arguments)
    return path


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = _saved(tmp_path / "a.safetensors", _network())
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def _open(name: str | Path, **options: Any) -> Checkpoint:
    return open_checkpoint(name, reporter=Reporter(), **options)


# --- native files ----------------------------------------------------------------------------------------------------


def test_everything_needed_to_use_the_weights_travels_with_them(tmp_path: Path) -> None:
    network = _network()
    path = _saved(
        tmp_path / "a.safetensors", network, recipe={"name": "r"}, metrics={"war": 50.0}, data={"train": "abc"}
    )
    checkpoint = load_native(path)
    assert (checkpoint.model, checkpoint.input, checkpoint.labels) == (SPEC, IMAGES, LABELS)
    assert (checkpoint.recipe, checkpoint.metrics, checkpoint.data) == ({"name": "r"}, {"war": 50.0}, {"train": "abc"})
    assert {"ecstfl", "torch", "torchvision", "timm", "python"} <= checkpoint.versions.keys()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(build_network(checkpoint)(images), network(images))
    assert not build_network(checkpoint).training


def test_a_clip_model_with_temporal_head_comes_back(tmp_path: Path) -> None:
    spec = replace(SPEC, temporal_head="gru", temporal_args={"hidden": 8})
    clips = InputSpec("video", 32, FrameSampling("uniform", frames=4))
    network = build_model(spec, "video").eval()
    checkpoint = load_native(_saved(tmp_path / "a.safetensors", network, model=spec, input=clips))
    x = torch.rand(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(build_network(checkpoint)(x), network(x))
    assert checkpoint.input == clips


class _Awkward(nn.Module):
    """Weights that the file format does not take as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        self.one = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.one.weight
        self.register_buffer("view", torch.arange(10.0)[2:5])


def test_shared_strided_and_viewed_weights_are_saved_as_they_are(tmp_path: Path) -> None:
    network = _Awkward()
    state = load_native(_saved(tmp_path / "a.safetensors", network)).state
    assert state.keys() == network.state_dict().keys()
    for key, tensor in network.state_dict().items():
        assert torch.equal(state[key], tensor)
        assert state[key].is_contiguous()


def test_a_saved_network_is_not_fetched_again_when_it_is_built(tmp_path: Path) -> None:
    spec = replace(SPEC, args={"pretrained": True, "drop_rate": 0.1})
    checkpoint = load_native(_saved(tmp_path / "a.safetensors", _network(), model=spec))
    assert checkpoint.model.args == {"drop_rate": 0.1}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.safetensors", _network())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        _saved(path, _network(), metrics={"war": object()})
    assert path.read_bytes() == before
    with pytest.raises(CheckpointError, match="cannot write"):
        _saved(path / "b.safetensors", _network())  # A file is no folder.
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert _saved(tmp_path / "new" / "one" / "a.safetensors", _network()).is_file()


def test_class_names_must_be_as_many_as_the_classes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="3 class names for a network of 4"):
        _saved(tmp_path / "a.safetensors", _network(), model=replace(SPEC, num_classes=4))


def _change_metadata(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    with safe_open(path, framework="pt") as file:
        written = json.loads(file.metadata()["ecstfl"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    change(written)
    save_file(state, path, {"ecstfl": json.dumps(written)})


def test_a_newer_format_says_which_version_wrote_it(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.safetensors", _network())
    _change_metadata(path, lambda written: written.update(format_version=2, versions={"ecstfl": "9.9"}))
    with pytest.raises(CheckpointError, match="format 2; this ecstfl reads up to 1") as caught:
        load_native(path)
    assert "ecstfl 9.9: update" in caught.value.hint


def test_damaged_metadata_is_named(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.safetensors", _network())
    _change_metadata(path, lambda written: written.pop("labels"))
    with pytest.raises(CheckpointError, match=r"metadata of .* is damaged"):
        load_native(path)


def test_files_that_are_no_checkpoints_of_ours_are_told_apart(tmp_path: Path) -> None:
    whole = _saved(tmp_path / "a.safetensors", _network()).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"a": torch.ones(1)}, tmp_path / "bare.safetensors")
    torch.save({"a": torch.ones(1)}, tmp_path / "pickle.safetensors")
    (tmp_path / "empty.safetensors").touch()
    for name, said in {
        "cut": "damaged or cut short",
        "bare": "not a checkpoint of ecstfl",
        "pickle": "not a safetensors file",
        "empty": "not a safetensors file",
    }.items():
        with pytest.raises(CheckpointError, match=said):
            load_native(tmp_path / f"{name}.safetensors")


# --- finding ---------------------------------------------------------------------------------------------------------


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    assert _open(_saved(tmp_path / "a.pth", _network())).labels == LABELS


def test_a_name_is_looked_up_in_the_folder(tmp_path: Path) -> None:
    _saved(tmp_path / "mine.safetensors", _network())
    assert _open("mine", folder=tmp_path).source == str(tmp_path / "mine.safetensors")


def test_a_run_folder_gives_its_best_else_its_last(tmp_path: Path) -> None:
    _saved(tmp_path / "last.safetensors", _network(), metrics={"epoch": 2})
    assert _open(tmp_path).metrics == {"epoch": 2}
    _saved(tmp_path / "best.safetensors", _network(), metrics={"epoch": 1})
    assert _open(tmp_path).metrics == {"epoch": 1}


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither best\.safetensors nor last\.safetensors"):
        _open(tmp_path)


def test_an_unknown_name_suggests_near_ones(tmp_path: Path) -> None:
    _saved(tmp_path / "my_model.safetensors", _network())
    with pytest.raises(CheckpointError, match="there is no checkpoint 'my_modle'") as caught:
        _open("my_modle", folder=tmp_path)
    assert "'my_model'" in caught.value.hint
    assert "ecstfl checkpoints" in caught.value.hint


def test_a_known_name_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="r3d_dfew is not on this machine") as caught:
        _open("r3d_dfew", folder=tmp_path)
    assert "ecstfl checkpoints download r3d_dfew" in caught.value.hint
    with pytest.raises(CheckpointError) as caught:
        _open("resnet18_rafdb", folder=tmp_path)
    assert str(tmp_path / "resnet18_rafdb.pth") in caught.value.hint


def test_a_name_that_was_never_released_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="README of the reference release, but its weights were never released"):
        _open("resnet18_mscele1m", folder=tmp_path)


def test_what_is_said_about_a_native_file_must_agree_with_it(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.safetensors", _network())
    with pytest.raises(CheckpointError, match="holds timm/mobilenetv3_small_050, not torchvision/resnet18"):
        _open(path, backbone="torchvision/resnet18")
    with pytest.raises(CheckpointError, match=r"0 happy +0 sad"):
        _open(path, label_map=LabelMap("other", ("sad", "happy", "angry")))
    assert _open(path, backbone=SPEC.backbone, label_map=LABELS).labels == LABELS


# --- into networks ---------------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    checkpoint = load_native(_saved(tmp_path / "a.safetensors", _network()))
    state = checkpoint.state
    state["surplus"] = torch.ones(1)
    del state["net.conv_stem.weight"]
    state[HEAD] = torch.ones(5, 2)
    with pytest.raises(CheckpointError) as caught:
        build_network(checkpoint)
    for line in (
        "missing: net.conv_stem.weight (16, 3, 3, 3)",
        "unexpected: surplus (1,)",
        "another shape: head.weight is (5, 2)",
    ):
        assert line in caught.value.message


def test_finetuning_takes_over_a_head_of_the_same_classes(tmp_path: Path) -> None:
    source, target = _network(seed=1), _network(seed=2)
    checkpoint = load_native(_saved(tmp_path / "a.safetensors", source))
    initialise(target, checkpoint, labels=LABELS, replace_head=False)
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in target.state_dict().items())


def test_a_head_in_another_order_is_reordered_by_name(tmp_path: Path) -> None:
    source, target = _network(seed=1), _network(seed=2)
    checkpoint = load_native(_saved(tmp_path / "a.safetensors", source))
    labels = LabelMap("mine", ("angry", "happy", "sad"))
    notes = initialise(target, checkpoint, labels=labels, replace_head=False)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        theirs, ours = source(images), target(images)
    for name in labels.names:
        assert torch.allclose(ours[:, labels.index(name)], theirs[:, LABELS.index(name)])
    assert any("reordered by class name" in note for note in notes)


def test_a_head_of_other_classes_is_replaced_only_on_request(tmp_path: Path) -> None:
    source, target = _network(seed=1), _network(replace(SPEC, num_classes=2), seed=2)
    checkpoint = load_native(_saved(tmp_path / "a.safetensors", source))
    labels = LabelMap("two", ("happy", "contempt"))
    before = target.state_dict()[HEAD].clone()
    with pytest.raises(
        CheckpointError, match=r"three +two\n +0 happy +0 happy\n +1 sad +1 contempt\n +2 angry"
    ) as caught:
        initialise(target, checkpoint, labels=labels, replace_head=False)
    assert "model.replace_head: true" in caught.value.hint
    notes = initialise(target, checkpoint, labels=labels, replace_head=True)
    assert torch.equal(target.state_dict()[HEAD], before)
    assert torch.equal(target.state_dict()["net.conv_stem.weight"], source.state_dict()["net.conv_stem.weight"])
    assert any("replaced by a fresh one" in note for note in notes)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    checkpoint = load_native(_saved(tmp_path / "a.safetensors", _network()))
    other = build_model(ModelSpec("torchvision/resnet18", 3), "img")
    with pytest.raises(CheckpointError, match=r"timm/mobilenetv3_small_050.* do not fit the network"):
        initialise(other, checkpoint, labels=LABELS, replace_head=True)


def test_an_image_checkpoint_starts_the_frame_backbone_of_a_clip_network(tmp_path: Path) -> None:
    source = _network(seed=1)
    checkpoint = load_native(_saved(tmp_path / "a.safetensors", source))
    target = build_model(replace(SPEC, temporal_head="mean"), "video").eval()
    notes = initialise(target, checkpoint, labels=LABELS, replace_head=False)
    frame = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        features = target.forward_features(frame.unsqueeze(2))
        assert torch.allclose(features, source.forward_features(frame), atol=1e-6)
    assert any("frame backbone" in note for note in notes)


THIRD_PARTY = """
import torch
from torch import nn

class Net(nn.Module):
    modality = "img"
    num_features = 4

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.classes = nn.Parameter(torch.randn(4, num_classes))  # K last, and no module called head

    def forward_features(self, x):
        return self.body(x.mean((2, 3)))

    def forward_head(self, features):
        return features @ self.classes

    def forward(self, x):
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes):
        self.classes = nn.Parameter(torch.randn(4, num_classes))
"""


def test_the_head_of_a_third_party_backbone_is_found_and_reordered(
    tmp_path: Path, fake_distribution: Callable[..., Path]
) -> None:
    fake_distribution("someone", {"backbones": {"odd": "odd_net:Net"}}, {"odd_net.py": THIRD_PARTY})
    spec = ModelSpec("odd", 3)
    source, target = _network(spec, seed=1), _network(spec, seed=2)
    checkpoint = load_native(_saved(tmp_path / "a.safetensors", source, model=spec))
    initialise(target, checkpoint, labels=LabelMap("mine", ("angry", "happy", "sad")), replace_head=False)
    images = torch.rand(2, 3, 8, 8)
    assert torch.allclose(target(images), source(images)[:, [2, 0, 1]])
    small = _network(replace(spec, num_classes=2))
    fresh = small.state_dict()["classes"].clone()
    initialise(small, checkpoint, labels=LabelMap("two", ("happy", "fear")), replace_head=True)
    assert torch.equal(small.state_dict()["classes"], fresh)
    assert torch.equal(small.state_dict()["body.weight"], source.state_dict()["body.weight"])
