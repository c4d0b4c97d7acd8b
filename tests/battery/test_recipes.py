"""The contract of every recipe: no recipe is left out, and a new one is tested by being there.

What takes long is tried on one recipe of each kind, see `tests/recipes.py`; in `make test-slow` on
the others.
"""

import dataclasses
import json
import math

import pytest
import torch
import yaml

import zoo
from tests.recipes import slow_but_for_one_of_each_kind, smaller
from zoo import registry
from zoo import verbs as api
from zoo.cards import parts as card_parts
from zoo.data import frontends
from zoo.errors import MismatchError, MissingWeightsError
from zoo.models.forms import deployed_form, training_form
from zoo.quantization.int8 import qat
from zoo.registry import all_recipes
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Compress, Recipe, Train
from zoo.tasks import task_of

# Those that say how they are compressed are tried in tests/llm, on a tiny stand-in for their base.
RECIPES = [recipe for recipe in all_recipes().values() if isinstance(recipe.make, Train)]
LONG = pytest.mark.parametrize("recipe", slow_but_for_one_of_each_kind(RECIPES))


@pytest.fixture(params=RECIPES, ids=[recipe.name for recipe in RECIPES])
def recipe(request):
    return request.param


@pytest.fixture
def tried(recipe):
    """What is built and trained: a recipe, or the tiny form of one that is large."""
    return smaller(recipe)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Inputs and targets of each recipe, from the tiny data that its task makes for a trial."""
    made = {}

    def batch(recipe):
        if recipe.name not in made:
            torch.manual_seed(0)
            task = task_of(recipe)
            trial = task.trial(tmp_path_factory.mktemp("trial"), recipe)
            data = task.training_data(trial.recipe, str(trial.data), trial.tokenizer)
            made[recipe.name] = task.batch(data, trial.recipe, 0, range(4), 4)
        return made[recipe.name]

    return batch


def limited(recipe, outputs):
    """The outputs of a deployed network where the trained one has `outputs`."""
    limits = task_of(recipe).FACTS.output_range
    return outputs if limits is None else outputs.clamp(*limits)


def checkpoint(recipe, path):
    torch.manual_seed(0)
    return Checkpoint.write(path, recipe, build(recipe).state_dict(), {"held_out": {}})


def test_survives_json(recipe):
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert zoo.find(recipe.name) is recipe


def test_says_what_it_is(recipe):
    assert recipe.summary
    assert recipe.license
    assert recipe.paper
    assert task_of(recipe).FACTS.select_by
    assert recipe.task == task_of(recipe).FACTS.pipeline_tag


def test_builds_in_eval_mode_and_maps_shapes(tried, trials):
    model, (x, targets) = zoo.load(tried, pretrained=False), trials(tried)
    assert not model.training
    with torch.no_grad():
        y = model(x)
    assert y.shape == targets.shape
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    assert y.equal(limited(tried, y))


@LONG
def test_saves_and_loads_the_same_network(tried, trials, tmp_path):
    saved = checkpoint(tried, tmp_path)
    torch.manual_seed(0)
    original, loaded, x = build(tried), zoo.load(tmp_path), trials(tried)[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), original(x), atol=0, rtol=0)
    assert saved.recipe == tried


@LONG
def test_training_lowers_the_loss(tried, trials):
    inputs, targets = trials(tried)
    torch.manual_seed(0)
    task = task_of(tried)
    model = training_form(build(tried), tried.train.options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = task.loss(model(inputs), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    with torch.no_grad():  # what is deployed is what was trained
        expected = limited(tried, model.eval()(inputs))
        torch.testing.assert_close(deployed_form(model)(inputs), expected, atol=1e-4, rtol=0)


@LONG
def test_trains_for_int8_as_the_device_computes(tried, trials):
    inputs = trials(tried)[0][:1]
    torch.manual_seed(0)
    network = build(tried)
    if any(isinstance(layer, torch.nn.ConvTranspose2d) for layer in network.modules()):
        with pytest.raises(MismatchError, match=r"transposed ones.* zoo compress --method int8"):
            qat.training_form(network, [inputs], "int8")
        return
    form = qat.training_form(network, [inputs], "int8")
    outputs = form(inputs)
    outputs.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in form.parameters())
    deployed = deployed_form(form)
    graph = deployed.graph(tuple(inputs.shape))
    step = graph.tensors[graph.outputs[0]].quantization.scale
    # The device's h-swish, and the root of a norm's variance, are in fixed point and may be a step
    # off, which later layers carry on.
    curves = sum(op.kind in ("hard_swish", "rsqrt") for op in graph.ops)
    assert (outputs - deployed(inputs)).abs().max() < (2.01 + curves) * step


@LONG
def test_its_card_renders(tried, tmp_path, monkeypatch):
    saved = checkpoint(tried, tmp_path)
    monkeypatch.setattr(card_parts, "TARGETS", card_parts.TARGETS[:1])  # each takes a second
    text = zoo.card(tmp_path)
    _, front, body = text.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["pipeline_tag"] == tried.task
    assert matter["library_name"] == "edge-zoo"
    assert f"# {tried.name}" in body
    assert f"arXiv {tried.paper}" in body
    assert saved.config["files"]["model.safetensors"]["sha256"] in body
    assert f"zoo train {tried.name}" in body
    for word in ("{{", "None", "nan", "Undefined"):
        assert word not in body


@LONG
def test_costs_are_finite(recipe):
    cost = zoo.estimate(recipe, "phone-npu-4tops")
    assert 0 < cost.latency_ms < math.inf
    assert cost.input_shape == recipe.input_shape
    assert cost.macs > 0
    assert cost.weight_bytes > 0
    assert cost.peak_activation_bytes > 0
    json.dumps(cost.to_json(), allow_nan=False)


@LONG
def test_without_weights_it_says_so_and_how_to_make_them(tried, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", tmp_path)
    for ref in (tried, tried.name, f"{tried.name}.{tried.default_tag}"):
        with pytest.raises(MissingWeightsError, match=f"type: zoo train {tried.name} "):
            zoo.load(ref)
    checkpoint(tried, tmp_path / f"{tried.name}.{tried.default_tag}")
    assert api.checkpoint(tried.name).recipe == tried
    zoo.load(tried.name)


def test_shipped_weights_are_those_of_the_recipe(recipe):
    for tag in registry.shipped_tags(recipe.name):
        shipped = api.checkpoint(f"{recipe.name}.{tag}")
        assert shipped.recipe.name == recipe.name
        assert shipped.tag == tag
        theirs, ours = shipped.recipe, recipe
        if hasattr(task_of(recipe), "for_data"):  # other labels, and so another last layer
            own = theirs.preprocessing["labels"]
            assert theirs.args["num_classes"] == len(own)
            ours = dataclasses.replace(
                recipe,
                args={**recipe.args, "num_classes": len(own)},
                preprocessing={**recipe.preprocessing, "labels": own},
            )
        if front := theirs.preprocessing.get("front_end"):  # a tag may hear through another one
            frames = frontends.named(front).frames(theirs.preprocessing["samples"])
            assert frames == recipe.input_shape[2]
            ours = dataclasses.replace(
                ours, preprocessing={**ours.preprocessing, "front_end": front}
            )
        if hiss := theirs.preprocessing.get("hiss_db"):  # what it heard in training, it needs
            made = theirs.make
            assert isinstance(made, Compress) or made.options["retakes"] or made.init
            ours = dataclasses.replace(ours, preprocessing={**ours.preprocessing, "hiss_db": hiss})
        # Training settings may have been others, and so may what the bare name meant.
        for field in dataclasses.fields(Recipe):
            if field.name not in ("make", "summary", "default_tag", "tiny"):
                assert getattr(theirs, field.name) == getattr(ours, field.name)
        shipped.load()
