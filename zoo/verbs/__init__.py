"""The verbs, grouped by what they do. Each imports what it needs when it is called."""

from zoo.artifacts.resolution import checkpoint, pull, pull_all, resolve
from zoo.verbs.bits import search_bits
from zoo.verbs.comparing import compare
from zoo.verbs.importing import import_convnext, import_timm
from zoo.verbs.make import compress, export, import_gguf, import_tflite, train
from zoo.verbs.reliability import reliability
from zoo.verbs.searching import search
from zoo.verbs.share import card, check_card, push
from zoo.verbs.shares import search_shares
from zoo.verbs.use import estimate, evaluate, load, run

__all__ = [
    "card",
    "check_card",
    "checkpoint",
    "compare",
    "compress",
    "estimate",
    "evaluate",
    "export",
    "import_convnext",
    "import_gguf",
    "import_tflite",
    "import_timm",
    "load",
    "pull",
    "pull_all",
    "push",
    "reliability",
    "resolve",
    "run",
    "search",
    "search_bits",
    "search_shares",
    "train",
]
