"""Packs: the same frames as from folders and images, complete or not there at all, damage told by shard."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from torch.utils.data import DataLoader

from ecstfl_cli import extra_columns, pathfile
from ecstfl_cli.api import FrameSampling, InputSpec, PathRow
from ecstfl_cli.components.sample_dataset import SampleDataset, collate
from ecstfl_cli.components.transforms import Augmentation
from ecstfl_cli.engine.data.manifest import manifest_to_use
from ecstfl_cli.engine.data.samples import Sample, load_samples
from ecstfl_cli.engine.inference.infer_inputs import Source, decodable
from ecstfl_cli.engine.preparation import pack as packing_module
from ecstfl_cli.engine.preparation.pack import Packing, pack
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, EcstflError
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.media import packed as packed_module
from ecstfl_cli.media.packed import PackWriter, encode, open_pack, safe_id
from ecstfl_cli.media.sources import open_clip, read_still
from tests.killing import Killed, kill_at_move

SIZE = 24
SPECS = {
    "img": InputSpec("img", size=SIZE),
    "video": InputSpec("video", size=SIZE, sampling=FrameSampling("uniform", frames=4)),
}


@pytest.fixture(params=["video", "img"])
def prepared(request, tiny_clips, tiny_images, cli, tmp_path: Path) -> tuple[str, Path]:
    """Modality and the folder of path files of a small data set."""
    data = tiny_clips() if request.param == "video" else tiny_images()
    result = cli("prepare", "--data-root", data.root, "--label-map", "dfew", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    return request.param, tmp_path / "annotation"


def samples_of(out: Path, name: str, modality: str) -> list[Sample]:
    file = out / f"{name}_train{pathfile.SUFFIXES[modality]}"
    return load_samples([file], modality=modality, root=None, label_map=label_map_from("dfew"), reporter=Reporter())


def read_frame(sample: Sample, modality: str) -> np.ndarray:
    return read_still(sample.source) if modality == "img" else open_clip(sample.source).read([3])[0]


def packed(out: Path, codec: str = "png") -> tuple[str, Path]:
    done = pack(manifest_to_use(None, out), Packing(SIZE, codec), out=out, workers=2, reporter=Reporter())
    return done.manifest["name"], done.folder


def source_name(out: Path) -> str:
    return next(path.stem for path in out.glob("*.json"))


@pytest.mark.parametrize("codec", ["png", "raw", "jpeg"])
@pytest.mark.parametrize("training", [False, True])
def test_a_pack_gives_the_frames_of_the_folders(prepared, codec: str, training: bool) -> None:
    modality, out = prepared
    before = samples_of(out, source_name(out), modality)
    after = samples_of(out, packed(out, codec)[0], modality)
    assert [s.label for s in after] == [s.label for s in before]
    assert [s.n_frames for s in before if s.n_frames] == [s.n_frames for s in after if modality == "video"]
    augmentation = Augmentation() if training else None
    views = [
        SampleDataset(samples, SPECS[modality], training=training, augmentation=augmentation, seed=3)
        for samples in (before, after)
    ]
    for i in range(len(before)):
        one, other = (view[(1, i)].frames.astype(int) for view in views)
        if codec == "jpeg":
            assert np.abs(one - other).mean() < 6
        else:
            assert (one == other).all()


def test_any_frame_is_read_alone_and_in_worker_processes(prepared) -> None:
    modality, out = prepared
    before, after = samples_of(out, source_name(out), modality), samples_of(out, packed(out)[0], modality)
    if modality == "video":
        whole = open_clip(before[2].source).read(range(12))
        assert (open_clip(after[2].source).read([7])[0] == whole[7]).all()
    SampleDataset(after, SPECS[modality])[(0, 0)]  # opened before the workers start
    keys = [[(0, i)] for i in range(len(after))]
    batches = [
        [
            batch.frames.numpy()
            for batch in DataLoader(
                SampleDataset(samples, SPECS[modality]), batch_sampler=keys, num_workers=2, collate_fn=collate
            )
        ]
        for samples in (before, after)
    ]
    assert all((a == b).all() for a, b in zip(*batches, strict=True))


def test_a_pack_of_many_shards_is_read_by_workers_that_start_afresh(prepared, monkeypatch) -> None:
    modality, out = prepared
    before = samples_of(out, source_name(out), modality)
    monkeypatch.setattr(packing_module, "PackWriter", functools.partial(PackWriter, shard_bytes=1))
    monkeypatch.setattr(packed_module, "_STILLS", 5)
    name, folder = packed(out)
    after = samples_of(out, name, modality)
    assert len(list(folder.glob("*.arrow"))) == (18 if modality == "video" else 5)
    open_pack(folder).verify()
    loader = DataLoader(
        SampleDataset(after, SPECS[modality]),
        batch_sampler=[[(0, i) for i in range(len(after))]],
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context="spawn",
    )
    expected = SampleDataset(before, SPECS[modality])
    for i, frames in enumerate(next(iter(loader)).frames.numpy()):
        assert (frames == expected[(0, i)].frames).all()


def test_subjects_and_votes_go_with_the_samples(prepared) -> None:
    modality, out = prepared
    manifest = manifest_to_use(None, out)
    labels = label_map_from("dfew")
    file = Path(manifest["files"]["train"])
    rows = pathfile.read(file, root=None, label_map=labels, require_labels=True).rows
    votes = [tuple(np.eye(7)[i % 7].tolist()) if i else None for i in range(len(rows))]
    listed = [
        PathRow(row.location, row.label, row.n_frames, f"S{i}", vote)
        for i, (row, vote) in enumerate(zip(rows, votes, strict=True))
    ]
    extra_columns.write(file, listed, modality, labels.names)
    done = pack(manifest, Packing(SIZE), out=out, reporter=Reporter())
    found = extra_columns.read_extra_columns(out / done.manifest["files"]["train"], labels)
    assert all(Path(path).name == Path(row.location).name for path, row in zip(found.row, rows, strict=True))
    assert found.subjects == [f"S{i}" for i in range(len(rows))]
    assert np.isnan(found.soft_labels[0]).all()
    assert found.soft_labels[1:].tolist() == [list(vote) for vote in votes[1:]]


@pytest.mark.parametrize("name", ["clip", "clip.mp4"])
def test_what_does_not_decode_is_found_in_a_pack_too(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a.pack"
    folder.mkdir()
    frame = encode(np.zeros((8, 8, 3), np.uint8), "jpeg", 90)
    writer = PackWriter(folder, "jpeg", {"command": "ecstfl prepare a --pack 8"})
    for id, images in {name: [frame, frame], "bad": [frame, b"no image"], "still": [frame]}.items():
        writer.add(id, images, [(8, 8)] * len(images))
    writer.finish()
    for modality, ids in {"video": [name, "bad"], "img": ["still"]}.items():
        listed = [Sample(folder / id, 0, id) for id in ids]
        source = Source(modality, label_map_from("dfew"), None, None, True, tmp_path / "rejects.csv", Reporter())
        assert [sample.clip_id for sample in decodable(listed, source)] == [ids[0]]
    assert "is damaged" in (tmp_path / "rejects_decoding.csv").read_text()


def test_a_truncated_or_changed_shard_is_named_with_the_command_that_writes_it_again(prepared) -> None:
    modality, out = prepared
    name, folder = packed(out)
    open_pack(folder).verify()
    shard = next(folder.glob("shard-00000-*.arrow"))
    data = shard.read_bytes()
    shard.write_bytes(data[:300] + bytes([data[300] ^ 255]) + data[301:])
    open_pack.cache_clear()
    with pytest.raises(DataError, match=r"shard-00000-\w+\.arrow is damaged: its SHA-256"):
        open_pack(folder).verify()
    shard.write_bytes(data[:-100])
    open_pack.cache_clear()
    with pytest.raises(DataError, match=r"shard-00000-\w+\.arrow is damaged: has") as caught:
        samples_of(out, name, modality)
    assert f"--pack {SIZE}" in caught.value.message


def test_a_check_reads_packs_and_their_checksums(prepared, cli) -> None:
    _, out = prepared
    name, folder = packed(out, "raw")
    check = ("prepare", "--check", name, "--check-faces", "0", "--json")
    result = cli(*check, cwd=out.parent)
    assert result.exit_code == 0, result.stderr
    shard = next(folder.glob("*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    open_pack.cache_clear()
    result = cli(*check, cwd=out.parent)
    assert result.exit_code == 1
    assert "its SHA-256 is another" in result.stdout


def test_an_interrupted_pack_leaves_nothing(prepared, monkeypatch) -> None:
    _, out = prepared
    there = sorted(out.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing_module.PackWriter, "add", full)
    with pytest.raises(EcstflError, match="No space left"):
        packed(out)
    assert sorted(out.iterdir()) == there


def test_a_pack_that_is_being_replaced_can_be_read_whenever_the_process_is_killed(prepared, monkeypatch) -> None:
    modality, out = prepared
    monkeypatch.setattr(packing_module, "PackWriter", functools.partial(PackWriter, shard_bytes=150_000))
    manifest = manifest_to_use(None, out)
    name, folder = packed(out, "png")
    expected = [read_frame(sample, modality) for sample in samples_of(out, name, modality)]
    codecs = []
    for number in range(1000):
        with monkeypatch.context() as patch:
            kill_at_move(number, patch)
            try:
                pack(manifest, Packing(SIZE, "raw"), out=out, workers=1, reporter=Reporter())
                break
            except Killed:
                pass
        open_pack.cache_clear()
        open_pack(folder).verify()
        codecs.append(open_pack(folder).index["codec"])
        frames = [read_frame(sample, modality) for sample in samples_of(out, name, modality)]
        assert all((a == b).all() for a, b in zip(frames, expected, strict=True))
    assert codecs == sorted(codecs), "the old one up to a move, the new one from there on"
    assert set(codecs) == {"png", "raw"}
    named = {shard["file"] for shard in open_pack(folder).index["shards"]}
    assert {file.name for file in folder.iterdir()} == named | {"pack.json"}
    assert not folder.with_name(f"{folder.name}.part").exists()


def test_a_pack_is_written_by_one_process_at_a_time(prepared) -> None:
    _, out = prepared
    place = out / f"{source_name(out)}_pack{SIZE}.pack.part"
    place.mkdir()
    with FileLock(place / "lock"), pytest.raises(EcstflError, match="another process is writing"):
        packed(out)
    packed(out)
    assert not place.exists()


def test_a_folder_that_is_no_pack_is_not_replaced(prepared) -> None:
    _, out = prepared
    folder = out / f"{source_name(out)}_pack{SIZE}.pack"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="overwritten"):
        packed(out)
    assert (folder / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b"])
def test_an_id_stays_in_the_pack(path: str) -> None:
    with pytest.raises(DataError, match="leads out"):
        safe_id(path)


def test_the_command_packs_what_was_prepared_or_a_manifest(tiny_clips, cli, tmp_path: Path) -> None:
    data = tiny_clips()
    result = cli("prepare", "--data-root", data.root, "--label-map", "dfew", "--pack", 16, cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    result = cli("prepare", "tiny_clips", "--pack", 12, "--pack-codec", "raw", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    shutil.rmtree(data.root / "clips")
    for size in (16, 12):
        samples = samples_of(tmp_path / "annotation", f"tiny_clips_pack{size}", "video")
        assert open_clip(samples[0].source).read([3])[0].shape == (size, size, 3)
    assert cli("prepare", "nothing", "--pack", 12, cwd=tmp_path).exit_code == 1
    listed, manifest = tmp_path / "annotation" / "tiny_clips_train.txt", tmp_path / "annotation" / "tiny_clips.json"
    result = cli("prepare", listed, "--pack", 12, cwd=tmp_path)
    assert result.exit_code == 1
    assert f"{listed} is a path file, not a manifest" in result.stderr
    assert str(manifest) in result.stderr


def test_datasets_opens_the_shards(prepared) -> None:
    datasets = pytest.importorskip("datasets")
    _, out = prepared
    files = [str(file) for file in packed(out)[1].glob("*.arrow")]
    rows = datasets.load_dataset("arrow", data_files=files, split="train")
    assert {"clip", "frame", "image"} <= set(rows.column_names)
