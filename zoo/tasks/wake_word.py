"""Wake words: when, in a sound without end, somebody says a word.

A network sees the last second as features, a frame later each time, and gives a logit for each of
the recipe's labels: words, `silence` and `unknown`. A word is detected where its probability, the
mean of the last `smoothing` windows, exceeds `threshold`; then not again for `refractory_s`. Sounds
stay as loud as they were recorded: a stream has no loudest sample.

Networks are trained and validated on clips, as in `zoo.tasks.keyword_spotting`. They are judged on
clips, or on recordings: `NAME.wav` with `NAME_ww_windows.json` beside it, a list of the
[beginning, end] of each word in seconds.
"""

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo import registry
from zoo.data import frontends, sound
from zoo.data.following import Patience
from zoo.data.heard import Detection, Heard
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe
from zoo.tasks import keyword_spotting
from zoo.tasks.contract import Metric, TaskFacts, Trial
from zoo.tasks.keyword_spotting import (
    batch,
    calibration,
    for_data,
    loss,
    taught,
    training_data,
    validate,
)
from zoo.tasks.keyword_spotting.clips import SILENCE, UNKNOWN, inputs, judged

__all__ = [
    "FACTS",
    "Listener",
    "batch",
    "calibration",
    "evaluate",
    "follower",
    "for_data",
    "loss",
    "run",
    "stream",
    "taught",
    "training_data",
    "trial",
    "validate",
]

FACTS = TaskFacts(
    name="wake-word",
    pipeline_tag="audio-classification",
    sample="clip",
    metrics=(
        Metric(key="accuracy", name="accuracy", hub_type="accuracy"),
        Metric(key="loss", name="cross entropy", unit="nats", better="lower", hub_type="loss"),
        Metric(key="miss_rate", name="words missed", better="lower"),
        Metric(key="false_alarms_per_hour", name="false alarms per hour", better="lower"),
        Metric(key="delay_s", name="delay from a word's beginning", unit="s", better="lower"),
    ),
    select_by="accuracy",
    beside=("standard_error",),
    usage='model = zoo.load("{ref}")  # takes ({shape}): features of a second, gives logits\n'
    'zoo.run("{ref}", "long.wav").detections  # words and when they were said',
)
WINDOWS = "_ww_windows.json"
LATE_S, MASKED_S = 0.5, 1.0  # after a word: a detection counts, a further one is no false alarm
_PIECE_S, _BATCH = 10, 256


class Listener:
    """Follows a sound piece by piece; how it is cut does not change what is heard.

    Args:
        model: a network of this task.
        recipe: its recipe.

    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.front = frontends.named(recipe.preprocessing["front_end"])
        self.rate = self.front.rate
        self.labels = list(recipe.preprocessing["labels"])
        self._rest = np.zeros(0, np.float32)  # from the first sample of the next frame on
        self._before = torch.zeros(1, 1)
        self._frames: deque[Tensor] = deque(maxlen=recipe.input_shape[2])
        self._recent: deque[Tensor] = deque(maxlen=int(recipe.preprocessing["smoothing"]))
        self._count, self._free_s = 0, 0.0

    def push(self, piece: Any) -> list[Detection]:
        """Return the words that are detected by the end of a further piece.

        Args:
            piece: samples, as `zoo.data.sound.read` takes them; there may be none.

        Raises:
            MismatchError: it is no sound.

        """
        found = []
        for moment, likely in self.windows(piece):
            best = self._best(likely)
            if best is None or moment < self._free_s:
                continue
            self._free_s = moment + float(self.recipe.preprocessing["refractory_s"])
            found.append(Detection(self.labels[best], moment, float(likely[best])))
        return found

    def exceeded(self, piece: Any) -> list[float]:
        """Return the times of all windows in which a word's probability exceeds the threshold."""
        return [moment for moment, likely in self.windows(piece) if self._best(likely) is not None]

    def _best(self, likely: Tensor) -> int | None:
        words = [k for k, label in enumerate(self.labels) if label not in (SILENCE, UNKNOWN)]
        best = max(words, key=lambda k: float(likely[k]))
        return best if likely[best] > float(self.recipe.preprocessing["threshold"]) else None

    def windows(self, piece: Any) -> Iterator[tuple[float, Tensor]]:
        """Give the end in seconds and the probabilities `(labels,)` of each window completed."""
        if not np.size(piece):
            return
        wave, step = sound.read(piece, self.front.rate), _PIECE_S * self.front.rate
        for start in range(0, len(wave), step):
            windows, ends = self._completed(wave[start : start + step])
            for first in range(0, len(windows), _BATCH):
                part = slice(first, first + _BATCH)
                for moment, likely in zip(ends[part], self._judged(windows[part]), strict=True):
                    self._recent.append(likely)
                    yield moment, torch.stack(tuple(self._recent)).mean(0)

    def _completed(self, samples: sound.Wave) -> tuple[list[Tensor], list[float]]:
        """Return the windows `(frames, width)` that samples complete, and where they end.

        Frames are computed one by one, so that the last bit does not depend on their number.
        """
        front, windows, ends = self.front, [], []
        wave = torch.from_numpy(np.concatenate([self._rest, samples]))
        place = 0
        while place + front.window <= len(wave):
            self._frames.append(front(wave[None, place : place + front.window], self._before)[0, 0])
            place += front.hop
            self._before = wave[None, place - 1 : place]
            if len(self._frames) == self._frames.maxlen:
                windows.append(torch.cat(tuple(self._frames)))
                ends.append((self._count * front.hop + front.window) / front.rate)
            self._count += 1
        self._rest = wave[place:].numpy()
        return windows, ends

    @torch.inference_mode()
    def _judged(self, windows: Sequence[Tensor]) -> Tensor:
        """Return the probabilities `(N, labels)` of windows."""
        return judged(self.model, inputs(torch.stack(list(windows))[:, None], self.recipe))


def evaluate(model: nn.Module, recipe: Recipe, data: Path, tokenizer: Any = None) -> dict[str, Any]:
    """Return misses, false alarms and delay on a folder's recordings, or the accuracy on its clips.

    As MLPerf Tiny counts: a word is detected if the threshold is exceeded from its beginning to
    half a second after its end. Where it is exceeded elsewhere, but for the second after a word, is
    a false alarm, and so is every further second of it.
    """
    recordings = sorted(Path(data).rglob(f"*{WINDOWS}"))
    if not recordings:
        return keyword_spotting.evaluate(model, recipe, data)
    words, delays, false, length_s = 0, [], 0, 0.0
    for times in recordings:
        wave, spans = _recording(times, recipe)
        exceeded = Listener(model, recipe).exceeded(wave)
        length_s += len(wave) / frontends.named(recipe.preprocessing["front_end"]).rate
        words += len(spans)
        for begin, end in spans:
            hits = [moment for moment in exceeded if begin <= moment <= end + LATE_S]
            delays += [hits[0] - begin] if hits else []
        false += _alarms(exceeded, spans, float(recipe.preprocessing["refractory_s"]))
    return {
        "clips": len(recordings),
        "words": words,
        "missed": words - len(delays),
        "false_alarms": false,
        "miss_rate": 1 - len(delays) / words if words else 0.0,
        "false_alarms_per_hour": false * 3600 / length_s,
        **({"delay_s": sum(delays) / len(delays)} if delays else {}),
        "protocol": f"{length_s:.0f} s of sound as recorded, threshold "
        f"{recipe.preprocessing['threshold']}, counted as MLPerf Tiny does",
    }


def _recording(times: Path, recipe: Recipe) -> tuple[sound.Wave, list[tuple[float, float]]]:
    """Return a recording and where its words are."""
    path = times.with_name(times.name.removesuffix(WINDOWS) + ".wav")
    rate = frontends.named(recipe.preprocessing["front_end"]).rate
    try:
        found: list[Any] = json.loads(times.read_text(encoding="utf-8"))
        spans = [(float(begin), float(end)) for begin, end in found]
    except (OSError, TypeError, ValueError) as error:
        raise MismatchError(f"{times} is no list of [beginning, end] in seconds") from error
    return sound.read(path, rate), spans


def _alarms(
    exceeded: Sequence[float], spans: Sequence[tuple[float, float]], refractory_s: float
) -> int:
    """Count the times outside of words, of which one stands for all until `refractory_s` later."""
    count, free_s = 0, 0.0
    for moment in exceeded:
        if any(begin <= moment <= end + MASKED_S for begin, end in spans) or moment < free_s:
            continue
        count, free_s = count + 1, moment + refractory_s
    return count


def run(model: nn.Module, recipe: Recipe, source: Any, out: Path | None = None) -> Heard:
    """Return the words of a sound and when they were said; with `out`, save them too.

    Raises:
        MismatchError: it is no sound, or shorter than what the network sees at a time.

    """
    front = frontends.named(recipe.preprocessing["front_end"])
    wave = sound.read(source, front.rate)
    sound.remark(wave)
    least = front.window + (recipe.input_shape[2] - 1) * front.hop
    if len(wave) < least:
        raise MismatchError(
            f"the sound is {len(wave) / front.rate:.2f} s long; {recipe.name} sees "
            f"{least / front.rate:.2f} s at a time"
        )
    start = time.perf_counter()
    found = tuple(Listener(model, recipe).push(wave))
    seconds = time.perf_counter() - start
    result = Heard(found, len(wave) / front.rate, recipe.name, seconds)
    if out is not None:
        result.save(out)
    return result


def stream(
    model: nn.Module,
    recipe: Recipe,
    source: Any,
    out: Path | None = None,
    smoothing: int | None = None,
    threshold: float | None = None,
    refractory_s: float | None = None,
) -> Heard:
    """Return what `run` does, with other settings than the recipe's."""
    settings = {"smoothing": smoothing, "threshold": threshold, "refractory_s": refractory_s}
    return run(model, _set(recipe, settings), source, out)


def follower(model: nn.Module, recipe: Recipe, **settings: float) -> Listener:
    """Return what follows a sound without end by a network of this task; settings of `stream`."""
    return Listener(model, _set(recipe, settings))


def _set(recipe: Recipe, settings: Mapping[str, float | None]) -> Recipe:
    given: dict[str, Any] = {name: v for name, v in settings.items() if v is not None}
    Patience(**given)  # has the bounds
    return replace(recipe, preprocessing={**recipe.preprocessing, **given})


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Write forty clips of tones, one for each word."""
    return keyword_spotting.trial(folder, recipe or registry.find("mlperf-tiny-sww"))
