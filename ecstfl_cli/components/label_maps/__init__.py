"""Built-in label maps: the index order each publisher uses, counted from 0."""

from ecstfl_cli.labels import LabelMap

_ALPHABETICAL = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")

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
mafw_dfew_order = LabelMap(
    "mafw_dfew_order",
    (*dfew.names, "contempt", "anxiety", "helplessness", "disappointment"),
    source="MAFW's classes as projects around DFEW number them: DFEW's seven first",
)
mafw_alphabetical = LabelMap(
    "mafw_alphabetical",
    (
        "angry",
        "anxiety",
        "contempt",
        "disappointment",
        "disgust",
        "fear",
        "happy",
        "helplessness",
        "neutral",
        "sad",
        "surprise",
    ),
    source="MAFW's classes as projects that sort the release's words number them",
)
ferv39k = LabelMap(
    "ferv39k",
    ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"),
    source="Wang et al., FERV39k, CVPR 2022; the release writes words, and this order is DFEW's",
)
afew = LabelMap(
    "afew",
    _ALPHABETICAL,
    source="Dhall et al., AFEW, IEEE MultiMedia 2012, as in EmotiW 2017 (AFEW 7.0); folder names, alphabetical",
)
sfew = LabelMap(
    "sfew",
    _ALPHABETICAL,
    source="Dhall et al., SFEW, ICCV 2011 workshops, as in EmotiW 2015 (SFEW 2.0); folder names, alphabetical",
)
caer = LabelMap(
    "caer",
    _ALPHABETICAL,
    source="Lee et al., CAER, ICCV 2019, CAER and CAER-S; folder names, alphabetical",
)
cremad = LabelMap(
    "cremad",
    ("angry", "disgust", "fear", "happy", "neutral", "sad"),
    synonyms={"ang": "angry", "dis": "disgust", "fea": "fear", "hap": "happy", "neu": "neutral"},
    source="Cao et al., CREMA-D, IEEE TAC 2014; codes in file names, alphabetical",
)
ravdess = LabelMap(
    "ravdess",
    ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"),
    source="Livingstone and Russo, RAVDESS, PLOS ONE 2018; the release counts from 1",
)
ravdess7 = LabelMap(
    "ravdess7",
    ("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"),
    synonyms={"calm": "neutral"},
    source="Livingstone and Russo, RAVDESS, PLOS ONE 2018, with calm counted as neutral",
)
ckplus = LabelMap(
    "ckplus",
    ("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise"),
    source="Lucey et al., CK+, CVPR 2010 workshops, the numbers of the release; no sequence is labelled neutral",
)
ckplus7 = LabelMap(
    "ckplus7",
    ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise"),
    source="Lucey et al., CK+, CVPR 2010 workshops, without neutral, which no sequence is labelled as",
)
muxspace = LabelMap(
    "muxspace",
    ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
    source="muxspace/facial_expressions, alphabetical",
)
