"""ConvNeXt: what transformers' network computes, drop path, other last layers."""

import json

import pytest
import torch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    ConvNextModel,
)

import zoo
from zoo.cli import main
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError, ZooError
from zoo.models.convnext import ConvNeXt, from_transformers
from zoo.models.forms import deployed_form, load_deployed, training_form


def of_transformers(**settings):
    torch.manual_seed(0)
    config = ConvNextConfig(
        depths=[1, 2, 3, 1], hidden_sizes=[12, 20, 31, 40], num_labels=7, **settings
    )
    theirs = ConvNextForImageClassification(config).eval()
    for parameter in theirs.parameters():  # biases, norms and factors too
        torch.nn.init.normal_(parameter, std=0.3)
    return theirs


def ours(theirs, **arguments):
    config = theirs.config
    network = ConvNeXt(config.depths, config.hidden_sizes, config.num_labels, **arguments).eval()
    network.load_state_dict(from_transformers(theirs.state_dict()))
    return network


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, {}),
        ({"num_channels": 1, "patch_size": 2}, {"in_chans": 1, "patch": 2}),
        ({"layer_scale_init_value": 0.0}, {"layer_scale": 0.0}),
    ],
)
@torch.no_grad()
def test_computes_what_transformers_does(settings, arguments):
    theirs = of_transformers(**settings)
    x = torch.randn(2, theirs.config.num_channels, 70, 65)
    expected = theirs(x, output_hidden_states=True)
    network = ours(theirs, **arguments)
    torch.testing.assert_close(network(x), expected.logits, atol=1e-5, rtol=1e-5)
    for map_, hidden in zip(network.forward_features(x), expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(map_, hidden, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_model_without_a_last_layer_loads_too():
    theirs = of_transformers().convnext
    assert isinstance(theirs, ConvNextModel)
    config = theirs.config
    network = ConvNeXt(config.depths, config.hidden_sizes, 0).eval()
    network.load_state_dict(from_transformers(theirs.state_dict()))
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(x), theirs(x).pooler_output, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_drop_path_leaves_out_whole_branches_and_keeps_the_mean():
    torch.manual_seed(0)
    network = ConvNeXt([2, 2], [8, 12], 3, patch=2, layer_scale=1.0)
    form = training_form(network, {"drop_path": 0.5, "layer_scale": 1.0, "shift": 4}).train()
    load_deployed(form, network)
    x = torch.randn(1, 3, 8, 8)
    block = form.stages[1][1]
    assert [b.drop_path for stage in form.stages for b in stage] == [0, 0.5 / 3, 1 / 3, 0.5]
    maps = torch.randn(1, 12, 2, 2)
    branch = block.eval()(maps) - maps
    left = (block.train()(maps.expand(4000, -1, -1, -1)) - maps).flatten(1)
    dropped = left.abs().amax(1) < 1e-6
    assert 0.46 < dropped.float().mean() < 0.54
    torch.testing.assert_close(
        left[~dropped], 2 * branch.flatten(1).expand(int((~dropped).sum()), -1), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(deployed_form(form)(x), network.eval()(x))


@torch.no_grad()
def test_the_deployed_network_is_equal_and_starts_the_trained_one():
    theirs = of_transformers()
    trained = ours(theirs)
    network = deployed_form(trained)
    assert not any("gamma" in name for name in network.state_dict())
    assert any("gamma" in name for name in trained.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(x), theirs(x).logits, atol=1e-5, rtol=1e-5)
    form = training_form(network, {"layer_scale": 1e-6})
    load_deployed(form, network)
    torch.testing.assert_close(form.eval()(x), network(x), atol=1e-5, rtol=1e-5)


def test_other_classes_start_a_last_layer_anew():
    base, other = ConvNeXt([1], [8], 5), ConvNeXt([1], [8], 3)
    head = other.head.weight.clone()
    load_deployed(other, base)
    assert other.head.weight.equal(head)
    assert other.stages[0][0].pwconv1.weight.equal(base.stages[0][0].pwconv1.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_deployed(ConvNeXt([1], [9], 5), base)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": [1, 1], "dims": [8]}, "one of each for every stage"),
        ({"depths": [], "dims": []}, "one of each for every stage"),
        ({"depths": [0], "dims": [8]}, "1 or more"),
        ({"depths": [1], "dims": [8], "num_classes": -1}, "num_classes -1"),
        ({"depths": [1], "dims": [8], "drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
    ],
)
def test_refuses_sizes_of_no_network(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**arguments)


def saved(theirs, folder, **pixels):
    theirs.config.id2label = {n: f"thing {n}" for n in range(theirs.config.num_labels)}
    theirs.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 64}, **pixels).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return folder


@torch.no_grad()
def test_a_published_model_becomes_a_checkpoint_with_its_labels_and_pixels(tmp_path, capsys):
    theirs = of_transformers()
    pixels = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.1]}
    folder, out = saved(theirs, tmp_path / "theirs", **pixels), tmp_path / "made"
    assert main(["import", str(folder), "--out", str(out)]) == 0
    assert "convnext-t.published, licence: apache-2.0" in capsys.readouterr().out
    made = zoo.checkpoint(out)
    assert made.recipe.input_shape == (1, 3, 64, 64)
    picture = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    normal = (picture / 255 - torch.tensor(pixels["image_mean"])) / torch.tensor(
        pixels["image_std"]
    )
    likely = theirs(normal.permute(2, 0, 1)[None]).logits.softmax(1)[0]
    found = dict(zoo.run(out, picture.numpy()).best)
    assert len(found) == 7
    for number, share in enumerate(likely.tolist()):
        assert found[f"thing {number}"] == pytest.approx(share, abs=1e-5)
    assert "apache-2.0" in (out / "README.md").read_text()
    with pytest.raises(MismatchError, match="already exists"):
        zoo.import_convnext(folder, out)


@torch.no_grad()
def test_pixels_that_a_preprocessor_does_not_normalize_are_taken_as_they_are(tmp_path):
    theirs = of_transformers()
    folder = saved(theirs, tmp_path / "theirs", do_normalize=False)
    zoo.import_convnext(folder, tmp_path / "made")
    x = torch.rand(1, 3, 64, 64)
    expected = theirs(x).logits
    torch.testing.assert_close(zoo.load(tmp_path / "made")(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "pixels",
    [
        {"do_rescale": False, "image_mean": [120.0, 110, 100], "image_std": [60.0, 55, 50]},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    ],
)
@torch.no_grad()
def test_pixels_that_a_preprocessor_scales_otherwise_are_scaled_as_it_does(tmp_path, pixels):
    theirs = of_transformers()
    folder = saved(theirs, tmp_path / "theirs", **pixels)
    zoo.import_convnext(folder, tmp_path / "made")
    picture = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    processor = ConvNextImageProcessor.from_pretrained(folder, do_resize=False)
    seen = processor(picture.permute(2, 0, 1), return_tensors="pt")["pixel_values"]
    made = zoo.load(tmp_path / "made")(picture.permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(made, theirs(seen.float()).logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rescale_factor": "1/255"}, "rescale_factor '1/255'; expected a number"),
        ({"rescale_factor": 0}, "rescale_factor 0; expected a number"),
        ({"image_mean": [0.5]}, r"image_mean \[0.5\]; expected 3 numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "expected more than 0"),
    ],
)
def test_refuses_preprocessors_of_no_pixels(tmp_path, change, message):
    folder = saved(of_transformers(), tmp_path / "theirs")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(MismatchError, match=message):
        zoo.import_convnext(folder, tmp_path / "made")


def test_refuses_other_models_and_broken_folders(tmp_path):
    folder = saved(of_transformers(), tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"model_type": "convnextv2"}, "of the type 'convnextv2'; expected"),
        ({"architectures": ["ConvNextModel"]}, "expected the ConvNextForImageClassification"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps 0.001; expected 1e-06 or less"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps 'small'; expected"),
        ({"depths": None}, "depths None; expected whole numbers"),
        ({"hidden_sizes": [12, "x", 31, 40]}, "hidden_sizes .*; expected whole numbers"),
        ({"num_channels": 2}, "num_channels 2; expected 1 or 3"),
        ({"patch_size": 1.5}, "patch_size 1.5; expected a whole number"),
        ({"layer_scale_init_value": None}, "layer_scale_init_value None; expected a number"),
        ({"id2label": [1, 2]}, "id2label .*; expected"),
        ({"depths": [1, 2]}, "one of each for every stage"),
        ({"depths": [1, 2, 3, 2]}, "not those of its config"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ZooError, match=message):
            zoo.import_convnext(folder, tmp_path / "made")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UnsafeFileError, match="no valid safetensors"):
        zoo.import_convnext(folder, tmp_path / "made")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match="save them again"):
        zoo.import_convnext(folder, tmp_path / "made")
    with pytest.raises(MismatchError, match="not a model that transformers saved"):
        zoo.import_convnext("sesr-m5-x2", tmp_path / "made")
    assert not (tmp_path / "made").exists()
