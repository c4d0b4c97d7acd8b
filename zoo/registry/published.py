"""Files that others published, of networks that the zoo has: facts, and how a file is recognised.

The files are not part of the zoo. `zoo import FILE` makes a checkpoint of one, whoever it came
from: it is known by its SHA-256. Scores are those that its authors state, on data of theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Rounding = Literal["nearest", "truncate"]
TAG = "published"

_ML_ZOO = "https://github.com/ARM-software/ML-zoo/blob/fec0bb5bcd486eb2839cdb7d437d466067402a6a/"
_TINY = "https://github.com/mlcommons/tiny/blob/1afd2c9820f795965a6134facd0b4dfae41ef23f/"
_SPEECH, _SLIDER = "Speech Commands v2", "MIMII's slide rails (DCASE 2020, task 2)"
_COCO, _CIFAR10, _TOYCAR = "Visual Wake Words (COCO 2014)", "CIFAR-10", "ToyADMOS' ToyCar"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A file, and how its network is used.

    Attributes:
        sha256: of the file.
        url: where its authors have it.
        recipe: the recipe of its architecture.
        data: what it was trained on.
        score: what its authors state, by metric of the task.
        protocol: on what.
        license: of the file.
        args: arguments of the network that are not the recipe's.
        preprocessing: what comes before it and is not the recipe's.
        rounding: how real inputs become its integers.

    """

    sha256: str
    url: str
    recipe: str
    data: str
    score: Mapping[str, float]
    protocol: str
    license: str = "Apache-2.0"
    args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    rounding: Rounding = "nearest"

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


def _words(sha256: str, size: str, stem: str, accuracy: float) -> Published:
    """A MicroNet for keywords, from Arm's ML-zoo."""
    folder = f"models/keyword_spotting/micronet_{size}/tflite_int8"
    return Published(
        sha256=sha256,
        url=f"{_ML_ZOO}{folder}/{stem}.tflite",
        recipe=f"micronet-kws-{size[0]}",
        data=_SPEECH,
        score={"accuracy": accuracy},
        protocol="test set of Speech Commands",
    )


def _machines(sha256: str, size: str, stem: str, auc: float) -> Published:
    """A MicroNet for anomalies, from Arm's ML-zoo: of its eight outputs four are machines."""
    labels = ["00", "02", "04", "06", *(f"unused-{number}" for number in range(1, 5))]
    return Published(
        sha256=sha256,
        url=f"{_ML_ZOO}models/anomaly_detection/micronet_{size}/tflite_int8/{stem}.tflite",
        recipe=f"micronet-ad-{size[0]}",
        data=_SLIDER,
        score={"auc": auc},
        protocol="slide rails of DCASE 2020, task 2",
        args={"num_classes": len(labels)},
        preprocessing={"labels": labels},
    )


def _tiny(sha256: str, path: str, recipe: str, data: str, **facts: Any) -> Published:
    """A reference network of MLPerf Tiny."""
    return Published(
        sha256=sha256, url=f"{_TINY}benchmark/training/{path}", recipe=recipe, data=data, **facts
    )


_KEYWORDS: Mapping[str, Any] = {
    "score": {"accuracy": 0.901},
    "protocol": "the benchmark's 1000 clips",
    "rounding": "truncate",
}
_PICTURES: Mapping[str, Any] = {
    "score": {"accuracy": 0.85},
    "protocol": "the benchmark's quality target",
    "preprocessing": {"range": [0, 255]},
}
_PERSON: Mapping[str, Any] = {
    "score": {"accuracy": 0.80},
    "protocol": "the benchmark's quality target",
}
_WAKE_WORD: Mapping[str, Any] = {
    "score": {"miss_rate": 0.2, "false_alarms_per_hour": 12.0},
    "protocol": "the benchmark's 20 minutes, in float",
    "rounding": "truncate",
}
_CAR: Mapping[str, Any] = {
    "score": {"pooled_auc": 0.86},
    "protocol": "the benchmark's 248 clips",
    "preprocessing": {"mean_db": 0.0, "deviation_db": 1.0, "residual": "window"},
}

FILES = (
    _words(
        "0b04ee059edf9e392bb9b744a051f19818a662453b0fb4af825267f1a1937dae",
        "small", "kws_micronet_s", 0.953,
    ),
    _words(
        "c1feed3af5dac44de7477fb4161670ba18a3fc06039e4a14da41b1c4dd454cb4",
        "medium", "kws_micronet_m", 0.958,
    ),
    _words(
        "15723bcc7d73599546cfebd289632799393e329df84bba883205b08b666a1aa3",
        "large", "kws_micronet_l", 0.965,
    ),
    _machines(
        "73db15c7f1b3c2a3bec8431258be9724b269866645aabfe99eba016da35e5d40",
        "small", "ad_small_int8", 0.955,
    ),
    _machines(
        "5a1265f67367f238c4ccc4c2ccd9c280908a9d5f98a6f88d512c147b1f1309a8",
        "medium", "ad_medium_int8", 0.963,
    ),
    _machines(  # another export of the same network, which Arm's evaluation kit fetched
        "a8b1c9037c2a80e6ff770f0a550777cf744a52850bed6545b2bfc9bacf604c98",
        "medium", "ad_medium_int8", 0.963,
    ),
    _machines(
        "f1cd8dabc12adb91b89d936bdac3eb3ebff6770bf9b9c449cb800d08fcb160a8",
        "large", "ad_large_int8", 0.968,
    ),
    Published(
        sha256="5e76364e80c45776b735563679d45f611cab7ce7fef2ec4e2db088afe009ccae",
        url=f"{_ML_ZOO}models/visual_wake_words/micronet_vww4/tflite_int8/"
        "vww4_128_128_INT8.tflite",
        recipe="micronet-vww-4",
        data=_COCO,
        score={"accuracy": 0.822},
        protocol="Visual Wake Words",
    ),
    _tiny(
        "aeea436800704fce17b17292e4412630ad856e9d777c044c64ef748a880bd0ae",
        "keyword_spotting/trained_models/kws_ref_model.tflite",
        "mlperf-tiny-kws", _SPEECH, **_KEYWORDS,
    ),
    _tiny(
        "e5004c6f1012246e33fa068d8488325538e0444073cd361f5a7edb40c73f12d2",
        "keyword_spotting/trained_models/kws_ref_model_float32.tflite",
        "mlperf-tiny-kws", _SPEECH, **_KEYWORDS,
    ),
    _tiny(
        "3c002613d1b2475eb51dd78dfb85a546c8ae658dee71cf6ade43b022fe205415",
        "image_classification/trained_models/pretrainedResnet_quant.tflite",
        "mlperf-tiny-ic", _CIFAR10, **_PICTURES,
    ),
    _tiny(
        "b5c0046d6e0328b4956afd6baa29555a29b1f1c65bdd45aaed75b7cd484d9f79",
        "image_classification/trained_models/pretrainedResnet.tflite",
        "mlperf-tiny-ic", _CIFAR10, **_PICTURES,
    ),
    _tiny(
        "597a384c8c2c8a1276f04702f25013b7838f2f814f1ca7c174d295b73e3d6b7b",
        "visual_wake_words/trained_models/vww_96_int8.tflite",
        "mlperf-tiny-vww", _COCO, **_PERSON,
    ),
    _tiny(
        "115bbc094d2119561320a21f01b6500a18bea8cc8589282ab007097bec8af38c",
        "visual_wake_words/trained_models/vww_96_float.tflite",
        "mlperf-tiny-vww", _COCO, **_PERSON,
    ),
    _tiny(
        "3af8550895ba7d5c584277102b5075c52dcfa63ba9d2b2240f37c4e6abd5dd2b",
        "streaming_wakeword/trained_models/str_ww_ref_model.tflite",
        "mlperf-tiny-sww", "Speech Commands v2 and MUSAN", **_WAKE_WORD,
    ),
    _tiny(
        "87cf24194ef93d1d9b11a591d805526b98008e351655d29883c825c9c106ba24",
        "anomaly_detection/trained_models/ad01_int8.tflite",
        "mlperf-tiny-ad", _TOYCAR, **_CAR,
    ),
    _tiny(
        "c66636f4d7f8af8b10518e7be750a22c9d8d46ec97326b40b0d94c097e0aad9b",
        "anomaly_detection/trained_models/ad01_fp32.tflite",
        "mlperf-tiny-ad", _TOYCAR, **_CAR,
    ),
)  # fmt: skip


def recognised(sha256: str) -> Published | None:
    """Return what is known about the file of that SHA-256; None if it is not one of these."""
    return next((file for file in FILES if file.sha256 == sha256), None)


def of_recipe(name: str) -> tuple[Published, ...]:
    """Return the files of a recipe's network."""
    return tuple(file for file in FILES if file.recipe == name)
