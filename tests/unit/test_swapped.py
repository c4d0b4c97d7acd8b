"""Checkpoints without division: they load again, are priced, and say what they cannot do."""

import dataclasses
from pathlib import Path

import pytest
import torch

import zoo
from zoo.errors import MismatchError, UnknownNameError, ZooError
from zoo.files import read_json, write_json
from zoo.models.approximate.layers import Bent, ShiftSoftmax, Standardized
from zoo.models.approximate.swap import exact, is_swapped, swap_ops
from zoo.registry.checkpoint import Checkpoint, build

ARGS = {"width": 16, "heads": 2, "head": 8, "inner": [24, 24]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    found = zoo.find("vit-tiny-fashion")
    recipe = dataclasses.replace(found, args={**found.args, **ARGS})
    torch.manual_seed(0)
    state = build(recipe).state_dict()
    return Checkpoint.write(tmp_path_factory.mktemp("base") / "vit", recipe, state, {})


@pytest.mark.parametrize("form", ["float", "fixed"])
def test_a_checkpoint_keeps_the_exchange(base: Checkpoint, tmp_path: Path, form: str) -> None:
    options = {"layernorm": 5, "softmax": 3, "gelu": 8, "form": form, "root": "mantissa"}
    made = zoo.compress(base.path, tmp_path / "out", method="swap", **options)
    kept = {"version": 3, "forms": {}, "ops": options}
    assert made.recipe.structure == kept
    assert made.config["files"]["model.safetensors"] == base.config["files"]["model.safetensors"]
    wanted = base.load()
    settings = {"layernorm": 5, "softmax": 3, "gelu": 8}
    assert swap_ops(wanted, settings, form=form, root="mantissa") == {  # type: ignore[arg-type]
        "layernorm": 5, "softmax": 2, "gelu": 2
    }  # fmt: skip
    x = torch.rand(3, 1, 28, 28)
    model = zoo.load(made.path)
    assert torch.equal(model(x), wanted(x))
    assert not torch.equal(model(x), zoo.load(base.path)(x))
    assert made.metrics["compression"]["exchanged"]["gelu"] == {"setting": 8, "places": 2}


def test_exact_puts_back_what_stood_there(base: Checkpoint) -> None:
    plain, model = base.load(), base.load()
    swap_ops(model, {"layernorm": 4, "softmax": 4, "gelu": 16})
    kinds = {type(m) for m in model.modules()}
    assert {Bent, ShiftSoftmax, Standardized} <= kinds
    assert is_swapped(model)
    assert not is_swapped(exact(model))
    assert exact(plain) is plain
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(exact(model)(x), plain(x))
    assert exact(model).state_dict().keys() == plain.state_dict().keys()
    norm = torch.nn.Sequential(torch.nn.RMSNorm(8, eps=1e-5), torch.nn.SiLU())
    torch.nn.init.normal_(norm[0].weight)
    y = torch.randn(2, 8)
    wanted = norm(y)
    swap_ops(norm, {"rmsnorm": 4, "silu": 16})
    assert torch.equal(exact(norm)(y), wanted)


def test_costs_are_those_of_what_stood_there_and_no_file_is_written(
    base: Checkpoint, tmp_path: Path
) -> None:
    made = zoo.compress(base.path, tmp_path / "out", method="swap")
    target = "stm32f746-216mhz-cmsisnn"
    before, after = (zoo.estimate(one.path, target) for one in (base, made))
    assert (after.macs, after.latency_ms) == (before.macs, before.latency_ms)
    assert zoo.estimate(zoo.load(made.path), target, input_shape=(1, 1, 28, 28)).macs == after.macs
    for name in ("x.onnx", "x.tflite"):
        with pytest.raises(
            MismatchError, match=r"without division .* give the network it was made"
        ):
            zoo.export(made.path, tmp_path / name)
        assert not (tmp_path / name).exists()


def test_a_network_in_forms_is_exchanged_too(base: Checkpoint, tmp_path: Path) -> None:
    low = zoo.compress(
        base.path, tmp_path / "low", method="lowrank", keep=0.5, whiten=False, ranks="uniform"
    )
    made = zoo.compress(low.path, tmp_path / "both", method="swap", softmax=0)
    assert made.recipe.structure["forms"] == low.recipe.structure["forms"]
    assert set(made.recipe.structure["ops"]) == {"layernorm", "gelu", "form", "root"}
    x = torch.rand(2, 1, 28, 28)
    wanted = low.load()
    swap_ops(wanted, {"layernorm": 4, "gelu": 16})
    assert torch.equal(zoo.load(made.path)(x), wanted(x))
    for method in ("swap", "lowrank", "magnitude"):
        options = {} if method == "swap" else {"keep": 0.5}
        if method == "lowrank":
            options |= {"whiten": False, "ranks": "uniform"}  # type: ignore[dict-item]
        with pytest.raises(
            MismatchError, match=r"were exchanged before|structure of its own already"
        ):
            zoo.compress(made.path, tmp_path / "no", method=method, **options)


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        ({}, "structure.ops is {}; expected settings"),
        ([1], "expected settings by operators' names"),
        ({"layernorm": "4"}, "layernorm is '4'; expected bits"),
        ({"softmx": 4}, "unknown operator 'softmx'; did you mean softmax"),
        ({"layernorm": 4, "form": "int"}, "form is 'int'; expected float or fixed"),
        ({"layernorm": 4, "root": "sqrt"}, "root is 'sqrt'; expected mitchell or mantissa"),
        ({"silu": 16}, "has no silu that can be exchanged"),
    ],
)
def test_a_broken_structure_is_one_clear_line(
    base: Checkpoint, tmp_path: Path, ops: object, said: str
) -> None:
    made = zoo.compress(base.path, tmp_path / "out", method="swap")
    config = read_json(made.path / "config.json")
    config["recipe"]["structure"]["ops"] = ops
    write_json(made.path / "config.json", config)
    with pytest.raises(ZooError) as error:
        zoo.load(made.path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_older_version_has_no_operators(base: Checkpoint, tmp_path: Path) -> None:
    made = zoo.compress(base.path, tmp_path / "out", method="swap")
    config = read_json(made.path / "config.json")
    config["recipe"]["structure"]["version"] = 2
    write_json(made.path / "config.json", config)
    with pytest.raises(MismatchError, match=r"structure has .*ops.*; expected"):
        zoo.load(made.path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layernorm": 0, "rmsnorm": 0, "softmax": 0, "gelu": 0, "silu": 0}, "are 0; expected one"),
        ({"gelu": -2}, "gelu is -2; expected 1 or more, or 0"),
        ({"gelu": 7}, "gelu is 7; expected an even number"),
        ({"softmax": 13}, "softmax is 13; expected bits, 1 to 12"),
        ({"form": "fixed", "gelu": 6}, "the fixed form takes a power of two"),
        ({"form": "fixed", "repair": "gradient"}, "has no gradient; take --form float"),
        ({"repair": "gradient"}, "learns from data: add --data"),
    ],
)
def test_wrong_options_are_refused(
    base: Checkpoint, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises((MismatchError, UnknownNameError)) as error:
        zoo.compress(base.path, tmp_path / "no", method="swap", **options)
    assert said in str(error.value)
