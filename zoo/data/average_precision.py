"""How well boxes are found: average precision as COCO computes it, without its package.

Of each picture and label the likeliest boxes are matched, one after the other, with the true box
that overlaps most, if that is enough; what is matched is right, the rest is wrong. Precision over
recall is read at 101 recalls, and its mean taken over labels and over the least overlaps 0.5, 0.55,
..., 0.95. Crowds, and boxes outside a range of sizes, count neither way. `tests/parity` compares
with pycocotools.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.data.coco import Scene

Floats = NDArray[np.float64]
OVERLAPS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0.0, 1.0, 101)
# Sides in pixels between which COCO calls an object small, medium or large.
SIZES = {"": (0.0, 1e5), "small": (0.0, 32.0), "medium": (32.0, 96.0), "large": (96.0, 1e5)}
MOST = 100  # boxes of a picture and label


@dataclass(frozen=True)
class Boxes:
    """What was found in one picture.

    Attributes:
        boxes: `(n, 4)`: left, top, width, height in pixels.
        labels: `(n,)`: label numbers.
        scores: `(n,)`: how likely each is.

    """

    boxes: Floats
    labels: NDArray[np.int64]
    scores: Floats


class _Matched(NamedTuple):
    """Boxes of one picture and label: `(T, n)` for T overlaps, and how many could be found."""

    scores: Floats
    right: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    possible: int


def overlaps(found: Floats, truth: Floats, crowd: NDArray[np.bool_]) -> Floats:
    """Return the intersection over union `(n, m)` of boxes (left, top, width, height).

    With a crowd, it is the share of the found box that lies in it.
    """
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, :2] + found[:, None, 2:], truth[None, :, :2] + truth[:, 2:])
    sides = np.maximum(high - low, 0)
    common = sides[..., 0] * sides[..., 1]
    area = (found[:, 2] * found[:, 3])[:, None]
    union = np.where(crowd, area, area + (truth[:, 2] * truth[:, 3]) - common)
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def average_precision(
    truths: Sequence[Scene], found: Sequence[Boxes], labels: int
) -> dict[str, float]:
    """Return COCO's figures: shares in [0, 1].

    Args:
        truths: the pictures with their true boxes.
        found: what was found in each of them.
        labels: how many labels there are.

    Returns:
        "map" over all overlaps, "map_50" and "map_75" for one, "map_small", "map_medium" and
        "map_large" for objects of these sizes, and "mar_100", the mean recall of up to 100 boxes.
        What no picture has an object for is left out.

    """
    precision, recall = _tables(truths, found, labels, SIZES[""])
    figures = {
        "map": _mean(precision),
        "map_50": _mean(precision[:1]),
        "map_75": _mean(precision[5:6]),
        "mar_100": _mean(recall),
    }
    for size in ("small", "medium", "large"):
        figures[f"map_{size}"] = _mean(_tables(truths, found, labels, SIZES[size])[0])
    return {name: value for name, value in figures.items() if value is not None}


def per_label(
    truths: Sequence[Scene], found: Sequence[Boxes], labels: Sequence[str]
) -> dict[str, float]:
    """Return the average precision at overlap 0.5 of each label that a picture has."""
    precision, _ = _tables(truths, found, len(labels), SIZES[""])
    means = {name: _mean(precision[:1, :, k]) for k, name in enumerate(labels)}
    return {name: value for name, value in means.items() if value is not None}


def _mean(values: Floats) -> float | None:
    """Return the mean without the labels of which there is no object."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _tables(
    truths: Sequence[Scene], found: Sequence[Boxes], labels: int, sides: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Return precision `(overlaps, recalls, labels)` and recall `(overlaps, labels)`; -1: none."""
    precision = -np.ones((len(OVERLAPS), len(RECALLS), labels))
    recall = -np.ones((len(OVERLAPS), labels))
    limits = (sides[0] ** 2, sides[1] ** 2)
    for label in range(labels):
        parts = [
            matched
            for scene, boxes in zip(truths, found, strict=True)
            if (matched := _match(scene, boxes, label, limits)) is not None
        ]
        if sum(part.possible for part in parts):
            precision[..., label], recall[:, label] = _curve(parts)
    return precision, recall


def _match(scene: Scene, found: Boxes, label: int, limits: tuple[float, float]) -> _Matched | None:
    """Match the boxes of one label in one picture; None if there are none of it."""
    theirs, own = scene.labels == label, np.flatnonzero(found.labels == label)
    if not theirs.any() and not len(own):
        return None
    own = own[np.argsort(-found.scores[own], kind="stable")][:MOST]
    boxes, truth, crowd, areas = (
        found.boxes[own], scene.boxes[theirs], scene.crowd[theirs], scene.areas[theirs]
    )  # fmt: skip
    aside = crowd | (areas < limits[0]) | (areas > limits[1])
    order = np.argsort(aside, kind="stable")
    crowd, aside = crowd[order], aside[order]
    shared = overlaps(boxes, truth[order], crowd)
    taken = np.zeros((len(OVERLAPS), len(truth)), np.bool_)
    right = np.zeros((len(OVERLAPS), len(own)), np.bool_)
    ignored = np.zeros_like(right)
    least = np.minimum(OVERLAPS, 1 - 1e-10)[:, None]
    for place in range(len(own) if len(truth) else 0):
        fits = (~taken | crowd) & (shared[place] >= least)
        for kind in (~aside, aside):  # those that count are matched before those that do not
            free = fits & kind & ~right[:, place : place + 1]
            value = np.where(free, shared[place], -1.0)
            best = len(truth) - 1 - value[:, ::-1].argmax(1)  # of equal ones the last
            hit = free.any(1)
            taken[hit, best[hit]] = True
            right[hit, place] = True
            ignored[hit, place] = aside[best[hit]]
    area = boxes[:, 2] * boxes[:, 3]
    ignored |= ~right & ((area < limits[0]) | (area > limits[1]))
    return _Matched(found.scores[own], right, ~ignored, int((~aside).sum()))


def _curve(parts: Sequence[_Matched]) -> tuple[Floats, Floats]:
    """Return the precision `(overlaps, recalls)` and the recall `(overlaps,)` of a label."""
    possible = sum(part.possible for part in parts)
    order = np.argsort(-np.concatenate([part.scores for part in parts]), kind="stable")
    right = np.concatenate([part.right for part in parts], 1)[:, order]
    counts = np.concatenate([part.counts for part in parts], 1)[:, order]
    hits = np.cumsum(right & counts, 1, dtype=np.float64)
    misses = np.cumsum(~right & counts, 1, dtype=np.float64)
    precision = np.zeros((len(OVERLAPS), len(RECALLS)))
    recall = np.zeros(len(OVERLAPS))
    if not order.size:
        return precision, recall
    share = hits / (hits + misses + np.spacing(1))
    share = np.maximum.accumulate(share[:, ::-1], 1)[:, ::-1]
    reached = hits / possible
    for row in range(len(OVERLAPS)):
        places = np.searchsorted(reached[row], RECALLS, side="left")
        inside = places < order.size
        precision[row, inside] = share[row, places[inside]]
    return precision, reached[:, -1]
