"""Visual wake words: whether a person is in the picture (Chowdhery et al., arXiv 1906.05721).

Image classification with two labels, so everything here is that task's: see
`zoo.tasks.image_classification`. Data are a folder with the folders `none` and `person`.
"""

from dataclasses import replace
from pathlib import Path

from zoo import registry
from zoo.registry.recipe import Recipe
from zoo.tasks import image_classification
from zoo.tasks.contract import Trial
from zoo.tasks.image_classification import (
    batch,
    calibration,
    evaluate,
    labelled,
    loss,
    run,
    taught,
    training_data,
    unseen,
    validate,
)

__all__ = [
    "FACTS",
    "batch",
    "calibration",
    "evaluate",
    "labelled",
    "loss",
    "run",
    "taught",
    "training_data",
    "trial",
    "unseen",
    "validate",
]

FACTS = replace(image_classification.FACTS, name="visual-wake-words")


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Paint pictures, a colour for each of the two labels."""
    return image_classification.trial(folder, recipe or registry.find("mlperf-tiny-vww"))
