"""What a network costs on a device, and how each number is known.

```python
import torch

from zoo.cost import estimate, target

module = torch.nn.Conv2d(1, 4, 3, padding=1).eval()
cost = estimate(module, target("ethos-u55-256"), input_shape=(1, 1, 360, 640))
print(cost)
```

Parameters, MACs and bytes are counted on the deployed graph (exact); activation memory is a plan
of the tensor arena; latency is a roofline (estimated) or timed here (measured).
"""

from zoo.cost.language import Decoder
from zoo.cost.pricing import estimate, methods
from zoo.cost.result import Cost, Fit, FrontEndCost, TiledRun
from zoo.cost.target import Target, matching, target, target_names

__all__ = [
    "Cost",
    "Decoder",
    "Fit",
    "FrontEndCost",
    "Target",
    "TiledRun",
    "estimate",
    "matching",
    "methods",
    "target",
    "target_names",
]
