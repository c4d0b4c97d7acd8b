"""A Hub-integrated model zoo and adapter registry for efficient edge AI.

```python
import zoo
model = zoo.load("sesr-m5-x2")
```
"""

import sys
from types import ModuleType
from typing import Any

from zoo import adapters
from zoo.api import (
    card,
    checkpoint,
    compress,
    estimate,
    evaluate,
    export,
    import_gguf,
    load,
    pull,
    pull_all,
    push,
    run,
    serve,
    train,
)
from zoo.recipe import Compress, Recipe, Train
from zoo.registry import find, names
from zoo.version import __version__

__all__ = [
    "Compress",
    "Recipe",
    "Train",
    "__version__",
    "adapters",
    "card",
    "checkpoint",
    "compress",
    "estimate",
    "evaluate",
    "export",
    "find",
    "import_gguf",
    "load",
    "names",
    "pull",
    "pull_all",
    "push",
    "run",
    "serve",
    "train",
]


class _Zoo(ModuleType):
    """Keeps the verbs: importing zoo/train.py would put that module in the place of `zoo.train`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Zoo
