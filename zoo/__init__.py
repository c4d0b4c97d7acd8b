"""A Hub-integrated model zoo and adapter registry for efficient edge AI.

```python
import zoo

model = zoo.load("sesr-m5-x2")
```
"""

from zoo import adapters
from zoo.artifacts.resolution import checkpoint, pull, pull_all, resolve
from zoo.page import serve
from zoo.registry import find, names
from zoo.registry.recipe import Compress, Recipe, Train
from zoo.verbs.bits import search_bits
from zoo.verbs.comparing import compare
from zoo.verbs.importing import import_convnext, import_timm
from zoo.verbs.make import compress, export, import_gguf, import_tflite, train
from zoo.verbs.reliability import reliability
from zoo.verbs.searching import search
from zoo.verbs.share import card, push
from zoo.verbs.shares import search_shares
from zoo.verbs.use import estimate, evaluate, load, run
from zoo.version import __version__

__all__ = [
    "Compress",
    "Recipe",
    "Train",
    "__version__",
    "adapters",
    "card",
    "checkpoint",
    "compare",
    "compress",
    "estimate",
    "evaluate",
    "export",
    "find",
    "import_convnext",
    "import_gguf",
    "import_tflite",
    "import_timm",
    "load",
    "names",
    "pull",
    "pull_all",
    "push",
    "reliability",
    "resolve",
    "run",
    "search",
    "search_bits",
    "search_shares",
    "serve",
    "train",
]
