"""Weights that ecstfl knows by name: where they come from, where they are on this machine, and fetching them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ecstfl_cli.api import InputSpec
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.download import fetch
from ecstfl_cli.errors import CheckpointError, suggest
from ecstfl_cli.files import sha256
from ecstfl_cli.resources import shipped

FOLDER = Path("checkpoint_load")


@dataclass(frozen=True)
class CatalogueEntry:
    """One file of catalogue.yaml, whose head explains the fields. `war` is in percent, as published.

    What tells about a checkpoint's network and training is empty for the weights of a detector.
    """

    name: str
    file: str
    data: str
    licence: str
    backbone: str = ""
    classes: int = 0
    label_map: str = ""
    loss: str = ""
    label_map_note: str = ""
    input: Mapping[str, Any] = field(default_factory=dict)
    gamma: float = 0.0
    war: float | None = None
    war_note: str = ""
    url: str | None = None
    by_hand: str = ""
    sha256: str | None = None

    @property
    def input_spec(self) -> InputSpec:
        """What the weights were trained on."""
        return InputSpec.from_dict(self.input)

    @property
    def is_fetched(self) -> bool:
        """Whether it has to be fetched; what has no address ships with the package."""
        return bool(self.url or self.by_hand)

    @property
    def where(self) -> str:
        """Where a person finds the file."""
        return self.by_hand or self.url or "shipped with ecstfl"

    def how_to_get(self, folder: Path) -> str:
        """The next thing to do where the file is missing."""
        if self.url:
            return f"Fetch it: ecstfl checkpoints download {self.name} --to {folder}"
        return self.put_by_hand(folder)

    def put_by_hand(self, folder: Path) -> str:
        """How to fetch the file without this program."""
        return (
            f"By hand: fetch {self.file} from {self.where}, and put it at {folder / self.file}. "
            f"`ecstfl checkpoints download {self.name} --to {folder}` then records its SHA-256."
        )


@functools.lru_cache
def _document() -> dict[str, Any]:
    return yaml.safe_load((shipped("checkpoint_load") / "catalogue.yaml").read_text(encoding="utf-8"))


def entries() -> list[CatalogueEntry]:
    """Every checkpoint of the catalogue, in its order."""
    return [CatalogueEntry(**values) for values in _document()["checkpoints"]]


def detectors() -> list[CatalogueEntry]:
    """The weights of detectors, which can be fetched as checkpoints can."""
    return [CatalogueEntry(**values) for values in _document()["detectors"]]


def find(name: str) -> CatalogueEntry:
    """The entry of a name. Raises CheckpointError for an unknown one, with near matches."""
    known = {entry.name: entry for entry in [*entries(), *detectors()]}
    if name in known:
        return known[name]
    _refuse_unreleased(name)
    raise CheckpointError(
        f"the catalogue has no checkpoint {name!r}", f"{suggest(name, known)}`ecstfl checkpoints` lists them."
    )


def entry_of_file(path: Path) -> CatalogueEntry | None:
    """The entry whose released file is named like `path`, wherever it lies."""
    return next((entry for entry in entries() if entry.file == path.name), None)


def local_file(entry: CatalogueEntry, folder: Path = FOLDER) -> Path | None:
    """The entry's file in `folder`, or among what ships with the package; None where it is not on this machine."""
    places = [folder / entry.file, *([] if entry.is_fetched else [shipped("checkpoint_load") / entry.file])]
    return next((place for place in places if place.is_file()), None)


def search(name: str | Path, folder: Path = FOLDER) -> Path | None:
    """The file that a user means: a path, a run folder (its best, else its last), or a name looked up in `folder`."""
    path = Path(name)
    in_run = [path / "best.safetensors", path / "last.safetensors"]
    in_folder = [folder / f"{name}{suffix}" for suffix in ("", ".pth", ".safetensors")]
    found = next((p for p in (path, *in_run, *in_folder) if p.is_file()), None)
    entry = next((e for e in entries() if e.name == str(name)), None)
    return found or (local_file(entry, folder) if entry else None)


def locate(name: str | Path, folder: Path = FOLDER) -> Path:
    """What `search` finds. Raises CheckpointError with near matches, or with how to fetch a known file."""
    found = search(name, folder)
    if found is None:
        raise _not_found(str(name), folder)
    return found


def _not_found(name: str, folder: Path) -> CheckpointError:
    path = Path(name)
    known = {entry.name: entry for entry in entries()}
    if name in known:
        entry = known[name]
        return CheckpointError(f"{name} is not on this machine: no {folder / entry.file}", entry.how_to_get(folder))
    if path.is_dir():
        return CheckpointError(
            f"{path} is no run folder with weights: it has neither best.safetensors nor last.safetensors",
            "Give a checkpoint file, or a folder runs/<recipe>/<time> whose first epoch has ended.",
        )
    _refuse_unreleased(name)
    stems = [p.stem for p in folder.glob("*") if p.suffix in (".pth", ".safetensors")]
    return CheckpointError(
        f"there is no checkpoint {name!r}: neither a file, nor a run folder, nor a name known here",
        f"{suggest(name, [*known, *stems])}`ecstfl checkpoints` lists the names.",
    )


def _refuse_unreleased(name: str) -> None:
    reason = _document()["not_released"].get(name)
    if reason:
        raise CheckpointError(f"there are no weights {name!r}: {reason}", "`ecstfl checkpoints` lists what there is.")


def state(entry: CatalogueEntry, folder: Path = FOLDER) -> str:
    """`absent`; `present` where no SHA-256 is known to compare with; `verified` or `changed` where one is."""
    path = local_file(entry, folder)
    if path is None:
        return "absent"
    expected = entry.sha256 or _recorded(path)
    if expected is None:
        return "present"
    return "verified" if sha256(path) == expected else "changed"


def download(name: str, folder: Path, reporter: Reporter, url: str | None = None) -> Path:
    """Fetch a checkpoint of the catalogue into `folder`, from `url` where the catalogue's address is not wanted.

    Its SHA-256 must be the catalogue's, or the one that its first download recorded in `FILE.sha256`; at first sight it
    is recorded. A file that is there is verified and never replaced. Raises CheckpointError where it cannot be fetched
    or has another SHA-256.
    """
    entry = find(name)
    target = folder / entry.file
    present = local_file(entry, folder)
    if present:
        _check_present(present, entry, reporter)
        return present
    address = url or entry.url
    if not address:
        raise CheckpointError(f"{name} can only be fetched by hand", entry.put_by_hand(folder))
    try:
        part = fetch(address, target, reporter)
    except CheckpointError as error:
        raise CheckpointError(error.message, f"{error.hint} {entry.put_by_hand(folder)}".strip()) from error
    _accept(part, target, entry, reporter)
    return target


def _check_present(path: Path, entry: CatalogueEntry, reporter: Reporter) -> None:
    """Verify a file that is there already, or record its SHA-256 where it was put there by hand."""
    digest, expected = sha256(path), entry.sha256 or _recorded(path)
    _compare(path, digest, expected, f"It is kept as it is. Remove {path} to fetch it again.")
    if not expected and entry.is_fetched:
        _record(path, digest)
    reporter.note(f"{path} is here: SHA-256 {digest} " + ("verified" if expected else "recorded"))


def _accept(part: Path, target: Path, entry: CatalogueEntry, reporter: Reporter) -> None:
    """Move a complete download into place if its content is the expected one."""
    digest, expected = sha256(part), entry.sha256 or _recorded(target)
    try:
        _compare(
            target,
            digest,
            expected,
            "It was not kept: the file on the server has changed, or was altered on the way. "
            f"Remove {_sidecar(target)} only if you know that the change is meant.",
        )
    except CheckpointError:
        part.unlink()
        raise
    _record(target, digest)
    part.replace(target)
    reporter.note(f"{target}: SHA-256 {digest} " + ("verified" if expected else "recorded"))


def _compare(path: Path, digest: str, expected: str | None, hint: str) -> None:
    if expected and digest != expected:
        raise CheckpointError(f"{path} has SHA-256 {digest}, where {expected} was recorded", hint)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _recorded(path: Path) -> str | None:
    """The SHA-256 in `FILE.sha256`, a line of sha256sum; None where there is no such file."""
    sidecar = _sidecar(path)
    if not sidecar.is_file():
        return None
    digest = sidecar.read_text(encoding="utf-8").partition(" ")[0].strip().lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise CheckpointError(
            f"{sidecar} does not hold a SHA-256",
            f"Expected `<64 hexadecimal digits>  {path.name}`; remove it to start anew.",
        )
    return digest


def _record(path: Path, digest: str) -> None:
    sidecar = _sidecar(path)
    partial = sidecar.with_name(sidecar.name + ".part")
    partial.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    partial.replace(sidecar)
