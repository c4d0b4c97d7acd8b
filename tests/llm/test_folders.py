"""Folders of GPTQ and compressed-tensors: decoded by their own library, or from its description."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import zoo
from tests.llm.small import PLAYS, byte_pairs, random_model
from zoo.cli import main
from zoo.errors import MismatchError

CALIBRATED = f"--data {PLAYS} --windows 2 --length 32"
# Options of `zoo compress`, and what compressed-tensors calls the kinds of layers there then are.
PACKED = {
    "4 bits": ("--method rtn --bits 4 --group-size 32 --embeddings 8", [(4, 32, False)]),
    "3 bits": ("--method rtn --bits 3 --group-size 32", [(4, 32, True)]),
    "6 bits": ("--method rtn --bits 6 --group-size 32", [(8, 32, True)]),
    "8 bits": ("--method rtn --bits 8 --group-size 32", [(8, 32, False)]),
    "rows": ("--method rtn --bits 4 --group-size 1000", [(4, None, False)]),
    "skipped": ("--method rtn --bits 4 --group-size 32 --skip *layers.0.mlp*", [(4, 32, False)]),
    "mixed": (
        "--method rtn --bits 4 --group-size 32 --override *down_proj:group_size=96",
        [(4, 32, False), (4, None, False)],
    ),
    "mixed bits": (
        "--method rtn --bits 4 --group-size 32 --override *down_proj:bits=3 "
        "--override *down_proj:group_size=32 --override *up_proj:bits=8 "
        "--override *up_proj:group_size=32",
        [(8, 32, False)],
    ),
}
# In a process of its own, which never imports the zoo.
STOCK = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("the king", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.save((ids, model(ids).logits), folder + ".logits")
assert "zoo" not in sys.modules
"""


@pytest.fixture
def packed(tmp_path, capsys):
    """Return a function: options of `zoo compress` -> the folder of a packed model."""

    def make(options, **changes):
        model = random_model("llama-tied", **{"num_hidden_layers": 2, **changes})
        model.save_pretrained(tmp_path / "base")
        byte_pairs("gpt-2").save_pretrained(tmp_path / "base")
        out = tmp_path / "packed"
        assert main(f"compress {tmp_path}/base --out {out} {options}".split()) == 0
        capsys.readouterr()
        return out

    return make


def bits_of(words, bits, count):
    """Decode numbers of some bits from words of 32, the lowest bits first, across words."""
    stream = sum(int(word) % 2**32 << 32 * place for place, word in enumerate(words))
    return [stream >> bits * place & (1 << bits) - 1 for place in range(count)]


def decoded(tensors, name, config):
    """Decode a matrix from the description of GPTQ's layout, number by number."""
    bits = config["bits"]
    for pattern, own in config.get("dynamic", {}).items():
        if name in pattern.replace("\\", ""):
            bits = own["bits"]
    scales, groups = tensors[f"{name}.scales"].float(), tensors[f"{name}.g_idx"].long()
    columns, rows = len(groups), scales.shape[1]
    less = 1 if config["checkpoint_format"] == "gptq" else 0
    codes = torch.tensor([bits_of(c, bits, columns) for c in tensors[f"{name}.qweight"].T])
    zeros = torch.tensor([bits_of(z, bits, rows) for z in tensors[f"{name}.qzeros"]]) + less
    return scales[groups].T * (codes - zeros[groups].T)


def test_stock_transformers_opens_compressed_tensors(packed, tmp_path, capsys):
    made = {}
    for index, (options, kinds) in enumerate(PACKED.values()):
        folder, out = packed(options).rename(tmp_path / f"packed-{index}"), tmp_path / f"{index}"
        assert main(f"export {folder} --format compressed-tensors --out {out}".split()) == 0
        assert "within 0.0e+00 of the model's weights" in capsys.readouterr().out
        config = json.loads((out / "config.json").read_text())["quantization_config"]
        groups = [group["weights"] for group in config["config_groups"].values()]
        found = [(g["num_bits"], g["group_size"], g["symmetric"]) for g in groups]
        assert sorted(found, key=str) == sorted(kinds, key=str)
        made[folder] = out
    command = [sys.executable, "-W", "ignore", "-c", STOCK, *made.values()]
    subprocess.run(command, check=True, capture_output=True)
    for folder, out in made.items():
        ids, logits = torch.load(f"{out}.logits")
        with torch.no_grad():
            wanted = zoo.load(folder, dtype="float32")(ids).logits
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*PACKED, "order"])
def test_gptq_decodes_to_the_same_weights(name, packed, tmp_path):
    ordered = f"--method gptq --bits 4 --group-size 32 --set act_order=true {CALIBRATED}"
    folder, out = packed(PACKED[name][0] if name in PACKED else ordered), tmp_path / "out"
    zoo.export(folder, out, format="gptq")
    config = json.loads((out / "config.json").read_text())
    given, tensors = config["quantization_config"], load_file(out / "model.safetensors")
    assert given["desc_act"] is (name == "order")
    assert config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in tensors
    model = zoo.load(folder, dtype="float32")
    for layer in ("0.self_attn.q_proj", "1.mlp.down_proj"):
        own = f"model.layers.{layer}"
        assert torch.equal(decoded(tensors, own, given), model.get_submodule(own).dequantize())
    rows = tensors["model.embed_tokens.weight"]
    assert torch.equal(rows, model.get_input_embeddings()(torch.arange(len(rows))))
    left = [key for key in given.get("dynamic", {}) if key.startswith("-:")]
    assert len(left) == (3 if name == "skipped" else 0)
    assert (out / "tokenizer.json").is_file()


def test_zero_points_of_zero_are_not_less_one(packed, tmp_path):
    folder = packed("--method rtn --bits 4 --group-size 32", num_hidden_layers=1)
    model = zoo.load(folder)
    has_zero = any(
        (part.matrix().parameters["zero"] == 0).any()
        for name, part in model.named_modules()
        if name.endswith("_proj")
    )
    zoo.export(folder, tmp_path / "out", format="gptq")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    version = config["quantization_config"]["checkpoint_format"]
    assert version == ("gptq_v2" if has_zero else "gptq")


@pytest.mark.parametrize("format", ["gptq", "compressed-tensors"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--method rtn --bits 4 --group-size 40", "the last smaller"),
        (f"--method gptvq-2d-3b --set iterations=1 {CALIBRATED}", "has codebooks"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(format, options, reason, packed, tmp_path, capsys):
    folder = packed(options, num_hidden_layers=1)
    assert main(f"export {folder} --format {format} --out {tmp_path}/out".split()) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_packed_or_there_already_are_refused(packed, tmp_path):
    folder = packed("--method rtn --bits 4 --group-size 32", num_hidden_layers=1)
    with pytest.raises(MismatchError, match=r"is not packed.*zoo compress"):
        zoo.export(tmp_path / "base", tmp_path / "out", format="gptq")
    with pytest.raises(MismatchError, match="already exists"):
        zoo.export(folder, tmp_path, format="gptq")
    with pytest.raises(MismatchError, match="no other option"):
        zoo.export(folder, tmp_path / "x.tflite")


def test_order_has_no_place_in_compressed_tensors(packed, tmp_path):
    folder = packed(f"--method gptq --bits 4 --group-size 32 --set act_order=true {CALIBRATED}")
    with pytest.raises(MismatchError, match="--format gptq"):
        zoo.export(folder, tmp_path / "out", format="compressed-tensors")


def test_rows_that_no_word_divides_have_no_place_in_gptq(packed, tmp_path):
    folder = packed("--method rtn --bits 4 --group-size 1000", intermediate_size=100)
    with pytest.raises(MismatchError, match=r"100 rows.*--format compressed-tensors"):
        zoo.export(folder, tmp_path / "out", format="gptq")
