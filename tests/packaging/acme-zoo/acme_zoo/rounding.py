"""A compression method: weights with few binary places."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.registry.compressed import Compressed

SUMMARY = "weights rounded to multiples of a power of two"
PAPER = "2103.09404"
TAKES, DATA, TRAINS = "network", "", False
PRESETS: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How weights are rounded.

    Attributes:
        places: binary places that are kept.

    """

    places: int = 4

    @property
    def needs_data(self) -> bool:
        return False

    @property
    def label(self) -> str:
        return f"rounded-{self.places}"

    @property
    def summary(self) -> str:
        return f"weights with {self.places} binary places"


def compress(source, out, options, *, data, test, resume, device):
    step = 2.0**-options.places
    tensors = {name: (t / step).round() * step for name, t in source.load().state_dict().items()}
    return Compressed(metrics={"compression": {"places": options.places}}, tensors=tensors)
