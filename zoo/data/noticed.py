"""How anomalous one clip is: what `zoo.run` returns for anomaly detection."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.files import write_json


@dataclass(frozen=True)
class Noticed:
    """How anomalous a clip is.

    Attributes:
        score: the higher, the less normal: a mean square in dB^2, or -ln p(machine).
        machine: the one that the clip was judged as; "" if the network does not tell them apart.
        windows: how many were judged.
        recipe: name of the recipe.
        seconds: time of the network.

    """

    score: float
    machine: str
    windows: int
    recipe: str
    seconds: float

    @property
    def text(self) -> str:
        """What `zoo run` prints."""
        of = f" as machine {self.machine}" if self.machine else ""
        return f"score {self.score:.4g}{of}, {self.windows} windows, {self.seconds:.3f} s"

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return {
            "recipe": self.recipe, "score": round(self.score, 6), "machine": self.machine,
            "windows": self.windows, "seconds": round(self.seconds, 4),
        }  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write the facts as JSON."""
        write_json(Path(path), self.to_json())
        return Path(path)
