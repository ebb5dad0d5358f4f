"""The command `ecstfl`: one file per sub-command beside this one."""

from __future__ import annotations

import errno
import io
import os
import sys
import time

import typer

from ecstfl_cli import __version__
from ecstfl_cli.cli import checkpoints, demo, doctor, export, finetune, infer, labels, plugins, prepare, recipes
from ecstfl_cli.cli.console import err, escaped, is_main
from ecstfl_cli.errors import EcstflError

SECONDS_BEFORE_THE_OTHERS_SPEAK = 3.0
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

app = typer.Typer(
    name="ecstfl",
    help="Facial expression recognition in stills and video: prepare, finetune, infer, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # The reference release writes --list_file_train; either spelling works.
    context_settings={
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)
prepare.register(app)
finetune.register(app)
infer.register(app)
export.register(app)
recipes.register(app)
labels.register(app)
checkpoints.register(app)
plugins.register(app)
doctor.register(app)
demo.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ecstfl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line; an EcstflError is one message on stderr and exit code 1."""
    # Threads that spin while they wait for each other take the cores from those they wait for, where loader workers
    # or other programs run, too: a step took up to eight times as long. It is read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):
        # File names need not be Unicode; what cannot be printed is shown as \xff instead of ending the command.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except EcstflError as error:
        if not error.told_by_main:
            _tell(error)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        # What could not be written would be tried, and fail, once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _tell(EcstflError(f"cannot write: {error.strerror}", "Free some space, or write elsewhere, and run it again."))
        sys.exit(1)


def _tell(error: EcstflError) -> None:
    if not is_main():
        # Most often all of several processes fail alike, and the launcher ends the others when the first one has said
        # it and gone. What only one of them knows is said a little later.
        time.sleep(SECONDS_BEFORE_THE_OTHERS_SPEAK)
    err.print(f"[bold red]error:[/] {escaped(error.message)}")
    if error.hint:
        err.print(escaped(error.hint))
