"""Every command of docs/distributed.md is one that the command line takes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from ecstfl_cli.cli.app import app

TEXT = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
# Up to where the shell goes on; the batch script passes its own arguments on, which are in another command.
FOUND = [
    command for _, block in BLOCKS for command in re.findall(r"(?:\becstfl|-m ecstfl_cli) (finetune [^|;\n]*)", block)
]
COMMANDS = [command for command in FOUND if '"$@"' not in command]
LAUNCHES = re.findall(r"^(?:srun )?((?:torchrun|accelerate launch) .*)", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_takes_it(command: str) -> None:
    group = typer.main.get_group(app)
    finetune = group.commands["finetune"]
    # As the group would, so that its spelling of options holds.
    context = finetune.make_context("finetune", shlex.split(command)[1:], parent=group.make_context("ecstfl", ["-"]))
    assert context.params["recipe"] or context.params["resume"]


def test_there_are_commands_of_each_kind() -> None:
    assert len(COMMANDS) >= 8
    assert {launch.split()[0] for launch in LAUNCHES} == {"torchrun", "accelerate"}


@pytest.mark.parametrize("launch", [launch for launch in LAUNCHES if launch.startswith("torchrun")])
def test_torchrun_takes_it(launch: str) -> None:
    from torch.distributed.run import get_args_parser

    words = shlex.split(launch.replace('"$SLURM_NNODES"', "2"))[1:]
    parsed = get_args_parser().parse_args(words)
    assert parsed.module
    assert parsed.training_script == "ecstfl_cli"
    assert parsed.training_script_args[0] == "finetune"


@pytest.mark.parametrize("launch", [launch for launch in LAUNCHES if launch.startswith("accelerate")])
def test_accelerate_takes_it_and_starts_more_than_one_process(launch: str) -> None:
    from accelerate.commands.launch import launch_command_parser

    parsed = launch_command_parser().parse_args(shlex.split(launch)[2:])
    assert parsed.module
    assert parsed.multi_gpu
    assert parsed.num_processes > 1
    assert parsed.training_script_args[0] == "finetune"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("block", [text for _, text in BLOCKS])
def test_bash_parses_it(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
