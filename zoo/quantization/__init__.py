"""Quantization of weights: grids say which values exist, solvers say how codes are chosen.

Importing this package lets transformers open what it wrote:

```python
import zoo.quantization
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("runs/smollm2-135m-gptvq-2d-2b")
```
"""

from zoo.integrations import registration

registration.ensure()
