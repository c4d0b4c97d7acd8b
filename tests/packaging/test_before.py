"""What was written before still opens: weights, adapters, packed models, repositories."""

import tarfile
from pathlib import Path

import pytest
import torch

import zoo
from zoo import registry
from zoo.adapters import registry as adapters
from zoo.artifacts import adapters as adapter_refs

BEFORE = Path(__file__).parents[1] / "data" / "before"
# The last position's first logits for the tokens 0 to 15, as that version computed them.
LOGITS = [0.158092, -0.000160, -0.209132, -0.117320, -0.115173, -0.100476, -0.032544, 0.095876]


def last(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(16)[None]).logits[0, -1, :8]


def test_every_shipped_checkpoint_and_adapter_opens():
    folders = sorted(path.name for path in registry.weights_folder().iterdir() if path.is_dir())
    assert len(folders) > 20
    for name in folders:
        zoo.checkpoint(name).verify()
        assert not zoo.load(name).training
    for name in adapters.names():
        if adapters.file_path(adapters.find(name)) is not None:
            assert adapter_refs.adapter(name).tensors


def test_a_packed_model_gives_the_same_numbers():
    pytest.importorskip("transformers")
    model = zoo.load(BEFORE / "packed")
    torch.testing.assert_close(last(model), torch.tensor(LOGITS))
    recipe = zoo.checkpoint(BEFORE / "packed").recipe
    assert recipe.compress.method == "gptvq"
    assert recipe.compress.options["windows"] == 4  # which stood next to the options then
    assert "# " in zoo.card(BEFORE / "packed")


def test_repositories_of_an_embedded_hub_are_served(tmp_path, monkeypatch):
    pytest.importorskip("dulwich")
    pytest.importorskip("transformers")
    with tarfile.open(BEFORE / "hub.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setenv("ZOO_HUB", "local")
    sesr = zoo.load("me/sesr")
    shipped = zoo.load("sesr-m3-x2.bsds")
    for ours, theirs in zip(sesr.parameters(), shipped.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(last(zoo.load("me/packed")), torch.tensor(LOGITS))
    copy = zoo.pull("me/packed", tmp_path / "copy")
    assert zoo.push(copy, "me/packed").startswith("local:/me/packed/commit/")
