"""Samples with labels, and labels with probabilities: input and output of tasks that classify."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor

from zoo.files import write_json

T = TypeVar("T")


@dataclass(frozen=True)
class Labelled:
    """Samples `(N, ...)`, as stored, with their label numbers `(N,)`."""

    samples: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def __getitem__(self, chosen: Any) -> "Labelled":
        """Return some of them."""
        return Labelled(self.samples[chosen], self.labels[chosen])


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return at most so many items, evenly spread."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the accuracy and the mean cross entropy, in nats, of logits `(N, labels)`."""
    right = (logits.argmax(1) == labels).double().mean()
    return {"accuracy": float(right), "loss": float(F.cross_entropy(logits, labels))}


def standard_error(share: float, count: int) -> float:
    """Return the standard error of a share that was counted on so many samples."""
    return math.sqrt(share * (1 - share) / count)


@dataclass(frozen=True)
class Classified:
    """What one input is taken for.

    Attributes:
        best: (label, probability) of every label, the likeliest first.
        recipe: name of the recipe.
        seconds: time of the network.

    """

    best: tuple[tuple[str, float], ...]
    recipe: str
    seconds: float

    @property
    def text(self) -> str:
        """What `zoo run` prints: the five likeliest labels, and the time."""
        likeliest = "  ".join(f"{label} {score:.3f}" for label, score in self.best[:5])
        return f"{likeliest}, {self.seconds:.3f} s"

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        best = [{"label": label, "score": round(score, 6)} for label, score in self.best]
        return {"recipe": self.recipe, "best": best, "seconds": round(self.seconds, 4)}

    def save(self, path: str | Path) -> Path:
        """Write the facts as JSON."""
        write_json(Path(path), self.to_json())
        return Path(path)


def classified(
    scores: Tensor, labels: Sequence[str], recipe: str, seconds: float, out: Path | None
) -> Classified:
    """Return labels in the order of their scores `(labels,)`; with `out`, save them too."""
    order = scores.argsort(descending=True, stable=True).tolist()
    best = tuple((labels[number], float(scores[number])) for number in order)
    result = Classified(best, recipe, seconds)
    if out is not None:
        result.save(out)
    return result
