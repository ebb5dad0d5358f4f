"""Built-in label maps: the index order each publisher uses, counted from 0."""

from ecstfl_cli.labels import LabelMap

dfew = LabelMap(
    "dfew",
    ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"),
    source="Jiang et al., DFEW, ACM MM 2020; the release counts from 1",
)
fer2013 = LabelMap(
    "fer2013",
    ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    source="Goodfellow et al., ICML 2013 workshop",
)
rafdb = LabelMap(
    "rafdb",
    ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"),
    source="Li et al., RAF-DB, CVPR 2017, basic; the release counts from 1",
)
affectnet7 = LabelMap(
    "affectnet7",
    ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry"),
    source="Mollahosseini et al., AffectNet, IEEE TAC 2017, without contempt",
)
affectnet8 = LabelMap(
    "affectnet8",
    ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt"),
    source="Mollahosseini et al., AffectNet, IEEE TAC 2017",
)
ferplus = LabelMap(
    "ferplus",
    ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt"),
    source="Barsoum et al., FERPlus, ICMI 2016",
)
mafw = LabelMap(
    "mafw",
    (
        "angry",
        "disgust",
        "fear",
        "happy",
        "neutral",
        "sad",
        "surprise",
        "contempt",
        "anxiety",
        "helplessness",
        "disappointment",
    ),
    source="Liu et al., MAFW, ACM MM 2022, the release's own order",
)
muxspace = LabelMap(
    "muxspace",
    ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
    source="muxspace/facial_expressions, alphabetical",
)
