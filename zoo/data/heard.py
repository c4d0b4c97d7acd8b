"""Where a word is in a long sound: what `zoo.run` returns for wake words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.files import write_json


@dataclass(frozen=True)
class Detection:
    """A word in a sound.

    Attributes:
        word: the label.
        time_s: when it was detected, from the sound's beginning.
        probability: the network's, smoothed as the recipe says.

    """

    word: str
    time_s: float
    probability: float

    @property
    def text(self) -> str:
        """What `zoo run` prints."""
        return f"{self.word} at {self.time_s:.2f} s ({self.probability:.3f})"


@dataclass(frozen=True)
class Heard:
    """The words of a sound.

    Attributes:
        detections: in the order of time.
        sound_s: length of the sound.
        recipe: name of the recipe.
        seconds: time of the computation.

    """

    detections: tuple[Detection, ...]
    sound_s: float
    recipe: str
    seconds: float

    @property
    def text(self) -> str:
        """What `zoo run` prints."""
        heard = "  ".join(found.text for found in self.detections) or "nothing"
        return f"{heard}, in {self.sound_s:.1f} s of sound, {self.seconds:.3f} s"

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        found = [
            {"word": d.word, "time_s": round(d.time_s, 4), "probability": round(d.probability, 6)}
            for d in self.detections
        ]
        return {
            "recipe": self.recipe, "detections": found, "sound_s": round(self.sound_s, 4),
            "seconds": round(self.seconds, 4),
        }  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write the facts as JSON."""
        write_json(Path(path), self.to_json())
        return Path(path)
