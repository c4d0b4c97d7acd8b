"""A Hub-integrated model zoo and adapter registry for efficient edge AI.

```python
import zoo
model = zoo.load("sesr-m5-x2")
```
"""

from zoo.api import (
    card,
    checkpoint,
    estimate,
    evaluate,
    export,
    load,
    run,
    serve,
    train,
)
from zoo.recipe import Recipe, Train
from zoo.registry import find, names

__version__ = "0.1.0"

__all__ = [
    "Recipe",
    "Train",
    "__version__",
    "card",
    "checkpoint",
    "estimate",
    "evaluate",
    "export",
    "find",
    "load",
    "names",
    "run",
    "serve",
    "train",
]
