"""The verbs, by what they do. Each imports what it needs when it is called."""

from zoo.artifacts.resolve import (
    checkpoint,
    language_model,
    pinned,
    pull,
    pull_all,
    recipe_of,
    tflite_path,
)
from zoo.verbs.make import compress, export, import_gguf, train
from zoo.verbs.share import card, check_card, push
from zoo.verbs.use import estimate, evaluate, load, run

__all__ = [
    "card",
    "check_card",
    "checkpoint",
    "compress",
    "estimate",
    "evaluate",
    "export",
    "import_gguf",
    "language_model",
    "load",
    "pinned",
    "pull",
    "pull_all",
    "push",
    "recipe_of",
    "run",
    "tflite_path",
    "train",
]
