"""Between boxes and the map of a detector: targets, loss, decoding, and which boxes to keep.

A map `(N, labels + 4, h, w)` has, for each cell, how likely each label has its centre there, and
the four sides of its box. Targets have the same shape: a bump of height 1 around each centre, as
wide as its box (TTFNet, arXiv 1909.00700), and the sides in cells; in crowds -1, which counts
neither way.
"""

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.average_precision import Boxes, overlaps

SIDES = 4  # left, top, right, bottom
Suppression = Literal["nms", "soft-nms"]
_REACH = 0.54  # share of a box that its bump covers, and hence where its sides are learned
_LEAST = 0.01  # of a bump
_BOX_WEIGHT = 5.0  # of the sides in the loss, as in TTFNet
_CANDIDATES = 1000  # cells of a picture, before boxes are dropped
_SIGMA = 0.5  # of Soft-NMS

Floats = NDArray[np.float64]


def target(
    boxes: Floats,
    labels: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    count: int,
    size: tuple[int, int],
    stride: int,
) -> NDArray[np.float32]:
    """Return the target `(count + 4, h, w)` of one picture.

    Args:
        boxes: `(n, 4)`: left, top, right, bottom in the network's pixels.
        labels: `(n,)`.
        crowd: `(n,)`.
        count: how many labels there are.
        size: (h, w), cells.
        stride: pixels of a cell.

    """
    made = np.zeros((count + SIDES, *size), np.float32)
    rows, columns = (np.arange(n, dtype=np.float64) + 0.5 for n in size)
    own = np.full(size, _LEAST)  # height of the bump whose box a cell learns
    cells = boxes / stride
    area = (cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1])
    for place in np.argsort(-area, kind="stable"):  # of equal bumps, that of the smaller box
        left, top, right, bottom = cells[place]
        if crowd[place]:
            inside = ((rows > top) & (rows < bottom))[:, None] & (
                (columns > left) & (columns < right)
            )
            made[labels[place]][inside & (made[labels[place]] == 0)] = -1
            continue
        bump = _bump(rows, top, bottom)[:, None] * _bump(columns, left, right)
        heat = made[labels[place]]
        np.maximum(heat, bump, out=heat, where=bump > _LEAST)
        mine = bump >= own
        own[mine] = bump[mine]
        sides = np.broadcast_arrays(
            columns - left, (rows - top)[:, None], right - columns, (bottom - rows)[:, None]
        )
        for channel, side in zip(made[count:], sides, strict=True):
            channel[mine] = np.broadcast_to(side, size)[mine]
    return made


def _bump(middles: Floats, low: float, high: float) -> Floats:
    """Return heights along one direction: 1 in the cell of the centre."""
    centre = min(max(math.floor((low + high) / 2), 0), len(middles) - 1) + 0.5
    sigma = max(_REACH * (high - low) / 6, 1e-3)
    bump: Floats = np.exp(-((middles - centre) ** 2) / (2 * sigma**2))
    return bump


def divisors(target: Tensor) -> Tensor:
    """Return what the two parts of the loss are divided by, `(2,)`: objects, and bumps' heights."""
    heat = target[:, :-SIDES]
    objects, heights = (heat == 1).sum(), heat.amax(1).clamp_min(0).sum()
    return torch.stack([objects.to(heights), heights])


def loss(output: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
    """Return the scalar to minimize, of maps `(N, labels + 4, h, w)`.

    The focal loss of CornerNet (arXiv 1808.01244) on labels, and 1 - GIoU (arXiv 1902.09630) of the
    boxes of the cells of bumps, weighted by their heights.

    Args:
        output: of the network.
        target: see `target`.
        shared: the divisors `(2,)`; None takes those of these targets, or 1 where they are less.

    """
    by_objects, by_heights = divisors(target).clamp_min(1) if shared is None else shared
    count = output.shape[1] - SIDES
    logits, heat = output[:, :count], target[:, :count]
    likely = logits.sigmoid()
    peak = (heat == 1).to(likely)
    hit = -torch.nn.functional.logsigmoid(logits) * (1 - likely).square() * peak
    miss = -torch.nn.functional.logsigmoid(-logits) * likely.square() * (1 - heat).pow(4)
    labels = (hit + miss * (1 - peak) * (heat >= 0)).sum() / by_objects
    weight = heat.amax(1).clamp_min(0)
    boxes = weight * (1 - giou(sides(output[:, count:]), target[:, count:]))
    return labels + _BOX_WEIGHT * boxes.sum() / by_heights


def sides(raw: Tensor) -> Tensor:
    """Return sides in cells of what a network gives: exp(t / 2), at most e^5 = 148."""
    return (raw / 2).clamp(max=5).exp()


def giou(found: Tensor, truth: Tensor) -> Tensor:
    """Return the generalized intersection over union `(N, h, w)` of boxes by sides `(N, 4, h, w)`.

    Both are around the middle of the same cell.
    """
    low, high = torch.minimum(found, truth), torch.maximum(found, truth)

    def area(s: Tensor) -> Tensor:
        return (s[:, 0] + s[:, 2]) * (s[:, 1] + s[:, 3])

    common, hull = area(low), area(high).clamp_min(1e-6)
    union = (area(found) + area(truth) - common).clamp_min(1e-6)
    return common / union - (hull - union) / hull


def decode(
    output: Tensor,
    stride: int,
    *,
    threshold: float,
    overlap: float = 0.6,
    suppression: Suppression = "nms",
    most: int = 100,
) -> Boxes:
    """Return the boxes of one map `(labels + 4, h, w)`, in the network's pixels, best first.

    Args:
        output: of the network.
        stride: pixels of a cell.
        threshold: least score.
        overlap: from which intersection over union on two boxes of a label are the same object.
        suppression: "nms" drops the less likely of them; "soft-nms" (arXiv 1704.04503) makes it
            less likely the more it overlaps.
        most: boxes at most.

    """
    likely = output[:-SIDES].double().sigmoid().numpy()
    places = np.argsort(-likely, axis=None, kind="stable")[:_CANDIDATES]
    places = places[likely.flat[places] >= threshold]
    label, row, column = np.unravel_index(places, likely.shape)
    found = sides(output[-SIDES:].double()).numpy()[:, row, column]
    corner = (np.stack([column, row]) + 0.5 - found[:2]) * stride
    boxes = np.concatenate([corner, (found[:2] + found[2:]) * stride]).T
    every = Boxes(boxes, label, likely.flat[places])
    return (_soft if suppression == "soft-nms" else _hard)(every, threshold, overlap, most)


def _of_a_label(boxes: Boxes) -> Floats:
    """Return the overlaps `(n, n)` of boxes of the same label; 0 between labels."""
    shared = overlaps(boxes.boxes, boxes.boxes, np.zeros(len(boxes.boxes), np.bool_))
    return shared * (boxes.labels[:, None] == boxes.labels)


def _chosen(boxes: Boxes, places: list[int], scores: Floats) -> Boxes:
    return Boxes(boxes.boxes[places], boxes.labels[places], scores[places])


def _hard(boxes: Boxes, threshold: float, overlap: float, most: int) -> Boxes:
    shared, kept = _of_a_label(boxes) >= overlap, list[int]()
    free = np.ones(len(boxes.scores), np.bool_)
    for place in range(len(free)):
        if free[place] and len(kept) < most:
            kept.append(place)
            free &= ~shared[place]
    return _chosen(boxes, kept, boxes.scores)


def _soft(boxes: Boxes, threshold: float, overlap: float, most: int) -> Boxes:
    """Multiply scores by exp(-overlap^2 / sigma) of each box that is kept, one after the other."""
    shared, scores, kept = _of_a_label(boxes), boxes.scores.copy(), list[int]()
    free = np.ones(len(scores), np.bool_)
    while free.any() and len(kept) < most:
        place = int(np.where(free, scores, -1.0).argmax())
        if scores[place] < threshold:
            break
        kept.append(place)
        free[place] = False
        scores[free] *= np.exp(-(shared[place, free] ** 2) / _SIGMA)
    return _chosen(boxes, kept, scores)
