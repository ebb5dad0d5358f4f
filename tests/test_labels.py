"""Label maps: labels are read by index or name, and maps are joined by name only."""

from __future__ import annotations

import pytest

from ecstfl_cli import registry
from ecstfl_cli.components import label_maps
from ecstfl_cli.errors import LabelMapError, RegistryError
from ecstfl_cli.labels import LabelMap, canonical, label_map_from, remap, side_by_side

DFEW = LabelMap("dfew", ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"))

# As the publishers number them; DFEW and RAF-DB count from 1, their maps from 0.
PUBLISHED = {
    "dfew": "happy sad neutral angry surprise disgust fear",
    "fer2013": "angry disgust fear happy sad surprise neutral",
    "rafdb": "surprise fear disgust happy sad angry neutral",
    "affectnet7": "neutral happy sad surprise fear disgust angry",
    "affectnet8": "neutral happy sad surprise fear disgust angry contempt",
    "ferplus": "neutral happy surprise sad angry disgust fear contempt",
    "mafw": "angry disgust fear happy neutral sad surprise contempt anxiety helplessness disappointment",
    "mafw_dfew_order": "happy sad neutral angry surprise disgust fear contempt anxiety helplessness disappointment",
    "mafw_alphabetical": "angry anxiety contempt disappointment disgust fear happy helplessness neutral sad surprise",
    "ferv39k": "happy sad neutral angry surprise disgust fear",
    "afew": "angry disgust fear happy neutral sad surprise",
    "sfew": "angry disgust fear happy neutral sad surprise",
    "caer": "angry disgust fear happy neutral sad surprise",
    "cremad": "angry disgust fear happy neutral sad",
    "ravdess": "neutral calm happy sad angry fear disgust surprise",
    "ravdess7": "neutral happy sad angry fear disgust surprise",
    "ckplus": "neutral angry contempt disgust fear happy sad surprise",
    "ckplus7": "angry contempt disgust fear happy sad surprise",
    "muxspace": "angry contempt disgust fear happy neutral sad surprise",
}


@pytest.mark.parametrize("name", registry.index("label_maps"))
def test_registered_map_carries_its_name_and_a_source(name: str) -> None:
    found = label_map_from(name)
    assert found.name == name
    assert found.source


def test_builtin_maps_are_in_the_publishers_order() -> None:
    assert {name: " ".join(getattr(label_maps, name).names) for name in PUBLISHED} == PUBLISHED
    builtin = {n for n, (e, *_) in registry.index("label_maps").items() if e.distribution == "ecstfl"}
    assert builtin == set(PUBLISHED)


@pytest.mark.parametrize(
    ("written", "index"),
    [("0", 0), (" 6 ", 6), ("03", 3), ("angry", 3), ("Anger", 3), ("HAPPINESS", 0), ("Afraid\r", 6), ("sadness", 1)],
)
def test_a_label_is_an_index_or_a_name_in_any_usual_spelling(written: str, index: int) -> None:
    assert DFEW.parse(written) == index


@pytest.mark.parametrize("written", ["7", "-1", "+9", "100"])
def test_an_index_outside_the_map_is_refused_with_its_classes(written: str) -> None:
    with pytest.raises(LabelMapError) as error:
        DFEW.parse(written)
    assert f"label {int(written)} is outside label map 'dfew'" in str(error.value)
    assert "6 fear" in error.value.hint


@pytest.mark.parametrize("written", ["contempt", "", "3.5", "+-3", "²", "٣", "3 4"])
def test_what_is_neither_an_index_nor_a_class_is_refused(written: str) -> None:
    with pytest.raises(LabelMapError, match="is not a class of label map 'dfew'"):
        DFEW.parse(written)


def test_a_misspelt_class_brings_a_suggestion() -> None:
    with pytest.raises(LabelMapError, match="Did you mean 'surprise'"):
        DFEW.index("suprise")


def test_every_synonym_folds_into_one_canonical_name() -> None:
    groups = {
        "happy": "happy happiness joy Joy",
        "sad": "sad sadness",
        "angry": "angry anger Anger",
        "surprise": "surprise surprised",
        "disgust": "disgust disgusted",
        "fear": "fear fearful afraid",
        "contempt": "contempt contemptuous",
    }
    for name, spellings in groups.items():
        assert {canonical(spelling) for spelling in spellings.split()} == {name}
    assert canonical(" Helplessness ") == "helplessness"


def test_calm_is_neutral_only_where_the_map_says_so() -> None:
    with pytest.raises(LabelMapError):
        DFEW.parse("calm")
    assert LabelMap("ravdess", ("neutral", "happy"), synonyms={"Calm": "neutral"}).parse("calm") == 0


@pytest.mark.parametrize(
    ("names", "synonyms", "message"),
    [
        (("happy", "sad", "Happiness"), {}, "names a class twice"),
        ((), {}, "has no classes"),
        (("happy", " "), {}, "empty or read as indices"),
        (("1", "2"), {}, "empty or read as indices"),
        (("happy", "sad"), {"calm": "neutral"}, "synonyms of classes it lacks: neutral"),
    ],
)
def test_a_map_that_could_mislead_cannot_be_made(
    names: tuple[str, ...], synonyms: dict[str, str], message: str
) -> None:
    with pytest.raises(LabelMapError, match=message):
        LabelMap("odd", names, synonyms)


def test_maps_are_joined_by_name() -> None:
    fer2013 = label_maps.fer2013
    assert remap(fer2013, DFEW) == [3, 5, 6, 0, 1, 4, 2]
    assert [DFEW.names[i] for i in remap(fer2013, DFEW)] == list(fer2013.names)
    assert remap(DFEW, label_maps.affectnet8) == [1, 2, 0, 6, 3, 5, 4]


def test_joining_uses_the_synonyms_of_the_target() -> None:
    target = LabelMap("ours", ("happy", "neutral"), synonyms={"calm": "neutral"})
    assert remap(LabelMap("theirs", ("calm", "joy")), target) == [1, 0]


def test_a_map_may_gather_several_classes_into_one() -> None:
    target = LabelMap(
        "two", ("negative", "positive"), synonyms={"angry": "negative", "sad": "negative", "joy": "positive"}
    )
    assert [target.parse(name) for name in ("Anger", "sadness", "happiness")] == [0, 0, 1]
    assert remap(LabelMap("three", ("happy", "angry", "sad")), target) == [1, 0, 0]


def test_a_class_without_counterpart_stops_and_shows_both_lists() -> None:
    with pytest.raises(LabelMapError) as error:
        remap(label_maps.mafw, DFEW)
    message = error.value.message
    assert "'mafw' has classes that 'dfew' lacks: contempt, anxiety, helplessness, disappointment" in message
    assert side_by_side(label_maps.mafw, DFEW) in message


def test_side_by_side_is_two_aligned_columns() -> None:
    header, *lines = side_by_side(label_maps.affectnet8, DFEW).splitlines()
    column = header.index("dfew")
    assert [line[column:] for line in lines] == [*(f"{i} {n}" for i, n in enumerate(DFEW.names)), ""]
    assert [line[:column].strip() for line in lines] == [f"{i} {n}" for i, n in enumerate(label_maps.affectnet8.names)]


def test_a_list_of_names_is_a_map_of_its_own() -> None:
    assert label_map_from(["Positive", "negative"]).names == ("positive", "negative")


def test_an_unknown_map_suggests() -> None:
    with pytest.raises(RegistryError, match="Did you mean 'fer2013'"):
        label_map_from("fer2031")


def test_a_plugin_that_hands_out_something_else_is_named(fake_distribution) -> None:
    fake_distribution("mapper", {"label_maps": {"odd": "mapper_mod:odd"}}, {"mapper_mod.py": "odd = ['happy', 'sad']"})
    with pytest.raises(RegistryError, match=r"'odd' of mapper 1\.0 is not an api\.LabelMap \(list\)"):
        label_map_from("odd")


def test_maps_are_hashable_and_equal_by_content() -> None:
    assert len({DFEW, LabelMap("dfew", DFEW.names)}) == 1
