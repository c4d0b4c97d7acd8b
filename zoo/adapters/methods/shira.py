"""SHiRA (arXiv 2406.13175) without wrapper modules: see `zoo.adapters.compact`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.adapters import masks
from zoo.adapters.compact import CompactValues
from zoo.adapters.methods.contract import Attachment, Options, Sparse, Values
from zoo.adapters.sparse import base_tensors


def budget(model: nn.Module, options: Options) -> None:
    """Return None: the mask's density says how many entries."""


def attach(model: nn.Module, indices: masks.Indices, options: Options) -> Attachment:
    """Attach a delta to each entry of the mask."""
    return HookRoute(model, indices)


class HookRoute:
    """A delta for each entry of the mask; hooks gather the gradients."""

    def __init__(self, model: nn.Module, indices: Mapping[str, Tensor]) -> None:
        self.model = model
        self.compact = CompactValues(model, indices)
        self.handles = self.compact.attach(model)

    @property
    def trained(self) -> nn.Module:
        """All trained values: one flat vector of deltas."""
        return self.compact.trained

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the start of a run."""
        parts = self.compact.slices()
        indices = {name: self.compact.flat[part] for name, part in parts.items()}
        return {"mask": masks.digest(indices), "base": self.compact.base_digest()}

    def use(self, values: Values | None = None) -> None:
        """Let the model compute with these values, or with those being trained if None."""
        self.compact.write(self.model, None if values is None else values["deltas"])

    def close(self) -> None:
        """Give the base its own values back and remove the hooks."""
        for handle in self.handles:
            handle.remove()
        self.compact.restore(self.model)

    def collect(self) -> None:
        """Do nothing: the hooks have already gathered the gradients."""

    def deltas(self, values: Values) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (indices, deltas) by tensor name."""
        return self.compact.deltas(values["deltas"])

    def result(self, values: Values, folder: Path) -> Sparse:
        """Return what a sparse adapter is made of, of the pristine base."""
        self.compact.restore(self.model)
        return self.deltas(values), base_tensors(self.model)
