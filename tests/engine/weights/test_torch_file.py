"""Files of torch.save: read exactly, and never able to run anything."""

from __future__ import annotations

import argparse
import collections
import contextlib
import copyreg
import datetime
import functools
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ecstfl_cli.engine.weights.restricted_pickle import TensorRef
from ecstfl_cli.engine.weights.torch_file import open_torch_file
from ecstfl_cli.errors import CheckpointError

FORMATS: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip, pickle protocol 4": {"pickle_protocol": 4},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy, pickle protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_tensors_are_those_of_torch_load(tmp_path: Path, options: dict[str, Any]) -> None:
    base = torch.randn(6, 4)
    saved = collections.OrderedDict(
        plain=base,
        transposed=base.t(),
        slice=base[2:4, 1:3],
        expanded=base[:, :1].expand(6, 5),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        half=torch.randn(3).half(),
        brain=torch.randn(3).bfloat16(),
        counts=torch.arange(5),
        flags=torch.tensor([True, False]),
        parameter=nn.Parameter(torch.randn(2, 2)),
    )
    torch.save(saved, tmp_path / "a.pth", **options)
    with open_torch_file(tmp_path / "a.pth") as file:
        read = {key: file.tensor(ref) for key, ref in file.content.items()}
    assert list(read) == list(saved)
    for key, tensor in saved.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor.detach()), key


def test_tensors_that_share_memory_share_it_again(tmp_path: Path) -> None:
    base = torch.zeros(4)
    torch.save({"whole": base, "half": base[2:]}, tmp_path / "a.pth")
    with open_torch_file(tmp_path / "a.pth") as file:
        whole, half = file.tensor(file.content["whole"]), file.tensor(file.content["half"])
    whole[3] = 7
    assert half[1] == 7


def test_a_tensor_with_attributes_is_read_without_them(tmp_path: Path) -> None:
    tensor = torch.arange(3.0)
    tensor.note = "kept by pickle"  # type: ignore[attr-defined]
    torch.save({"a": tensor}, tmp_path / "a.pth")
    with open_torch_file(tmp_path / "a.pth") as file:
        assert torch.equal(file.tensor(file.content["a"]), torch.arange(3.0))


def test_what_training_scripts_store_beside_weights_does_not_hinder(tmp_path: Path) -> None:
    saved = {
        "weights": torch.ones(2),
        "args": argparse.Namespace(lr=0.1, out=PurePosixPath("/x")),
        "when": datetime.datetime(2024, 1, 1),
        "history": [np.float32(1.0), np.arange(3), np.random.RandomState(0).get_state()],
        "counts": collections.Counter("aab"),
        "by_name": collections.defaultdict(list, {"a": [1]}),
        "sets": ({1, 2}, frozenset({3}), 1 + 2j, b"bytes", range(3)),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "sparse": torch.eye(2).to_sparse(),
        "whole network": nn.Linear(2, 2),
        "epoch": 12,
    }
    for protocol in (2, 4):
        torch.save(saved, tmp_path / "a.pth", pickle_protocol=protocol)
        with open_torch_file(tmp_path / "a.pth") as file:
            assert file.content["epoch"] == 12
            assert torch.equal(file.tensor(file.content["weights"]), torch.ones(2))


def _with_location(path: Path, location: bytes) -> None:
    """Rewrite a zip file of torch.save as if its tensors had been on another device."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    changed = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            if name.endswith("data.pkl"):
                changed += data.count(b"X\x03\x00\x00\x00cpu")
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X%c\x00\x00\x00%b" % (len(location), location))
            archive.writestr(name, data)
    assert changed


def test_cuda_tensors_are_read_on_the_cpu(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(4.0)}, tmp_path / "a.pth")
    _with_location(tmp_path / "a.pth", b"cuda:0")
    with open_torch_file(tmp_path / "a.pth") as file:
        tensor = file.tensor(file.content["a"])
    assert tensor.device.type == "cpu"
    assert torch.equal(tensor, torch.arange(4.0))


# --- files that try to run code --------------------------------------------------------------------------------------


class Payload:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _touch(canary: Path) -> str:
    return f"touch '{canary}'"


PAYLOADS: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda canary: Payload(os.system, _touch(canary)),
    "eval": lambda canary: Payload(eval, f"open({str(canary)!r}, 'w').close()"),
    "exec": lambda canary: Payload(exec, f"open({str(canary)!r}, 'w').close()"),
    "subprocess": lambda canary: Payload(subprocess.check_call, ["touch", str(canary)]),
    "a method, by getattr": lambda canary: Payload(canary.touch),
    "a partial": lambda canary: Payload(functools.partial(os.system, _touch(canary))),
    "map and list": lambda canary: Payload(list, Payload(map, os.system, [_touch(canary)])),
    "torch's own loader of subclasses": lambda canary: Payload(
        torch._tensor._rebuild_from_type_v2, os.system, str, (_touch(canary),), {}
    ),
    "as a key": lambda canary: {Payload(os.system, _touch(canary)): 1},
    "in a parameter's state": lambda canary: Payload(
        torch._utils._rebuild_parameter, Payload(os.system, _touch(canary)), False, None
    ),
}


def _save_plain(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def _save_beside_weights(value: Any, path: Path, **options: Any) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "x": value}, path, **options)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "plain pickle": _save_plain,
    "zip": _save_beside_weights,
    "legacy": functools.partial(_save_beside_weights, _use_new_zipfile_serialization=False),
}


def _refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught, open_torch_file(path):
        pass
    return caught.value


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_file_that_asks_for_code_is_refused_and_nothing_runs(
    tmp_path: Path, payload: Callable[[Path], Any], write: Callable[[Any, Path], None]
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    write(payload(canary), path)
    assert _refusal(path).message.startswith(f"{path} tries to run code while being read: it asks for ")
    assert not canary.exists()


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_the_payloads_above_are_real(tmp_path: Path, payload: Callable[[Path], Any]) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps(payload(canary))
    with contextlib.suppress(TypeError, AttributeError):  # the harm is done by then
        pickle.loads(data)
    assert canary.exists()


def test_the_message_names_what_was_asked_for(tmp_path: Path) -> None:
    torch.save(Payload(os.system, "true"), tmp_path / "a.pth")
    assert f"it asks for {os.system.__module__}.system" in _refusal(tmp_path / "a.pth").message


def _text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _handmade(canary: Path) -> dict[str, bytes]:
    """Pickles that no honest pickler writes, operation by operation. `cProfile.run` executes a string."""
    code = _text(f"open({str(canary)!r}, 'w').close()")
    run, thing, ordered = b"ccProfile\nrun\n", b"cargparse\nNamespace\n", b"ccollections\nOrderedDict\n"

    def attribute(name: str, value: bytes = run) -> bytes:
        """Set an attribute of what is on the stack, as an object with slots has its state restored."""
        return b"N}" + _text(name) + value + b"s\x86b"

    return {
        "call": run + code + b"\x85R.",
        "old-style instance": b"(" + code + b"icProfile\nrun\n.",
        "old-style object": b"(" + run + code + b"o.",
        "function named on the stack": b"\x80\x04" + _text("cProfile") + _text("run") + b"\x93" + code + b"\x85R.",
        "dotted name": b"\x80\x04" + _text("cProfile") + _text("run.__call__") + b"\x93" + code + b"\x85R.",
        "__setstate__ of an object": thing + b")\x81}" + _text("__setstate__") + run + b"sb" + code + b"b.",
        "append of an object": thing + b")\x81}" + _text("append") + run + b"sb" + code + b"a.",
        "__setstate__ of a class": thing + attribute("__setstate__") + code + b"b.",
        "__new__ of a class": thing + attribute("__new__") + code + b"\x85\x81.",
        "hook of a stand-in": thing + attribute("called") + code + b"\x85R.",
        "hook of OrderedDict": ordered + attribute("called") + code + b"\x85R.",
        "new object of a function": run + code + b"\x85\x81.",
    }


@pytest.mark.parametrize("name", _handmade(Path("x")))
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "plain pickle"])
def test_handmade_pickles_run_nothing(tmp_path: Path, name: str, in_zip: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    data = _handmade(canary)[name]
    if in_zip:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", data)
    else:
        path.write_bytes(data)
    with contextlib.suppress(CheckpointError), open_torch_file(path) as opened:
        assert not callable(opened.content)
    assert not canary.exists()


@pytest.mark.parametrize("name", list(_handmade(Path("x")))[:7])
def test_the_handmade_pickles_are_real(tmp_path: Path, name: str) -> None:
    pickle.loads(_handmade(tmp_path / "canary")[name])
    assert (tmp_path / "canary").exists()


def test_no_pickle_can_change_a_stand_in(tmp_path: Path) -> None:
    """A change that outlives its file would lie in wait for the next one."""
    for name in ("called", "__new__", "path"):
        (tmp_path / "a.pth").write_bytes(b"ctorch._utils\n_rebuild_tensor_v2\nN}" + _text(name) + b"Ns\x86b.")
        _refusal(tmp_path / "a.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "b.pth")
    assert torch.equal(_read_all(tmp_path / "b.pth")["a"], torch.ones(2))


class Loud:
    """Counts how often one is made."""

    made = 0

    def __init__(self, *_args: object) -> None:
        Loud.made += 1


def test_classes_of_the_file_are_never_made(tmp_path: Path) -> None:
    by_reconstructor = Payload(copyreg._reconstructor, Loud, object, None)  # type: ignore[attr-defined]
    torch.save({"x": by_reconstructor, "y": Loud()}, tmp_path / "a.pth")
    made = Loud.made
    with open_torch_file(tmp_path / "a.pth") as file:
        assert set(file.content) == {"x", "y"}
        assert not isinstance(file.content["y"], Loud)
    assert Loud.made == made


def test_reading_imports_nothing_that_the_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "landmine.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\nclass Mine: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("a/data.pkl", b"}" + _text("x") + b"clandmine\nMine\n)\x81s.")
    with open_torch_file(tmp_path / "a.pth") as opened:
        assert list(opened.content) == ["x"]
    assert "landmine" not in sys.modules
    assert not (tmp_path / "canary").exists()


def test_a_legacy_file_cannot_have_source_code_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old files carry the source of their modules, and torch.load may write a patch of it."""
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with open_torch_file(tmp_path / "a.pth"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_torchscript_is_refused_unopened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({}))
        file.writestr("a/code/__torch__.py", "")
        file.writestr("a/constants.pkl", pickle.dumps(()))
    assert "TorchScript" in _refusal(tmp_path / "a.pth").message


# --- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Dropbox</body></html>", "web page"),
        (b"\n  <html lang='en'>", "web page"),
        (b"hello, I am a text file", "neither a checkpoint of ecstfl nor a file of torch.save"),
        (pickle.dumps({"a": 1}), "neither a checkpoint of ecstfl nor a file of torch.save"),
        (bytes(257) + b"ustar" + bytes(250), "tar archive"),
        (b"PK\x03\x04 cut short", "damaged or cut short"),
    ],
    ids=["empty", "page", "page after blanks", "text", "pickle", "tar", "zip head"],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert said in _refusal(tmp_path / "a.pth").message


def test_another_zip_archive_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    assert "zip archive, but not one of torch.save" in _refusal(tmp_path / "a.npz").message


def _read_all(path: Path) -> dict[str, Tensor]:
    """Every tensor of a saved dict, as far as it still is one."""
    with open_torch_file(path) as file:
        content = file.content if isinstance(file.content, dict) else {}
        return {key: file.tensor(ref) for key, ref in content.items() if isinstance(ref, TensorRef)}


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    torch.save({"a": torch.arange(300.0), "b": torch.ones(40)}, tmp_path / "whole.pth", **options)
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in range(1, len(whole), 97):
        (tmp_path / "a.pth").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            _read_all(tmp_path / "a.pth")


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_random_damage_is_a_clear_error_or_harmless(tmp_path: Path, options: dict[str, Any]) -> None:
    torch.save({"a": torch.arange(30.0), "b": torch.ones(4)}, tmp_path / "whole.pth", **options)
    whole = (tmp_path / "whole.pth").read_bytes()
    refused = 0
    for seed in range(300):
        draw = random.Random(seed)
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] = draw.randrange(256)
        (tmp_path / "a.pth").write_bytes(damaged)
        try:
            _read_all(tmp_path / "a.pth")
        except CheckpointError:
            refused += 1
    assert refused


@pytest.mark.parametrize("size", [b"K\x04K\x05", b"K\x04J\xff\xff\xff\xff"], ids=["too large", "negative"])
def test_a_tensor_outside_its_bytes_is_refused(tmp_path: Path, size: bytes) -> None:
    torch.save({"a": torch.arange(16.0).view(4, 4)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b"K\x04K\x04", size, 1))
    with pytest.raises(CheckpointError, match=r"beyond its bytes|whole numbers"):
        _read_all(tmp_path / "b.pth")
