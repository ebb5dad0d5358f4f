"""`ecstfl labels`: what there is, what a map says, and what becomes of labels that meet another map."""

from __future__ import annotations

import json
from collections.abc import Callable

from ecstfl_cli import registry
from ecstfl_cli.components import label_maps


def test_every_registered_map_is_listed_with_classes_and_source(cli: Callable) -> None:
    listed = json.loads(cli("labels", "--json").stdout)
    assert [row["name"] for row in listed] == list(registry.index("label_maps"))
    by_name = {row["name"]: row for row in listed}
    assert by_name["rafdb"]["classes"] == list(label_maps.rafdb.names)
    assert by_name["rafdb"]["source"] == label_maps.rafdb.source
    (line,) = [line for line in cli("labels").stdout.splitlines() if line.startswith("rafdb ")]
    assert "surprise fear disgust happy sad angry neutral" in line


def test_a_broken_map_is_listed_as_broken_and_hides_no_other(cli: Callable, fake_distribution: Callable) -> None:
    fake_distribution("odd_plugin", {"label_maps": {"odd": "odd_plugin:missing"}}, {"odd_plugin.py": ""})
    (line,) = [line for line in cli("labels").stdout.splitlines() if line.startswith("odd ")]
    assert "broken: label map 'odd' of odd_plugin" in line
    listed = {row["name"]: row for row in json.loads(cli("labels", "--json").stdout)}
    assert listed["odd"]["classes"] == []
    assert listed["dfew"]["problem"] == ""


def test_a_map_is_shown_with_indices_synonyms_and_source(cli: Callable) -> None:
    shown = cli("labels", "show", "ravdess7").stdout
    assert ["0", "neutral", "calm"] in [line.split() for line in shown.splitlines()]
    assert label_maps.ravdess7.source in shown
    plain = json.loads(cli("labels", "show", "ravdess7", "--json").stdout)
    assert plain["classes"][0] == "neutral"
    assert plain["synonyms"]["neutral"] == ["calm"]
    assert plain["synonyms"]["happy"] == ["happiness", "joy"]


def test_a_comparison_shows_counterparts_by_name_and_what_is_left_over(cli: Callable) -> None:
    shown = cli("labels", "compare", "mafw", "dfew")
    assert shown.exit_code == 0
    pairs = [line.split() for line in shown.stdout.splitlines()]
    assert ["3", "happy", "->", "0", "happy"] in pairs
    assert ["8", "anxiety", "->", "none"] in pairs
    assert "dfew lacks contempt, anxiety, helplessness, disappointment" in shown.stdout
    assert "--drop-classes" in shown.stdout

    the_other_way = cli("labels", "compare", "dfew", "mafw").stdout
    assert "Every class of dfew has a counterpart" in the_other_way
    assert "dfew has no samples of contempt, anxiety, helplessness, disappointment" in the_other_way


def test_a_comparison_says_which_classes_become_one_and_whether_indices_agree(cli: Callable) -> None:
    assert (
        "neutral and calm of ravdess are one class of ravdess7"
        in cli("labels", "compare", "ravdess", "ravdess7").stdout
    )
    assert "The indices are the same." in cli("labels", "compare", "ferv39k", "dfew").stdout
    assert "The indices differ for 3 of 7 classes" in cli("labels", "compare", "fer2013", "afew").stdout


def test_a_comparison_as_json(cli: Callable) -> None:
    plain = json.loads(cli("labels", "compare", "ckplus", "dfew", "--json").stdout)
    assert plain["classes"][2] == {"index": 2, "name": "contempt", "to_index": None, "to_name": None}
    assert plain["classes"][5] == {"index": 5, "name": "happy", "to_index": 0, "to_name": "happy"}
    assert (plain["missing"], plain["unused"], plain["same_indices"]) == (["contempt"], [], False)


def test_an_unknown_map_suggests_near_ones(cli: Callable) -> None:
    result = cli("labels", "compare", "dfew", "affectnet")
    assert result.exit_code == 1
    assert "unknown label map 'affectnet'" in result.stderr
    assert "affectnet7" in result.stderr.partition("Did you mean")[2]
