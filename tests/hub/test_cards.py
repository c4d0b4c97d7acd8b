"""Cards as the Hub takes them: accepted by its check, true to the number, their lines run."""

import re
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import zoo
from zoo import registry
from zoo.adapters.folder import AdapterFolder, write_folder
from zoo.adapters.registry import find as find_adapter
from zoo.cards import adapter as adapter_card
from zoo.cards import check as card_check
from zoo.cards.model import render
from zoo.cards.parts import TARGETS
from zoo.cli import main
from zoo.registry.checkpoint import Checkpoint, build
from zoo.tasks import task_of

SHIPPED = sorted(folder.name for folder in registry.weights_folder().iterdir() if folder.is_dir())


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The folder of an adapter of the smallest shipped network."""
    from dataclasses import replace

    name = next(name for name in SHIPPED if not name.endswith("int8"))
    recipe = replace(find_adapter("sesr-m5-x2-text"), name="mine", base=name)
    weights = {key: value.clone() for key, value in zoo.load(name).state_dict().items()}
    key = next(key for key, value in weights.items() if value.ndim == 4)
    changes = {key: (torch.tensor([1, 5]), torch.tensor([0.25, -0.5]))}
    folder = tmp_path_factory.mktemp("adapter") / "mine"
    folder.mkdir()
    metrics = {"evaluations": {"screens": {"psnr_y_db": 30.25}}}
    return write_folder(folder, recipe, (changes, weights), metrics)


@pytest.fixture
def validate(serve, wire):
    """Return the answer of the hub's own check of a card."""
    client = wire(serve().address)

    def ask(text):
        return client("POST", "/api/validate-yaml", {"content": text, "repoType": "model"})

    return ask


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_of_every_shipped_model_is_accepted(validate, name):
    checkpoint = zoo.checkpoint(name)
    # What stands there; that it is what would be rendered now, test_card_command.py says.
    text = (checkpoint.path / "README.md").read_text(encoding="utf-8")
    answer = validate(text)
    assert (answer.status, answer.json) == (200, {"errors": [], "warnings": []})
    assert card_check.problems(text, checkpoint) == []
    data = ModelCard(text).data  # as the Hub's own library reads it
    assert data.library_name == "edge-zoo"
    assert data.pipeline_tag == checkpoint.recipe.task
    selecting = task_of(checkpoint.recipe).FACTS.select_by
    measured = {result[selecting] for result in checkpoint.metrics["evaluations"].values()}
    assert measured
    assert measured <= {result.metric_value for result in data.eval_results}
    for target in TARGETS:  # what it costs, and how that is known
        assert re.search(rf"\| {target} .*\d.*(estimated|exact|measured|paper)", text), target


def test_the_card_of_an_adapter_is_accepted_and_checked(validate, adapter, capsys):
    text = adapter_card.render(adapter, repo="me/mine")
    answer = validate(text)
    assert (answer.status, answer.json) == (200, {"errors": [], "warnings": []})
    assert ModelCard(text).data.base_model_relation == "adapter"
    for target in TARGETS:
        assert re.search(rf"\| {target} .*\d.*(estimated|exact|measured|paper)", text), target
    adapter.write_card(text)
    assert main(["card", str(adapter.path), "--check"]) == 0
    assert main(["card", str(adapter.path)]) == 0
    assert "# mine" in capsys.readouterr().out
    adapter.write_card(text.replace("30.25", "31.25"))
    assert main(["card", str(adapter.path), "--check"]) == 1
    assert "the number 31.25 is neither" in capsys.readouterr().out
    with pytest.raises(zoo.errors.MismatchError, match=r"the number 31\.25 is neither"):
        zoo.push(adapter.path, "me/mine")
    (adapter.path / "README.md").unlink()


def test_a_data_set_of_the_hub_is_named(validate, tmp_path):
    recipe = registry.find("sesr-m3-x2")
    tensors = build(recipe).state_dict()
    for source, datasets in (("org/pictures", ["org/pictures"]), ("photos", None)):
        made = Checkpoint.write(
            tmp_path / source.replace("/", "-"), recipe, tensors, {}, data={"source": source}
        )
        text = render(made)
        assert card_check.front_matter(text).get("datasets") == datasets
        assert validate(text).status == 200


def test_what_the_hub_refuses_we_refuse(validate):
    """The check that needs no network says no wherever the hub's does."""
    wrong = ["license: apache", "base_model: a/b/c", "datasets: [1]", "tags: [1.5]",
             "pipeline_tag: [a]", "base_model: a/b\nbase_model_relation: child", "model-index: {}",
             "a: &x [1]\nb: *x", "- a", "a: ["]  # fmt: skip
    for matter in wrong:
        text = f"---\n{matter}\n---\n# x\n"
        assert validate(text).status == 400, matter
        assert card_check.problems(text), matter


def snippet(text):
    """Return the first lines of Python of a card."""
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def test_the_lines_of_a_card_run_as_they_stand(adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HUB", "local")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(picture).save("photo.jpg")
    zoo.push("sesr-m3-x2", "me/sesr")
    text = (zoo.pull("me/sesr").path / "README.md").read_text()
    space: dict[str, object] = {}
    exec(snippet(text), space)
    assert isinstance(space["model"], torch.nn.Module)
    with Image.open("photo-large.png") as large:
        assert large.size == (60, 40)
    zoo.push(adapter.path, "me/mine")
    pulled = AdapterFolder.read(zoo.pull("me/mine"))
    (tmp_path / "sparse_adapter.safetensors").write_bytes(pulled.file.read_bytes())
    exec(snippet((pulled.path / "README.md").read_text()), space)
    assert "zoo.adapters" in sys.modules
