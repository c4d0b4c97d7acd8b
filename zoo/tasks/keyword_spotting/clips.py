"""Clips with labels: what a folder of words holds, read and kept as 16-bit waves."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.data import frontends, sound
from zoo.data.classified import Labelled
from zoo.data.retakes import Retakes
from zoo.errors import MismatchError
from zoo.files import given_folder
from zoo.registry.recipe import Recipe, Train

UNKNOWN, SILENCE, NOISE = "unknown", "silence", "_background_noise_"


@dataclass(frozen=True)
class LabelledClips:
    """The training data of a network.

    Attributes:
        train: clips that batches are drawn from.
        held_out: what is in `val`, or every tenth clip in the order of labels and names; never
            trained on.
        noise: a wave `(samples,)` of background noise, or None: it is made.
        fingerprint: SHA-256 over labels, names, samples and noise.
        facts: what a card says about the data.
        heard: features of retakes, by clip and number of the retake: each is made once.

    """

    train: Labelled
    held_out: Labelled
    noise: Tensor | None
    fingerprint: str
    facts: dict[str, Any]
    heard: dict[tuple[int, int], Tensor] = field(default_factory=dict)


def for_data(recipe: Recipe, source: str) -> Recipe:
    """Return the recipe with the words of a folder as labels, if they are not its own.

    `silence` and `unknown` are kept where the recipe has them. Where it trains on retakes, clips
    are from then on heard with their hiss.

    Raises:
        MismatchError: the folder has fewer than two folders, or one word and nothing `unknown`.

    """
    folder = part_of(Path(source).expanduser(), "train")
    found = _folders(folder)
    if retakes_of(recipe):
        hiss = {"hiss_db": Retakes.hiss_db}
        recipe = replace(recipe, preprocessing={**recipe.preprocessing, **hiss})
    if set(found) <= {*labels_of(recipe), UNKNOWN, SILENCE} or set(labels_of(recipe)) <= set(found):
        return recipe
    kept = [label for label in (SILENCE, UNKNOWN) if label in labels_of(recipe)]
    words = [label for label in found if label not in kept]
    if len(words) + len(kept) < 2:
        raise MismatchError(f"{folder} has one folder; expected a folder for each of two words")
    if len(words) == 1 and UNKNOWN not in found:
        raise MismatchError(
            f"{folder} has clips of one word, {words[0]}, which every sound would become; add a "
            f"folder of another word, or one of others, {UNKNOWN}"
        )
    labels = [*words, *kept]
    return replace(
        recipe,
        args={**recipe.args, "num_classes": len(labels)},
        preprocessing={**recipe.preprocessing, "labels": labels},
    )


def retakes_of(recipe: Recipe) -> int:
    """Return how many retakes of a clip there are; none where it is not trained."""
    made = recipe.make
    return int(made.options.get("retakes", 0)) if isinstance(made, Train) else 0


def part_of(folder: Path, *names: str) -> Path:
    """Return the first of the folders of these names in `folder`, else `folder` itself."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def labels_of(recipe: Recipe) -> list[str]:
    """Return the labels, in the order of the network's outputs."""
    return list(recipe.preprocessing["labels"])


def _folders(folder: Path) -> list[str]:
    given_folder(folder)
    hidden = ("_", ".")
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(hidden))


def files_of(folder: Path, recipe: Recipe) -> list[tuple[Path, int]]:
    """Return the sounds of a folder in the order of labels and names, with label numbers."""
    labels, found = labels_of(recipe), _folders(folder)
    missing = [name for name in labels if name not in found and name not in (SILENCE, UNKNOWN)]
    if missing or (UNKNOWN not in labels and set(found) - set(labels)):
        have = f"the folders {', '.join(found[:12])}" if found else "no folders"
        raise MismatchError(
            f"{folder} has {have}; {recipe.name} expects one for each label: {', '.join(labels)}"
        )
    return [
        (path, labels.index(name if name in labels else UNKNOWN))
        for name in sorted(found, key=lambda name: (name not in labels, name))
        for path in sound.find(folder / name)
    ]


def decoded(files: Sequence[tuple[Path, int]], recipe: Recipe) -> Labelled:
    """Return the middle of each file."""
    rate, samples = rate_of(recipe), int(recipe.preprocessing["samples"])
    waves = np.empty((len(files), samples), np.int16)
    for slot, (path, _) in enumerate(files):
        wave = sound.fitted(sound.read(path, rate), samples)
        waves[slot] = pcm(wave / max(1.0, float(np.abs(wave).max())))  # floats may be beyond it
    return Labelled(torch.from_numpy(waves), torch.tensor([number for _, number in files]))


def pcm(wave: sound.Wave) -> NDArray[np.int16]:
    """Return a wave from -1 to 1 in 16 bits."""
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)


def rate_of(recipe: Recipe) -> int:
    """Return the samples a second that the recipe's front end takes."""
    return frontends.named(recipe.preprocessing["front_end"]).rate


def background(folder: Path, recipe: Recipe) -> Tensor | None:
    """Return the recorded noise of a folder `(samples,)`, or None if it has none."""
    if not (folder / NOISE).is_dir():
        return None
    waves = [sound.read(path, rate_of(recipe)) for path in sound.find(folder / NOISE)]
    return torch.from_numpy(np.concatenate(waves))


def features(waves: Tensor, recipe: Recipe) -> Tensor:
    """Return the features `(N, 1, frames, width)` of clips `(N, samples)`, int16 or real.

    Clips are brought to full scale, unless the recipe's `level` is "as recorded".
    """
    real = waves.float() / 32768 if waves.dtype == torch.int16 else waves
    if recipe.preprocessing.get("level") != "as recorded":
        real = frontends.at_full_scale(real)
    return frontends.named(recipe.preprocessing["front_end"])(real)


def judged(model: nn.Module, x: Tensor) -> Tensor:
    """Return the probabilities `(N, labels)`, on the CPU, of inputs, to the bit as of each alone.

    The last bit of a float network depends on how many inputs it sees at once, and so would, in a
    stream, on how it is cut. Networks of integers, which have a graph, compute exactly.
    """
    exact = callable(getattr(model, "graph", None))
    parts = x.to(next(model.parameters())).split(len(x) if exact else 1)
    return torch.cat([model(part).float().cpu() for part in parts]).softmax(1)


def inputs(found: Tensor, recipe: Recipe) -> Tensor:
    """Return features `(N, 1, frames, width)` as a network takes them: some have bands as channels.

    Those get `(N, width, frames, 1)`.
    """
    return found if recipe.input_shape[1] == 1 else found.permute(0, 3, 2, 1)


def made_silence(data: LabelledClips, labels: Sequence[str]) -> int:
    """Return the number of the label `silence` if it has no clips of its own, else -1."""
    silence = labels.index(SILENCE) if SILENCE in labels else -1
    return -1 if bool((data.train.labels == silence).any()) else silence
