"""`ecstfl plugins`: what is installed, from where, and whether it can be used."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ecstfl_cli import __version__

GOOD = "def loss(context):\n    return None\n"


def broken_plugin(fake_distribution: Callable) -> None:
    """Its source looks fine; only importing it shows what is wrong."""
    source = "def fail():\n    raise OSError('libfocal.so is missing')\nfail()\nloss = fail\n"
    fake_distribution("broken-plug", {"losses": {"shaky": "shaky_mod:loss"}}, {"shaky_mod.py": source}, version="3.2")


def test_the_table_has_one_line_a_component(cli, fake_distribution) -> None:
    fake_distribution("my-plug", {"losses": {"mine": "mine_mod:loss"}}, {"mine_mod.py": GOOD}, version="0.4")
    result = cli("plugins")
    assert result.exit_code == 0
    header, *lines = [line.split() for line in result.stdout.splitlines()]
    assert header == ["group", "name", "distribution", "version", "state"]
    assert ["losses", "mine", "my-plug", "0.4", "ok"] in lines
    assert ["losses", "ec_stfl", "ecstfl", __version__, "ok"] in lines
    assert ["backbones", "timm/NAME", "ecstfl", __version__, "ok"] in lines
    assert result.stderr == ""


def test_long_lines_are_not_cut(cli, fake_distribution) -> None:
    fake_distribution("long", {"losses": {"long": f"{'very_' * 40}long_mod:loss"}})
    result = cli("plugins", "--group", "losses")
    assert f"broken: there is no module '{'very_' * 40}long_mod'" in result.stdout.splitlines()[-1]


def test_json_is_a_list_of_the_same(cli, fake_distribution) -> None:
    fake_distribution("my-plug", {"losses": {"mine": "mine_mod:lost"}}, {"mine_mod.py": GOOD}, version="0.4")
    (mine,) = [row for row in json.loads(cli("plugins", "--json").stdout) if row["name"] == "mine"]
    assert mine == {
        "group": "losses",
        "name": "mine",
        "distribution": "my-plug",
        "version": "0.4",
        "state": "broken",
        "reason": "mine_mod has no 'lost'",
    }


def test_one_group_can_be_chosen(cli) -> None:
    rows = json.loads(cli("plugins", "--json", "--group", "label_maps").stdout)
    assert {row["group"] for row in rows} == {"label_maps"}
    assert "dfew" in {row["name"] for row in rows}


def test_an_unknown_group_is_an_error_that_lists_the_groups(cli) -> None:
    result = cli("plugins", "--group", "label-map")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Did you mean 'label_maps'" in result.stderr
    assert "exporters" in result.stderr


def test_listing_is_a_success_even_with_a_broken_plugin(cli, fake_distribution) -> None:
    fake_distribution("my-plug", {"losses": {"mine": "mine_mod:lost"}}, {"mine_mod.py": GOOD})
    result = cli("plugins")
    assert result.exit_code == 0
    assert "broken: mine_mod has no 'lost'" in result.stdout


def test_check_shows_the_real_error_and_fails(cli, fake_distribution) -> None:
    broken_plugin(fake_distribution)
    assert "shaky" in cli("plugins", "--group", "losses").stdout
    result = cli("plugins", "--group", "losses", "--check")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if "shaky" in line]
    assert line.split()[2:4] == ["broken-plug", "3.2"]
    assert line.endswith("broken: OSError: libfocal.so is missing (shaky_mod.py, line 2)")
    assert sum(line.endswith("ok") for line in result.stdout.splitlines()) >= 3


def test_check_is_a_success_when_all_is_well(cli) -> None:
    result = cli("plugins", "--group", "label_maps", "--check")
    assert result.exit_code == 0
    assert "broken" not in result.stdout


@pytest.mark.parametrize("source", ["import sys\nsys.exit(0)\n", "print('hello')\nraise SystemExit('bye')\n"])
def test_check_survives_a_plugin_that_exits_or_prints(source: str, cli, fake_distribution) -> None:
    fake_distribution("quitter", {"losses": {"quit": "quitter_mod:loss"}}, {"quitter_mod.py": source})
    result = cli("plugins", "--check", "--json", "--group", "losses")
    assert result.exit_code == 1
    (row,) = [row for row in json.loads(result.stdout) if row["name"] == "quit"]
    assert row["reason"].startswith("SystemExit")


def test_duplicates_are_marked_on_both_sides(cli, fake_distribution) -> None:
    fake_distribution("usurper", {"label_maps": {"dfew": "usurper_mod:x"}}, {"usurper_mod.py": "x = 1\n"})
    rows = json.loads(cli("plugins", "--json", "--group", "label_maps").stdout)
    assert {(r["distribution"], r["state"], r["reason"]) for r in rows if r["name"] == "dfew"} == {
        ("ecstfl", "duplicate", "also in usurper"),
        ("usurper", "duplicate", "also in ecstfl"),
    }
