"""How two adapters meet: what both change, and whether they agree."""

from dataclasses import astuple, dataclass

import numpy as np
from torch import Tensor

from zoo.adapters.format import SparseAdapter


@dataclass(frozen=True)
class Meeting:
    """Two adapters in one tensor, or in the whole model.

    Attributes:
        first: elements that the first changes.
        second: elements that the second changes.
        overlap: elements that both change.
        conflicts: of these, those where the signs differ.
        energy_first: ||a1 S1||^2.
        energy_second: ||a2 S2||^2.
        conflict_energy: the part of both energies that lies on conflicts.
        dot: <a1 S1, a2 S2>.

    """

    first: int = 0
    second: int = 0
    overlap: int = 0
    conflicts: int = 0
    energy_first: float = 0.0
    energy_second: float = 0.0
    conflict_energy: float = 0.0
    dot: float = 0.0

    @property
    def jaccard(self) -> float:
        """Overlap over union, 0 to 1."""
        return self.overlap / max(self.first + self.second - self.overlap, 1)

    @property
    def overlap_share(self) -> float:
        """Overlap over the smaller of the two, 0 to 1."""
        return self.overlap / max(min(self.first, self.second), 1)

    @property
    def conflict_share(self) -> float:
        """Part of both adapters' energy that lies where their signs differ, 0 to 1."""
        return self.conflict_energy / max(self.energy_first + self.energy_second, 1e-300)

    @property
    def cosine(self) -> float:
        """Cosine of the two changes, -1 to 1; 0 for disjoint ones."""
        return self.dot / max((self.energy_first * self.energy_second) ** 0.5, 1e-300)

    @property
    def energy_ratio(self) -> float:
        """||a1 S1 + a2 S2||^2 over the sum of both energies: 1 if they do not meet, 0 to 2."""
        total = self.energy_first + self.energy_second
        return (total + 2 * self.dot) / total if total else 1.0

    def __add__(self, other: "Meeting") -> "Meeting":
        both = zip(astuple(self), astuple(other), strict=True)
        return Meeting(*(a + b for a, b in both))


def meet(
    one: SparseAdapter, two: SparseAdapter, key: str, first: Tensor | None, second: Tensor | None
) -> Meeting:
    """Return how two adapters meet in the tensor `key`, from their changes there, if any."""
    a = np.zeros(0) if first is None else first.numpy().astype(np.float64)
    b = np.zeros(0) if second is None else second.numpy().astype(np.float64)
    at = {"first": len(a), "second": len(b), "energy_first": float(a @ a),
          "energy_second": float(b @ b)}  # fmt: skip
    if first is None or second is None:
        return Meeting(**at)  # type: ignore[arg-type]
    _, i, j = np.intersect1d(
        one.tensors[key].indices.numpy(),
        two.tensors[key].indices.numpy(),
        assume_unique=True,
        return_indices=True,
    )
    a, b = a[i], b[j]
    conflict = a * b < 0
    return Meeting(
        **at,  # type: ignore[arg-type]
        overlap=len(i),
        conflicts=int(conflict.sum()),
        conflict_energy=float((a[conflict] ** 2).sum() + (b[conflict] ** 2).sum()),
        dot=float(a @ b),
    )
