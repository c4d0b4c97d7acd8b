"""Factors on grids: what is stored, the same bits again, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo.errors import MismatchError, UnknownNameError, ZooError
from zoo.files import read_json, write_json
from zoo.models.structured.composed import RowsForm, SumForm
from zoo.models.structured.forms import Form, KronForm, LowRankForm
from zoo.models.structured.network import restructure, structure_of
from zoo.quantization.core import quantize_matrix
from zoo.quantization.factors import bits_per_number, decoded, encoded, grid_options
from zoo.registry.checkpoint import Checkpoint, build

ARGS = {"width": 16, "heads": 2, "head": 8, "inner": [24, 24]}
PLAIN: dict[str, Any] = {"method": "lowrank", "keep": 0.5, "whiten": False, "ranks": "uniform"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    found = zoo.find("vit-tiny-fashion")
    recipe = dataclasses.replace(found, args={**found.args, **ARGS})
    torch.manual_seed(0)
    state = build(recipe).state_dict()
    return Checkpoint.write(tmp_path_factory.mktemp("base") / "vit", recipe, state, {})


@pytest.mark.parametrize("format", ["int8", "int4", "nf4", "ternary", "mxfp6"])
def test_factors_are_stored_on_the_grid_and_come_back(
    base: Checkpoint, tmp_path: Path, format: str
) -> None:
    floats = zoo.compress(base.path, tmp_path / "floats", **PLAIN)
    made = zoo.compress(base.path, tmp_path / "out", factors=format, **PLAIN)
    wanted, network = floats.load(), zoo.load(made.path)
    options = grid_options(format, 0)
    with torch.no_grad():
        for name, value in wanted.state_dict().items():
            if name.endswith((".left", ".right")):
                wanted.get_parameter(name).copy_(quantize_matrix(value, None, options).dequantize())
    for name, value in network.state_dict().items():
        assert torch.equal(value, wanted.state_dict()[name]), name
    stored = load_file(made.path / "model.safetensors")
    assert not {name for name in stored if name.endswith((".left", ".right"))}
    factors = made.recipe.structure["factors"]
    numbers = sum(a * b for a, b in factors["shapes"].values())
    ours = [t for name, t in stored.items() if name not in network.state_dict()]
    bits = made.metrics["compression"]["factors"]["bits_per_number"]
    assert bits == 8 * sum(t.numel() * t.element_size() for t in ours) / numbers < 16
    assert made.recipe.structure["version"] == 4
    again = zoo.compress(base.path, tmp_path / "again", factors=format, **PLAIN)
    assert again.config["files"] == made.config["files"]


@pytest.mark.parametrize(
    "form",
    [
        KronForm(4, 2),
        RowsForm(3, LowRankForm(2), 1),
        LowRankForm(3, "diag"),
        SumForm((KronForm(4, 2), LowRankForm(1))),
    ],
    ids=lambda form: form.NAME,
)
def test_factors_of_every_form(base: Checkpoint, tmp_path: Path, form: Form) -> None:
    structure = structure_of({"blocks.0.fc1": form, "blocks.1.fc2": form})
    torch.manual_seed(0)
    network = restructure(build(base.recipe), structure)
    stored, factors = encoded(
        network.state_dict(), ["blocks.0.fc1", "blocks.1.fc2"], grid_options("int8", 8)
    )
    back = decoded(stored, factors)
    assert back.keys() == network.state_dict().keys()
    assert bits_per_number(stored, factors) < 20
    recipe = dataclasses.replace(
        base.recipe, structure={**structure, "version": 4, "factors": factors}
    )
    made = Checkpoint.write(tmp_path / "out", recipe, stored, {})
    for name, value in zoo.load(made.path).state_dict().items():
        assert torch.equal(value, back[name])
        assert (value - network.state_dict()[name]).abs().max() < 0.02
        if value.ndim == 1:
            assert torch.equal(value, network.state_dict()[name])


def test_other_methods_take_them_as_floats(base: Checkpoint, tmp_path: Path) -> None:
    made = zoo.compress(base.path, tmp_path / "out", factors="int4", **PLAIN)
    swapped = zoo.compress(made.path, tmp_path / "swap", method="swap", gelu=0, softmax=0)
    assert "factors" not in swapped.recipe.structure
    for name, value in zoo.load(swapped.path).state_dict().items():
        assert torch.equal(value, made.load().state_dict()[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"factors": None}, "structure.factors is None; expected grid and shapes"),
        ({"factors": {"grid": {}, "shapes": 3}}, "expected grid and shapes"),
        ({"grid": {"method": "rtn", "bits": 4}}, "codes"),
        ({"grid": {"method": "rtn", "bits": 99}}, "bits * dim is 99"),
        ({"grid": {"method": "nothing"}}, "unknown method 'nothing'"),
        ({"shapes": {"blocks.0.fc1.left": [24, -1]}}, "is [24, -1]; expected [rows, columns]"),
        ({"shapes": {"blocks.0.fc1.left": [10**9, 10**9]}}, "factor 'blocks.0.fc1.left': "),
        ({"shapes": {"nowhere": [3, 3]}}, "factor 'nowhere': "),
        ({"shapes": {}}, "embed.left is not there"),
        ({"version": 3}, "factors; expected version and forms"),
    ],
)
def test_what_does_not_agree_is_refused(
    base: Checkpoint, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    made = zoo.compress(base.path, tmp_path / "out", factors="int8", **PLAIN)
    config = read_json(made.path / "config.json")
    structure = config["recipe"]["structure"]
    if {"factors", "version"} & change.keys():
        structure |= change
    else:
        structure["factors"] |= change
    write_json(made.path / "config.json", config)
    with pytest.raises(ZooError) as error:
        zoo.load(made.path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_options_are_refused(base: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UnknownNameError, match="unknown format 'int9'; did you mean int8"):
        zoo.compress(base.path, out, factors="int9", **PLAIN)
    with pytest.raises(MismatchError, match="group_size is 8; expected 1 or more, of --factors"):
        zoo.compress(base.path, out, group_size=8, **PLAIN)
    with pytest.raises(MismatchError, match="mxfp4 has blocks of 32: leave group_size out"):
        zoo.compress(base.path, out, factors="mxfp4", group_size=24, **PLAIN)
