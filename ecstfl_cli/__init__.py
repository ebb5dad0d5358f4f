"""ecstfl: facial expression recognition in stills and video, around the EC-STFL loss."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`from ecstfl_cli import Recogniser` without its imports, which take seconds, for whoever wants something else."""
    if name == "Recogniser":
        from ecstfl_cli.engine.inference.recogniser import Recogniser

        return Recogniser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
