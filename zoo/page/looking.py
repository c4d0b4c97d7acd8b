"""What the page's Look tab shows, without the page: what small networks see in a picture."""

import html
import statistics
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from zoo.page.cards import figures, threads
from zoo.page.given import choice
from zoo.page.shelf import Shelved, shelf
from zoo.tasks import image_classification as task

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

TASKS = ("image-classification", "visual-wake-words")
FOLDER = Path(__file__).parent / "examples"
EXAMPLES = (FOLDER / "pictures/cat.jpg", FOLDER / "astronaut.jpg", FOLDER / "dogs.jpg")
SHOWN_PIXELS = 320  # least side at which a small picture is shown
_RUNS, _ENOUGH_S = 9, 0.5


@dataclass(frozen=True)
class Sight:
    """What was seen in a picture.

    Attributes:
        likely: the probability of each label.
        seen: what the network sees, its pixels enlarged without smoothing.
        size: width and height that it sees.
        latency_ms: of the network here, the median of runs after the first.
        runs: how many.

    """

    likely: dict[str, float]
    seen: Image.Image
    size: tuple[int, int]
    latency_ms: float
    runs: int


class Eyes:
    """What all visitors share: the networks, and what each costs. One looks at a time.

    Args:
        given: checkpoints besides those that ship.

    Raises:
        MissingWeightsError: no network that looks has weights.

    """

    def __init__(self, given: "Iterable[Artifact]" = ()) -> None:
        self.shelf = shelf(TASKS, given, "looks at pictures")
        self.default = next(iter(self.shelf))
        self._lock = threading.Lock()

    def look(self, path: Path, ref: str) -> Sight:
        """Return what a network sees in a picture.

        Raises:
            MismatchError: there is no such network, or it is no picture.

        """
        eye = self.shelf[choice(ref, "network", self.shelf)]
        pixels = task.fitted(path, eye.recipe)
        times: list[float] = []
        with self._lock:
            likely = dict(task.run(eye.model, eye.recipe, path).best)  # warms up
            x = task.inputs(torch.from_numpy(pixels.copy())[None], eye.recipe)
            x = x.to(next(eye.model.parameters()))
            with torch.inference_mode():
                while not times or (len(times) < _RUNS and sum(times) < _ENOUGH_S):
                    start = time.perf_counter()
                    eye.model(x)
                    times.append(time.perf_counter() - start)
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        zoom = -(-SHOWN_PIXELS // min(picture.size))
        shown = picture.resize(
            (picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST
        )
        return Sight(likely, shown, picture.size, statistics.median(times) * 1e3, len(times))


def facts(sight: Sight, eye: Shelved, costs: list[tuple[str, str, str]]) -> str:
    """Return the time here and on devices as cards, and what the network knows, as HTML."""
    width, height = sight.size
    colours = "grey" if eye.recipe.input_shape[1] == 1 else "coloured"
    here = f"median of {sight.runs} run{'s' * (sight.runs != 1)} after a first, "
    here += threads()
    cards = figures([("Here", f"{sight.latency_ms:.3g} ms", here), *costs])
    return (
        f"{cards}<p class='zoo-note'>{eye.weights:,} weights see {width}x{height} {colours} pixels "
        f"and know {html.escape(', '.join(eye.labels))}, and nothing else: whatever is in a "
        "picture, they call it one of these.</p>"
    )


def code(ref: str) -> str:
    """Return the lines of Python that do the same."""
    return (
        "import zoo\n\n"
        f'print(zoo.run("{ref}", "photo.jpg").best[0])\n'
        f'print(zoo.estimate("{ref}", "ethos-u55-128"))'
    )
