"""Bits for the layers of a language model: priced by gradients, judged through its logits."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import MismatchError
from zoo.quantization.language import blocks, mixed
from zoo.quantization.options import LayerOptions


def test_a_layer_that_no_token_reaches_loses_nothing(tiny_model) -> None:
    model = tiny_model(1)
    model.model.layers[0].spare = nn.Linear(64, 8)
    layers = {n: x for n, x in blocks.linears(model).items() if n.startswith("model.layers.")}
    offered = [LayerOptions(method="rtn", bits=bits, group_size=64) for bits in (2, 4)]
    priced = mixed.priced(model, layers, torch.arange(64)[None], offered)
    assert {choice.loss for choice in priced.pop("model.layers.0.spare")} == {0}
    assert all(few.loss > more.loss > 0 for few, more in priced.values())


def test_a_language_model_gets_bits_that_compress_takes(
    base: Path, text: Path, tmp_path: Path
) -> None:
    found = zoo.search_bits(
        base,
        tmp_path / "bits",
        data=text,
        bits=4,
        choices=(3, 4, 8),
        trials=2,
        windows=4,
        length=32,
    )
    layers = found.chosen.choice
    assert len(layers) == 21
    assert all(name.startswith("model.layers.") for name in layers)
    by_way = {row.way: row for row in found.ways}
    assert by_way["allocate"].evaluations == 0  # one backward pass
    assert by_way["allocate"].bits_per_weight <= by_way["uniform"].bits_per_weight
    made = json.loads(found.path.read_text())
    overrides = {name: {"bits": bits} for name, bits in made["layers"].items()}
    packed = zoo.compress(
        base, tmp_path / "packed", method="rtn", bits=4, group_size=64, overrides=overrides
    )
    assert packed.metrics["compression"]["bits_per_weight"] == pytest.approx(
        by_way["allocate"].bits_per_weight
    )
    with pytest.raises(MismatchError, match="few bits already"):
        zoo.search_bits(tmp_path / "packed", tmp_path / "again", data=text)
    with pytest.raises(MismatchError, match="2 or more"):
        zoo.search_bits(base, tmp_path / "few", data=text, windows=1)
