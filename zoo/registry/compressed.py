"""`Compressed`: what a compression method made of a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """What a method made and has not yet written to the folder.

    Attributes:
        metrics: for `metrics.json`; "compression" holds what is known about the compression.
        tensors: the network's tensors; None if the method wrote a folder that transformers opens.
        quantization: what makes it an integer network; see `zoo.registry.checkpoint`.
        license: of the tensors, if it is not the source's alone: they learned from other data too.
        changes: fields of the recipe that have changed, e.g. {"args": {"channels": 12}}.

    """

    metrics: Mapping[str, Any]
    tensors: "Mapping[str, Tensor] | None" = None
    quantization: Mapping[str, Any] | None = None
    license: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


def licence_after(license: str, before: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    """Return the licence of weights that learned on from others; None if from the same data.

    Args:
        license: of the weights it started from.
        before: what is known about the data that those learned from.
        facts: the same of the data that it learned from.

    """
    if facts.get("sha256") == before.get("sha256"):
        return None
    return f"{license}; trained on {facts.get('source', 'other data')}: not stated"
