"""Formats by name, on the command line: from a folder to one that transformers opens."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import zoo
from zoo.cli import main
from zoo.errors import MismatchError
from zoo.quantization.packed import PackedLinear


def said(capsys):
    printed = capsys.readouterr()
    return printed.err.strip() or printed.out.strip()


@pytest.mark.parametrize(("name", "bits"), [("nf4", 4.25), ("nvfp4", 4.5), ("pvq", 4.0)])
def test_a_name_alone_rounds_to_its_format(base, tmp_path, name, bits):
    out = tmp_path / "out"
    assert main(["compress", str(base), "--method", name, "--out", str(out)]) == 0
    made = zoo.checkpoint(out)
    assert made.recipe.name == f"tiny-rtn-{name}"
    assert f"{name}, " in made.recipe.summary
    assert made.recipe.compress.options == {"grid": name}
    facts = made.metrics["compression"]
    assert abs(facts["bits_per_weight"] - bits) < 0.1  # 172 columns: a ragged last group
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["options"]["grid"] == name
    model = AutoModelForCausalLM.from_pretrained(out)
    layers = [m for m in model.modules() if isinstance(m, PackedLinear)]
    assert {layer.options.grid for layer in layers} == {name}
    ids = torch.arange(12)[None]
    before = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    found = model(ids).logits
    assert (found - before).norm() < 0.4 * before.norm()
    assert torch.equal(model.dequantize()(ids).logits, found)
    card = (out / "README.md").read_text()
    assert f"--grid {name}" in card


def test_layers_have_formats_of_their_own(base, text, tmp_path):
    out = tmp_path / "out"
    words = f"compress {base} --method gptq-mixed --data {text} --windows 2 --length 32 --out {out}"
    more = ["--override", "*.q_proj:grid=ternary", "--override", "*.down_proj:bits=8",
            "--override", "*.down_proj:grid=uniform"]  # fmt: skip
    assert main([*words.split(), *more]) == 0
    model = zoo.load(out)
    found = {
        name.rpartition(".")[2]: (module.options.grid, module.options.bits)
        for name, module in model.named_modules()
        if isinstance(module, PackedLinear)
    }
    assert found["q_proj"] == ("ternary", 2)
    assert found["down_proj"] == ("uniform", 8)
    assert found["up_proj"] == ("mixed", 4)


def test_integers_of_a_checkpoint_go_without_saying_their_grid(base, tmp_path):
    zoo.compress(base, tmp_path / "out", method="int4")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert "grid" not in config["options"]  # older releases read it


def test_sizes_that_do_not_divide_are_refused_before_the_work(base, tmp_path):
    with pytest.raises(MismatchError, match=r"mlp.down_proj: group_size 32 does not divide 172"):
        zoo.compress(base, tmp_path / "out", method="posit4", group_size=32)
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--method nf5", "did you mean"),
        ("--method int5", "did you mean"),
        ("--method rtn --grid nf", "unknown grid 'nf'"),
        ("--method nf4 --bits 3", "nf4 has 4: leave bits out"),
        ("--method rtn --grid codebook", "codebooks go with method='gptvq'"),
        ("--method mxfp4 --group-size 64", "mxfp4 has blocks of 32"),
        ("--method posit4 --group-size 0", "group_size is 0"),
        ("--method pvq --set dim=4", "pvq takes dim 8"),
        ("--method nf4 --tune-weights 0.001", "add --tune STEPS"),
        ("--method nf4 --tune 3", "tuning needs a text"),
        ("--method nf4 --budget 3", "a budget"),
        ("--method gptq-nf4", "--data"),
        ("--method nf4 --override *:bits=3", "nf4 has 4"),
    ],
)
def test_what_cannot_be_is_one_line(base, tmp_path, capsys, words, match):
    assert main(["compress", str(base), "--out", str(tmp_path / "out"), *words.split()]) == 1
    line = said(capsys)
    assert match in line
    assert "\n" not in line
