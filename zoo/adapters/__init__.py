"""Sparse adapters: switch in milliseconds, fuse without harm, restore to the bit.

```python
from zoo.adapters import SparseAdapter, Switcher
switcher = Switcher(model)
switcher.register("art", "adapters/art")
with switcher.using("art"):
    model(x)
```

The names below are imported when they are first used, because they need torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.adapters.format import SparseAdapter
    from zoo.adapters.fusion import fuse
    from zoo.adapters.interference import compare
    from zoo.adapters.switcher import Switcher

__all__ = ["SparseAdapter", "Switcher", "compare", "fuse"]

_HOMES = {
    "SparseAdapter": "zoo.adapters.format",
    "Switcher": "zoo.adapters.switcher",
    "compare": "zoo.adapters.interference",
    "fuse": "zoo.adapters.fusion",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
