"""Image classification: what is read, what is drawn, how it is judged, what a run prints."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo import registry
from zoo.cli import main
from zoo.data.filed import Filed
from zoo.errors import MismatchError
from zoo.registry.checkpoint import Checkpoint, build
from zoo.tasks import image_classification as task

NAME = "mlperf-tiny-vww"
RECIPE = dataclasses.replace(
    registry.find(NAME),
    input_shape=(1, 3, 8, 8),
    preprocessing={**registry.find(NAME).preprocessing, "range": [-1, 1]},
)


def picture(value: int, size: int = 8) -> Image.Image:
    """Red tells which picture it is, green the column, blue the row."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = (
        value,
        np.arange(size),
        np.arange(size)[:, None],
    )
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty pictures to train on, and four to test on."""
    root = tmp_path_factory.mktemp("set") / "faces"
    for part, count in (("train", 30), ("test", 2)):
        for shift, label in enumerate(("none", "person")):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                picture(100 * shift + number).save(root / part / label / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def data(folder):
    return task.training_data(RECIPE, str(folder))


class Reddish(nn.Module):
    """Says "person" (label 1) where red is above a limit, in [-1, 1]."""

    def __init__(self, limit):
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(limit))

    def forward(self, x):
        red = x[:, 0].mean((1, 2)) - self.limit
        return torch.stack([-red, red], 1)


def test_every_25th_picture_is_held_out_and_the_test_set_is_never_read(data, folder):
    assert (len(data.train), len(data.held_out)) == (57, 3)
    red = data.held_out.samples[:, 0, 0, 0].tolist()
    assert red == [0, 25, 120]  # the first, 25th and 50th of 60, by label and name
    assert data.held_out.labels.tolist() == [0, 0, 1]
    assert not set(red) & set(data.train.samples[:, 0, 0, 0].tolist())
    assert data.facts["source"] == "faces"
    assert (data.facts["images"], data.facts["held_out"]) == (57, 3)
    part = task.training_data(RECIPE, str(folder / "train"))
    assert part.fingerprint == data.fingerprint == data.facts["sha256"]


def test_the_fingerprint_tells_other_pictures_names_and_labels(data, folder, tmp_path):
    found = {data.fingerprint}
    changes = {
        "pixels": lambda root: picture(7).save(root / "none" / "003.png"),
        "name": lambda root: (root / "none" / "003.png").rename(root / "none" / "903.png"),
        "label": lambda root: (root / "none" / "003.png").rename(root / "person" / "903.png"),
    }
    for name, change in changes.items():
        root = tmp_path / name
        for path in (folder / "train").rglob("*.png"):
            (root / path.parent.name).mkdir(parents=True, exist_ok=True)
            (root / path.parent.name / path.name).write_bytes(path.read_bytes())
        change(root)
        found.add(task.training_data(RECIPE, str(root)).fingerprint)
    assert len(found) == 4


def test_a_sample_is_a_function_of_seed_step_and_row(data):
    inputs, targets = task.batch(data, RECIPE, 3, range(8), 8)
    parts = [task.batch(data, RECIPE, 3, range(a, a + 4), 8) for a in (0, 4)]
    assert torch.equal(inputs, torch.cat([part[0] for part in parts]))
    assert torch.equal(targets, torch.cat([part[1] for part in parts]))
    assert not torch.equal(inputs, task.batch(data, RECIPE, 4, range(8), 8)[0])
    other = RECIPE.override({"train.seed": 1})
    assert not torch.equal(inputs, task.batch(data, other, 3, range(8), 8)[0])
    assert inputs.shape == (8, 3, 8, 8)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_sees_every_picture_once(data):
    red = torch.cat([task.batch(data, RECIPE, step, range(19), 19)[0] for step in range(3)])[:, 0]
    seen = ((red[:, 0, 0] + 1) * 127.5).round().int().tolist()
    assert sorted(seen) == sorted(data.train.samples[:, 0, 0, 0].tolist())


def test_pictures_are_shifted_with_mirrored_edges_and_flipped():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 6, 7, 3), dtype=np.uint8)
    shifts, flips = random.integers(-4, 5, (40, 2)), random.random(40) < 0.5
    found = task._moved(*map(torch.from_numpy, (pixels, shifts, flips)))
    around = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    for number, ((down, right), flip) in enumerate(zip(shifts, flips, strict=True)):
        expected = around[number, 4 + down : 10 + down, 4 + right : 11 + right]
        np.testing.assert_array_equal(found[number], expected[:, ::-1] if flip else expected)


def test_options_say_how_pictures_are_moved(data):
    still = RECIPE.override({"train.options.shift": 0, "train.options.flip": False})
    kept = {
        number: pixels
        for number, pixels in zip(
            data.train.samples[:, 0, 0, 0].tolist(), data.train.samples, strict=True
        )
    }
    changed = {}
    for name, recipe in (("still", still), ("moved", RECIPE)):
        inputs, _ = task.batch(data, recipe, 0, range(57), 57)
        found = ((inputs.permute(0, 2, 3, 1) + 1) * 127.5).round().byte()
        changed[name] = sum(not torch.equal(kept[int(x[0, 0, 0])], x) for x in found)
    assert changed["still"] == 0
    assert changed["moved"] > 50


def test_smoothing_takes_from_the_truth_and_gives_to_all(data):
    smooth = RECIPE.override({"train.options.label_smoothing": 0.1})
    plain, soft = (task.batch(data, recipe, 0, range(9), 9)[1] for recipe in (RECIPE, smooth))
    assert plain.unique().tolist() == [0, 1]
    torch.testing.assert_close(soft, plain * 0.9 + 0.05)
    logits = torch.randn(9, 2)
    expected = nn.functional.cross_entropy(logits, plain.argmax(1), label_smoothing=0.1)
    torch.testing.assert_close(task.loss(logits, soft), expected)


def test_a_teacher_gives_probabilities(data):
    inputs, targets = task.batch(data, RECIPE, 0, range(9), 9)
    found = task.taught(Reddish(0.0), inputs, RECIPE, 0)
    assert found.shape == targets.shape
    torch.testing.assert_close(found.sum(1), torch.ones(9))


def test_accuracy_counts_the_likeliest_label_on_the_test_pictures(folder, data):
    right = 2 * 50.5 / 255 - 1  # between the labels' pictures
    result = task.evaluate(Reddish(right), RECIPE, folder)
    assert (result["images"], result["accuracy"], result["standard_error"]) == (4, 1.0, 0.0)
    assert result["protocol"] == "likeliest of 2 labels, whole picture as 8x8"
    wrong = task.evaluate(Reddish(2 * 0.5 / 255 - 1), RECIPE, folder / "test")
    assert (wrong["accuracy"], wrong["standard_error"]) == (0.75, pytest.approx(0.2165, abs=1e-4))
    assert wrong["loss"] > result["loss"] > 0
    assert task.validate(Reddish(right), data, RECIPE)[task.FACTS.select_by] == 1.0
    assert task.validate(Reddish(1.0), data, RECIPE)[task.FACTS.select_by] == pytest.approx(2 / 3)


def test_calibration_inputs_are_spread_over_the_training_pictures(folder, monkeypatch):
    monkeypatch.setattr(task, "_CALIBRATED", 10)
    (batch,) = task.calibration(RECIPE, folder)
    assert batch.shape == (10, 3, 8, 8)
    red = ((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    assert red == [0, 6, 12, 18, 24, 100, 106, 112, 118, 124]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: root.rename(root.with_name("gone")), "no such folder"),
        (lambda root: [p.rename(root.parent / p.name) for p in root.iterdir()], "has no folders;"),
        (lambda root: (root / "cat").mkdir(), "the folders cat, none, person; .* expects one for"),
        (lambda root: (root / "person").rename(root / "people"), "each label: none, person"),
        (lambda root: [p.unlink() for p in (root / "none").iterdir()], "no pictures in"),
        (lambda root: [p.unlink() for p in root.rglob("00[1-9].png")], "42 .* expected 50 or more"),
        (lambda root: (root / "none" / "000.png").write_bytes(b"GIF89a"), "is not a picture"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(folder, tmp_path, change, message):
    root = tmp_path / "set"
    for path in (folder / "train").rglob("*.png"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        (root / path.parent.name / path.name).write_bytes(path.read_bytes())
    change(root)
    with pytest.raises(MismatchError, match=message):
        task.training_data(RECIPE, str(root))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I;16"])
def test_a_picture_of_any_kind_and_size_is_read(mode):
    kind = "L" if mode == "I;16" else mode
    given = Image.new(kind, (20, 10), 51 if kind == "L" else (51, 51, 51, 128)[: len(kind)])
    array = np.asarray(given)
    if mode == "I;16":
        array = array.astype(np.uint16) * 257
    assert (task.fitted(array, RECIPE) == 51).all()
    result = task.run(Reddish(0.0), RECIPE, array)
    assert [label for label, _ in result.best] == ["none", "person"]
    assert sum(score for _, score in result.best) == pytest.approx(1)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Weights that always say "person", on a shelf of shipped ones."""
    torch.manual_seed(0)
    recipe = registry.find(NAME)
    tensors = build(recipe).state_dict()
    tensors["classifier.weight"] = torch.zeros_like(tensors["classifier.weight"])
    tensors["classifier.bias"] = torch.tensor([0.0, 2.0])
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", tmp_path / "shelf")
    metrics = {"held_out": {"accuracy": 0.5, "loss": 0.7, "images": 3}}
    data = {"source": "faces", "images": 57, "held_out": 3}
    path = tmp_path / "shelf" / f"{NAME}.coco"
    return Checkpoint.write(path, recipe, tensors, metrics, data=data)


def test_the_command_line_prints_labels_and_accuracy(shipped, folder, tmp_path, capsys):
    photo, out = tmp_path / "photo.png", tmp_path / "labels.json"
    picture(9, 40).save(photo)
    assert main(["run", NAME, str(photo)]) == 0
    assert capsys.readouterr().out.startswith("person 0.881  none 0.119, ")
    assert not list(tmp_path.glob("photo-*"))  # nothing is written unasked
    assert main(["run", NAME, str(photo), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["best"][0] == {"label": "person", "score": pytest.approx(0.880797)}
    assert main(["run", NAME, str(photo), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}  person 0.881")
    assert json.loads(out.read_text())["best"] == facts["best"]
    assert main(["evaluate", NAME, "--data", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "accuracy: 0.5\n" in printed
    assert "protocol: likeliest of 2 labels, whole picture as 96x96" in printed
    assert main(["show", NAME]) == 0
    assert "labels none/person" in capsys.readouterr().out


def test_the_card_has_the_accuracy_and_how_many_were_held_out(shipped, folder, capsys):
    assert main(["evaluate", NAME, "--data", str(folder), "--record", "faces"]) == 0
    capsys.readouterr()
    assert main(["card", NAME]) == 0
    card = capsys.readouterr().out
    assert "| faces (4) | 0.5000 |" in card
    assert "57 images trained on, 3 held out" in card
    assert "type: accuracy" in card
    assert "# labels and probabilities" in card


def test_it_trains_and_what_is_kept_knows_its_labels(folder, tmp_path, capsys):
    words = ["train", NAME, "--data", str(folder), "--out", str(tmp_path / "run")]
    sets = ("steps=2", "batch_size=8", "warmup_steps=1", "eval_every=2", "precision=no")
    words += [word for text in sets for word in ("--set", f"train.{text}")]
    assert main([*words, "--device", "cpu"]) == 0
    assert "held out: accuracy " in capsys.readouterr().out
    kept = Checkpoint.read(Path(tmp_path / "run"))
    assert kept.recipe.preprocessing["labels"] == ["none", "person"]
    assert kept.metrics["held_out"]["images"] == 3
    assert not any("norm" in name for name in kept.state_dict())


def test_statistics_of_batch_norms_are_averaged_with_the_weights(folder, tmp_path):
    """Averaged weights, judged with the statistics of other weights, know nothing."""
    recipe = registry.find(NAME).override(
        {"steps": 3, "batch_size": 8, "lr": 1e-12, "warmup_steps": 0, "weight_decay": 0.0}
        | {"eval_every": 3, "precision": "no", "ema_decay": 0.3}
    )
    kept = zoo.train(recipe, tmp_path / "run", data=folder, device="cpu")
    torch.manual_seed(recipe.train.seed)
    form = build(recipe).trainable()
    average = copy.deepcopy(form)
    data = task.training_data(recipe, str(folder))
    for step in range(3):
        form(task.batch(data, recipe, step, range(8), 8)[0])
        for old, new in zip(average.buffers(), form.buffers(), strict=True):
            if new.is_floating_point():
                old.copy_(new if step == 0 else 0.3 * old + 0.7 * new)
    expected = average.deployed().state_dict()
    for name, value in kept.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


def with_options(**options):
    """The recipe with settings that others of its task may have."""
    train = dataclasses.replace(RECIPE.train, options={**RECIPE.train.options, **options})
    return dataclasses.replace(RECIPE, make=train)


def test_a_set_that_stays_in_its_files_is_drawn_alike(data, folder, monkeypatch):
    monkeypatch.setattr(task, "_IN_MEMORY", 100)
    filed = task.training_data(RECIPE, str(folder))
    assert isinstance(filed.train, Filed)
    assert filed.facts | {"sha256": ""} == data.facts | {"sha256": ""}
    for recipe in (RECIPE, with_options(crop=0.3, randaugment=7)):
        ours, theirs = (task.batch(kept, recipe, 3, range(2, 6), 8) for kept in (data, filed))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=0, rtol=0)
    assert task.validate(Reddish(0.0), filed, RECIPE) == task.validate(Reddish(0.0), data, RECIPE)
    assert task.evaluate(Reddish(0.0), RECIPE, folder)["images"] == 4


def test_crops_and_randaugment_depend_on_the_row_alone(data):
    recipe = with_options(crop=0.3, randaugment=9)
    whole, _ = task.batch(data, recipe, 5, range(12), 12)
    again, _ = task.batch(data, recipe, 5, range(4, 9), 12)
    assert again.equal(whole[4:9])
    plain, _ = task.batch(data, RECIPE, 5, range(12), 12)
    assert not whole.equal(plain)
    assert whole.abs().max() <= 1
    for wrong in ({"crop": 1.5}, {"randaugment": 11}, {"crop": -0.1}):
        with pytest.raises(MismatchError, match="expected 0 to 1, and 0 to 10"):
            task.batch(data, with_options(**wrong), 0, range(2), 2)


def test_folders_of_other_names_train_other_labels(folder, tmp_path):
    assert task.for_data(RECIPE, str(folder)) == RECIPE
    assert task.for_data(RECIPE, str(tmp_path / "none")) == RECIPE  # refused later, in words
    for name in ("owl", "cat", "hen"):
        (tmp_path / "train" / name).mkdir(parents=True)
    fitted = task.for_data(RECIPE, str(tmp_path))
    assert fitted.preprocessing["labels"] == ["cat", "hen", "owl"]
    assert build(fitted).classifier.out_features == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
@pytest.mark.parametrize("size", [(1, 40), (33, 7), (300, 200)])
def test_pictures_of_any_mode_and_size_are_classified(mode, size, tmp_path):
    pixels = np.arange(size[0] * size[1]).reshape(size[::-1]) % 251
    if mode == "I;16":
        image = Image.fromarray((pixels * 200).astype(np.uint16))
    else:
        image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    file = tmp_path / ("picture.jpg" if mode in ("CMYK", "YCbCr") else "picture.png")
    image.save(file)
    model = build(registry.find("ran-e-32"))
    result = task.run(model, registry.find("ran-e-32"), file)
    assert sum(score for _, score in result.best) == pytest.approx(1)


def test_a_sideways_photo_is_classified_upright(tmp_path):
    recipe = registry.find("ran-e-32")
    model = build(recipe)
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8))
    upright.save(tmp_path / "up.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    best = [task.run(model, recipe, tmp_path / name).best for name in ("up.png", "side.png")]
    assert best[0] == best[1]
