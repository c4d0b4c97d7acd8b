"""Low rank from end to end on a small network: what a checkpoint says, repair, and bad input."""

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.cards import parts as card_parts
from zoo.cli import main
from zoo.compression.matrices import matrices
from zoo.compression.methods import lowrank
from zoo.compression.network import are_logits, repair_as
from zoo.compression.ranks import most, spectra, within
from zoo.compression.repair import contrastive, evolved, repair, tunable
from zoo.compression.repair_options import RepairOptions
from zoo.errors import MismatchError, UnknownNameError
from zoo.files import write_json
from zoo.models.forms import training_form
from zoo.models.structured.layers import Structured
from zoo.models.structured.network import restructure
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Recipe

ARGS = {"width": 16, "heads": 2, "head": 8, "inner": [24, 24]}
Options = lowrank.Options


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    found = zoo.find("vit-tiny-fashion")
    return dataclasses.replace(found, args={**found.args, **ARGS})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Path:
    folder = tmp_path_factory.mktemp("data") / "clothes"
    dice = np.random.default_rng(0)
    for label in recipe.preprocessing["labels"]:
        (folder / label).mkdir(parents=True)
        for number in range(7):
            pixels = np.kron(dice.integers(0, 255, (7, 7)), np.ones((4, 4))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Checkpoint:
    torch.manual_seed(0)
    network = build(recipe)
    facts = {"source": "nothing", "images": 1, "held_out": [], "sha256": "0"}
    folder = tmp_path_factory.mktemp("base") / "vit"
    return Checkpoint.write(folder, recipe, network.state_dict(), {}, data=facts, license="mit")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, base: Checkpoint, data: Path) -> Checkpoint:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card_parts, "TARGETS", card_parts.TARGETS[:1])  # each takes a second
        out = tmp_path_factory.mktemp("small") / "out"
        return zoo.compress(
            base.path, out, method="lowrank", keep=0.5, data=data, layers=("blocks.*",),
            repair="gradient", repair_steps=10,
        )  # fmt: skip


def test_a_checkpoint_names_the_form_of_each_layer(small: Checkpoint, base: Checkpoint) -> None:
    structure = json.loads((small.path / "config.json").read_text())["recipe"]["structure"]
    assert structure["version"] == 1
    assert all(set(form) == {"lowrank"} for form in structure["forms"].values())
    model = zoo.load(small.path)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Structured)}
    assert set(layers) == set(structure["forms"])
    assert all(name.startswith("blocks.") for name in layers)
    before = {n: m for n, m in base.load().named_modules() if isinstance(m, nn.Linear)}
    whole = sum(m.weight.numel() for n, m in before.items() if n.startswith("blocks."))
    kept = sum(
        layers[n].form.count(*m.weight.shape) if n in layers else m.weight.numel()
        for n, m in before.items()
        if n.startswith("blocks.")
    )
    assert 0.45 * whole < kept <= 0.5 * whole
    facts = small.metrics["compression"]
    assert facts["numbers"] == sum(p.numel() for p in model.parameters())
    assert facts["base_numbers"] == facts["numbers"] + whole - kept
    assert facts["macs"] < facts["base_macs"]
    assert set(facts["layers"]) == set(layers)
    assert facts["calibration"] == {"source": "clothes", "inputs": 70}
    assert small.recipe.name == "vit-tiny-fashion-lowrank-50"
    assert Recipe.from_json(json.loads(json.dumps(small.recipe.to_json()))) == small.recipe


def test_the_same_bits_come_back(small: Checkpoint, recipe: Recipe, tmp_path: Path) -> None:
    model, x = zoo.load(small.path), torch.rand(2, 1, 28, 28)
    again = Checkpoint.write(tmp_path / "again", small.recipe, model.state_dict(), {})
    assert torch.equal(zoo.load(again.path)(x), model(x))
    assert again.config["files"] == small.config["files"]
    assert "structure" not in recipe.to_json()  # of a dense network nothing is said


def test_its_card_and_its_commands(
    small: Checkpoint, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (small.path / "README.md").read_text()
    assert re.search(r"^zoo compress vit-tiny-fashion\.\w+ --method lowrank", card, re.MULTILINE)
    assert "--repair gradient --repair-steps 10" in card
    assert "Repaired by gradient in " in card
    assert "without labels: kl from the base's outputs" in card
    assert "Layers were seen at work on 70 inputs of clothes" in card
    assert "| parameters, of those of the base |" in card
    assert main(["show", str(small.path)]) == 0
    assert "method lowrank, options.keep 0.5" in capsys.readouterr().out
    path = tmp_path / "net.onnx"
    assert zoo.export(small.path, path, format="onnx").max_abs_error < 1e-5
    file = zoo.export(small.path, tmp_path / "a.tflite", format="tflite", int8=True, data=str(data))
    assert file.path.stat().st_size > 0
    cost = zoo.estimate(small.path, target="stm32f746-216mhz-cmsisnn")
    assert cost.macs == small.metrics["compression"]["macs"]


def test_it_trains_on_in_its_forms_and_becomes_integers(
    small: Checkpoint, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_parts, "TARGETS", card_parts.TARGETS[:1])
    form = training_form(small.load(), {})
    assert {n for n, _ in form.named_parameters()} == set(small.state_dict())
    whole = zoo.compress(small.path, tmp_path / "int8", method="int8", data=data)
    assert whole.recipe.structure == small.recipe.structure
    x = torch.rand(2, 1, 28, 28) * 2 - 0.5
    near, wanted = zoo.load(whole.path)(x), zoo.load(small.path)(x)
    assert (near - wanted).abs().max() < 0.2 * wanted.abs().max()


def changed(small: Checkpoint, folder: Path, structure: Any) -> Path:
    """A copy of the checkpoint with another structure in its config."""
    tensors = small.state_dict()
    made = Checkpoint.write(folder, small.recipe, tensors, {})
    config = json.loads((made.path / "config.json").read_text())
    config["recipe"]["structure"] = structure
    write_json(made.path / "config.json", config)
    return made.path


FORM = {"lowrank": {"rank": 3}}


@pytest.mark.parametrize(
    ("structure", "says"),
    [
        ({"version": 5, "forms": {}}, "structure has version 5; this zoo reads 1 to 4"),
        ({"version": True, "forms": {}}, "structure has version True"),
        ({"forms": {}}, "structure has version None"),
        ({"version": 1, "forms": []}, "expected version and forms"),
        ({"version": 1, "forms": {}, "ops": {}}, "has version, forms, ops; expected"),
        ({"version": 1, "forms": {"nowhere": FORM}}, "'nowhere' a form, which is not there"),
        ({"version": 1, "forms": {"norm": FORM}}, "'norm' a form, which is a LayerNorm"),
        ({"version": 1, "forms": {"blocks.0.fc1": {"kron": {"a": 5, "b": 1}}}},
         "layer 'blocks.0.fc1': kron.* does not fit a matrix of 24 x 16"),
        ({"version": 1, "forms": {"blocks.0.fc1": {"lowrank": {"rank": 10**12}}}},
         "expected a rank of 0 to 16"),
        ({"version": 1, "forms": {"blocks.0.fc1": {"lowrank": {"rank": 16}}}},
         r"structure and tensors disagree: blocks.0.fc1.left is \(24, \d+\); its form needs"),
        ({"version": 1, "forms": {"embed": FORM}},
         "disagree: embed.left is not there; its form needs"),
    ],
    ids=str,
)  # fmt: skip
def test_a_structure_that_does_not_fit_is_refused(
    small: Checkpoint, tmp_path: Path, structure: Any, says: str
) -> None:
    with pytest.raises(MismatchError, match=says):
        zoo.load(changed(small, tmp_path / "x", structure))


def test_an_unknown_form_and_missing_factors_are_refused(small: Checkpoint, tmp_path: Path) -> None:
    structure = {"version": 1, "forms": {"blocks.0.fc1": {"lowrnk": {"rank": 3}}}}
    with pytest.raises(UnknownNameError, match=r"of blocks\.0\.fc1; known: dense, lowrank"):
        zoo.load(changed(small, tmp_path / "a", structure))
    with pytest.raises(MismatchError, match="do not fit"):  # a dense network, tensors of factors
        zoo.load(changed(small, tmp_path / "b", {}))
    with pytest.raises(MismatchError, match="structure"):
        zoo.load(changed(small, tmp_path / "c", "lowrank"))


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["--keep", "0"], "keep is 0; expected a share between 0 and 1"),
        (["--keep", "1.5"], "keep is 1.5; expected a share between 0 and 1"),
        (["--rank", "-1"], "rank is -1; expected 1 or more"),
        (["--rank", "12"], "rank 12 saves nothing in blocks.0.query (16 x 16); expected at most 7"),
        (["--layers", "decoder.*"], "no layer is called 'decoder.*'; there are embed, blocks.0"),
        (["--repair-steps", "0"], "repair_steps is 0; expected 1 or more"),
        (["--repair-rate", "1"], "repair_rate is 1; expected 0 < rate < 1"),
        (["--keep", "0.05", "--layers", "classifier", "--ranks", "uniform"],
         "makes none of the 1 layers smaller"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_options_are_one_line(
    typed: list[str], says: str, base: Checkpoint, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = ["compress", str(base.path), "--method", "lowrank", "--data", str(data)]
    if "--layers" not in typed:
        line += ["--layers", "blocks.*"]
    assert main([*line, *typed, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "\n" not in said
    assert not (tmp_path / "out" / "config.json").exists()


def test_what_cannot_be_compressed_is_one_line(
    small: Checkpoint, base: Checkpoint, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        MismatchError, match=r"has a structure of its own already .*; give the model"
    ):
        zoo.compress(small.path, out, method="lowrank", data=data)
    with pytest.raises(MismatchError, match="computes in integers; give its float weights"):
        zoo.compress("sesr-m5-x2.bsds-int8", out, method="lowrank", data=data)
    with pytest.raises(MismatchError, match="learns from data: add --data"):
        zoo.compress(base.path, out, method="lowrank")
    with pytest.raises(MismatchError, match="expects one for each label"):  # of another task
        zoo.compress(base.path, out, method="lowrank", data=data.parent)
    few = tmp_path / "few"
    for label in base.recipe.preprocessing["labels"]:
        (few / label).mkdir(parents=True)
        (few / label / "0.png").write_bytes((data / label / "0.png").read_bytes())
    with pytest.raises(MismatchError, match="'classifier' saw 10 inputs; expected 32 or more"):
        zoo.compress(base.path, out, method="lowrank", data=few)
    structure = {"version": 1, "forms": {"classifier": {"lowrank": {"rank": 11}}}}
    with pytest.raises(MismatchError, match="layer 'classifier': lowrank"):
        restructure(build(base.recipe), structure)


def test_plain_singular_values_need_no_data(base: Checkpoint, tmp_path: Path) -> None:
    options = Options(ranks="uniform", whiten=False)
    assert not options.needs_data
    parts = lowrank.truncated(base.load(), [], options)
    layer = base.load().get_submodule("blocks.0.fc1")
    assert isinstance(layer, nn.Linear)
    part = parts["blocks.0.fc1"]
    values = torch.linalg.svdvals(layer.weight.detach().double()).square()
    assert part.error == pytest.approx(float(values[part.form.rank :].sum() / values.sum()))


def test_whitening_and_gradients_lower_the_loss_that_counts(
    base: Checkpoint, recipe: Recipe
) -> None:
    torch.manual_seed(1)
    network = base.load()
    basis = torch.randn(6, 784)
    batch = (torch.randn(400, 6) @ basis / 3).reshape(400, 1, 28, 28)  # of few directions
    assert are_logits(recipe, network, [batch])
    with torch.no_grad():
        wanted = network(batch).log_softmax(1)

    def divergence(**changes: Any) -> float:
        options = Options(keep=0.3, layers=("blocks.*",), **changes)
        other = lowrank.replaced(network, lowrank.truncated(network, [batch], options))
        with torch.no_grad():
            return float((wanted.exp() * (wanted - other(batch).log_softmax(1))).sum(1).mean())

    plain = divergence(ranks="uniform", whiten=False)
    aware = divergence(ranks="uniform")
    assert aware < 0.5 * plain
    assert divergence() < aware


def test_ranks_may_be_none_or_all(base: Checkpoint) -> None:
    network = base.load()
    layers = {"blocks.0.fc1": network.get_submodule("blocks.0.fc1")}
    found = matrices(network, layers, [torch.rand(8, 1, 28, 28)], gradients=True)
    values, sizes = spectra(found), {"blocks.0.fc1": 24 * 16}
    assert within(values, sizes, 0.01) == {"blocks.0.fc1": 0}
    assert within(values, sizes, 1.0) == {}  # dense: no rank stores less and loses nothing
    assert most(24, 16) == 9
    assert most(1, 5) == 0


def test_a_layer_of_rank_zero_keeps_its_bias(base: Checkpoint) -> None:
    network = base.load()
    options = Options(keep=0.01, layers=("blocks.0.fc1",))
    batch = torch.rand(8, 1, 28, 28)
    other = lowrank.replaced(network, lowrank.truncated(network, [batch], options))
    bias = network.get_submodule("blocks.0.fc1").get_parameter("bias")
    layer = other.get_submodule("blocks.0.fc1")
    assert torch.equal(layer(torch.rand(2, 3, 16)), bias.expand(2, 3, 24))
    assert not list(layer.get_parameter("left").shape)[1]


@pytest.mark.parametrize(
    ("how", "loss"),
    [
        ("gradient", "mse"),
        ("gradient", "kl"),
        ("gradient", "contrastive"),
        pytest.param("evolve", "mse", marks=pytest.mark.slow),
        pytest.param("evolve", "kl", marks=pytest.mark.slow),
        ("evolve", "contrastive"),
    ],
)
def test_repair_brings_outputs_nearer(how: Any, loss: Any, base: Checkpoint) -> None:
    torch.manual_seed(0)
    network, batches = base.load(), [torch.rand(128, 1, 28, 28), torch.rand(130, 1, 28, 28)]
    options = Options(keep=0.3, layers=("blocks.*",))
    other = lowrank.replaced(network, lowrank.truncated(network, batches, options))
    dense = {n: p.clone() for n, p in other.named_parameters() if p.ndim > 2}
    steps, rate = (200, 0.02) if how == "evolve" else (30, 2e-3)
    settings = RepairOptions(repair=how, repair_loss=loss, repair_steps=steps, repair_rate=rate)
    again = copy.deepcopy(other)
    done = repair(other, network, batches, settings)
    assert done.after <= done.before
    if (how, loss) != ("evolve", "kl"):  # whose start no scale of a random network improves
        assert done.after < done.before
        assert done.step > 0
    assert all(torch.equal(p, dense[n]) for n, p in other.named_parameters() if n in dense)
    repeated = repair(again, network, batches, settings)
    assert (repeated.before, repeated.after) == (done.before, done.after)
    for ours, theirs in zip(tunable(other), tunable(again), strict=True):
        assert torch.equal(ours, theirs)


def test_a_repair_that_harms_is_undone(base: Checkpoint) -> None:
    network, batches = base.load(), [torch.rand(64, 1, 28, 28)]
    options = Options(keep=0.5, layers=("blocks.*",))
    other = lowrank.replaced(network, lowrank.truncated(network, batches, options))
    before = {name: p.clone() for name, p in other.named_parameters()}
    wild = RepairOptions(repair="gradient", repair_loss="mse", repair_steps=3, repair_rate=0.9)
    assert repair(other, network, batches, wild).step == 0
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())
    with pytest.raises(MismatchError, match=r"16 inputs or more, .*; --data has 15"):
        repair(other, network, [torch.rand(15, 1, 28, 28)], wild)


def test_the_loss_of_a_repair_is_that_of_labels_where_there_are_some(recipe: Recipe) -> None:
    usual = RepairOptions(repair="gradient")
    assert repair_as(usual, recipe, likelihood=True).repair_loss == "kl"
    assert repair_as(usual, recipe, likelihood=False).repair_loss == "mse"
    chosen = RepairOptions(repair="gradient", repair_loss="kl")
    with pytest.raises(MismatchError, match="tells no labels apart, so there is no kl"):
        repair_as(chosen, recipe, likelihood=False)


def test_the_contrastive_loss_is_least_where_outputs_are_equal() -> None:
    torch.manual_seed(0)
    wanted = torch.randn(20, 6)
    floor = contrastive(3 * wanted, wanted)  # the angle alone counts
    assert floor == pytest.approx(float(contrastive(wanted, wanted)))
    assert floor < contrastive(wanted + torch.randn(20, 6), wanted)


def test_evolution_finds_a_valley_and_never_forgets_the_start() -> None:
    goal = np.array([1.05, 0.93, 1.0])
    best, step = evolved(lambda s: float(((s - goal) ** 2).sum()), 3, 200, 0.03, 0)
    assert step > 0
    assert ((best - goal) ** 2).sum() < 0.2 * ((1 - goal) ** 2).sum()
    best, step = evolved(lambda s: float(((s - 1) ** 2).sum()), 3, 50, 0.03, 0)
    assert step == 0
    assert (best == 1).all()
