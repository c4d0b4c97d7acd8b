"""Pictures mixed with each other, and partly erased, as ConvNeXt and RAN-i are trained.

Rows 0 and 1 of a step are mixed with each other, 2 and 3, and so on: a pair lies in one
micro-batch, and a sample depends on the seed, the step and its row alone, however the rows are
split.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import MismatchError

ERASED = (0.02, 1 / 3)  # share of a picture that is erased
_RATIO = 0.3  # least and, inverted, greatest height over width of what is erased


def mixed(
    inputs: Tensor,
    truth: Tensor,
    options: Mapping[str, Any],
    random: np.random.Generator,
    rows: range,
    total: int,
) -> tuple[Tensor, Tensor]:
    """Return pictures and the probabilities of their labels, altered as the options say.

    Args:
        inputs: pictures `(len(rows), C, H, W)`.
        truth: the probability of each label `(len(rows), labels)`.
        options: `mixup` and `cutmix`, each the alpha of a beta distribution (arXiv 1710.09412,
            1905.04899); with both, either is chosen for a pair. `erase`: the share of pictures of
            which a part becomes noise (arXiv 1708.04896). 0, or none, turns each off.
        random: gives the same numbers for every split of the rows.
        rows: which rows of the step these are.
        total: rows of the step.

    Raises:
        MismatchError: an option is out of range, or pairs would be torn apart.

    """
    alphas = {name: float(options.get(name, 0)) for name in ("mixup", "cutmix")}
    erase = float(options.get("erase", 0))
    if min(alphas.values()) < 0 or not 0 <= erase <= 1:
        raise MismatchError(
            f"train.options have mixup {alphas['mixup']:g}, cutmix {alphas['cutmix']:g} and erase "
            f"{erase:g}; expected at least 0, and a share from 0 to 1"
        )
    if chosen := [name for name, alpha in alphas.items() if alpha]:
        if rows.start % 2 or len(rows) % 2:
            raise MismatchError(
                f"train.batch_size is odd, and {' and '.join(chosen)} mix pictures in pairs; "
                "expected an even one"
            )
        inputs, truth = _in_pairs(inputs, truth, alphas, random, rows, total)
    if erase:
        inputs = _erased(inputs, erase, random, rows, total)
    return inputs, truth


def _in_pairs(
    inputs: Tensor,
    truth: Tensor,
    alphas: Mapping[str, float],
    random: np.random.Generator,
    rows: range,
    total: int,
) -> tuple[Tensor, Tensor]:
    pairs = -(-total // 2)
    shares = {name: random.beta(a, a, pairs) for name, a in alphas.items() if a}
    cut = np.full(pairs, "cutmix" in shares)
    if len(shares) == 2:
        cut = random.random(pairs) < 0.5
    middle = random.random((pairs, 2))
    weight = torch.ones(len(inputs), 1, *inputs.shape[2:])
    for slot, row in enumerate(rows):
        pair = row // 2
        if cut[pair]:
            share = float(shares["cutmix"][pair])
            top, below, left, right = _box(inputs.shape[2:], 1 - share, 1.0, middle[pair])
            weight[slot, :, top:below, left:right] = 0
        else:
            weight[slot] = float(shares["mixup"][pair])
    other = torch.arange(len(inputs)) ^ 1
    part = weight.mean((1, 2, 3))[:, None]  # what of the picture itself is left, exactly
    return weight * inputs + (1 - weight) * inputs[other], part * truth + (1 - part) * truth[other]


def _erased(
    inputs: Tensor, share: float, random: np.random.Generator, rows: range, total: int
) -> Tensor:
    chosen, area = random.random(total) < share, random.uniform(*ERASED, total)
    ratio = np.exp(random.uniform(np.log(_RATIO), -np.log(_RATIO), total))
    middle, seeds = random.random((total, 2)), random.integers(0, 2**63, total)
    inputs = inputs.clone()
    for slot, row in enumerate(rows):
        if chosen[row]:
            top, below, left, right = _box(inputs.shape[2:], area[row], ratio[row], middle[row])
            place = inputs[slot, :, top:below, left:right]
            noise = np.random.default_rng(seeds[row]).normal(size=tuple(place.shape))
            place.copy_(torch.from_numpy(noise))
    return inputs


def _box(
    size: tuple[int, ...], area: float, ratio: float, middle: np.ndarray[Any, Any]
) -> tuple[int, int, int, int]:
    """Return top, below, left, right of a part of `area`, cut off at the picture's edges."""
    sides = np.sqrt(area * np.array([ratio, 1 / ratio])) * size
    low = np.clip(np.round(middle * size - sides / 2), 0, size).astype(int)
    high = np.clip(np.round(middle * size + sides / 2), 0, size).astype(int)
    return int(low[0]), int(high[0]), int(low[1]), int(high[1])
