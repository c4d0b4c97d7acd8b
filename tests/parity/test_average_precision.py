"""Our average precision is that of pycocotools: random scenes, ties, crowds, empty pictures."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from zoo.data.average_precision import Boxes, average_precision, per_label
from zoo.data.coco import Scene

KEYS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
LABELS = 3


def scene(dice: np.random.Generator, count: int, crowds: bool) -> Scene:
    spots = dice.uniform(0, 200, (count, 2)).round(dice.integers(0, 3))
    sizes = dice.choice([9.0, 20.0, 40.0, 60.0, 110.0, 150.0], (count, 2))
    boxes = np.concatenate([spots, sizes], 1)
    return Scene(
        name="", source=b"", boxes=boxes, labels=dice.integers(0, LABELS, count),
        areas=boxes[:, 2] * boxes[:, 3] * dice.choice([1.0, 0.7], count),
        crowd=dice.random(count) < (0.25 if crowds else 0),
    )  # fmt: skip


def found_in(truth: Scene, dice: np.random.Generator, spread: float) -> Boxes:
    """Boxes near the true ones, twice some of them, and a few anywhere, with equal scores too."""
    near = np.concatenate([truth.boxes, truth.boxes[::2]])
    near = near + dice.normal(0, spread, near.shape)
    boxes = np.concatenate([near, dice.uniform(1, 200, (4, 4))])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 0.5)
    labels = np.concatenate([truth.labels, truth.labels[::2], dice.integers(0, LABELS, 4)])
    return Boxes(boxes, labels, dice.random(len(boxes)).round(1))


def theirs(truths: list[Scene], found: list[Boxes]) -> COCOeval:
    annotations, results = [], []
    for image, (truth, made) in enumerate(zip(truths, found, strict=True), start=1):
        for box, label, area, crowd in zip(
            truth.boxes, truth.labels, truth.areas, truth.crowd, strict=True
        ):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(label) + 10,
                 "bbox": box.tolist(), "area": float(area), "iscrowd": int(crowd)}
            )  # fmt: skip
        results += [
            {"image_id": image, "category_id": int(label) + 10, "bbox": box.tolist(),
             "score": float(score)}
            for box, label, score in zip(made.boxes, made.labels, made.scores, strict=True)
        ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        truth_set.dataset = {
            "images": [{"id": number + 1} for number in range(len(truths))],
            "categories": [{"id": number + 10, "name": str(number)} for number in range(LABELS)],
            "annotations": annotations,
        }
        truth_set.createIndex()
        judged = COCOeval(truth_set, truth_set.loadRes(results), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged


@given(
    seed=st.integers(0, 10_000),
    pictures=st.integers(1, 6),
    most=st.sampled_from([1, 4, 12]),
    spread=st.sampled_from([0.0, 2.0, 8.0]),
    crowds=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_figure_is_that_of_pycocotools(seed, pictures, most, spread, crowds):
    dice = np.random.default_rng(seed)
    truths = [scene(dice, int(dice.integers(0, most + 1)), crowds) for _ in range(pictures)]
    found = [found_in(truth, dice, spread) for truth in truths]
    judged = theirs(truths, found)
    ours = average_precision(truths, found, LABELS)
    for key, value in zip((*KEYS, "mar_100"), judged.stats[[*range(6), 8]], strict=True):
        assert ours.get(key, -1) == pytest.approx(value, abs=1e-6), key
    precision = judged.eval["precision"][0, :, :, 0, -1]
    expected = {str(k): p.mean() for k, p in enumerate(precision.T) if (p > -1).all()}
    assert per_label(truths, found, [str(k) for k in range(LABELS)]) == pytest.approx(expected)


def test_only_the_hundred_likeliest_boxes_of_a_picture_and_label_count():
    dice = np.random.default_rng(0)
    truth = scene(dice, 3, crowds=False)
    many = np.concatenate([dice.uniform(1, 200, (150, 4)), truth.boxes])
    labels = np.concatenate([np.zeros(150, np.int64), truth.labels])
    found = Boxes(many, labels, np.concatenate([np.full(150, 0.9), np.full(3, 0.1)]))
    judged = theirs([truth], [found])
    ours = average_precision([truth], [found], LABELS)
    assert ours["map"] == pytest.approx(judged.stats[0], abs=1e-6)
    assert ours["mar_100"] == pytest.approx(judged.stats[8], abs=1e-6)
