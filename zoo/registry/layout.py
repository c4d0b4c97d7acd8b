"""What is where in a checkpoint's folder.

```
config.json         format version, recipe, tag, licence of the weights, data, sha256 of the files;
                    for a quantized network also `quantization`: its scheme ("int8", "int8-w4")
                    and the range [low, high] of each activation by label, see
                    `zoo.quantization.int8.network`, or "file", see `zoo.deploy.file_network`
model.safetensors   the deployed network's tensors, in float
model.tflite        only of a published file: that file, whose integers are the network's
metrics.json        what was measured, and how
README.md           the card
LICENSE             of the weights, in words
```

A language model is a folder that transformers opens, so `config.json` is as transformers has it;
what the zoo knows is in `zoo.json` next to it, and the weights may be several files.
"""

from pathlib import Path

from zoo.errors import MismatchError
from zoo.files import read_json

CONFIG, WEIGHTS, METRICS, CARD = "config.json", "model.safetensors", "metrics.json", "README.md"
FILE = "model.tflite"
LICENSE = "LICENSE"
FACTS = "zoo.json"
ADAPTER = "adapter.json"  # makes a folder a sparse adapter's
UNSTATED = "not stated"  # used as a licence


def facts_file(path: Path) -> Path:
    """Return the path of the zoo's config in a checkpoint folder."""
    return path / FACTS if (path / FACTS).is_file() else path / CONFIG


def is_checkpoint(path: Path) -> bool:
    """Say whether a folder's config is the zoo's, and not another library's `config.json`."""
    try:
        return "recipe" in read_json(facts_file(path))
    except MismatchError:
        return False
