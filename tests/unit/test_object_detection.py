"""Object detection: COCO files as people have them, boxes to maps and back, pictures."""

import dataclasses
import json
import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import registry
from zoo.data import coco
from zoo.data.average_precision import Boxes, average_precision
from zoo.errors import MismatchError
from zoo.models.forms import load_deployed, training_form
from zoo.registry.checkpoint import Checkpoint, build
from zoo.tasks import object_detection as task
from zoo.tasks.object_detection import maps

material = sys.modules["zoo.tasks.object_detection.material"]
RECIPE = registry.find("ran-i-detector").in_tiny_form()
LABELS = RECIPE.preprocessing["labels"]


@pytest.fixture
def folder(tmp_path):
    """Thirty pictures in COCO's layout, without splits."""
    task.trial(tmp_path / "data", RECIPE)
    return tmp_path / "data"


def content(folder):
    return json.loads((folder / "annotations.json").read_text())


def rewrite(folder, change):
    found = content(folder)
    change(found)
    (folder / "annotations.json").write_text(json.dumps(found))


def raw(target, count):
    """The map that a perfect network would give."""
    target = torch.from_numpy(target)
    likely = torch.logit(target[:count].clamp(1e-4, 1 - 1e-4))
    return torch.cat([likely, 2 * target[count:].clamp_min(1e-3).log()])


# --- boxes and maps -------------------------------------------------------------------------------


def test_a_perfect_map_gives_back_every_box():
    boxes = np.array([[20.0, 30, 80, 100], [200, 100, 261, 181.5], [150, 8, 158, 15], [0, 0, 9, 9]])
    labels = np.array([0, 1, 2, 0])
    target = maps.target(boxes, labels, np.zeros(4, bool), 3, (30, 40), 8)
    found = maps.decode(raw(target, 3), 8, threshold=0.5)
    order = np.lexsort(found.boxes.T[::-1])
    expected = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    wanted = np.lexsort(expected.T[::-1])
    assert found.boxes[order] == pytest.approx(expected[wanted], abs=1e-4)
    assert (found.labels[order] == labels[wanted]).all()


def test_of_two_boxes_around_one_centre_the_smaller_is_learned():
    boxes = np.array([[40.0, 40, 120, 120], [72, 72, 88, 88]])
    target = maps.target(boxes, np.array([0, 1]), np.zeros(2, bool), 2, (20, 20), 8)
    assert target[2:, 10, 10] * 8 == pytest.approx([12, 12, 4, 4])


def test_a_crowd_counts_neither_way_in_the_loss():
    boxes, crowd = np.array([[40.0, 40, 120, 120], [8, 8, 30, 30]]), np.array([True, False])
    target = torch.from_numpy(maps.target(boxes, np.array([0, 0]), crowd, 1, (20, 20), 8))[None]
    assert (target[0, 0] == -1).sum() == 100
    output = torch.full((1, 5, 20, 20), -3.0)
    before = maps.loss(output, target)
    output[0, 0, 6:14, 6:14] = 5.0  # sure of an object where the crowd is
    assert maps.loss(output, target) == before
    output[0, 0, 18, 18] = 5.0
    assert maps.loss(output, target) > before


def test_a_map_without_objects_has_a_finite_loss_and_gradient():
    output = torch.zeros(2, 7, 6, 6, requires_grad=True)
    maps.loss(output, torch.zeros(2, 7, 6, 6)).backward()
    assert output.grad.isfinite().all()
    assert output.grad[:, :3].abs().sum() > 0
    assert not output.grad[:, 3:].any()


@pytest.mark.parametrize("objects", [(3, 1), (0, 2), (0, 0)])
def test_losses_by_shared_divisors_have_the_mean_of_the_whole(objects):
    """As each of two processes computes it, of which one may have no objects."""
    dice = np.random.default_rng(0)
    targets = []
    for count in objects:
        corner = dice.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + dice.uniform(20, 60, (count, 2))], 1)
        crowd = np.zeros(count, np.bool_)
        targets.append(maps.target(boxes, np.arange(count) % 2, crowd, 2, (16, 16), 8))
    target = torch.from_numpy(np.stack(targets))
    output = torch.randn(2, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = maps.divisors(target)
    assert whole[0] == sum(objects)
    torch.testing.assert_close(whole, sum(maps.divisors(one[None]) for one in target))
    shared = whole.clamp_min(1) / 2
    parts = [maps.loss(output[n : n + 1], target[n : n + 1], shared) for n in range(len(objects))]
    torch.testing.assert_close(sum(parts) / 2, maps.loss(output, target))


def test_giou_is_that_of_the_formula():
    """Hand-made: unit squares side by side overlap by nothing; hull 2 x 1, union 2."""
    found = torch.tensor([1.0, 0.5, 0.0, 0.5]).view(1, 4, 1, 1)
    truth = torch.tensor([0.0, 0.5, 1.0, 0.5]).view(1, 4, 1, 1)
    assert maps.giou(found, truth).item() == pytest.approx(0.0, abs=1e-6)
    wide = torch.tensor([1.0, 0.5, 1.0, 0.5]).view(1, 4, 1, 1)
    assert maps.giou(found, wide).item() == pytest.approx(0.5)
    assert maps.giou(wide, wide).item() == pytest.approx(1.0)


def test_a_teacher_s_map_becomes_targets_with_its_boxes():
    """As they are, maps have no peaks of 1, and a network learned nothing of them."""
    output = torch.stack([overlapping(), torch.full((6, 16, 16), -9.0)])
    inputs = torch.zeros(2, 3, 128, 128)
    made = task.taught(lambda x: output, inputs, RECIPE, 0)
    facts = RECIPE.preprocessing
    kept = maps.decode(output[0], 8, threshold=facts["threshold"], overlap=facts["overlap"])
    assert len(kept.boxes) == 2
    assert (made[0, :2] == 1).sum() == len(kept.boxes)
    for (left, top, width, height), label in zip(kept.boxes, kept.labels, strict=True):
        row, column = int((top + height / 2) / 8), int((left + width / 2) / 8)
        assert made[0, label, row, column] == 1
    assert not made[1].any()
    assert maps.loss(output, made) > 0


def overlapping():
    """A map with two boxes of one label that overlap by 0.6, and one of another on top."""
    boxes = np.array([[16.0, 16, 80, 80], [32.0, 16, 96, 80], [16.0, 16, 80, 80]])
    output = torch.full((6, 16, 16), -9.0)
    for (left, top, right, bottom), label, score in zip(
        boxes, (0, 0, 1), (3.0, 2.0, 1.0), strict=True
    ):
        row, column = int((top + bottom) / 16), int((left + right) / 16) + (label == 1)
        middle = (np.array([column, row]) + 0.5) * 8
        sides = np.array([middle[0] - left, middle[1] - top, right - middle[0], bottom - middle[1]])
        output[label, row, column] = score
        output[2:, row, column] = torch.from_numpy(2 * np.log(sides / 8))
    return output


def test_nms_drops_and_soft_nms_doubts_the_less_likely_of_one_label():
    output = overlapping()
    sure, less, other = (torch.sigmoid(torch.tensor(x)).item() for x in (3.0, 2.0, 1.0))
    plain = maps.decode(output, 8, threshold=0.1, overlap=0.5)
    assert plain.scores == pytest.approx([sure, other])
    assert (plain.labels == [0, 1]).all()
    both = maps.decode(output, 8, threshold=0.1, overlap=0.7)
    assert both.scores == pytest.approx([sure, less, other])
    soft = maps.decode(output, 8, threshold=0.1, suppression="soft-nms")
    doubted = less * np.exp(-(0.6**2) / 0.5)
    assert soft.scores == pytest.approx([sure, other, doubted])
    gone = maps.decode(output, 8, threshold=doubted + 0.01, suppression="soft-nms")
    assert len(gone.scores) == 2
    assert len(maps.decode(output, 8, threshold=0.1, overlap=0.7, most=1).scores) == 1


def test_both_backbones_cost_the_same_and_are_counted_by_hand():
    """Of a block of width c: 7x7 depthwise, 4c and back, and two means over channels."""
    found = {}
    for name in ("ran-i-detector", "convnext-detector"):
        recipe = registry.find(name)
        depths, dims = recipe.args["depths"], recipe.args["dims"]
        pixels = [240 * 320 // (16 * 4**stage) for stage in range(3)]
        blocks = zip(depths, dims, pixels, strict=True)
        macs = sum(n * p * (49 * c + 8 * c * c + 2 * c) for n, c, p in blocks)
        macs += pixels[0] * (48 * dims[0] + 2 * dims[0])  # the first layer and its norm
        for before, after, p in zip(dims, dims[1:], pixels, strict=False):
            macs += p * 2 * before + p // 4 * 4 * before * after
        macs += pixels[1] * (32 * dims[1] + 2 * 9 * 32 * 32 + 32 * 7) + pixels[2] * 32 * dims[2]
        found[name] = zoo.estimate(name, "phone-npu-4tops").macs
        assert found[name] == macs
    assert found["ran-i-detector"] == pytest.approx(found["convnext-detector"], rel=0.01)


# --- what people have -----------------------------------------------------------------------------


def test_boxes_outside_or_without_area_are_left_out_of_training_and_said(folder, caplog):
    def change(found):
        boxes = ([-500, 0, 20, 20], [10, 10, 0, 30], [60, 30, 400, 400], [5, 5, -9, 9])
        for annotation, box in zip(found["annotations"], boxes, strict=False):
            annotation["bbox"] = box

    rewrite(folder, change)
    with caplog.at_level(logging.WARNING, "zoo"):
        data = task.training_data(RECIPE, str(folder))
    assert caplog.text.count("are left out: 1") == 1  # those held out stay as they are
    assert [len(scene.boxes) for scene in data.train[:2]] == [1, 2]
    inputs, targets = task.batch(data, with_shape(RECIPE), 0, range(8), 8)
    assert inputs.isfinite().all()
    assert targets.isfinite().all()


def with_shape(recipe):
    options = {"zoom": 1.4, "flip": True, "flip_vertical": True, "colour": 0.2}
    train = dataclasses.replace(recipe.train, options={**recipe.train.options, **options})
    return dataclasses.replace(recipe, make=train, input_shape=(1, 3, 64, 96))


def test_pictures_without_boxes_are_trained_on_and_judged(folder):
    rewrite(folder, lambda f: f.update(annotations=f["annotations"][:24]))
    recipe = with_shape(RECIPE)
    data = task.training_data(recipe, str(folder))
    assert data.facts["boxes"] < 24
    assert any(not len(scene.boxes) for scene in data.train)
    model = build(recipe).eval()
    assert set(task.validate(model, data, recipe)) == {m.key for m in task.FACTS.metrics}
    rewrite(folder, lambda f: f.update(annotations=[]))
    with pytest.raises(MismatchError, match="boxes in none of those held out"):
        task.training_data(recipe, str(folder))
    with pytest.raises(MismatchError, match="no boxes to judge by"):
        task.evaluate(model, recipe, folder)


def test_augmented_boxes_stay_on_their_objects():
    """Of a white picture with a dark square, the target's box is around what is dark."""
    recipe = with_shape(RECIPE)
    pixels = np.full((120, 200, 3), 255, np.uint8)
    pixels[40:80, 60:120] = 0
    scene = coco.Scene(
        "one", encoded(pixels), np.array([[60.0, 40, 60, 40]]), np.array([1]), np.array([2400.0]),
        np.array([False]),
    )  # fmt: skip
    plain = recipe.override({"options.colour": 0.0})
    for number in range(20):
        dice = np.random.Generator(np.random.Philox(key=[number, 0]))
        made, target = material.varied(scene, plain, dice)
        found = maps.decode(raw(target, 3), 8, threshold=0.9)
        dark = (made < 64).all(2)
        left, top, width, height = found.boxes[0]
        assert found.labels.tolist() == [1]
        assert np.flatnonzero(dark.any(0))[[0, -1]] == pytest.approx(
            [left, left + width - 1], abs=1
        )
        assert np.flatnonzero(dark.any(1))[[0, -1]] == pytest.approx([top, top + height - 1], abs=1)


def encoded(pixels):
    import io

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def test_a_picture_of_another_size_than_its_annotations_say_is_named(folder):
    Image.new("RGB", (20, 20)).save(folder / "03.png")
    data = task.training_data(RECIPE, str(folder))
    with pytest.raises(
        MismatchError, match=r"03\.png is 20x20 pixels, upright; its annotations say"
    ):
        task.batch(data, with_shape(RECIPE), 0, range(27), 27)


def test_other_categories_are_learned_by_a_new_layer_with_a_note(folder, caplog):
    rewrite(folder, lambda f: f["categories"].append({"id": 9, "name": "Parasite"}))
    fitted = task.for_data(RECIPE, str(folder))
    assert fitted.args["num_classes"] == 4
    assert fitted.preprocessing["labels"] == [*LABELS, "Parasite"]
    with pytest.raises(MismatchError, match="has the categories Parasite"):
        task.evaluate(build(RECIPE).eval(), RECIPE, folder)
    torch.manual_seed(1)
    old, form = build(RECIPE).eval(), training_form(build(fitted), fitted.train.options)
    with caplog.at_level(logging.WARNING, "zoo"):
        load_deployed(form, old)
    assert "labels start anew: the weights are for 3, the network has 4" in caplog.text
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(form.eval()(x)[:, 4:], old(x)[:, 3:], atol=1e-5, rtol=0)
        torch.testing.assert_close(form.deployed()(x), form(x), atol=1e-5, rtol=0)


def test_a_detector_starts_from_a_classifier_and_refuses_another_backbone():
    from zoo.models.convnext import ConvNeXt

    torch.manual_seed(0)
    form = training_form(build(RECIPE), RECIPE.train.options)
    classifier = ConvNeXt([1, 1, 1], [8, 8, 8], 10, layer_scale=0.0)
    load_deployed(form, classifier)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(
            form.backbone.forward_features(x), classifier.forward_features(x), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="depths"):
        load_deployed(form, build(registry.find("convnext-detector")))
    with pytest.raises((ValueError, RuntimeError)):
        load_deployed(form, ConvNeXt([1, 1], [8, 8], 10))
    with pytest.raises(ValueError, match="neither a detector nor"):
        load_deployed(form, torch.nn.Linear(2, 2))


# --- running --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of random weights that finds something everywhere."""
    torch.manual_seed(0)
    model = build(RECIPE)
    with torch.no_grad():
        model.head.prediction.bias[:3] = 1.0
    path = tmp_path_factory.mktemp("detector") / "own"
    return Checkpoint.write(path, RECIPE, model.state_dict(), {"held_out": {}})


def pictures():
    dice = np.random.default_rng(0)
    colour = dice.integers(0, 255, (90, 200, 3), np.uint8)
    yield "RGB", Image.fromarray(colour)
    yield "L", Image.fromarray(colour).convert("L")
    yield "RGBA", Image.fromarray(colour).convert("RGBA")
    yield "P", Image.fromarray(colour).convert("P")
    yield "CMYK", Image.fromarray(colour).convert("CMYK")
    yield "I;16", Image.fromarray(colour[..., 0].astype(np.uint16) * 257)
    yield "tall", Image.fromarray(colour.swapaxes(0, 1))
    yield "tiny", Image.fromarray(colour[:1, :1])
    yield "line", Image.fromarray(np.ascontiguousarray(colour[:1]))
    turned = Image.fromarray(colour)
    turned.getexif()[0x0112] = 6
    yield "turned", turned


@pytest.mark.parametrize(("kind", "image"), list(pictures()), ids=[kind for kind, _ in pictures()])
def test_pictures_of_any_kind_give_boxes_within_them(checkpoint, tmp_path, kind, image):
    result = zoo.run(checkpoint.path, image, tmp_path / "boxes.png", threshold=0.6)
    width, height = (image.size[1], image.size[0]) if kind == "turned" else image.size
    facts = result.to_json()
    assert (facts["width"], facts["height"]) == (width, height)
    assert result.image.size == (width, height)
    assert facts["items"]
    for item in facts["items"]:
        left, top, across, down = item["box"]
        assert 0 <= left < left + across <= width + 0.01
        assert 0 <= top < top + down <= height + 0.01
    with Image.open(tmp_path / "boxes.png") as drawn:
        assert drawn.size == (width, height)
        assert drawn.mode == "RGB"


def test_the_threshold_and_the_suppression_are_options(checkpoint, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8))
    low = zoo.run(checkpoint.path, image, threshold=0.1)
    high = zoo.run(checkpoint.path, image, threshold=0.75)
    assert len(low.items) > len(high.items)
    assert all(item.score >= 0.75 for item in high.items)
    assert zoo.run(checkpoint.path, image, threshold=1.0).text.startswith("nothing found")
    soft = zoo.run(checkpoint.path, image, threshold=0.1, suppression="soft-nms")
    assert soft.items != low.items
    for options, message in (
        ({"threshold": 1.5}, "threshold is 1.5; expected 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan; expected 0 to 1"),
        ({"suppression": "none"}, "expected nms or soft-nms"),
        ({"adaptor": 1}, "'adaptor' is no option of .*; its task takes threshold, suppression"),
    ):
        with pytest.raises(MismatchError, match=message):
            zoo.run(checkpoint.path, image, **options)
    with pytest.raises(MismatchError, match=r"unknown picture format .txt"):
        zoo.run(checkpoint.path, image, tmp_path / "boxes.txt")


def test_an_option_that_a_task_does_not_have_is_refused_in_a_line(capsys):
    from zoo.cli import main

    photo = "docs/samples/photos/dogs.jpg"
    assert main(["run", "sesr-m3-x2", photo, "--out", "x.png", "--threshold", "0.5"]) == 1
    assert "'threshold' is no option of sesr-m3-x2" in capsys.readouterr().err
    assert main(["evaluate", "sesr-m3-x2", "--data", "docs/samples/photos", "--windows", "3"]) == 1
    assert "'windows' is no option of sesr-m3-x2" in capsys.readouterr().err


def test_figures_of_a_folder_with_fewer_categories_are_those_of_its_own(folder):
    """A label without an object has no precision, and does not lower the mean."""
    scenes = task.training_data(RECIPE, str(folder)).train
    one = [dataclasses.replace(s, labels=np.zeros_like(s.labels)) for s in scenes]
    found = [Boxes(s.boxes, s.labels, np.ones(len(s.boxes))) for s in one]
    assert average_precision(one, found, 3)["map"] == 1.0
