"""Weights of other programs: unwrapped, recognised, and turned into checkpoints."""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from ecstfl_cli.api import FrameSampling, InputSpec
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.fitting import build_network, without_weights
from ecstfl_cli.engine.weights.foreign_checkpoint import foreign_to_checkpoint, read_foreign, recognise_backbone
from ecstfl_cli.engine.weights.opening import open_checkpoint
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap, label_map_from

LETTERS = LabelMap("letters", tuple("abcdefgh"))


class RecorderMeter:
    """What the reference release pickles from its script beside the weights."""

    def __init__(self) -> None:
        self.total_epoch = 200
        self.epoch_losses = np.zeros((200, 2), dtype=np.float32)


def save_like_the_release(path: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference release's dict, trained on a GPU: `RecorderMeter` is of `__main__`, tensors are on `cuda:0`."""
    monkeypatch.setattr(sys.modules["__main__"], "RecorderMeter", RecorderMeter, raising=False)
    monkeypatch.setattr(RecorderMeter, "__module__", "__main__")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    torch.save(
        {
            "epoch": 73,
            "state_dict": network.state_dict(),
            "best_acc": torch.tensor(64.08),
            "optimizer": optimizer.state_dict(),
            "recorder": RecorderMeter(),
        },
        path,
    )
    monkeypatch.undo()
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))


# --- the reference release -------------------------------------------------------------------------------------------


def test_a_released_clip_model_opens_with_its_input_classes_and_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = torchvision.models.video.r3d_18(num_classes=7).eval()
    path = tmp_path / "r3d_ECSTFL_dfew.pth"
    save_like_the_release(path, network, monkeypatch)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=False, pickle_module=_Lenient)
    reporter = Reporter()
    checkpoint = open_checkpoint(path, reporter=reporter)
    assert checkpoint.model.backbone == "torchvision/r3d_18"
    assert checkpoint.model.num_classes == 7
    assert checkpoint.input == InputSpec("video", 112, FrameSampling("segments", 8, 2), "stretch")
    assert checkpoint.labels == label_map_from("dfew")
    assert any("epoch, best_acc, optimizer, recorder" in note for note in checkpoint.notes)
    assert any("not used" in note for note in reporter.notes)
    clip = torch.rand(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.allclose(build_network(checkpoint)(clip), network(clip), atol=1e-6)


class _Lenient:
    """A pickle module for which unknown classes are no hindrance, to show what else would be one."""

    __name__ = "lenient"
    load = staticmethod(pickle.load)

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return RecorderMeter if name == "RecorderMeter" else super().find_class(module, name)


def test_a_released_image_model_is_fed_stills_of_224(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_like_the_release(tmp_path / "resnet18_rafdb.pth", torchvision.models.resnet18(num_classes=7), monkeypatch)
    reporter = Reporter()
    checkpoint = open_checkpoint("resnet18_rafdb", folder=tmp_path, reporter=reporter)
    assert checkpoint.model.backbone == "torchvision/resnet18"
    assert (checkpoint.input.modality, checkpoint.input.size) == ("img", 224)
    assert checkpoint.input.mean == (0, 0, 0)
    assert any("assumed" in note for note in checkpoint.notes)
    assert not reporter.warnings


# --- unwrapping ------------------------------------------------------------------------------------------------------

STATE = OrderedDict({"conv.weight": torch.ones(2, 1), "fc.bias": torch.zeros(2)})


@pytest.mark.parametrize(
    ("saved", "dropped", "prefix"),
    [
        (STATE, [], ""),
        ({"state_dict": STATE, "epoch": 3}, ["epoch"], ""),
        ({"model_state_dict": STATE, "optimizer_state_dict": {}}, ["optimizer_state_dict"], ""),
        ({"net": STATE, "acc": 0.5}, ["acc"], ""),
        ({"model": {"state_dict": STATE}, "args": None}, ["args"], ""),
        ({**STATE, "step": 5}, ["step"], ""),
        ({"state_dict": {f"module.{k}": v for k, v in STATE.items()}}, [], "module."),
        ({f"module.module.{k}": v for k, v in STATE.items()}, [], "module.module."),
        ({f"_orig_mod.{k}": v for k, v in STATE.items()}, [], "_orig_mod."),
        ({f"model.{k}": v for k, v in STATE.items()}, [], "model."),
    ],
    ids=["bare", "state_dict", "model_state_dict", "net", "nested", "a number", "dp", "dp twice", "compiled", "lit"],
)
def test_the_state_dict_is_taken_out_of_its_wrappings(
    tmp_path: Path, saved: Any, dropped: list[str], prefix: str
) -> None:
    torch.save(saved, tmp_path / "a.pth")
    weights = read_foreign(tmp_path / "a.pth")
    assert list(weights.state) == list(STATE)
    assert torch.equal(weights.state["conv.weight"], STATE["conv.weight"])
    assert (weights.dropped, weights.prefix) == (dropped, prefix)


def test_a_prefix_of_some_keys_is_kept(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    assert list(read_foreign(tmp_path / "a.pth").state) == ["module.a", "b"]


def test_a_bare_safetensors_file_is_read_too(tmp_path: Path) -> None:
    save_file(dict(STATE), tmp_path / "a.pth")
    assert set(read_foreign(tmp_path / "a.pth").state) == set(STATE)


@pytest.mark.parametrize("saved", [nn.Linear(2, 2), {"epoch": 3}, [1, 2], {}], ids=["network", "dict", "list", "empty"])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, saved: Any) -> None:
    torch.save(saved, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_foreign(tmp_path / "a.pth")


def test_a_dict_that_wraps_itself_ends(tmp_path: Path) -> None:
    knot: dict[str, Any] = {}
    knot["state_dict"] = knot
    torch.save(knot, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_foreign(tmp_path / "a.pth")


# --- recognising -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes"),
    [("r3d_18", 7), ("r3d_18", 11), ("resnet18", 8), ("mc3_18", 7), ("r2plus1d_18", 7), ("resnet34", 7), ("vgg11", 7)],
)
def test_torchvision_networks_are_recognised_whatever_their_classes(name: str, classes: int) -> None:
    with without_weights():
        network = torchvision.models.get_model(name, weights=None, num_classes=classes)
    assert recognise_backbone(network.state_dict()) == f"torchvision/{name}"


def test_weights_before_batch_counters_are_recognised() -> None:
    state = torchvision.models.resnet18(num_classes=7).state_dict()
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    assert recognise_backbone(old) == "torchvision/resnet18"


def test_unknown_weights_show_their_keys_and_the_way_out(tmp_path: Path) -> None:
    torch.save({"first.weight": torch.ones(3, 2), "last.weight": torch.ones(7, 3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"first\.weight \(3, 2\)") as caught:
        open_checkpoint(tmp_path / "a.pth", reporter=Reporter())
    assert str(tmp_path / "a.pth") in caught.value.message
    assert "--backbone" in caught.value.hint


def test_a_named_backbone_is_tried_and_timm_works(tmp_path: Path) -> None:
    network = timm.create_model("mobilenetv3_small_050", num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "a.pth")
    checkpoint = open_checkpoint(tmp_path / "a.pth", backbone="timm/mobilenetv3_small_050", reporter=Reporter())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(build_network(checkpoint)(image), network(image), atol=1e-5)


def test_a_wrong_named_backbone_lists_what_does_not_fit(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"not those of torchvision/resnet34(.|\n)*missing: .*layer1\.2"
    ) as caught:
        open_checkpoint(tmp_path / "a.pth", backbone="torchvision/resnet34", reporter=Reporter())
    assert "more" in caught.value.message


def test_a_trunk_without_classifier_is_refused(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="without a classifier"):
        open_checkpoint(tmp_path / "a.pth", reporter=Reporter())


# --- class names -----------------------------------------------------------------------------------------------------


def _resnet(path: Path, classes: int) -> Path:
    torch.save(torchvision.models.resnet18(num_classes=classes).state_dict(), path)
    return path


def test_seven_unnamed_classes_are_taken_as_dfew_with_a_warning(tmp_path: Path) -> None:
    reporter = Reporter()
    checkpoint = foreign_to_checkpoint(_resnet(tmp_path / "mine.pth", 7), reporter=reporter)
    assert checkpoint.labels == label_map_from("dfew")
    assert len(reporter.warnings) == 1
    assert "does not name its classes" in reporter.warnings[0]
    assert "--model-label-map" in reporter.warnings[0]


def test_a_label_map_given_is_used_without_warning(tmp_path: Path) -> None:
    reporter = Reporter()
    checkpoint = foreign_to_checkpoint(_resnet(tmp_path / "mine.pth", 8), label_map=LETTERS, reporter=reporter)
    assert checkpoint.labels is LETTERS
    assert not reporter.warnings


def test_other_numbers_of_unnamed_classes_need_a_label_map(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has 8 classes and does not name them") as caught:
        foreign_to_checkpoint(_resnet(tmp_path / "mine.pth", 8), reporter=Reporter())
    assert "--model-label-map" in caught.value.hint


def test_a_label_map_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has 7 classes, label map 'letters' has 8"):
        foreign_to_checkpoint(_resnet(tmp_path / "mine.pth", 7), label_map=LETTERS, reporter=Reporter())


def test_names_are_not_needed_where_the_head_is_replaced(tmp_path: Path) -> None:
    reporter = Reporter()
    checkpoint = foreign_to_checkpoint(_resnet(tmp_path / "imagenet.pth", 1000), need_labels=False, reporter=reporter)
    assert (checkpoint.labels.name, len(checkpoint.labels)) == ("unknown", 1000)
    assert not reporter.warnings
