"""Every compression method, also those of installed packages: what its contract says."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.cards import parts as card_parts
from zoo.cards.check import problems
from zoo.cli import _parser, main
from zoo.cli.compression import given
from zoo.compression import catalogue
from zoo.compression.choice import choose
from zoo.compression.contract import Method, checked, takes
from zoo.errors import MismatchError, UnknownNameError
from zoo.quantization.int8.network import QuantizedNetwork
from zoo.registry import all_recipes, shipped_tags
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.codec import to_json
from zoo.registry.options import Option, carried, merged, options, read, texts, words
from zoo.registry.recipe import NAME, Compress, Recipe

NAMES = catalogue.names()
# What a method says of a network that has nothing it changes, and what it is tried on instead.
REFUSED = {
    ("swap", "sesr-m3-x2"): "has no layernorm, rmsnorm, softmax, gelu, silu that can be exchanged"
}
INSTEAD = {("swap", "mlperf-tiny-ic"): "vit-tiny-fashion"}
# Of methods that train, on noise; and of those that leave out parts of weights, here noise too.
QUICK = {"steps": 40, "batch_size": 2, "lr": 1e-5, "keep": 0.9}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def method(name: str) -> Method:
    return catalogue.find(name)


def quick(name: str) -> dict[str, float]:
    """The options that keep a method from training for long."""
    known = {option.name for option in options(catalogue.find(name).Options)}
    return {key: value for key, value in QUICK.items() if key in known}


def another(option: Option) -> Any:
    """A value that is not the default, of the right type."""
    if option.choices:
        return next(word for word in option.choices if word not in ("", option.default))
    return {
        "switch": not option.default,
        "list": ["*.0.*", "b c"],
        "table": {"*.q_proj": {"bits": 3}, "a:b": {"damp": 0.5}},
        "value": "-x y" if option.hint is str else 2 if option.default == 1 else 1,
    }[option.shape]


def test_it_says_what_it_is(name: str, method: Method) -> None:
    assert method.SUMMARY[0].islower()
    assert re.fullmatch(r"\d{4}\.\d{4,5}", method.PAPER)
    parts = inspect.signature(method.compress).parameters
    assert list(parts) == ["source", "out", "options", "data", "test", "resume", "device"]
    kind = method.Options
    assert kind.__dataclass_params__.frozen
    said = texts(kind)
    assert all(len(said[field.name]) > 10 for field in dataclasses.fields(kind))
    usual = kind()
    assert NAME.fullmatch(usual.label)
    assert usual.summary
    assert usual.needs_data in (True, False)
    for preset, values in method.PRESETS.items():
        assert catalogue.split(f"{name}-{preset}") == (name, values)
        assert read(kind, values, name) != usual or not values


def test_what_is_typed_is_what_is_said(name: str, method: Method) -> None:
    """Command line, JSON and dataclass say the same, for every option on its own."""
    for option in options(method.Options):
        value = another(option)
        typed = ["compress", "x", "--out", "y", "--method", name]
        typed += words(method.Options, {option.name: value})
        found = given(_parser(typed).parse_args(typed))
        assert set(found) == {option.name}
        for flag in option.flags[1:]:  # an older name of the same
            older = [flag if word == option.flags[0] else word for word in typed]
            assert given(_parser(older).parse_args(older)) == found
        try:
            from_json = read(method.Options, {option.name: value}, name)
        except (MismatchError, UnknownNameError) as error:  # the other defaults, or no such name
            with pytest.raises(type(error)):
                read(method.Options, found, name)
            continue
        from_flags = read(method.Options, found, name)
        assert from_flags == from_json
        assert read(method.Options, to_json(from_json), name) == from_json
        by_set = [*typed[:6], "--set", f"{option.name}={json.dumps(value)}"]
        by_set = given(_parser(by_set).parse_args(by_set))
        assert read(method.Options, by_set, name) == from_json


def test_its_help_lists_its_options(
    name: str, method: Method, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["compress", "--method", name, "--help"])
    assert leaving.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"options of {name}:" in printed
    for option in options(method.Options):
        assert all(flag in printed for flag in option.flags)
        assert option.text.split(",")[0].split(".")[0][:30] in printed
    for other in NAMES:
        assert catalogue.find(other).SUMMARY in printed


def test_unknown_options_name_the_near_ones(
    name: str, method: Method, capsys: pytest.CaptureFixture[str]
) -> None:
    option = options(method.Options)[0]
    wrong = f"{option.name}x"
    with pytest.raises(UnknownNameError, match=f"unknown option '{wrong}'; did you mean"):
        read(method.Options, {wrong: 1}, name)
    with pytest.raises(SystemExit) as leaving:
        main(["compress", "x", "--out", "y", "--method", name, f"{option.flags[0]}x", "1"])
    assert leaving.value.code == 2
    assert f"did you mean {option.flags[0]}" in capsys.readouterr().err


def test_the_methods_are_listed_without_torch() -> None:
    code = (
        "from zoo.compression import catalogue as c; from zoo.registry.options import options; "
        "print(len([o for n in c.names() for o in options(c.find(n).Options)])); import sys; "
        "print([n for n in ('torch', 'numpy', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "[]"


def test_what_is_no_method_is_refused() -> None:
    class Wrong:
        SUMMARY = "x"
        PAPER = 3

    with pytest.raises(MismatchError, match="'x' has no PAPER that is a str"):
        checked("x", Wrong)
    with pytest.raises(UnknownNameError, match="did you mean gptvq-2d-2b"):
        catalogue.split("gptvq-2d-2")
    with pytest.raises(UnknownNameError, match=r"unknown preset 'slow' \(of int8: none\)"):
        catalogue.preset("int8", "slow")


def test_a_field_without_a_text_or_default_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Silent:
        """Options.

        Attributes:
            a: what it is.

        """

        a: int = 1
        b: int = 2

    with pytest.raises(MismatchError, match=r"Silent\.b is not described"):
        options(Silent)


def test_what_stays_when_something_else_is_said() -> None:
    gptvq, gptq = (catalogue.find(n).Options for n in ("gptvq", "gptq"))
    before = {"bits": 2, "group_size": 2048, "windows": 4, "iterations": 3}
    assert merged(gptvq, before, {"bits": 3}) == {"bits": 3, "windows": 4, "iterations": 3}
    assert merged(gptvq, before, {"windows": 5}) == {**before, "windows": 5}
    assert carried(gptvq, gptq, before) == {"windows": 4}
    recipe = zoo.find("smollm2-135m-gptvq-2d-2b").compress
    other = choose(recipe, "gptq", {"bits": 4})
    assert other.said == {"windows": 16, "embeddings": 8, "bits": 4}
    again = choose(recipe, None, {"dim": 1})
    assert again.said == {"bits": 2, "windows": 16, "embeddings": 8, "dim": 1}


@pytest.mark.parametrize(
    "recipe",
    [r for r in all_recipes().values() if isinstance(r.make, Compress)],
    ids=lambda recipe: recipe.name,
)
def test_a_recipe_says_what_its_method_takes(recipe: Recipe) -> None:
    choice = choose(recipe.compress, None, {})
    assert dict(choice.said) == dict(recipe.compress.options)
    kind = "language-model" if recipe.of_transformers else "network"
    assert takes(choice.method, kind)
    typed = words(choice.method.Options, recipe.compress.options)
    typed = ["compress", "x", "--out", "y", "--method", recipe.compress.method, *typed]
    args = _parser(typed).parse_args(typed)
    assert choose(None, args.method, given(args)).options == choice.options
    name = ["compress", recipe.name, "--out", "y"]  # its method's flags are those of the line
    assert set(vars(_parser(name).parse_args(name))) == set(vars(args))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "blocks"
    dice = np.random.default_rng(0)
    for label in zoo.find("mlperf-tiny-ic").preprocessing["labels"]:
        (folder / label).mkdir(parents=True)
        for number in range(6):  # training asks for fifty pictures
            pixels = np.kron(dice.integers(0, 255, (8, 8, 3)), np.ones((16, 16, 1)))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")
    return folder


def stand_in(name: str, folder: Path) -> Checkpoint:
    """A checkpoint of a recipe with random weights."""
    recipe = zoo.find(name)
    torch.manual_seed(0)
    network = build(recipe)
    facts = {"source": "nothing", "images": 1, "held_out": [], "sha256": "0"}
    return Checkpoint.write(folder, recipe, network.state_dict(), {}, data=facts, license="mit")


@pytest.mark.parametrize("base", ["sesr-m3-x2", "mlperf-tiny-ic"])
@pytest.mark.parametrize(
    "name", [n for n in NAMES if catalogue.find(n).TAKES != "language-model"], ids=str
)
def test_a_network_becomes_a_checkpoint_with_a_card(
    name: str,
    base: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(card_parts, "TARGETS", card_parts.TARGETS[:1])  # each takes a second
    base = INSTEAD.get((name, base), base)
    source = stand_in(base, tmp_path / "base")
    of_classifiers = catalogue.find(name).TAKES == "classifier"
    refusal = "takes classifiers" if of_classifiers and base == "sesr-m3-x2" else None
    if refusal := refusal or REFUSED.get((name, base)):
        assert main(
            ["compress", str(source.path), "--method", name, "--data", "docs", "--out", "x"]
        )
        assert refusal in capsys.readouterr().err
        return
    data = pictures / "cat" if base == "sesr-m3-x2" else pictures
    typed = ["compress", str(source.path), "--method", name, "--data", str(data)]
    typed += words(catalogue.find(name).Options, quick(name))
    assert main([*typed, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith(str(tmp_path / "out"))
    made = zoo.checkpoint(tmp_path / "out")
    own = "own" if shipped_tags(base) else source.tag  # not what ships under that tag
    assert made.recipe.compress.base == f"{base}.{own}"
    assert made.recipe.name == f"{base}-{catalogue.find(name).Options(**quick(name)).label}"
    assert made.config["data"] == source.config["data"]
    other = f"; trained on {data.name}: not stated" if catalogue.find(name).TRAINS else ""
    assert made.license == source.license + other
    model = zoo.load(made.path)
    assert not model.training
    x = torch.rand(2, *made.recipe.input_shape[1:])[..., :32, :32]
    far = (model(x) - zoo.load(source.path)(x)).square().mean()
    near = 0.5 if catalogue.find(name).TRAINS else 0.05  # on pictures of noise
    assert far < near * zoo.load(source.path)(x).square().mean()
    card = (made.path / "README.md").read_text()
    assert problems(card, made) == []
    line = next(line for line in card.splitlines() if line.startswith("zoo compress"))
    assert f"--method {name}" in line
    assert main(["show", str(made.path)]) == 0
    assert f"method {name}" in capsys.readouterr().out
    if catalogue.find(name).TRAINS:
        return  # that runs repeat to the bit, tests of training say
    again = zoo.compress(source.path, tmp_path / "again", method=name, data=data, **quick(name))
    assert again.config["files"] == made.config["files"]
    assert again.quantization == made.quantization


def test_a_recipe_may_say_how_a_network_is_compressed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_parts, "TARGETS", card_parts.TARGETS[:1])
    make = Compress(base="sesr-m3-x2.bsds", method="int8", options={"observer": "percentile"})
    recipe = dataclasses.replace(zoo.find("sesr-m3-x2"), name="sesr-small", make=make)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    made = zoo.compress(recipe, tmp_path / "out", data=pictures / "cat", percentile=99)
    options = {"observer": "percentile", "percentile": 99.0}
    assert made.recipe == dataclasses.replace(
        recipe, make=dataclasses.replace(make, options=options)
    )
    assert isinstance(zoo.load(made.path), QuantizedNetwork)
    assert type(zoo.load(recipe, pretrained=False)).__name__ == "SESR"
    with pytest.raises(MismatchError, match="holds a finished model"):
        zoo.compress(recipe, tmp_path / "out", data=pictures / "cat")


def test_int8_is_what_the_exported_file_computes(pictures: Path, tmp_path: Path) -> None:
    source = stand_in("mlperf-tiny-ic", tmp_path / "base")
    made = zoo.compress(source.path, tmp_path / "out", method="int8", data=pictures)
    ours = zoo.export(made.path, tmp_path / "ours.tflite", format="tflite", int8=True)
    theirs = zoo.export(
        source.path, tmp_path / "theirs.tflite", format="tflite", int8=True, data=str(pictures)
    )
    assert ours.path.read_bytes() == theirs.path.read_bytes()
    model, file = zoo.load(made.path), zoo.load(ours.path)
    assert isinstance(model, QuantizedNetwork)
    x = torch.rand(1, *made.recipe.input_shape[1:])
    graph = model.graph(made.recipe.input_shape)
    meaning = graph.tensors[graph.inputs[0]].quantization
    steps = (x / meaning.scale).round() + meaning.zero_point
    integers = steps.clamp(-128, 127).to(torch.int8).permute(0, 2, 3, 1)
    out = graph.tensors[graph.outputs[0]].quantization
    expected = (file(integers).float() - out.zero_point) * out.scale
    assert torch.equal(model(x), expected)
    with pytest.raises(MismatchError, match="already computes in integers"):
        zoo.compress(made.path, tmp_path / "no", method="int8", data=pictures)
    with pytest.raises(MismatchError, match="add --data, a folder of inputs"):
        zoo.compress(source.path, tmp_path / "no", method="int8")
    with pytest.raises(MismatchError, match="add --method, one of denoise, int8"):
        zoo.compress(source.path, tmp_path / "no", data=pictures)
    four = zoo.compress(
        source.path, tmp_path / "w4", method="int8", data=pictures, scheme="int8-w4"
    )
    assert four.recipe.name == "mlperf-tiny-ic-int8-w4"
    assert "--scheme int8-w4" in (four.path / "README.md").read_text()
    assert zoo.load(four.path).scheme == "int8-w4"
