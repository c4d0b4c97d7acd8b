"""Training on retakes: each clip as other speakers, rooms and microphones would have given it."""

import functools
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.data.classified import Labelled
from zoo.data.retakes import Retakes
from zoo.data.sound import Wave, trimmed
from zoo.registry.recipe import Recipe
from zoo.tasks.keyword_spotting.clips import (
    LabelledClips,
    features,
    labels_of,
    made_silence,
    pcm,
    rate_of,
    retakes_of,
)

_HELD_OUT = 2**20  # numbers of retakes that training does not hear
_HISS = 2**63  # of dice that nothing else has
Heard = dict[tuple[int, int], Tensor]


def dice_of(seed: int, number: int) -> np.random.Generator:
    """Return dice that depend on these two numbers alone."""
    return np.random.Generator(np.random.Philox(key=[seed, number]))


def hissing(clips: Tensor, recipe: Recipe) -> Tensor:
    """Return clips `(N, samples)`, 16-bit or real, with the faint noise that every retake has.

    What learned from retakes never met digital silence, nor bands without any sound; clips have
    both that are padded with zeros, or were recorded at a lower rate. Where the recipe's `hiss_db`
    is missing, clips stay as they are.
    """
    if "hiss_db" not in recipe.preprocessing:
        return clips
    real = clips.float() / 32768 if clips.dtype == torch.int16 else clips
    levels = [float(np.sqrt(np.mean(trimmed(wave) ** 2))) for wave in real.numpy()]
    below = 10 ** (-float(recipe.preprocessing["hiss_db"]) / 20) * torch.tensor(levels)[:, None]
    return real + below * _hiss(real.shape[1])


@functools.cache
def _hiss(samples: int) -> Tensor:
    """Return noise `(samples,)`, always the same: a clip is heard alike each time."""
    return torch.from_numpy(dice_of(0, _HISS).standard_normal(samples, np.float32))


def heard(
    data: LabelledClips, recipe: Recipe, dices: Sequence[np.random.Generator]
) -> tuple[Tensor, list[int]]:
    """Return features and labels of retakes, of every label as many on average.

    A retake is a function of (clip, number), whatever the seed: what was heard once is kept.
    """
    labels, retakes = labels_of(recipe), retakes_of(recipe)
    of_label = [(data.train.labels == label).nonzero()[:, 0] for label in range(len(labels))]
    silence = made_silence(data, labels)
    present = [n for n, clips in enumerate(of_label) if len(clips) or n == silence]
    keys, chosen = [], []
    for dice in dices:
        label = present[int(dice.integers(len(present)))]
        clips = of_label[label]
        if label == silence:  # as many as a label has retakes
            most = retakes * max(1, len(data.train) // len(labels))
            keys.append((-1, int(dice.integers(most))))
        else:
            keys.append((int(clips[dice.integers(len(clips))]), int(dice.integers(retakes))))
        chosen.append(label)
    new = [key for key in dict.fromkeys(keys) if key not in data.heard]
    if new:
        waves = torch.stack([_retake(data.train.samples, data, recipe, *key) for key in new])
        data.heard.update(zip(new, features(waves, recipe), strict=True))
    return torch.stack([data.heard[key] for key in keys]), chosen


@functools.lru_cache(maxsize=1)
def kept(*facts: Hashable) -> Heard:
    """Return what this process has heard of the same data through the same front end, to add to."""
    return {}


def _retake(clips: Tensor, data: LabelledClips, recipe: Recipe, clip: int, number: int) -> Tensor:
    """Return retake `number` of one of the clips `(N, samples)`, or of silence if `clip` is -1."""
    made = Retakes(rate=rate_of(recipe), samples=int(recipe.preprocessing["samples"]))
    dice = dice_of(0, 2**62 + (clip + 1) * 2**24 + number)
    noise = None if data.noise is None else data.noise.numpy()
    if clip < 0:
        return torch.from_numpy(made.silence(dice, noise))
    others = data.train.samples
    speech = [_real(others[n]) for n in dice.integers(len(others), size=8).tolist()]
    return torch.from_numpy(made.of(_real(clips[clip]), dice, speech, noise))


def _real(samples: Tensor) -> Wave:
    wave: Wave = samples.numpy().astype(np.float32) / np.float32(32768)
    return wave


def held_out(data: LabelledClips, recipe: Recipe) -> Labelled:
    """Return a retake of each clip held out, and silence, where it is made, as often as a label."""
    labels = labels_of(recipe)
    silence, held = made_silence(data, labels), data.held_out
    quiet = 0 if silence < 0 else len(held) // max(1, len(labels) - 1)
    waves = retaken(held.samples, data, recipe, quiet)
    return Labelled(waves, torch.cat([held.labels, torch.full((quiet,), silence)]))


def retaken(clips: Tensor, data: LabelledClips, recipe: Recipe, quiet: int = 0) -> Tensor:
    """Return a retake in 16 bits of each clip `(N, samples)`, and so many of silence after them."""
    chosen = [*range(len(clips)), *[-1] * quiet]
    waves = [
        pcm(_retake(clips, data, recipe, clip, _HELD_OUT + place).numpy())
        for place, clip in enumerate(chosen)
    ]
    return torch.from_numpy(np.stack(waves))
