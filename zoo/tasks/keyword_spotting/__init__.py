"""Keyword spotting: which of a few words a clip of a second says.

Networks see features `(N, 1, frames, coefficients)` of the front end that the recipe names, or
`(N, coefficients, frames, 1)`, and return a logit for each of the recipe's labels. Data are a
folder with one folder of sounds for each label, or `train` and `test` with such folders, and `val`
to choose by. Of the labels, two are special:

- `unknown` is also what lies in folders that are no label;
- `silence` is made, of noise of many colours and levels, where it has no folder.

What lies in a folder `_background_noise_` is mixed into the clips instead of made noise.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo import registry
from zoo.data import sound
from zoo.data.classified import Classified, Labelled, classified, scores, spread, standard_error
from zoo.data.following import Follower, Patience
from zoo.data.heard import Heard
from zoo.data.text import draw
from zoo.errors import MismatchError
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe
from zoo.tasks.contract import Metric, TaskFacts, Trial, short
from zoo.tasks.keyword_spotting.clips import (
    SILENCE,
    UNKNOWN,
    LabelledClips,
    background,
    decoded,
    features,
    files_of,
    for_data,
    inputs,
    judged,
    labels_of,
    made_silence,
    part_of,
    rate_of,
    retakes_of,
)
from zoo.tasks.keyword_spotting.heard import dice_of, heard, held_out, hissing, kept, retaken

__all__ = [
    "FACTS",
    "batch",
    "calibration",
    "evaluate",
    "follower",
    "for_data",
    "labelled",
    "loss",
    "run",
    "stream",
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
    usage='model = zoo.load("{ref}")  # takes ({shape}), gives logits\n'
    'zoo.run("{ref}", "clip.wav").best  # words and probabilities',
)
HOLD_OUT_EVERY = 10
_CALIBRATED, _BATCH = 512, 128


# --- training -------------------------------------------------------------------------------------


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> LabelledClips:
    """Read the clips of a folder, or of its folders `train` and `val` if it has them.

    Where a recipe trains on retakes, those held out are judged as retakes too, beside silence.

    Raises:
        MismatchError: there is no such folder, a label has no folder, a sound cannot be read, or
            there are too few.

    """
    folder = Path(source).expanduser()
    files = files_of(part_of(folder, "train"), recipe)
    if len(files) < 2 * HOLD_OUT_EVERY:
        raise MismatchError(
            f"{source} has {len(files)} clips; expected {2 * HOLD_OUT_EVERY} or more to train on"
        )
    held = torch.arange(len(files)) % HOLD_OUT_EVERY == 0
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        others = files_of(folder / "val", recipe)
        held = torch.arange(len(files) + len(others)) >= len(files)
        files += others
    clips = decoded(files, recipe)
    digest = hashlib.sha256(repr([path.parts[-2:] for path, _ in files]).encode())
    digest.update(clips.samples.numpy().tobytes())
    noise = background(part_of(folder, "train"), recipe)
    if noise is not None:
        digest.update(noise.numpy().tobytes())
    facts = {
        "source": folder.resolve().name,
        "clips": int((~held).sum()),
        "held_out": int(held.sum()),
        "sha256": digest.hexdigest(),
    }
    data = LabelledClips(clips[~held], clips[held], noise, digest.hexdigest(), facts)
    if not retakes_of(recipe):
        return data
    judged = held_out(data, recipe)
    facts["held_out"] = len(judged)
    same = digest.hexdigest(), tuple(held.tolist()), json.dumps(dict(recipe.preprocessing))
    return replace(data, held_out=judged, heard=kept(*same))


def batch(
    data: LabelledClips, recipe: Recipe, step: int, rows: range, total: int
) -> tuple[Tensor, Tensor]:
    """Return rows `rows` of the `total` samples of one optimizer step.

    Every epoch is a new permutation, and a sample is a function of (seed, step, row) alone. A clip
    is played faster or slower by up to `train.options.speed`, shifted by up to `shift` seconds,
    mixed with noise 5 to 40 dB below it, and of its features up to `masked` frames and one
    coefficient become the mean (SpecAugment, arXiv 1904.08779). Where `silence` is a label without
    clips of its own, it takes the place of one clip in as many as there are labels.

    With `train.options.retakes`, every label is as likely, and clips are heard as one of so many
    retakes (`zoo.data.retakes`) instead.

    Returns:
        Features `(len(rows), 1, frames, coefficients)`, and the probability of each label.

    """
    options, labels, seed = recipe.train.options, labels_of(recipe), recipe.train.seed
    dices = [dice_of(seed, step * 2**20 + row) for row in rows]
    if retakes_of(recipe):
        found, chosen = heard(data, recipe, dices)
    else:
        numbers = draw(total, len(data.train), seed, step)
        found, chosen = _varied(data, recipe, dices, numbers[rows.start : rows.stop].tolist())
    found = _masked(found, [dice.random(4) for dice in dices], int(options["masked"]))
    truth = F.one_hot(torch.tensor(chosen), len(labels)).float()
    smoothing = float(options["label_smoothing"])
    return inputs(found, recipe), truth * (1 - smoothing) + smoothing / len(labels)


def _varied(
    data: LabelledClips, recipe: Recipe, dices: Sequence[np.random.Generator], numbers: list[int]
) -> tuple[Tensor, list[int]]:
    """Return features and labels of clips at other speeds, shifted, with noise."""
    options, labels = recipe.train.options, labels_of(recipe)
    silence = made_silence(data, labels)
    waves, chosen = [], []
    for dice, number in zip(dices, numbers, strict=True):
        wave = data.train.samples[number].float() / 32768
        label = int(data.train.labels[number])
        if silence >= 0 and dice.random() < 1 / len(labels):
            wave, label = _noise(dice, data, len(wave)) * 10 ** dice.uniform(-3, -0.3), silence
        else:
            wave = _moved(wave, dice, rate_of(recipe), options)
            wave = _mixed(wave, _noise(dice, data, len(wave)), dice.uniform(5, 40))
        waves.append(wave)
        chosen.append(label)
    return features(torch.stack(waves), recipe), chosen


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


def _heard(waves: Tensor, recipe: Recipe) -> Iterator[Tensor]:
    """Yield clips `(N, samples)` as the network takes them, some at a time."""
    for part in hissing(waves, recipe).split(_BATCH):
        yield inputs(features(part, recipe), recipe)


@torch.inference_mode()
def _logits(model: nn.Module, waves: Tensor, recipe: Recipe) -> Tensor:
    """Return the logits `(N, labels)`, on the CPU, of clips `(N, samples)`."""
    like = next(model.parameters())
    return torch.cat([model(x.to(like)).float().cpu() for x in _heard(waves, recipe)])


def _scores(model: nn.Module, clips: Labelled, recipe: Recipe) -> dict[str, float]:
    return scores(_logits(model, clips.samples, recipe), clips.labels)


def validate(model: nn.Module, data: LabelledClips, recipe: Recipe) -> dict[str, float]:
    """Return the accuracy and the cross entropy on the clips held out of the training set."""
    return _scores(model, data.held_out, recipe)


def evaluate(model: nn.Module, recipe: Recipe, data: Path, tokenizer: Any = None) -> dict[str, Any]:
    """Return the accuracy on the clips of a folder, or of `test` or `val` in it.

    Protocol: the likeliest label of the middle second of each clip, and no clip left out.
    """
    files = files_of(part_of(Path(data), "test", "val"), recipe)
    clips = decoded(files, recipe)
    found = _scores(model, clips, recipe)
    return {
        "clips": len(files),
        **found,
        "standard_error": standard_error(found["accuracy"], len(files)),
        "protocol": f"likeliest of {len(labels_of(recipe))} labels, the middle of each clip, "
        f"through {recipe.preprocessing['front_end']}",
    }


def labelled(recipe: Recipe, data: Path, most: int) -> Labelled:
    """Return at most so many of the clips that `evaluate` judges, as the network takes them."""
    clips = decoded(spread(files_of(part_of(Path(data), "test", "val"), recipe), most), recipe)
    return _presented(clips, recipe)


def unseen(data: LabelledClips, recipe: Recipe, most: int) -> Labelled:
    """Return at most so many of the clips held out of the training set, as `labelled` has them."""
    return _presented(data.held_out[spread(range(len(data.held_out)), most)], recipe)


def _presented(clips: Labelled, recipe: Recipe) -> Labelled:
    return Labelled(torch.cat(list(_heard(clips.samples, recipe))), clips.labels)


def calibration(recipe: Recipe, source: Path) -> list[Tensor]:
    """Return batches of features from which quantization learns ranges.

    They are of 512 clips, evenly spread over a folder, or over its folder `train` if it has one;
    of retakes of them where the recipe trains on those.
    """
    files = files_of(part_of(source, "train"), recipe)
    chosen = decoded(files[:: max(1, len(files) // _CALIBRATED)][:_CALIBRATED], recipe)
    waves = chosen.samples
    if retakes_of(recipe):
        noise = background(part_of(source, "train"), recipe)
        waves = retaken(waves, LabelledClips(chosen, chosen, noise, "", {}), recipe)
    return list(inputs(features(waves, recipe), recipe).split(_BATCH))


def run(model: nn.Module, recipe: Recipe, source: Any, out: Path | None = None) -> Classified:
    """Return the words of a sound's middle with their probabilities; with `out`, save them too."""
    rate, samples = rate_of(recipe), int(recipe.preprocessing["samples"])
    whole = sound.read(source, rate)
    sound.remark_middle(whole, samples / rate, rate)
    wave = torch.from_numpy(sound.fitted(whole, samples).copy())
    start = time.perf_counter()
    likely = _logits(model, wave[None], recipe)[0].softmax(0)
    return classified(likely, labels_of(recipe), recipe.name, time.perf_counter() - start, out)


def follower(model: nn.Module, recipe: Recipe, **patience: float) -> Follower:
    """Return what follows a sound without end by a network of this task.

    Args:
        model: a network of this task.
        recipe: its recipe.
        patience: settings of `zoo.data.following.Patience`.

    """

    @torch.inference_mode()
    def judge(waves: Tensor) -> Tensor:
        # One by one, as `judged` has it: the last bit depends on how many there are.
        found = torch.cat([features(wave[None], recipe) for wave in waves])
        return judged(model, inputs(found, recipe))

    return Follower(
        judge, labels_of(recipe),
        (SILENCE, UNKNOWN), rate=rate_of(recipe), samples=int(recipe.preprocessing["samples"]),
        patience=Patience(**patience),  # type: ignore[arg-type]  # checked there
    )  # fmt: skip


def stream(
    model: nn.Module,
    recipe: Recipe,
    source: Any,
    out: Path | None = None,
    stride_s: float = Patience.stride_s,
    smoothing: int = Patience.smoothing,
    threshold: float = Patience.threshold,
    refractory_s: float = Patience.refractory_s,
) -> Heard:
    """Return the words of a sound and when they were said; with `out`, save them too.

    A sound no longer than a clip is heard between half clips of silence. The last four are those
    of `zoo.data.following.Patience`.
    """
    patience = {
        "stride_s": stride_s, "smoothing": smoothing, "threshold": threshold,
        "refractory_s": refractory_s,
    }  # fmt: skip
    rate, samples = rate_of(recipe), int(recipe.preprocessing["samples"])
    wave = sound.read(source, rate)
    sound.remark(wave)
    whole = wave if len(wave) > samples else sound.fitted(wave, 2 * samples)
    early, length = (len(whole) - len(wave)) // 2 / rate, len(wave) / rate
    start = time.perf_counter()
    found = follower(model, recipe, **patience).push(whole)
    seconds = time.perf_counter() - start
    moved = (replace(d, time_s=min(max(d.time_s - early, 0.0), length)) for d in found)
    result = Heard(tuple(moved), length, recipe.name, seconds)
    if out is not None:
        result.save(out)
    return result


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Write forty clips of tones: each label has its own."""
    import soundfile

    recipe = short(recipe or registry.find("micronet-kws-s"))
    rate, dice = rate_of(recipe), np.random.default_rng(0)
    labels = [label for label in labels_of(recipe) if label not in (SILENCE, UNKNOWN)]
    moments = np.arange(int(recipe.preprocessing["samples"])) / rate
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for take in range(max(2, 40 // len(labels))):
            tone = np.sin(2 * np.pi * (200 + 80 * number) * moments) * dice.uniform(0.2, 0.8)
            soundfile.write(folder / label / f"{take}.wav", tone, rate)
    source = folder / labels[0] / "0.wav"
    return Trial(recipe=recipe, model=build(recipe).eval(), data=folder, source=source)
