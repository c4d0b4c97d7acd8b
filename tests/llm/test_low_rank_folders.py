"""Low rank in folders of transformers: what was written is what stock transformers computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import zoo
import zoo.quantization
from tests.llm.configurations import VISION
from zoo.cards.check import problems
from zoo.cli import main
from zoo.errors import MismatchError
from zoo.files import write_json
from zoo.models.structured.layers import StructuredLinear
from zoo.models.structured.network import VERSION

RANK = 6
SEEN = {"windows": 3, "length": 48}


def thin(model: Any, rank: int) -> None:
    """Make every linear layer of a model's blocks a product of this rank."""
    torch.manual_seed(1)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "layer" in name:
            m, n = layer.weight.shape
            left, right = torch.randn(m, rank), torch.randn(rank, n)
            with torch.no_grad():
                layer.weight.copy_(left @ right / (rank * n) ** 0.5)


@pytest.fixture(scope="module")
def exact(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with layers of rank 6."""
    folder = tmp_path_factory.mktemp("exact") / "tiny"
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    thin(model, RANK)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(exact: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "out"
    zoo.compress(exact, out, method="lowrank", rank=RANK, data=text, **SEEN)
    return out


def test_what_is_of_low_rank_computes_the_same(small: Path, exact: Path) -> None:
    ids = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(0))
    wanted = transformers.AutoModelForCausalLM.from_pretrained(exact)(ids).logits
    ours, stock = zoo.load(small), transformers.AutoModelForCausalLM.from_pretrained(small)
    torch.testing.assert_close(ours(ids).logits, wanted, atol=1e-4, rtol=1e-3)
    assert torch.equal(stock(ids).logits, ours(ids).logits)
    layers = [layer for layer in stock.modules() if isinstance(layer, StructuredLinear)]
    assert len(layers) == 7 * 3  # of each block; the head is left alone
    assert stock.generate(ids[:1, :4], max_new_tokens=3, do_sample=False).shape == (1, 7)


def test_the_numbers_are_those_that_are_stored(small: Path, exact: Path) -> None:
    facts = zoo.checkpoint(small).metrics["compression"]
    model, whole = zoo.load(small), zoo.load(exact)
    assert facts["numbers"] == sum(p.numel() for p in model.parameters())
    assert facts["base_numbers"] == sum(p.numel() for p in whole.parameters())
    layers = [(n, m) for n, m in whole.named_modules() if isinstance(m, nn.Linear)]
    assert facts["base_macs"] == sum(layer.weight.numel() for _, layer in layers)
    inner = [layer.weight.shape for name, layer in layers if "layers" in name]
    saved = sum(m * n - RANK * (m + n) for m, n in inner)
    assert facts["base_macs"] - facts["macs"] == facts["base_numbers"] - facts["numbers"] == saved
    assert facts["calibration"]["windows"] == 3
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert facts["tensor_bytes"] == size
    found = zoo.compare([small, exact], data=Path(__file__))
    assert found.metric.key == "perplexity"
    assert [one.stored_bytes for one in found.contenders] == [size, 4 * facts["base_numbers"]]
    assert [one.macs for one in found.contenders] == [facts["macs"], facts["base_macs"]]
    assert "MACs are those of the layers for one token" in found.notes[0]


def test_it_is_judged_saved_again_and_opened_without_its_head(
    small: Path, text: Path, tmp_path: Path
) -> None:
    assert zoo.evaluate(small, text, length=32, stride=32, windows=2)["perplexity"] > 1
    stock = transformers.AutoModelForCausalLM.from_pretrained(small)
    stock.save_pretrained(tmp_path / "again")
    ids = torch.arange(8)[None]
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(again(ids).logits, stock(ids).logits)
    body = transformers.AutoModel.from_pretrained(small)
    assert torch.equal(body(ids).last_hidden_state, stock.model(ids).last_hidden_state)
    plain = transformers.AutoModelForCausalLM.from_pretrained(small).dequantize()
    assert not any(isinstance(layer, StructuredLinear) for layer in plain.modules())
    torch.testing.assert_close(plain(ids).logits, stock(ids).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ranks", ["gradient", pytest.param("uniform", marks=pytest.mark.slow)])
def test_the_command_keeps_a_share(
    base: Path, text: Path, tmp_path: Path, ranks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    typed = ["compress", str(base), "--method", "lowrank", "--keep", "0.6", "--ranks", ranks]
    typed += ["--data", str(text), "--windows", "3", "--length", "48", "--out", str(out)]
    assert main(typed) == 0
    assert "MACs" in capsys.readouterr().out
    made = zoo.checkpoint(out)
    assert made.recipe.name == "tiny-lowrank-60"
    whole = zoo.load(base)
    blocks = sum(
        m.weight.numel() for n, m in whole.named_modules()
        if isinstance(m, nn.Linear) and "layers" in n
    )  # fmt: skip
    facts = made.metrics["compression"]
    left = blocks - (facts["base_numbers"] - facts["numbers"])
    assert left <= 0.6 * blocks
    assert left > 0.5 * blocks
    card = (out / "README.md").read_text()
    assert problems(card, made) == []
    assert "layers in low rank" in card
    assert "3 windows of 48 tokens" in card
    assert main(["show", str(out)]) == 0
    assert f"{facts['numbers']:,} of" in capsys.readouterr().out
    with pytest.raises(MismatchError, match=r"gguf has no place; add --format onnx"):
        zoo.export(out, tmp_path / "a.gguf", format="gguf")
    file = zoo.export(out, tmp_path / "a.onnx", format="onnx")
    assert file.max_abs_error < 1e-4
    with pytest.raises(MismatchError, match=r"compressed already"):
        zoo.compress(out, tmp_path / "twice", method="lowrank", data=text)


def test_a_vision_transformer_of_the_hub(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**VISION)
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    thin(model, 3)
    model.save_pretrained(tmp_path / "vit")
    out = tmp_path / "out"
    made = zoo.compress(
        tmp_path / "vit", out, method="lowrank", rank=3, whiten=False, ranks="uniform"
    )
    stock = transformers.AutoModelForImageClassification.from_pretrained(out)
    picture = torch.rand(2, config.num_channels, config.image_size, config.image_size)
    torch.testing.assert_close(stock(picture).logits, model(picture).logits, atol=1e-4, rtol=1e-3)
    assert sum(isinstance(layer, StructuredLinear) for layer in stock.modules()) >= 6
    assert made.metrics["compression"]["numbers"] < made.metrics["compression"]["base_numbers"]
    assert made.recipe.task == "image-classification"


def test_what_a_language_model_does_not_take_is_refused(
    base: Path, text: Path, tmp_path: Path
) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(MismatchError, match=match):
            zoo.compress(base, tmp_path / "no", method="lowrank", **options)

    refused("learns from data: add --data")
    refused("is not repaired; leave --repair out", data=text, repair="gradient")
    refused("0 windows of 256 tokens", data=text, windows=0)
    refused("less than one window", data=text, length=10**7)
    refused("saves nothing in", data=text, rank=60, **SEEN)
    refused("no layer is called", data=text, layers=("blocks.*",), **SEEN)
    refused("judge the result by: zoo evaluate", data=text, test=text, **SEEN)
    with pytest.raises(MismatchError, match=r"magnitude.* takes a network"):
        zoo.compress(base, tmp_path / "no", method="magnitude")


def test_forms_and_tensors_that_disagree_are_refused(small: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(small, tmp_path / "changed")
    (folder / "zoo.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    structure = config["quantization_config"]["structure"]

    def load(**changes: Any) -> None:
        facts = {**config["quantization_config"], "structure": {**structure, **changes}}
        write_json(folder / "config.json", {**config, "quantization_config": facts})
        zoo.load(folder)

    name = next(iter(structure["forms"]))
    with pytest.raises(MismatchError):
        load(forms={**structure["forms"], name: {"lowrank": {"rank": RANK - 1, "middle": ""}}})
    with pytest.raises(MismatchError, match=f"this zoo reads 1 to {VERSION} "):
        load(version=9)
