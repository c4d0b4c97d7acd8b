"""What the page's Listen tab shows, without the page: words that networks hear in a sound."""

import html
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from zoo.data import sound
from zoo.data.heard import Detection
from zoo.errors import MismatchError
from zoo.page.given import choice
from zoo.page.shelf import Shelved, shelf
from zoo.tasks import keyword_spotting as task

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

TASKS = ("keyword-spotting",)
DEFAULT = "micronet-kws-m"  # what it opens with, if that is there
MOST_SECONDS = 60.0  # of a visitor's sound
EXAMPLES = Path(__file__).parent / "examples" / "sounds"


@dataclass(frozen=True)
class Hearing:
    """What was heard in a sound.

    Attributes:
        likely: the probability of each label in the loudest second.
        detections: words and when they were said.
        sound_s: length of the sound.
        seconds: time of the networks.
        remarks: what makes the sound worth little.

    """

    likely: dict[str, float]
    detections: tuple[Detection, ...]
    sound_s: float
    seconds: float
    remarks: tuple[str, ...] = ()


class Ears:
    """What all visitors share: the networks. One hears at a time.

    Args:
        given: checkpoints besides those that ship.

    Raises:
        MissingWeightsError: no network that hears words has weights.

    """

    def __init__(self, given: "Iterable[Artifact]" = ()) -> None:
        self.shelf = shelf(TASKS, given, "hears words")
        self.default = DEFAULT if DEFAULT in self.shelf else next(iter(self.shelf))
        self._lock = threading.Lock()

    def hear(self, path: Path, ref: str) -> Hearing:
        """Return the words of a sound.

        Raises:
            MismatchError: there is no such network, or it is no sound, or longer than a minute.

        """
        ear = self.shelf[choice(ref, "network", self.shelf)]
        rate, samples = task.clips.rate_of(ear.recipe), int(ear.recipe.preprocessing["samples"])
        wave = sound.read(path, rate)
        if len(wave) > MOST_SECONDS * rate:
            raise MismatchError(
                f"the sound is {len(wave) / rate:.0f} s long; this page takes up to a minute, and "
                f"zoo run {ref} SOUND --stream two hours"
            )
        start = time.perf_counter()
        with self._lock:
            best = task.run(ear.model, ear.recipe, _loudest(wave, samples)).best
            found = task.stream(ear.model, ear.recipe, wave).detections
        seconds = time.perf_counter() - start
        return Hearing(dict(best), found, len(wave) / rate, seconds, tuple(sound.remarks(wave)))


def _loudest(wave: sound.Wave, samples: int) -> sound.Wave:
    """Return the second with the most energy; a shorter sound as it is."""
    if len(wave) <= samples:
        return wave
    energies = torch.from_numpy(wave).double().square().cumsum(0)
    ahead = torch.cat([energies.new_zeros(1), energies])
    start = int((ahead[samples:] - ahead[:-samples]).argmax())
    return wave[start : start + samples]


def words(ear: Shelved) -> list[str]:
    """Return the words that a network tells apart."""
    return [x for x in ear.labels if x not in (task.clips.SILENCE, task.clips.UNKNOWN)]


def timeline(hearing: Hearing) -> str:
    """Return the words along the sound's length, as HTML."""
    if not hearing.detections:
        return "<p class='zoo-note'>No word was said clearly enough.</p>"
    marks = "".join(
        f"<li style='left:{100 * d.time_s / max(hearing.sound_s, 0.01):.1f}%' "
        f"title='{d.time_s:.2f} s, {d.probability:.0%}'>{html.escape(d.word)}</li>"
        for d in hearing.detections
    )
    return f"<ol class='zoo-words' aria-label='words along the sound'>{marks}</ol>"


def facts(hearing: Hearing, ear: Shelved) -> str:
    """Return one line of facts, as HTML."""
    wrong = "".join(f"<p><b>{html.escape(text)}</b></p>" for text in hearing.remarks)
    return wrong + (
        f"<p class='zoo-note'>{hearing.sound_s:.1f} s of sound heard in {hearing.seconds:.2f} s by "
        f"{ear.weights:,} weights that know {html.escape(', '.join(words(ear)))}. It never left "
        "the server's memory but as a file that is deleted after you leave.</p>"
    )


def code(ref: str) -> str:
    """Return the lines of Python that do the same."""
    return (
        "import zoo\n\n"
        f'print(zoo.run("{ref}", "sound.wav").best[0])\n'
        f'print(zoo.run("{ref}", "sound.wav", stream=True).detections)'
    )
