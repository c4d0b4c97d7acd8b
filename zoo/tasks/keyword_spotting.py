"""Keyword spotting: which of a few words a clip of a second says.

Networks see features `(N, 1, frames, coefficients)` of the front end that the recipe names, or
`(N, coefficients, frames, 1)`, and return a logit for each of the recipe's labels. Data are a
folder with one folder of sounds for each label, or `train` and `test` with such folders. Of the
labels, two are special:

- `unknown` is also what lies in folders that are no label;
- `silence` is made, of noise of many colours and levels, where it has no folder.

What lies in a folder `_background_noise_` is mixed into the clips instead of made noise.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo import registry
from zoo.data import frontends, sound
from zoo.data.classified import Classified, Labelled, classified, scores, standard_error
from zoo.data.text import draw
from zoo.errors import MismatchError
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe
from zoo.tasks.contract import Metric, TaskFacts, Trial, short

__all__ = [
    "FACTS",
    "batch",
    "calibration",
    "evaluate",
    "for_data",
    "loss",
    "run",
    "taught",
    "training_data",
    "trial",
    "validate",
]

FACTS = TaskFacts(
    name="keyword-spotting",
    pipeline_tag="audio-classification",
    sample="clip",
    metrics=(
        Metric(key="accuracy", name="accuracy", hub_type="accuracy"),
        Metric(key="loss", name="cross entropy", unit="nats", better="lower", hub_type="loss"),
    ),
    select_by="accuracy",
    beside=("standard_error",),
    usage='model = zoo.load("{ref}")  # takes ({shape}): features of a second, gives logits\n'
    'zoo.run("{ref}", "clip.wav").best  # words and probabilities',
)
UNKNOWN, SILENCE, NOISE = "unknown", "silence", "_background_noise_"
HOLD_OUT_EVERY = 10
_CALIBRATED, _BATCH = 512, 128


@dataclass(frozen=True)
class LabelledClips:
    """The training data of a network.

    Attributes:
        train: clips that batches are drawn from.
        held_out: every tenth clip in the order of labels and names, never trained on.
        noise: a wave `(samples,)` of background noise, or None: it is made.
        fingerprint: SHA-256 over labels, names and samples.
        facts: what a card says about the data.

    """

    train: Labelled
    held_out: Labelled
    noise: Tensor | None
    fingerprint: str
    facts: dict[str, Any]


# --- reading --------------------------------------------------------------------------------------


def for_data(recipe: Recipe, source: str) -> Recipe:
    """Return the recipe with the words of a folder as labels, if they are not its own.

    `silence` and `unknown` are kept where the recipe has them.

    Raises:
        MismatchError: the folder has fewer than two folders.

    """
    folder = _part(Path(source).expanduser(), "train")
    found = _folders(folder)
    if set(found) <= {*_labels(recipe), UNKNOWN, SILENCE} or set(_labels(recipe)) <= set(found):
        return recipe
    kept = [label for label in (SILENCE, UNKNOWN) if label in _labels(recipe)]
    words = [label for label in found if label not in kept]
    if len(words) + len(kept) < 2:
        raise MismatchError(f"{folder} has one folder; expected a folder for each of two words")
    labels = [*words, *kept]
    return replace(
        recipe,
        args={**recipe.args, "num_classes": len(labels)},
        preprocessing={**recipe.preprocessing, "labels": labels},
    )


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> LabelledClips:
    """Read the clips of a folder, or of its folder `train` if it has one, and keep them.

    Raises:
        MismatchError: there is no such folder, a label has no folder, a sound cannot be read, or
            there are too few.

    """
    folder = Path(source).expanduser()
    files = _files(_part(folder, "train"), recipe)
    if len(files) < 2 * HOLD_OUT_EVERY:
        raise MismatchError(
            f"{source} has {len(files)} clips; expected {2 * HOLD_OUT_EVERY} or more to train on"
        )
    clips = _decoded(files, recipe)
    digest = hashlib.sha256(repr([path.parts[-2:] for path, _ in files]).encode())
    digest.update(clips.samples.numpy().tobytes())
    held = torch.arange(len(clips)) % HOLD_OUT_EVERY == 0
    noise = _background(_part(folder, "train"), recipe)
    facts = {
        "source": folder.resolve().name,
        "clips": int((~held).sum()),
        "held_out": int(held.sum()),
        "sha256": digest.hexdigest(),
    }
    return LabelledClips(clips[~held], clips[held], noise, digest.hexdigest(), facts)


def _part(folder: Path, *names: str) -> Path:
    """Return the first of the folders of these names in `folder`, else `folder` itself."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def _labels(recipe: Recipe) -> list[str]:
    return list(recipe.preprocessing["labels"])


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise MismatchError(f"no such folder: {folder}")
    hidden = ("_", ".")
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(hidden))


def _files(folder: Path, recipe: Recipe) -> list[tuple[Path, int]]:
    """Return the sounds of a folder in the order of labels and names, with label numbers."""
    labels, found = _labels(recipe), _folders(folder)
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


def _decoded(files: Sequence[tuple[Path, int]], recipe: Recipe) -> Labelled:
    """Return the middle of each file."""
    rate, samples = _rate(recipe), int(recipe.preprocessing["samples"])
    waves = np.empty((len(files), samples), np.int16)
    for slot, (path, _) in enumerate(files):
        waves[slot] = _pcm(sound.fitted(sound.read(path, rate), samples))
    return Labelled(torch.from_numpy(waves), torch.tensor([number for _, number in files]))


def _pcm(wave: sound.Wave) -> NDArray[np.int16]:
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)


def _rate(recipe: Recipe) -> int:
    return frontends.named(recipe.preprocessing["front_end"]).rate


def _background(folder: Path, recipe: Recipe) -> Tensor | None:
    if not (folder / NOISE).is_dir():
        return None
    waves = [sound.read(path, _rate(recipe)) for path in sound.find(folder / NOISE)]
    return torch.from_numpy(np.concatenate(waves))


def features(waves: Tensor, recipe: Recipe) -> Tensor:
    """Return the features `(N, 1, frames, width)` of clips `(N, samples)`, int16 or real.

    Clips are brought to full scale, unless the recipe's `level` is "as recorded".
    """
    real = waves.float() / 32768 if waves.dtype == torch.int16 else waves
    if recipe.preprocessing.get("level") != "as recorded":
        real = frontends.at_full_scale(real)
    return frontends.named(recipe.preprocessing["front_end"])(real)


def inputs(found: Tensor, recipe: Recipe) -> Tensor:
    """Return features `(N, 1, frames, width)` as a network takes them: some have bands as channels.

    Those get `(N, width, frames, 1)`.
    """
    return found if recipe.input_shape[1] == 1 else found.permute(0, 3, 2, 1)


# --- training -------------------------------------------------------------------------------------


def batch(
    data: LabelledClips, recipe: Recipe, step: int, rows: range, total: int
) -> tuple[Tensor, Tensor]:
    """Return rows `rows` of the `total` samples of one optimizer step.

    Every epoch is a new permutation, and a sample is a function of (seed, step, row) alone. A clip
    is played faster or slower by up to `train.options.speed`, shifted by up to `shift` seconds,
    mixed with noise 5 to 40 dB below it, and of its features up to `masked` frames and one
    coefficient become the mean (SpecAugment, arXiv 1904.08779). Where `silence` is a label without
    clips of its own, it takes the place of one clip in as many as there are labels.

    Returns:
        Features `(len(rows), 1, frames, coefficients)`, and the probability of each label.

    """
    options, labels = recipe.train.options, _labels(recipe)
    numbers = draw(total, len(data.train), recipe.train.seed, step)
    silence = labels.index(SILENCE) if SILENCE in labels else -1
    made = silence >= 0 and not bool((data.train.labels == silence).any())
    waves, chosen, masks = [], [], []
    for row in rows:
        dice = np.random.Generator(np.random.Philox(key=[recipe.train.seed, step * 2**20 + row]))
        wave = data.train.samples[numbers[row]].float() / 32768
        label = int(data.train.labels[numbers[row]])
        if made and dice.random() < 1 / len(labels):
            wave, label = _noise(dice, data, len(wave)) * 10 ** dice.uniform(-3, -0.3), silence
        else:
            wave = _moved(wave, dice, _rate(recipe), options)
            wave = _mixed(wave, _noise(dice, data, len(wave)), dice.uniform(5, 40))
        waves.append(wave)
        chosen.append(label)
        masks.append(dice.random(4))
    heard = _masked(features(torch.stack(waves), recipe), masks, int(options["masked"]))
    truth = F.one_hot(torch.tensor(chosen), len(labels)).float()
    smoothing = float(options["label_smoothing"])
    return inputs(heard, recipe), truth * (1 - smoothing) + smoothing / len(labels)


def _moved(
    wave: Tensor, dice: np.random.Generator, rate: int, options: Mapping[str, Any]
) -> Tensor:
    """Return a wave played at another speed and shifted, with zeros where nothing was."""
    speed = float(options["speed"])
    factor = dice.uniform(1 - speed, 1 + speed)
    shift = dice.uniform(-1, 1) * float(options["shift"]) * rate
    middle = (len(wave) - 1) / 2
    place = (torch.arange(len(wave)) - middle - shift) * factor + middle
    before = place.floor().long()
    padded = F.pad(wave, (1, 2))  # one zero before, two after
    low = padded[(before + 1).clamp(0, len(padded) - 1)]
    high = padded[(before + 2).clamp(0, len(padded) - 1)]
    return torch.lerp(low, high, (place - before).float())


def _noise(dice: np.random.Generator, data: LabelledClips, samples: int) -> Tensor:
    """Return noise of about unit power: of the background, or with a spectrum like f^-a."""
    if data.noise is not None and len(data.noise) > samples:
        start = int(dice.integers(len(data.noise) - samples))
        part = data.noise[start : start + samples]
        return part / part.square().mean().sqrt().clamp_min(1e-6)
    white = np.fft.rfft(dice.standard_normal(samples))
    frequency = np.arange(1, len(white) + 1) ** (-dice.uniform(0, 2) / 2)
    wave = np.fft.irfft(white * frequency, samples)
    return torch.from_numpy((wave / wave.std()).astype(np.float32))


def _mixed(wave: Tensor, noise: Tensor, ratio_db: float) -> Tensor:
    power = wave.square().mean().sqrt()
    return wave + noise * power * 10 ** (-ratio_db / 20)


def _masked(found: Tensor, masks: Sequence[NDArray[np.float64]], most: int) -> Tensor:
    """Return features with a run of frames and one coefficient of each set to their mean."""
    frames, coefficients = found.shape[2:]
    for row, (length, start, whether, which) in zip(found, masks, strict=True):
        count = int(length * (most + 1))
        first = int(start * (frames - count + 1))
        row[:, first : first + count] = row.mean(1, keepdim=True)
        if whether < 0.5:
            place = int(which * coefficients)
            row[..., place] = row[..., place].mean()
    return found


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy, in nats, of logits and probabilities `(N, labels)`."""
    return F.cross_entropy(output, target)


def taught(teacher: nn.Module, inputs: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Return a teacher's probabilities `(N, labels)`."""
    logits: Tensor = teacher(inputs)
    return logits.softmax(1)


# --- judging and running --------------------------------------------------------------------------


@torch.inference_mode()
def _logits(model: nn.Module, waves: Tensor, recipe: Recipe) -> Tensor:
    """Return the logits `(N, labels)`, on the CPU, of clips `(N, samples)`."""
    like = next(model.parameters())
    parts = waves.split(_BATCH)
    made = [model(inputs(features(part, recipe), recipe).to(like)) for part in parts]
    return torch.cat([logits.float().cpu() for logits in made])


def _scores(model: nn.Module, clips: Labelled, recipe: Recipe) -> dict[str, float]:
    return scores(_logits(model, clips.samples, recipe), clips.labels)


def validate(model: nn.Module, data: LabelledClips, recipe: Recipe) -> dict[str, float]:
    """Return the accuracy and the cross entropy on the clips held out of the training set."""
    return _scores(model, data.held_out, recipe)


def evaluate(model: nn.Module, recipe: Recipe, data: Path, tokenizer: Any = None) -> dict[str, Any]:
    """Return the accuracy on the clips of a folder, or of `test` or `val` in it.

    Protocol: the likeliest label of the middle second of each clip, and no clip left out.
    """
    files = _files(_part(Path(data), "test", "val"), recipe)
    clips = _decoded(files, recipe)
    found = _scores(model, clips, recipe)
    return {
        "clips": len(files),
        **found,
        "standard_error": standard_error(found["accuracy"], len(files)),
        "protocol": f"likeliest of {len(_labels(recipe))} labels, the middle of each clip, through "
        f"{recipe.preprocessing['front_end']}",
    }


def calibration(recipe: Recipe, source: Path) -> list[Tensor]:
    """Return batches of features from which quantization learns ranges.

    They are of 512 clips, evenly spread over a folder, or over its folder `train` if it has one.
    """
    files = _files(_part(source, "train"), recipe)
    chosen = files[:: max(1, len(files) // _CALIBRATED)][:_CALIBRATED]
    found = features(_decoded(chosen, recipe).samples, recipe)
    return list(inputs(found, recipe).split(_BATCH))


def run(model: nn.Module, recipe: Recipe, source: Any, out: Path | None = None) -> Classified:
    """Return the words of a sound's middle with their probabilities; with `out`, save them too."""
    wave = sound.fitted(sound.read(source, _rate(recipe)), int(recipe.preprocessing["samples"]))
    start = time.perf_counter()
    likely = _logits(model, torch.from_numpy(wave.copy())[None], recipe)[0].softmax(0)
    return classified(likely, _labels(recipe), recipe.name, time.perf_counter() - start, out)


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Write forty clips of tones: each label has its own."""
    import soundfile

    recipe = short(recipe or registry.find("micronet-kws-s"))
    rate, dice = _rate(recipe), np.random.default_rng(0)
    labels = [label for label in _labels(recipe) if label not in (SILENCE, UNKNOWN)]
    moments = np.arange(int(recipe.preprocessing["samples"])) / rate
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for take in range(max(2, 40 // len(labels))):
            tone = np.sin(2 * np.pi * (200 + 80 * number) * moments) * dice.uniform(0.2, 0.8)
            soundfile.write(folder / label / f"{take}.wav", tone, rate)
    source = folder / labels[0] / "0.wav"
    return Trial(recipe=recipe, model=build(recipe).eval(), data=folder, source=source)
