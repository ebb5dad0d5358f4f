import json
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ecstfl_cli.api import InputSpec
from ecstfl_cli.components.exporters.onnx import OnnxExporter, OnnxModel
from ecstfl_cli.components.frame_model import FrameModel, InferenceGraph
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import load_native
from ecstfl_cli.engine.weights.export import ExportResult, compare, export, made_trials
from ecstfl_cli.engine.weights.export_metadata import read_export_metadata
from ecstfl_cli.engine.weights.fitting import build_network
from ecstfl_cli.errors import CheckpointError, ExportError, RegistryError
from ecstfl_cli.labels import label_map_from
from tests.small_model import save_small_model

NETWORKS = [
    ("torchvision/r3d_18", None),
    ("torchvision/resnet18", "gru"),
    ("timm/test_resnet", "mean"),
    ("timm/test_resnet", "lstm"),
    ("timm/test_resnet", "transformer"),
    ("torchvision/mobilenet_v3_small", "still"),
    ("timm/test_convnext", "still"),
    ("timm/test_nfnet", "still"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> ExportResult:
    """One export of an image network of eight classes, `model.onnx`, in a folder of its own."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = save_small_model(folder / "m.safetensors", "img", labels=label_map_from("ferplus"))
    return export(checkpoint, out=folder / "elsewhere" / "model.onnx", reporter=Reporter())


def original(checkpoint) -> InferenceGraph:
    loaded = load_native(checkpoint)
    return InferenceGraph(FrameModel(build_network(loaded), loaded.input)).eval()


@pytest.mark.parametrize(("backbone", "head"), NETWORKS)
def test_an_exported_network_equals_its_original_at_every_batch_size(tmp_path, backbone, head):
    modality, temporal_head = ("img", None) if head == "still" else ("video", head)
    checkpoint = save_small_model(tmp_path / "m.safetensors", modality, backbone=backbone, temporal_head=temporal_head)
    result = export(checkpoint, reporter=Reporter())
    assert result.path == tmp_path / "m.onnx"  # beside its checkpoint
    assert result.comparison.difference < 1e-4
    graph, session = original(checkpoint), onnxruntime.InferenceSession(result.path)
    shape = (32, 32, 3) if head == "still" else (4, 32, 32, 3)
    for batch_size in (1, 2, 5):
        frames = np.random.default_rng(batch_size).integers(0, 256, (batch_size, *shape), dtype=np.uint8)
        logits, probs = session.run(["logits", "probs"], {"frames": frames})
        with torch.inference_mode():
            expected, expected_probs = graph(torch.from_numpy(frames))
        scale = max(1.0, expected.abs().max().item())
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4 * scale)
        np.testing.assert_allclose(probs, expected_probs.numpy(), atol=1e-3)
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)


def test_the_file_is_complete_in_itself_and_says_what_it_is(exported):
    assert list(exported.path.parent.iterdir()) == [exported.path]
    assert exported.size == exported.path.stat().st_size
    model = onnx.load(exported.path)
    onnx.checker.check_model(model)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    read = read_export_metadata(metadata, "m.onnx")
    assert read.input == load_native(exported.path.parents[1] / "m.safetensors").input
    assert (read.labels.name, read.labels.names) == ("ferplus", label_map_from("ferplus").names)
    assert read.backbone == "timm/test_resnet"
    assert json.loads(metadata["ecstfl.class_names"])[7] == "contempt"


def test_the_file_holds_no_path_of_the_machine_that_made_it(exported):
    content = exported.path.read_bytes()
    assert b"frame_model.py" not in content
    assert str(exported.path.parent).encode() not in content


def test_normalisation_is_inside_the_graph(tmp_path):
    """The same weights with another mean give other logits for the same uint8 frames."""
    checkpoint = load_native(save_small_model(tmp_path / "m.safetensors", "img"))
    frames = np.full((1, 32, 32, 3), 200, dtype=np.uint8)
    logits = []
    for mean in (0.0, 0.5):
        spec = InputSpec("img", 32, mean=(mean,) * 3)
        graph = InferenceGraph(FrameModel(build_network(checkpoint), spec)).eval()
        path = tmp_path / f"{mean}.onnx"
        OnnxExporter().export(graph, torch.zeros(2, 32, 32, 3, dtype=torch.uint8), path, {})
        logits.append(OnnxExporter().run(path, frames))
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_it_computes_in_as_many_threads_as_pytorch(exported):
    """Several processes that share a machine tell PyTorch how many each may take."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert OnnxModel(exported.path).session.get_session_options().intra_op_num_threads == 3
    finally:
        torch.set_num_threads(before)


def test_exporting_prints_nothing_and_warns_of_nothing(tmp_path, capfd):
    checkpoint = save_small_model(tmp_path / "m.safetensors", temporal_head="gru")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        export(checkpoint, reporter=Reporter())
    assert warned == []
    assert capfd.readouterr() == ("", "")


def test_above_the_tolerance_nothing_is_left_and_an_earlier_file_stays(tmp_path):
    checkpoint = save_small_model(tmp_path / "m.safetensors", "img")
    (tmp_path / "m.onnx").write_text("earlier")
    with pytest.raises(ExportError, match=r"differs from PyTorch by .* more than the tolerance 0;"):
        export(checkpoint, tolerance=0.0, reporter=Reporter())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.safetensors"]
    assert (tmp_path / "m.onnx").read_text() == "earlier"


def test_the_comparison_sees_other_weights_and_not_a_number(exported, tmp_path):
    labels = label_map_from("ferplus")
    other = original(save_small_model(tmp_path / "other.safetensors", "img", labels=labels, seed=1))
    spec = load_native(tmp_path / "other.safetensors").input
    found = compare(other, OnnxExporter(), exported.path, made_trials(spec))
    assert found.difference > 1e-2
    assert found.samples == 8
    with torch.no_grad():
        other.model.network.head.bias[0] = float("nan")
    assert compare(other, OnnxExporter(), exported.path, made_trials(spec)).difference == float("inf")


def test_a_missing_package_is_named_with_the_way_to_install_it(tmp_path, monkeypatch):
    checkpoint = save_small_model(tmp_path / "m.safetensors", "img")
    # What Python itself does with a module that is blocked.
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError) as caught:
        export(checkpoint, reporter=Reporter())
    assert "onnxscript" in caught.value.message
    assert 'pip install "ecstfl[export]"' in caught.value.hint
    assert not (tmp_path / "m.onnx").exists()


def test_a_network_that_cannot_be_exported_is_an_error_with_the_reason(tmp_path):
    class Branches(torch.nn.Module):
        def forward(self, frames):
            value = frames.float().mean()
            return (value, value) if value > 3 else (-value, value)

    with pytest.raises(ExportError, match="cannot be exported to ONNX"):
        OnnxExporter().export(Branches(), torch.zeros(2, 8, 8, 3, dtype=torch.uint8), tmp_path / "x.onnx", {})


def test_wrong_formats_and_names_are_refused_with_what_is_allowed(tmp_path):
    checkpoint = save_small_model(tmp_path / "m.safetensors", "img")
    with pytest.raises(RegistryError, match=r"(?s)unknown exporter 'onxx'.*Did you mean 'onnx'"):
        export(checkpoint, format="onxx", reporter=Reporter())
    with pytest.raises(ExportError, match=r"(?s)does not end in \.onnx.*m\.onnx"):
        export(checkpoint, out=tmp_path / "m.bin", reporter=Reporter())
    with pytest.raises(ExportError, match="exported already"):
        export(tmp_path / "m.onnx", reporter=Reporter())
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export(tmp_path / "nothing.safetensors", reporter=Reporter())


def test_metadata_of_other_programs_and_newer_versions_is_refused(exported):
    with pytest.raises(CheckpointError, match=r"was not exported by ecstfl"):
        read_export_metadata({"author": "somebody"}, "theirs.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    with pytest.raises(CheckpointError, match=r"(?s)format 99.*Update ecstfl"):
        read_export_metadata({**metadata, "ecstfl.format_version": "99"}, "newer.onnx")
    with pytest.raises(CheckpointError, match="damaged"):
        read_export_metadata({**metadata, "ecstfl.input": "{"}, "damaged.onnx")


PLUGIN = """
import numpy as np

class Exporter:
    suffix = ".pt2x"

    def export(self, graph, frames, path, metadata):
        self.graph = graph
        path.write_text("x")

    def run(self, path, frames):
        import torch
        logits, probs = self.graph(torch.from_numpy(frames))
        return logits.detach().numpy()
"""
MISTAKES = {
    "run gives what a session does": (
        "return logits.detach().numpy()",
        "return [logits.detach().numpy()]",
        r"returned \(1, 1, 7\), where logits are",
    ),
    "run gives both": (
        "return logits.detach().numpy()",
        "return (logits.detach(), probs.detach())",
        r"returned \(2, 1, 7\), where",
    ),
    "run gives words": ("return logits.detach().numpy()", "return ['happy']", "returned no logits"),
    "another shape": (".numpy()", ".numpy()[:, :2]", r"returned \(1, 2\), where logits are \(1, 7\)"),
    "nothing written": ('path.write_text("x")', "pass", "has written nothing"),
    "no suffix": ('suffix = ".pt2x"', "", "has no suffix"),
    "no run": ("def run(", "def ran(", "has no method run"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_of_an_exporter_plugin_are_named(case, fake_distribution, tmp_path):
    before, after, message = MISTAKES[case]
    assert before in PLUGIN
    source = {"other_mod.py": PLUGIN.replace(before, after)}
    fake_distribution("other", {"exporters": {"other": "other_mod:Exporter"}}, source)
    checkpoint = save_small_model(tmp_path / "m.safetensors", "img")
    with pytest.raises(ExportError, match=message):
        export(checkpoint, format="other", reporter=Reporter())
    assert not (tmp_path / "m.pt2x").exists()


def test_an_exporter_may_have_its_suffix_made_and_return_a_tensor(fake_distribution, tmp_path):
    source = PLUGIN.replace('suffix = ".pt2x"', "def __init__(self): self.suffix = '.pt2x'").replace(".numpy()", "")
    source = source.replace("torch.from_numpy(frames", "torch.as_tensor(frames")
    fake_distribution("other", {"exporters": {"other": "other_mod:Exporter"}}, {"other_mod.py": source})
    checkpoint = save_small_model(tmp_path / "m.safetensors", "img")
    assert export(checkpoint, format="other", reporter=Reporter()).path == tmp_path / "m.pt2x"


def test_only_what_infer_opens_is_proposed_for_it(cli, fake_distribution, tmp_path):
    fake_distribution("other", {"exporters": {"other": "other_mod:Exporter"}}, {"other_mod.py": PLUGIN})
    save_small_model(tmp_path / "m.safetensors", "img")
    assert "ecstfl infer" in cli("export", "m.safetensors", cwd=tmp_path).stdout
    result = cli("export", "m.safetensors", "--format", "other", cwd=tmp_path)
    assert (result.exit_code, "ecstfl infer" in result.stdout) == (0, False)
