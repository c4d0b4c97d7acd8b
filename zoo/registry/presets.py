"""Names for settings that work: `zoo compress MODEL --method gptvq-2d-2b`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Weights per codebook of 8-bit centroids that cost 1/8 bit per weight (table 7 of the paper).
_GROUPS = {
    (1, 2): 256,
    (1, 3): 512,
    (1, 4): 1024,
    (2, 2): 2048,
    (2, 3): 8192,
    (2, 4): 32768,
    (4, 2): 65536,
}
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        f"gptvq-{dim}d-{bits}b": {
            "method": "gptvq",
            "bits": bits,
            "dim": dim,
            "group_size": size,
        }
        for (dim, bits), size in _GROUPS.items()
    }
)
