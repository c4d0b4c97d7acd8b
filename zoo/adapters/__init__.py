"""Sparse adapters: switch in milliseconds, fuse without harm, restore bit for bit.

```python
import torch

import zoo
from zoo.adapters import Switcher

model = zoo.load("sesr-m5-x2")
switcher = Switcher(model)
switcher.register("text", "adapters/sesr-m5-x2-text.safetensors")
with switcher.using("text"), torch.inference_mode():
    enlarged = model(torch.rand(1, 1, 32, 32))  # (N, C, 2H, 2W), in [0, 1]
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
