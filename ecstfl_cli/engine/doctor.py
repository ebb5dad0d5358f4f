"""`ecstfl doctor`: whether what this program needs is on this machine and works, each part tried by itself."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ecstfl_cli import __version__
from ecstfl_cli.errors import EcstflError

# Where the module is not named like the distribution.
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "pi-heif": "pi_heif"}
WHAT_EXTRAS_DO = {"export": "`ecstfl export` to ONNX", "track": "`ecstfl finetune --trackers`"}
DECODERS = {"h264": "H.264", "hevc": "HEVC", "vp9": "VP9", "av1": "AV1"}
CARDS = Path("/proc/driver/nvidia/gpus")
SHARED_MEMORY = Path("/dev/shm")
GB = 1e9
# A batch of 64 clips of 16 frames of 112 pixels has 39 MB; each loader worker has two under way.
LEAST_SHARED_GB, LEAST_FREE_GB = 0.5, 2.0
# GPUs multiply in tf32, of 10 bits, unless told otherwise.
GPU_TOLERANCE = 0.02
OTHER_TORCH = (
    "`nvidia-smi` says the newest CUDA that the driver takes. Install torch and torchvision of that CUDA or an older "
    "one: https://pytorch.org/get-started/locally"
)

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of `ecstfl doctor`: what was looked at, its state, what was found, and what to do about it.

    `broken` is what is needed and does not work; `note` is what is optional, or may hinder.
    """

    state: State
    found: str
    advice: str = ""
    subject: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain strings, for JSON."""
        return asdict(self)


def examine() -> Iterator[Finding]:
    """Every finding, as it is made; what fails in an examination is a finding, too. It takes some ten seconds."""
    for subject, check in CHECKS.items():
        try:
            for finding in check():
                yield replace(finding, subject=subject)
        except EcstflError as error:
            yield Finding("broken", error.message, error.hint, subject)
        except Exception as error:
            yield Finding("broken", _in_a_line(error), subject=subject)


def _in_a_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# --- what is installed -----------------------------------------------------------------------------------------------


def _program() -> Iterator[Finding]:
    place = Path(__file__).resolve().parents[1]
    yield Finding("ok", f"ecstfl {__version__} in {place}; Python {platform.python_version()}; {platform.platform()}")


def _requirements(extra: str = "") -> list[Any]:
    """What the installed version needs on this machine, for one of its extras or without any."""
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in metadata.requires("ecstfl") or ()]
    always = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [one for one in needed if one not in always and one.marker and one.marker.evaluate({"extra": extra})]


def _version_problem(requirement: Any) -> str:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "" if fits else f"{requirement.name} is {version}, where {requirement.specifier} is needed"


def _import_problem(requirement: Any) -> str:
    try:
        importlib.import_module(MODULES.get(requirement.name, requirement.name))
    except Exception as error:
        return f"{requirement.name} does not import: {_in_a_line(error)}"
    return ""


def _libraries() -> Iterator[Finding]:
    try:
        needed = _requirements()
    except metadata.PackageNotFoundError:
        yield Finding("broken", "ecstfl is not installed, so that no part of it is found", "pip install ecstfl")
        return
    problems = [problem for one in needed if (problem := _version_problem(one) or _import_problem(one))]
    for problem in problems:
        advice = "Install what belongs together in one command, best into a new environment: pip install ecstfl"
        if "torchvision" in problem and "does not import" in problem:
            advice = (
                "torch and torchvision must be of one build: pip install --force-reinstall torch torchvision "
                "(or both from the same --index-url)"
            )
        yield Finding("broken", problem, advice)
    if not problems:
        shown = [f"{name} {metadata.version(name)}" for name in ("torchvision", "timm", "onnxruntime", "av")]
        torch = importlib.import_module("torch").__version__
        yield Finding("ok", f"torch {torch}, {', '.join(shown)}; all {len(needed)} import")


def _extras() -> Iterator[Finding]:
    for extra, purpose in WHAT_EXTRAS_DO.items():
        needed = _requirements(extra)
        problems = [problem for one in needed if (problem := _version_problem(one))]
        if problems:
            yield Finding("note", f"{extra}: {', '.join(problems)}", f'For {purpose}: pip install "ecstfl[{extra}]"')
        else:
            yield Finding("ok", f"{extra}: {', '.join(f'{one.name} {metadata.version(one.name)}' for one in needed)}")


def _components() -> Iterator[Finding]:
    from ecstfl_cli.engine.component_state import component_states

    states = component_states(check=True)
    for one in states:
        if one.state != "ok":
            state: State = "broken" if one.state == "broken" else "note"
            advice = f"It comes with {one.distribution} {one.version}."
            if one.state == "duplicate":
                advice += f" Which one is meant is said as {one.distribution}:{one.name}."
            yield Finding(state, f"{one.group} {one.name}: {one.reason}", advice)
    others = sorted({one.distribution for one in states} - {"ecstfl"})
    plugins = f", with those of {', '.join(others)}" if others else ""
    yield Finding("ok", f"{sum(one.state == 'ok' for one in states)} of {len(states)} components load{plugins}")


# --- the machine -----------------------------------------------------------------------------------------------------


def _processor() -> Iterator[Finding]:
    import torch

    from ecstfl_cli.engine.processes import cores

    def has(instructions: str) -> bool:
        return bool(getattr(torch.cpu, f"_is_{instructions}_supported", lambda: False)())

    kinds = {"vnni": "VNNI", "avx512_bf16": "bf16", "amx_tile": "AMX"}
    names = [torch.backends.cpu.get_cpu_capability(), *(text for name, text in kinds.items() if has(name))]
    memory = f"{_memory() / GB:.0f} GB of memory; " if _memory() else ""
    threads = f"torch computes with {torch.get_num_threads()} threads"
    yield Finding("ok", f"{cores()} cores; {memory}{', '.join(names)}; {threads}")
    if platform.machine().lower() in ("x86_64", "amd64") and not has("vnni"):
        yield Finding("note", "no VNNI instructions", "Models in onnx_int8 may be no faster here than in onnx.")


def _memory() -> int:
    """Bytes of memory that there are, or that the container may use; 0 where it cannot be told."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found = min(found, int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # No such file, or `max`.
            continue
    return found


def _gpu() -> Iterator[Finding]:
    import torch

    from ecstfl_cli.engine.runtime import resolve_precision

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.device("cuda", index)
            about = torch.cuda.get_device_properties(device)
            name = f"cuda:{index} {about.name}, {about.total_memory / GB:.0f} GB, {about.major}.{about.minor}"
            try:
                ones = torch.ones(64, 64, device=device)
                if (ones @ ones).sum().item() != 64**3:
                    raise ArithmeticError("it multiplies matrices wrongly")
            except Exception as error:
                yield Finding("broken", f"{name}: {_in_a_line(error)}", OTHER_TORCH)
            else:
                yield Finding("ok", f"{name}; --precision auto is {resolve_precision('auto', device)}")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "mps, of this Apple machine")
    elif cards := _nvidia_cards():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None and hidden.strip() in ("", "-1"):
            yield Finding("note", f"hidden: CUDA_VISIBLE_DEVICES is {hidden!r}", "Unset it to use the GPU.")
        else:
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs only"
            found = f"{cards}, which torch {torch.__version__}, built for {built}, does not find"
            yield Finding("broken" if torch.version.cuda else "note", found, OTHER_TORCH)
    else:
        yield Finding("ok", "none; models run on the CPU")


def _nvidia_cards() -> str:
    """The NVIDIA cards that the driver sees, in words; empty where there are none, or no driver."""
    if not shutil.which("nvidia-smi"):
        return f"{len(list(CARDS.iterdir()))} NVIDIA cards" if CARDS.is_dir() and any(CARDS.iterdir()) else ""
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # As on a machine for logging in, which has the tool and no card.
        return ""
    return ", ".join(line.partition(" (UUID")[0] for line in told.splitlines() if line.startswith("GPU "))


def _disk() -> Iterator[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / GB
    places = f"{free:.0f} GB free in {here}, {shutil.disk_usage(tempfile.gettempdir()).free / GB:.0f} GB in "
    places += tempfile.gettempdir()
    if not os.access(here, os.W_OK):
        yield Finding(
            "note", f"{here} cannot be written to", "Results go to ./runs and ./annotation unless --out says else."
        )
    elif free < LEAST_FREE_GB:
        yield Finding("note", places, "Little room: training keeps several states and checkpoints of a run.")
    else:
        yield Finding("ok", places)
    if SHARED_MEMORY.is_dir():
        size = shutil.disk_usage(SHARED_MEMORY).total / GB
        if size < LEAST_SHARED_GB:
            yield Finding(
                "note",
                f"{SHARED_MEMORY} has {size * 1000:.0f} MB, through which loader workers hand over batches",
                "Give the container more (docker run --shm-size 8g), or train with --set train.workers=0.",
            )


# --- what it does ----------------------------------------------------------------------------------------------------


def _weights() -> Iterator[Finding]:
    from ecstfl_cli.engine.weights import catalogue
    from ecstfl_cli.engine.weights.model_source import SHIPPED

    good = []
    for entry in [*catalogue.entries(), *catalogue.detectors()]:
        state = catalogue.state(entry)
        if state == "changed":
            path = catalogue.local_file(entry)
            get = "Install ecstfl anew." if not entry.is_fetched else f"Remove it. {entry.how_to_get(catalogue.FOLDER)}"
            yield Finding("broken", f"{path} is not what its SHA-256 says: damaged, or another file", get)
        elif state == "absent" and not entry.is_fetched:
            yield Finding("broken", f"{entry.file}, which ships with ecstfl, is missing", "Install ecstfl anew.")
        elif state != "absent":
            good.append(f"{entry.name} ({'default, ' if entry.name == SHIPPED else ''}{state})")
    yield Finding("ok", ", ".join(good) or "none")


def _recognition() -> Iterator[Finding]:
    """The face detector and the default model on a picture, and whether a GPU sees the same in it."""
    import numpy as np
    import torch

    from ecstfl_cli.engine.inference.recogniser import Recogniser

    ramp = np.arange(160)
    picture = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 127), axis=-1).astype(np.uint8)
    Recogniser(device="cpu", faces=True).images([picture])
    devices = ["cpu"]
    devices += ["cuda"] if torch.cuda.is_available() else ["mps"] if torch.backends.mps.is_available() else []
    probs = {name: Recogniser(device=name, precision="fp32", faces=False).images(picture)[0].probs for name in devices}
    if not np.isfinite(probs["cpu"]).all() or abs(sum(probs["cpu"]) - 1) > 1e-4:
        yield Finding("broken", f"probabilities on the CPU are none: {list(probs['cpu'])}", "Install torch anew.")
        return
    yield Finding("ok", "faces are looked for and expressions recognised on the CPU")
    for name in devices[1:]:
        off = float(np.abs(np.subtract(probs[name], probs["cpu"])).max())
        if off < GPU_TOLERANCE:
            yield Finding("ok", f"{name} gives the CPU's probabilities to {off:.1g}")
        else:
            yield Finding("broken", f"probabilities on {name} differ from the CPU's by {off:.1g}", "Use --device cpu.")


def _video() -> Iterator[Finding]:
    import av

    from ecstfl_cli.media.annotated_video import ENCODERS

    missing = [shown for name, shown in DECODERS.items() if not _has_codec(name, "r")]
    encoder = next((name for name in ENCODERS if _has_codec(name, "w")), None)
    advice = "PyAV's wheels have them: pip install --force-reinstall --only-binary av av"
    if missing:
        yield Finding("note", f"PyAV {av.__version__} cannot read {', '.join(missing)}", advice)
    if encoder is None:
        yield Finding("note", f"PyAV {av.__version__} has no encoder for --annotate: {', '.join(ENCODERS)}", advice)
    if not missing and encoder:
        yield Finding("ok", f"reads {', '.join(DECODERS.values())} and more; --annotate writes with {encoder}")


def _has_codec(name: str, mode: Literal["r", "w"]) -> bool:
    import av

    try:
        av.Codec(name, mode)
    except ValueError:  # UnknownCodecError
        return False
    return True


CHECKS: dict[str, Callable[[], Iterable[Finding]]] = {
    "program": _program,
    "libraries": _libraries,
    "extras": _extras,
    "components": _components,
    "processor": _processor,
    "gpu": _gpu,
    "disk": _disk,
    "weights": _weights,
    "recognition": _recognition,
    "video": _video,
}
