"""Shares of real filters, one for all layers or layer by layer: in Python, and typed."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli import main
from zoo.compression.shares import allocated, filter_losses
from zoo.errors import MismatchError
from zoo.models.blocks.ternary import stored_bytes
from zoo.registry import find
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Recipe
from zoo.tasks import task_of

HYBRID = find("mobilenet-v1-025-hybrid")


@pytest.fixture(scope="module")
def dense() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(find("mobilenet-v1-025"))


@pytest.fixture(scope="module")
def inputs() -> list[torch.Tensor]:
    return list(torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).split(3))


def size(recipe: Recipe) -> int:
    return stored_bytes(build(recipe))


def test_layers_compete_for_the_bytes_of_a_uniform_share(
    dense: torch.nn.Module, inputs: list[torch.Tensor]
):
    made = allocated(HYBRID, dense, inputs, 0.5)
    shares = made.args["alpha"]
    assert len(shares) == 13
    assert len(set(shares)) > 1
    assert 0.97 * size(HYBRID) < size(made) <= size(HYBRID)


def test_nothing_is_left_to_choose_for_the_fewest_bytes(
    dense: torch.nn.Module, inputs: list[torch.Tensor]
):
    assert allocated(HYBRID, dense, inputs, 0.0).args["alpha"] == [0.0] * 13


def test_a_layer_that_is_ternary_already_loses_nothing(inputs: list[torch.Tensor]):
    torch.manual_seed(0)
    network = build(find("mobilenet-v1-025"))
    layer = dict(network.named_modules())["layers.2.parts.0.conv"]
    with torch.no_grad():
        layer.weight.copy_(layer.weight.sign() * 0.1)
    losses = filter_losses(network, inputs)
    assert losses["layers.2"].max() < 1e-9
    assert losses["layers.4"].min() > 0


def test_what_cannot_be_allocated_is_one_clear_line(
    dense: torch.nn.Module, inputs: list[torch.Tensor]
):
    with pytest.raises(MismatchError, match=r"alpha is 1\.5; expected 0 to 1"):
        allocated(HYBRID, dense, inputs, 1.5)
    with pytest.raises(MismatchError, match="this is a DsCnn"):
        allocated(HYBRID, build(find("ds-cnn-s")), inputs)
    with pytest.raises(MismatchError, match="whose filters are all real"):
        allocated(HYBRID, build(HYBRID), inputs)
    with pytest.raises(MismatchError, match="there are none"):
        allocated(dataclasses.replace(HYBRID), dense, [])
    with pytest.raises(MismatchError, match="ds-cnn-s has no hybrid filter banks"):
        allocated(find("ds-cnn-s"), dense, inputs)
    with pytest.raises(MismatchError, match=r"x0\.5, and the trained network x0\.25"):
        allocated(find("mobilenet-v1-050-hybrid"), dense, inputs)


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    trial = task_of(HYBRID).trial(tmp_path_factory.mktemp("pictures"), HYBRID.in_tiny_form())
    return str(trial.data)


@pytest.fixture(scope="module")
def real(dense: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("real") / "run"
    Checkpoint.write(folder, find("mobilenet-v1-025"), dense.state_dict(), {})
    return str(folder)


def typed(name: str, data: str, out: Path, *sets: str) -> list[str]:
    words = ["train", name, "--data", data, "--out", str(out), "--device", "cpu"]
    few = ("train.steps=1", "train.batch_size=4", "train.precision=no", *sets)
    return [*words, *(word for one in few for word in ("--set", one))]


def test_a_share_is_typed_and_stands_on_the_card(pictures: str, tmp_path: Path):
    words = typed(HYBRID.name, pictures, tmp_path / "run", "args.alpha=0.375", "args.bank=0.5")
    assert main(words) == 0
    made = zoo.checkpoint(tmp_path / "run")
    assert (made.recipe.args["alpha"], made.recipe.args["bank"]) == (0.375, 0.5)
    assert next(part.dense for part in made.load().modules() if hasattr(part, "dense")) == 6
    card = (tmp_path / "run" / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("zoo train "))
    sets = [word for word in shlex.split(line) if word.startswith("args.")]
    assert sets == ["args.alpha=0.375", "args.bank=0.5"]


def test_shares_are_written_to_a_file_that_trains(
    pictures: str, real: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "mine.json"
    words = ["search", "shares", HYBRID.name, "--from", real, "--data", pictures, "--inputs", "4"]
    assert main([*words, "--out", str(out)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["LAYER", "FILTERS", "REAL", "ALPHA", "BYTES"]
    recipe = Recipe.from_json(json.loads(out.read_text()))
    assert recipe.name == "mine"
    assert [line.split()[3] for line in table[1:]] == [f"{a:g}" for a in recipe.args["alpha"]]
    layers = sum(int(line.split()[4]) for line in table[1:])
    assert last.startswith(f"{out}  {layers} bytes")
    assert 0.97 * size(HYBRID) < size(recipe) <= size(HYBRID)
    assert main(typed(str(out), pictures, tmp_path / "run")) == 0
    assert zoo.checkpoint(tmp_path / "run").recipe.args == recipe.args
    capsys.readouterr()
    other = str(tmp_path / "other.json")
    assert main([*words, "--alpha", "0.25", "--json", "--out", other]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["budget_alpha"] == 0.25
    assert found["bytes"] <= found["budget_bytes"] < layers


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["args.alpha=1.5"], "alpha is 1.5; expected 0 to 1"),
        (["args.alpha=-0.1"], "alpha is -0.1; expected 0 to 1"),
        (["args.alpha=0.5,0.25"], "there are 2 alphas; expected one, or 13"),
        (["args.alpha=half"], "args.alpha is 'half'; expected a number, or a list of such"),
        (["args.alpha=NaN"], "args.alpha is 'NaN'; expected a number"),
        (["args.alpha=true"], "args.alpha is 'true'; expected a number"),
        (["args.bank=1.5"], "a bank of 1.5 products a filter is wider than the layer"),
        (["args.num_classes=3"], "is no setting: the data or the recipe say it; known: args.width"),
        (["args.alhpa=0.5"], "argument 'args.alhpa' is none; known: args.width"),
        (["args.stride=0"], "stride is 0; expected at least 1"),
        (["args.stride=1.5"], "stride is 1.5; expected a whole number"),
        (["args.width=0"], "width is 0; expected a positive number"),
    ],
)
def test_a_wrong_share_on_the_command_line_is_one_clear_line(
    sets: list[str], said: str, pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    assert main(typed(HYBRID.name, pictures, out, *sets)) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_a_batch_of_one_on_maps_of_one_pixel_is_one_clear_line(
    pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = typed("mobilenet-v1-025", pictures, tmp_path / "run", "args.stride=2")
    assert main([*words, "--set", "train.batch_size=1"]) == 1
    error = capsys.readouterr().err
    assert "type: --set train.batch_size=2, or more" in error
    assert len(error.strip().splitlines()) == 1


def test_what_cannot_be_started_from_says_what_to_type(
    pictures: str, real: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = typed(HYBRID.name, pictures, tmp_path / "run")
    assert main([*words, "--from", real]) == 1
    assert "give args as theirs, e.g. --set args.width=8, or start anew: --from none" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--alpha": "1.5"}, "alpha is 1.5; expected 0 to 1"),
        ({"--alpha": "nan"}, "alpha is nan; expected 0 to 1"),
        ({"--out": "mine"}, "is not a recipe's file"),
        ({"--out": "mobilenet-v1-025.json"}, "is a recipe of the zoo"),
        ({"name": "st-tree-kws"}, "has no hybrid filter banks"),
        ({"name": "mobilenet-v1-050-hybrid"}, "expected the same width"),
        ({"name": "mobilnet"}, "mobilnet"),
        ({"--from": "mlperf-tiny-ic.cifar10"}, "whose filters are all real"),
        ({"--data": "nowhere"}, "nowhere"),
    ],
)
def test_a_wrong_search_for_shares_is_one_clear_line(
    changes: dict[str, str],
    said: str,
    pictures: str,
    real: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    given = {"name": HYBRID.name, "--from": real, "--data": pictures, "--out": "mine.json"}
    given |= changes
    given["--out"] = str(tmp_path / given["--out"])
    flags = [word for key, value in given.items() if key != "name" for word in (key, value)]
    assert main(["search", "shares", given["name"], *flags]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
