"""Words in a sound without end, by a network that judges clips of a second.

Windows of the clip's length start every `stride_s`. A word is detected where its probability, the
mean of the last `smoothing` windows, exceeds `threshold`; then not again for `refractory_s`. Every
window is brought to full scale by itself, as clips are, so that nothing of the future is needed.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import sound
from zoo.data.heard import Detection
from zoo.errors import MismatchError

Judge = Callable[[Tensor], Tensor]  # of waves (N, samples): probabilities (N, labels)
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When a word counts as said.

    Attributes:
        stride_s: seconds from window to window.
        smoothing: windows that probabilities are averaged over.
        threshold: what the mean has to exceed, in [0, 1).
        refractory_s: seconds after a detection in which there is none.

    """

    stride_s: float = 0.1
    smoothing: int = 4
    threshold: float = 0.7
    refractory_s: float = 0.8

    def __post_init__(self) -> None:
        good = 0 < self.stride_s <= 10 and 0 <= self.threshold < 1 and self.refractory_s >= 0
        if not good or self.smoothing < 1:
            raise MismatchError(
                f"{self}: a stride is above 0 and at most 10 s, a threshold from 0 to below 1, a "
                "smoothing at least 1, a refractory time not negative"
            )


class Follower:
    """Follows a sound piece by piece; how it is cut does not change what is heard.

    Args:
        judge: the network with its front end.
        labels: what it tells apart.
        ignored: labels that are no words.
        rate: samples a second.
        samples: of a clip.
        patience: when a word counts as said.

    """

    def __init__(
        self,
        judge: Judge,
        labels: Sequence[str],
        ignored: Collection[str],
        *,
        rate: int,
        samples: int,
        patience: Patience = Patience(),  # frozen
    ) -> None:
        self.judge, self.labels, self.patience = judge, list(labels), patience
        self.words = [place for place, label in enumerate(labels) if label not in ignored]
        self.rate, self.samples = rate, samples
        self.stride = max(1, round(patience.stride_s * rate))
        self._rest = np.zeros(0, np.float32)  # from the first sample of the next window on
        self._start = 0  # its place in the sound
        self._recent: deque[Tensor] = deque(maxlen=patience.smoothing)
        self._free_s = 0.0

    def push(self, piece: Any) -> list[Detection]:
        """Return the words that are detected by the end of a further piece.

        Args:
            piece: samples, as `zoo.data.sound.read` takes them; there may be none.

        Raises:
            MismatchError: it is no sound.

        """
        return list(self._detections(piece))

    def _detections(self, piece: Any) -> Iterator[Detection]:
        for moment, likely in self._windows(piece):
            if not self.words:
                return
            best = max(self.words, key=lambda place: float(likely[place]))
            if likely[best] <= self.patience.threshold or moment < self._free_s:
                continue
            self._free_s = moment + self.patience.refractory_s
            self._recent.clear()  # what was heard is over
            yield Detection(self.labels[best], moment, float(likely[best]))

    def _windows(self, piece: Any) -> Iterator[tuple[float, Tensor]]:
        """Give the end in seconds and the mean probabilities of each window completed."""
        if not np.size(piece):
            return
        wave = np.concatenate([self._rest, sound.read(piece, self.rate)])
        count = max(0, (len(wave) - self.samples) // self.stride + 1)
        ends = [self._start + k * self.stride + self.samples for k in range(count)]
        rows = np.lib.stride_tricks.sliding_window_view(wave, self.samples) if count else wave[:0]
        self._rest = wave[count * self.stride :].copy()
        self._start += count * self.stride
        for first in range(0, count, _BATCH):
            chosen = range(first, min(first + _BATCH, count))
            clips = np.stack([rows[k * self.stride] for k in chosen])
            for k, likely in zip(chosen, self.judge(torch.from_numpy(clips)), strict=True):
                self._recent.append(likely)
                yield ends[k] / self.rate, torch.stack(tuple(self._recent)).mean(0)


def followed(follower: Any, pieces: Iterable[Any]) -> Iterator[Detection]:
    """Give the words of pieces as soon as each is said; a follower has `push(piece)`."""
    for piece in pieces:
        yield from follower.push(piece)
