"""Anomaly detection: how far a machine's sound is from the normal sounds that were learned.

Networks learn from normal clips alone, and are of two kinds. An autoencoder sees windows of a
spectrogram, flat `(N, frames x bands)`, and gives them back: what it gives back badly is not
normal. A classifier, whose recipe has labels, sees them as pictures `(N, 1, H, W)` and tells which
of several machines is heard: one that it no longer recognises is not as it was. Data are folders of
sounds or files of arrays, see `zoo.data.machines`; or `train`, and `test`, in them.

A classifier's score of a clip is the mean of -ln p(machine) over its windows. An autoencoder's is a
mean square in dB^2, of what the recipe's `residual` names: the errors of each `window`, as MLPerf
Tiny has it, or their mean over the `clip`, in which chance cancels and what is always wrong stays.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo import registry
from zoo.data import frontends, machines
from zoo.data.machines import Clips
from zoo.data.noticed import Noticed
from zoo.data.ranking import areas
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
    "own",
    "run",
    "taught",
    "training_data",
    "trial",
    "validate",
]

FACTS = TaskFacts(
    name="anomaly-detection",
    pipeline_tag="audio-classification",
    sample="clip",
    metrics=(
        Metric(key="auc", name="AUC, mean of machines"),
        Metric(key="pauc", name="pAUC to 10 % false alarms, mean of machines"),
        Metric(key="pooled_auc", name="AUC, all clips"),
        Metric(key="pooled_pauc", name="pAUC, all clips"),
        Metric(key="score", name="score of normal clips", better="lower"),
    ),
    select_by="score",
    beside=("normal_95",),
    usage='model = zoo.load("{ref}")  # takes ({shape}): windows of a spectrogram\n'
    'zoo.run("{ref}", "clip.wav").score  # the higher, the less normal',
)
HOLD_OUT_EVERY = 10
MAX_FALSE_ALARMS = 0.1  # to which pAUC goes, as in DCASE's task 2
_CALIBRATED, _BATCH = 1024, 256


@dataclass(frozen=True)
class NormalClips:
    """The training data of a network.

    Attributes:
        train: clips that windows are drawn from.
        held_out: every tenth clip of each machine, in the order of names, never trained on.
        fingerprint: SHA-256 over names and spectrograms.
        facts: what a card says about the data.

    """

    train: Clips
    held_out: Clips
    fingerprint: str
    facts: dict[str, Any]


# --- reading --------------------------------------------------------------------------------------


def for_data(recipe: Recipe, source: str) -> Recipe:
    """Return a classifier's recipe with the data's machines as labels; others as they are.

    Raises:
        MismatchError: the data are of one machine, so that there is nothing to tell apart.

    """
    if not _classifies(recipe):
        return recipe
    place = machines.part(Path(source).expanduser(), "train")
    found = machines.machines(place)
    if len(found) < 2:
        raise MismatchError(
            f"{place} has clips of one machine, {found[0]}; {recipe.name} tells machines apart and "
            "expects two or more; type: zoo train mlperf-tiny-ad, which learns one as well"
        )
    return replace(
        recipe,
        args={**recipe.args, "num_classes": len(found)},
        preprocessing={**recipe.preprocessing, "labels": found},
    )


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> NormalClips:
    """Read the normal clips of a folder or an `.npz` file, or of `train` in a folder.

    Raises:
        MismatchError: there is no such place, a clip cannot be used, there are too few of a
            machine, or a classifier does not know one.

    """
    place = Path(source).expanduser()
    clips = _read(machines.part(place, "train"), recipe, anomalies=False)
    held: list[int] = []
    for machine in sorted(set(clips.machines)):
        numbers = [k for k, of in enumerate(clips.machines) if of == machine]
        if len(numbers) < 2:
            raise MismatchError(
                f"{source} has one normal clip of machine {machine}; expected two or more"
            )
        held += numbers[::HOLD_OUT_EVERY]
    digest = hashlib.sha256(repr((clips.names, clips.machines, clips.starts.tolist())).encode())
    digest.update(clips.frames.numpy().data)
    kept = sorted(set(range(len(clips))) - set(held))
    facts = {
        "source": place.resolve().name,
        "clips": len(kept),
        "held_out": len(held),
        "machines": len(set(clips.machines)),
        "sha256": digest.hexdigest(),
    }
    return NormalClips(clips.some(kept), clips.some(sorted(held)), digest.hexdigest(), facts)


def _classifies(recipe: Recipe) -> bool:
    return "labels" in recipe.preprocessing


def _front(recipe: Recipe) -> frontends.FrontEnd:
    return frontends.named(recipe.preprocessing["front_end"])


def _frames(recipe: Recipe) -> int:
    return int(recipe.preprocessing["frames"])


def _read(place: Path, recipe: Recipe, *, anomalies: bool = True) -> Clips:
    clips = machines.read(place, _front(recipe), _frames(recipe), anomalies=anomalies)
    for machine in clips.machines:
        _number(recipe, machine)
    return clips


def _number(recipe: Recipe, machine: str) -> int:
    """Return the label number of a machine; 0 for a network that has no labels."""
    if not _classifies(recipe):
        return 0
    labels = list(recipe.preprocessing["labels"])
    if machine not in labels:
        raise MismatchError(
            f"machine {machine} is not one that {recipe.name} learned: {', '.join(labels)}"
        )
    return labels.index(machine)


def inputs(windows: Tensor, recipe: Recipe) -> Tensor:
    """Return windows `(N, frames, bands)` in dB as the network takes them.

    `mean_db` is subtracted, and the rest divided by `deviation_db`. Where the recipe's pictures are
    smaller than the window, a pixel is the mean of 2x2 energies, for example.
    """
    made = (windows - recipe.preprocessing["mean_db"]) / recipe.preprocessing["deviation_db"]
    if not _classifies(recipe):
        return made.flatten(1)
    rows, columns = (a // b for a, b in zip(made.shape[1:], recipe.input_shape[2:], strict=True))
    return F.avg_pool2d(made[:, None], (rows, columns))


# --- training -------------------------------------------------------------------------------------


def batch(
    data: NormalClips, recipe: Recipe, step: int, rows: range, total: int
) -> tuple[Tensor, Tensor]:
    """Return rows `rows` of the `total` samples of one optimizer step.

    Every epoch is a new permutation of the clips, of each a random window; a sample is a function
    of (seed, step, row) alone. With `train.options.mixup` a, a sample is l times a window and 1 - l
    times one of another clip, and so are their labels, l from Beta(a, a) (arXiv 1710.09412).

    Returns:
        What the network takes, and what it should give: for an autoencoder the same, for a
        classifier the probability of each machine `(len(rows), machines)`.

    """
    seed, part = recipe.train.seed, slice(rows.start, rows.stop)
    dice = np.random.Generator(np.random.Philox(key=[seed, step]))
    alpha = float(recipe.train.options["mixup"])
    first = draw(total, len(data.train), seed, step)
    second = torch.from_numpy(dice.integers(len(data.train), size=total))
    places = torch.from_numpy(dice.random((2, total)))
    share = torch.from_numpy(dice.beta(alpha, alpha, total) if alpha else np.ones(total)).float()
    parts = [
        _drawn(data.train, recipe, numbers[part], place[part])
        for numbers, place in zip((first, second), places, strict=True)
    ]
    share = share[part]
    x = parts[0][0].mul(share.view(-1, 1, 1)) + parts[1][0].mul(1 - share.view(-1, 1, 1))
    made = inputs(x, recipe)
    if not _classifies(recipe):
        return made, made
    count = len(recipe.preprocessing["labels"])
    truth = [F.one_hot(of, count).float() for _, of in parts]
    return made, truth[0] * share[:, None] + truth[1] * (1 - share[:, None])


def _drawn(clips: Clips, recipe: Recipe, numbers: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return a window of each of some clips, at a `place` from 0 to 1, and the machines."""
    count = clips.lengths()[numbers] - _frames(recipe) + 1
    windows = clips.windows(numbers, (place * count).long(), _frames(recipe))
    of = [_number(recipe, clips.machines[k]) for k in numbers.tolist()]
    return windows, torch.tensor(of)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy, in nats, of logits and probabilities; or the squared error.

    The target tells which: the probabilities of machines sum to 1 in every row, and energies in dB
    do not.
    """
    sums = target.sum(1)
    if bool((target >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return F.cross_entropy(output, target)
    return F.mse_loss(output, target)


def taught(teacher: nn.Module, inputs: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Return a teacher's windows, or its probabilities `(N, machines)`."""
    output: Tensor = teacher(inputs)
    return output.softmax(1) if _classifies(recipe) else output


# --- judging and running --------------------------------------------------------------------------


def _windows(clips: Clips, recipe: Recipe, clip: int) -> Iterator[Tensor]:
    """Give the windows `(n, frames, bands)` of a clip, `hop` frames from one to the next."""
    frames, hop = _frames(recipe), int(recipe.preprocessing["hop"])
    first = torch.arange(0, int(clips.lengths()[clip]) - frames + 1, hop)
    for places in first.split(_BATCH):
        yield clips.windows(torch.full_like(places, clip), places, frames)


@torch.inference_mode()
def scores(model: nn.Module, clips: Clips, recipe: Recipe) -> NDArray[np.float64]:
    """Return the score of each clip `(N,)`; a classifier's `(N, machines)`, of each machine."""
    like = next(model.parameters(), torch.zeros(()))
    found = []
    for clip in range(len(clips)):
        total, count = torch.zeros(1, dtype=torch.float64), 0
        for windows in _windows(clips, recipe, clip):
            x = inputs(windows, recipe)
            total = total + _judged(model(x.to(like)).cpu(), x, recipe).sum(0)
            count += len(windows)
        mean = total / count
        mean = mean.square() if recipe.preprocessing.get("residual") == "clip" else mean
        found.append(mean if _classifies(recipe) else mean.mean())
    return torch.stack(found).numpy()


def _judged(output: Tensor, x: Tensor, recipe: Recipe) -> Tensor:
    """Return of each window what is averaged over a clip, in double precision.

    -ln p `(n, machines)`, or the errors in dB `(n, inputs)`, squared if they are to be.
    """
    if _classifies(recipe):
        return -output.double().log_softmax(1)
    error = (output.double() - x) * recipe.preprocessing["deviation_db"]
    return error if recipe.preprocessing["residual"] == "clip" else error.square()


def own(model: nn.Module, clips: Clips, recipe: Recipe) -> NDArray[np.float64]:
    """Return the score `(N,)` of each clip as one of its machine."""
    found = scores(model, clips, recipe)
    if not _classifies(recipe):
        return found
    return found[np.arange(len(clips)), [_number(recipe, of) for of in clips.machines]]


def validate(model: nn.Module, data: NormalClips, recipe: Recipe) -> dict[str, float]:
    """Return the mean score of the normal clips held out of the training set."""
    return {"score": float(own(model, data.held_out, recipe).mean())}


def evaluate(model: nn.Module, recipe: Recipe, data: Path, tokenizer: Any = None) -> dict[str, Any]:
    """Return how well the scores of clips rank, of a folder or `.npz` file, or of `test` in it.

    `normal_95`, a threshold to begin with, is the score that 95 % of the normal clips do not
    exceed.
    """
    clips = _read(machines.part(Path(data), "test"), recipe)
    found = own(model, clips, recipe)
    anomalies = int(clips.anomalies.sum())
    kind = "-ln p of the machine, mean over"
    if not _classifies(recipe):
        kind = f"mean square of the {recipe.preprocessing['residual']}'s error in dB,"
    return {
        "clips": len(clips),
        **areas(found, clips.anomalies, clips.machines, MAX_FALSE_ALARMS),
        "score": float(found[~clips.anomalies].mean()),
        "protocol": f"{kind} windows of {_frames(recipe)} frames; pAUC to "
        f"{MAX_FALSE_ALARMS:.0%} false alarms after McClish; {anomalies} of the clips anomalous",
    }


def calibration(recipe: Recipe, source: Path) -> list[Tensor]:
    """Return batches of inputs from which quantization learns ranges.

    They are about 1024 windows, evenly spread over the normal clips of a folder or an `.npz` file,
    or of `train` in the folder.
    """
    clips = _read(machines.part(source, "train"), recipe, anomalies=False)
    each = max(1, _CALIBRATED // len(clips))
    places = torch.linspace(0, 1 - 1e-6, each, dtype=torch.float64)
    chosen = range(0, len(clips), max(1, len(clips) // _CALIBRATED))
    windows = torch.cat([_drawn(clips, recipe, torch.full((each,), k), places)[0] for k in chosen])
    return list(inputs(windows, recipe).split(_BATCH))


def run(model: nn.Module, recipe: Recipe, source: Any, out: Path | None = None) -> Noticed:
    """Return the score of a sound; with `out`, save it too.

    A classifier judges it as the machine that its name tells, else as the likeliest one.
    """
    clips = machines.single(source, _front(recipe), _frames(recipe))
    start = time.perf_counter()
    found, machine = scores(model, clips, recipe), ""
    if _classifies(recipe):
        machine = clips.machines[0]
        number = _number(recipe, machine) if machine else int(found[0].argmin())
        machine, found = recipe.preprocessing["labels"][number], found[:, number]
    count = sum(len(windows) for windows in _windows(clips, recipe, 0))
    seconds = time.perf_counter() - start
    result = Noticed(float(found[0]), machine, count, recipe.name, seconds)
    if out is not None:
        result.save(out)
    return result


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Write clips of humming machines, each at its own pitch; the anomalous ones also hiss."""
    import soundfile

    recipe = short(recipe or registry.find("mlperf-tiny-ad"))
    front, dice = _front(recipe), np.random.default_rng(0)
    moments = np.arange(_frames(recipe) * front.hop + front.window) / front.rate
    folder.mkdir(parents=True, exist_ok=True)
    labels = recipe.preprocessing.get("labels", ["01", "02"])
    for number, label in enumerate(labels):
        for take in range(8):
            hum = np.sin(2 * np.pi * (200 + 150 * number) * moments) * dice.uniform(0.2, 0.3)
            wave = hum + dice.normal(0, 0.01 if take < 6 else 0.05, len(moments))
            kind = "normal" if take < 6 else "anomaly"
            soundfile.write(folder / f"{kind}_id_{label}_{take:08}.wav", wave, front.rate)
    source = folder / f"normal_id_{labels[0]}_00000000.wav"
    return Trial(recipe=recipe, model=build(recipe).eval(), data=folder, source=source)
