"""The verbs. Each imports what it needs when it is called, so that `import zoo` stays instant."""

from zoo.verbs.make import compress, export, import_gguf, train
from zoo.verbs.resolve import (
    checkpoint,
    language_model,
    pinned,
    pull,
    pull_all,
    recipe_of,
    tflite_path,
)
from zoo.verbs.share import card, check_card, push, serve
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
    "serve",
    "tflite_path",
    "train",
]
