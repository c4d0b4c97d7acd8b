"""`zoo train --set quant=int8`: from the command line to a checkpoint that devices agree with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo import verbs as api
from zoo.cli import main
from zoo.deploy.tflite_read import read_tflite
from zoo.errors import MismatchError
from zoo.quantization.int8.network import QuantizedNetwork
from zoo.quantization.int8.qat import training_form
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.recipe import Recipe
from zoo.runtime.values import quantized
from zoo.tasks import super_resolution
from zoo.training import loop as module

SHORT = {"batch_size": 2, "lr": 1e-3}


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run of 8 steps from the shipped weights of sesr-m3-x2, never interrupted."""
    out = tmp_path_factory.mktemp("run") / "whole"
    assert train(out, quant="int8", **SHORT) == 0
    return out


def config(out):
    return json.loads((out / "config.json").read_text())


def test_the_checkpoint_says_what_it_is(whole):
    facts = config(whole)
    assert facts["tag"] == "photos-int8"
    assert facts["recipe"]["train"]["quant"] == "int8"
    assert facts["recipe"]["train"]["init"] == "sesr-m3-x2"
    assert facts["quantization"]["scheme"] == "int8"
    assert facts["quantization"]["ranges"][":add.3"] == [0.0, 1.0]  # a clamp decides it
    float_names = set(api.checkpoint("sesr-m3-x2").state_dict())
    assert set(Checkpoint.read(whole).state_dict()) == float_names


def test_what_is_kept_and_judged_is_the_integer_network(whole, pictures):
    network = zoo.load(whole)
    assert isinstance(network, QuantizedNetwork)
    assert not network.training
    recipe = Checkpoint.read(whole).recipe
    data = super_resolution.training_data(recipe, str(pictures))
    again = super_resolution.validate(network, data, recipe)["psnr_y_db"]
    assert again == Checkpoint.read(whole).metrics["held_out"]["psnr_y_db"]
    plain = super_resolution.validate(network.network, data, recipe)["psnr_y_db"]
    assert again != plain


def test_a_stopped_run_resumes_to_the_same_bits(whole, train, tmp_path, monkeypatch):
    stopped, original = tmp_path / "stopped", module.Run._step

    def step(self, number):
        if number == 6:
            raise KeyboardInterrupt
        return original(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(module.Run, "_step", step)
        assert train(stopped, quant="int8", **SHORT) != 0
    assert train(stopped, "--resume", quant="int8", **SHORT) == 0
    for name in ("model.safetensors", "config.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


def test_evaluating_gives_both_figures_everywhere(whole, pictures, capsys, tmp_path):
    assert main(["evaluate", str(whole), "--data", str(pictures), "--record", "pictures"]) == 0
    table = capsys.readouterr().out
    assert "mean in float" in table
    result = Checkpoint.read(whole).metrics["evaluations"]["pictures"]
    assert result["psnr_y_db"] != result["float"]["psnr_y_db"]
    assert f"{result['float']['psnr_y_db']:.4f}" in table
    assert main(["show", str(whole)]) == 0
    shown = capsys.readouterr().out
    assert "int8: trained for it" in shown
    assert f"pictures, the same weights in float: psnr_y_db {result['float']['psnr_y_db']:.4g}" in (
        shown
    )
    card = zoo.card(whole)
    assert "| arithmetic | int8, weights of 8 bits" in card
    assert "| pictures (6), the same weights in float |" in card
    assert "Quantization-aware (int8), from sesr-m3-x2" in card
    assert api.check_card(whole) == []


def test_export_needs_no_data_and_gives_the_same_integers(whole, tmp_path, capsys):
    file = tmp_path / "m3.tflite"
    command = ["export", str(whole), "--format", "tflite", "--int8", "--out", str(file)]
    assert main(command) == 0
    network, graph = zoo.load(whole), read_tflite(file)
    expected = network.graph((1, 1, 360, 640))
    assert [op.kind for op in graph.ops] == [op.kind for op in expected.ops]
    for ours, theirs in zip(expected.ops, graph.ops, strict=True):
        names = zip(ours.inputs + ours.outputs, theirs.inputs + theirs.outputs, strict=True)
        for a, b in names:
            assert expected.tensors[a].quantization == graph.tensors[b].quantization
            if a in expected.values:
                np.testing.assert_array_equal(expected.values[a], graph.values[b])
    capsys.readouterr()
    assert main([*command, "--data", str(tmp_path)]) == 1
    assert "ranges it was trained with; leave --data out" in capsys.readouterr().err


def test_inputs_are_rounded_as_the_file_takes_them(whole):
    network, x = zoo.load(whole), torch.rand(2, 1, 9, 11)
    graph = network.graph((1, 1, 9, 11))
    meaning = graph.tensors[graph.inputs[0]].quantization
    integers = quantized(graph, x).float()
    assert torch.equal(network(x), network((integers - meaning.zero_point) * meaning.scale))


def test_int8_has_no_other_type(whole):
    with pytest.raises(MismatchError, match="computes in integers; leave the dtype"):
        zoo.load(whole, dtype="bfloat16")


@pytest.mark.parametrize(
    ("quant", "message"),
    [
        ("int9", "train.quant is 'int9'; expected none or int8, int8-w4"),
        ("int8", "add --from none to start from random weights"),
    ],
)
def test_what_cannot_be_trained_says_why(quant, message, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", tmp_path)  # no weights to start from
    assert main(small(tmp_path / "run", quant=quant)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_few_steps_beat_rounding_after_training(train, tmp_path, pictures):
    out = tmp_path / "w4"
    settings = {"steps": 40, "eval_every": 10, "batch_size": 4, "lr": 1e-3, "ema_decay": 0.9}
    assert train(out, quant="int8-w4", **settings) == 0
    trained = Checkpoint.read(out)
    recipe: Recipe = trained.recipe
    data = super_resolution.training_data(recipe, str(pictures))
    inputs = [super_resolution.batch(data, recipe, step, range(4), 4)[0] for step in range(8)]
    before = training_form(zoo.load("sesr-m3-x2"), inputs, "int8-w4").deployed()
    psnr = super_resolution.validate(before, data, recipe)["psnr_y_db"]
    assert trained.metrics["held_out"]["psnr_y_db"] > psnr + 0.1
    assert config(out)["tag"] == "photos-int8-w4"
    weights = [v for k, v in zoo.load(out).graph((1, 1, 8, 8)).values.items() if "weight" in k]
    assert max(np.abs(v).max() for v in weights if v.ndim == 4 and v.shape[1] > 1) == 7


def test_a_checkpoint_with_other_ranges_is_refused(whole, tmp_path):
    import shutil

    copy: Path = shutil.copytree(whole, tmp_path / "copy")
    facts = config(copy)
    facts["quantization"]["ranges"]["elsewhere:conv2d"] = [0.0, 1.0]
    del facts["quantization"]["ranges"]["body.0:conv2d"]
    (copy / "config.json").write_text(json.dumps(facts))
    with pytest.raises(MismatchError, match=r"missing 'body\.0:conv2d'; unknown 'elsewhere"):
        zoo.load(copy)(torch.rand(1, 1, 8, 8))
