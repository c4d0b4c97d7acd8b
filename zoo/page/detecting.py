"""What the page's Detect tab shows, without the page: objects that networks find in a picture."""

import html
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from zoo.data.found import Found
from zoo.page.cards import figures, threads
from zoo.page.given import choice, number
from zoo.page.shelf import Shelved, shelf
from zoo.tasks import object_detection as task

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

TASKS = ("object-detection",)
EXAMPLES = tuple(sorted((Path(__file__).parent / "examples" / "blood").glob("*.jpg")))
SHOWN_PIXELS = 1600  # of the longest side with boxes in it; they are found in all of the picture


class Scout:
    """What all visitors share: the networks. One searches at a time.

    Args:
        given: checkpoints besides those that ship.

    Raises:
        MissingWeightsError: no network that finds objects has weights.

    """

    def __init__(self, given: "Iterable[Artifact]" = ()) -> None:
        self.shelf = shelf(TASKS, given, "finds objects")
        self.default = next(iter(self.shelf))
        self._lock, self._warm = threading.Lock(), set[str]()

    def threshold(self, ref: str) -> float:
        """Return the least score of a box, as the network's recipe has it."""
        return float(self._of(ref).recipe.preprocessing["threshold"])

    def find(self, path: Path, ref: str, threshold: Any = None) -> Found:
        """Return the objects of a picture of any size.

        Args:
            path: of the picture.
            ref: of the network.
            threshold: least score, from 0 to 1; None takes the recipe's.

        Raises:
            MismatchError: no such network, no picture, or no such threshold.

        """
        eye = self._of(ref)
        least = number(threshold, "least score", 0, 1, self.threshold(ref))
        with self._lock:
            if ref not in self._warm:  # PyTorch's first run is slow, and not what is to be timed
                task.run(eye.model, eye.recipe, path, threshold=least)
                self._warm.add(ref)
            return task.run(eye.model, eye.recipe, path, threshold=least)

    def _of(self, ref: str) -> Shelved:
        return self.shelf[choice(ref, "network", self.shelf)]


def shown(found: Found) -> Image.Image:
    """Return the picture with its boxes, shrunk to `SHOWN_PIXELS` where it is larger."""
    height, width = found.pixels.shape[:2]
    share = SHOWN_PIXELS / max(height, width)
    if share >= 1:
        return found.image
    size = max(1, round(width * share)), max(1, round(height * share))
    pixels = np.asarray(Image.fromarray(found.pixels).resize(size, Image.Resampling.LANCZOS))
    items = tuple(
        replace(item, box=tuple(side * share for side in item.box)) for item in found.items
    )
    return replace(found, pixels=pixels, items=items).image


def facts(found: Found, eye: Shelved, costs: list[tuple[str, str, str]]) -> str:
    """Return how many there are of each label, the time here and on devices, as HTML."""
    counts = Counter(item.label for item in found.items)
    said = ", ".join(f"{counts[label]} {label}" for label in found.labels if counts[label])
    height, width = found.pixels.shape[:2]
    cards = figures(
        [
            ("Found", str(len(found.items)), said or "nothing: lower the least score"),
            ("Here", f"{found.seconds * 1e3:.3g} ms",
             f"measured, {threads()}, with the choice of boxes"),
            *costs,
        ]
    )  # fmt: skip
    seen = "x".join(map(str, reversed(eye.recipe.input_shape[2:])))
    return (
        f"{cards}<p class='zoo-note'>{eye.weights:,} weights see the {width}x{height} pixels in "
        f"{seen} and know {html.escape(', '.join(found.labels))}, and nothing else.</p>"
    )


def code(ref: str) -> str:
    """Return the lines of Python that do the same."""
    return f'import zoo\n\nprint(zoo.run("{ref}", "photo.jpg", "boxes.png").items)'
