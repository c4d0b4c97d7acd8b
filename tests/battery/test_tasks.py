"""The contract of every task: no task is left out, and a new one is tested by being there."""

import dataclasses
import json
import math
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

from zoo import extensions, registry, tasks
from zoo.adapters import registry as adapters
from zoo.adapters.base import Base
from zoo.adapters.folder import AdapterFolder
from zoo.adapters.training import train as train_adapter
from zoo.cards import parts as card_parts
from zoo.cards.adapter import render
from zoo.cards.model import render as render_model
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.recipe import Train
from zoo.tasks.contract import Metric
from zoo.training.network import train

NAMES = extensions.names("zoo.tasks")
TRAINED = [name for name in NAMES if tasks.named(name).FACTS.select_by]
ADAPTED = [name for name in NAMES if tasks.named(name).FACTS.adapter]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Each task's trial, made when it is first asked for."""
    made = {}

    def trial(name):
        if name not in made:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp("trials") / name
            made[name] = tasks.named(name).trial(folder)
        return made[name]

    return trial


@pytest.fixture
def accelerated():
    """What Accelerate keeps globally is undone."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def forward(task, model, inputs):
    return task.forward(model, inputs) if hasattr(task, "forward") else model(inputs)


def finite(scores):
    return all(math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize("name", NAMES)
def test_its_facts_are_complete(name):
    facts = tasks.named(name).FACTS
    assert facts.name == name
    assert facts.pipeline_tag == facts.pipeline_tag.lower().replace(" ", "-")
    assert facts.metrics
    assert all(metric.name for metric in facts.metrics)
    assert not set(facts.beside) & {metric.key for metric in facts.metrics}
    assert "zoo.load(" in facts.usage.format(ref="name", shape="1, 2")
    assert facts.adapter is None or facts.select_by
    recipes = [r for r in registry.all_recipes().values() if r.subtask == name]
    assert {r.task for r in recipes} <= {facts.pipeline_tag}
    assert not any(isinstance(r.make, Train) for r in recipes) or facts.select_by


@pytest.mark.parametrize("name", TRAINED)
def test_a_few_steps_lower_its_loss(trials, name):
    task, trial = tasks.named(name), trials(name)
    model = trial.model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = task.training_data(trial.recipe, str(trial.data), trial.tokenizer)
    inputs, targets = task.batch(data, trial.recipe, 0, range(4), 4)
    again = task.batch(data, trial.recipe, 0, range(4), 4)
    assert torch.equal(inputs, again[0])
    assert torch.equal(targets, again[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = task.loss(forward(task, model, inputs).float(), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.load_state_dict(before)
    model.eval()
    assert finite(dict(enumerate(losses)))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_held_out_is_judged_by_declared_metrics_alone(trials, name):
    task, trial = tasks.named(name), trials(name)
    data = task.training_data(trial.recipe, str(trial.data), trial.tokenizer)
    assert len(data.held_out)
    assert data.fingerprint == data.facts["sha256"]
    assert {"source", "held_out", task.FACTS.samples} <= set(data.facts)
    again = task.training_data(trial.recipe, str(trial.data), trial.tokenizer)
    assert again.fingerprint == data.fingerprint
    scores = task.validate(trial.model, data, trial.recipe)
    assert finite(scores)
    assert set(scores) <= {metric.key for metric in task.FACTS.metrics}
    assert math.isfinite(task.FACTS.merit(scores))


@pytest.mark.parametrize("name", NAMES)
def test_what_evaluate_gives_is_declared_counted_and_has_a_protocol(trials, name):
    task, trial = tasks.named(name), trials(name)
    options = {} if task.FACTS.select_by else {"length": 16}
    result = task.evaluate(trial.model, trial.recipe, trial.data, trial.tokenizer, **options)
    json.dumps(result, allow_nan=False)
    numbers = {key for key, value in result.items() if isinstance(value, float)}
    declared = {metric.key for metric in task.FACTS.metrics}
    assert numbers & declared
    assert numbers <= declared | set(task.FACTS.beside)
    assert result[task.FACTS.samples] > 0
    assert len(result["protocol"].split()) > 3
    for row in result.get(f"per_{task.FACTS.sample}", []):
        assert isinstance(row[task.FACTS.sample], str)
        assert numbers <= set(row)


@pytest.mark.parametrize("name", [n for n in NAMES if hasattr(tasks.named(n), "labelled")])
def test_labelled_inputs_are_those_that_evaluate_judges(trials, name):
    task, trial = tasks.named(name), trials(name)
    found = task.evaluate(trial.model, trial.recipe, trial.data)
    given = task.labelled(trial.recipe, trial.data, 10**6)
    with torch.inference_mode():
        right = trial.model(given.samples).argmax(1) == given.labels
    assert len(given) == found[task.FACTS.samples]
    assert float(right.double().mean()) == pytest.approx(found["accuracy"])
    few = task.labelled(trial.recipe, trial.data, 5)
    assert len(few) == 5
    assert len(set(few.labels.tolist())) > 1


@pytest.mark.parametrize("name", NAMES)
def test_a_result_prints_saves_and_reads_back(trials, name, tmp_path):
    task, trial = tasks.named(name), trials(name)
    if trial.source is None:
        assert not hasattr(task, "run")
        return
    result = task.run(trial.model, trial.recipe, trial.source, tmp_path / "first.png")
    assert isinstance(result.text, str)
    assert result.text
    json.dumps(result.to_json(), allow_nan=False)
    saved = result.save(tmp_path / "second.png")
    assert saved == tmp_path / "second.png"
    assert saved.read_bytes() == (tmp_path / "first.png").read_bytes()
    assert saved.stat().st_size


@pytest.mark.parametrize("name", [n for n in NAMES if tasks.named(n).FACTS.demo])
def test_the_page_is_given_what_its_facts_say(trials, name, tmp_path):
    task, trial = tasks.named(name), trials(name)
    demo = task.FACTS.demo
    given = "The fox" if demo.takes == "prompt" else task.samples(tmp_path)[0]
    shown = list(task.demo(trial.model, trial.recipe, trial.tokenizer, given))
    assert shown
    assert all(isinstance(one, str if demo.gives == "text" else Image.Image) for one in shown)
    assert list(task.demo(trial.model, trial.recipe, trial.tokenizer, given)) == shown


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_is_made_of_its_defaults_and_trained(trials, name, tmp_path, accelerated):
    task, trial = tasks.named(name), trials(name)
    recipe = adapters.recipe_for("trial", "some/model", name, {})
    assert recipe.train == task.FACTS.adapter
    recipe = dataclasses.replace(recipe, train=trial.recipe.train).override({"mask.density": 0.1})
    base = Base(trial.model, trial.recipe, trial.tokenizer)
    train_adapter(recipe, base, tmp_path / "run", data=str(trial.data), device="cpu")
    folder = AdapterFolder.read(tmp_path / "run")
    held_out = folder.metrics["held_out"]
    assert held_out[task.FACTS.samples] > 0
    assert math.isfinite(held_out[task.FACTS.select_by])
    assert folder.metrics["training"]["complete"]
    card = render(folder)
    assert f"pipeline_tag: {task.FACTS.pipeline_tag}" in card
    assert f"--task {name}" in card


ACME = """
import torch
from torch import nn
from zoo.tasks.contract import Metric, TaskFacts, Trial

FACTS = TaskFacts(
    name="sums", pipeline_tag="tabular-regression", sample="row", select_by="error",
    metrics=(Metric(key="error", name="error", better="lower"),),
)


def evaluate(model, recipe, data, tokenizer=None):
    return {"rows": 1, "error": 0.5, "protocol": "as it is"}


def trial(folder, recipe=None):
    raise NotImplementedError


training_data = batch = loss = validate = evaluate
"""


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """Give a function that installs a package whose task is of the given text."""

    def install(text, name="sums"):
        (tmp_path / "acme_sums.py").write_text(text)
        info = tmp_path / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[zoo.tasks]\n{name} = acme_sums\n")
        monkeypatch.syspath_prepend(tmp_path)
        extensions.members.cache_clear()

    yield install
    sys.modules.pop("acme_sums", None)
    extensions.members.cache_clear()


def test_a_task_of_another_package_is_one_of_them(acme):
    acme(ACME)
    assert "sums" in extensions.names("zoo.tasks")
    task = tasks.task_of(dataclasses.replace(registry.find("sesr-m3-x2"), subtask="sums"))
    assert task.FACTS.samples == "rows"
    assert task.FACTS.merit({"error": 2.0}) == -2.0  # lower is better
    with pytest.raises(MismatchError, match="'sums' has no adapters"):
        adapters.recipe_for("new", "some/model", "sums", {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("FACTS = TaskFacts(", "OTHER = TaskFacts(", "has no FACTS that are a TaskFacts"),
        ('name="sums"', 'name="products"', "calls itself 'products'"),
        ("training_data = batch", "training_data", "'sums' has no batch"),
        ('select_by="error"', 'select_by="loss"', "selects by 'loss'"),
        ("import torch", "import torhc", "cannot be loaded: ModuleNotFoundError"),
    ],
    ids=["facts", "name", "functions", "metric", "import"],
)
def test_a_task_that_is_not_whole_is_an_error_that_says_why(acme, old, new, message):
    acme(ACME.replace(old, new, 1))
    with pytest.raises(MismatchError, match=message):
        tasks.named("sums")


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"unknown task 'denoise'.*denoising"):
        tasks.named("denoise")
    recipe = dataclasses.replace(registry.find("sesr-m3-x2"), subtask="painting")
    with pytest.raises(UnknownNameError, match="for the task 'painting', which this zoo does not"):
        tasks.task_of(recipe)


@pytest.mark.parametrize(("better", "best"), [("higher", max), ("lower", min)])
def test_a_run_keeps_what_is_best_by_the_metric_that_selects(
    trials, tmp_path, monkeypatch, accelerated, better, best
):
    from zoo.tasks import super_resolution as task

    chosen = dataclasses.replace(task.FACTS.metrics[0], better=better)
    monkeypatch.setattr(task, "FACTS", dataclasses.replace(task.FACTS, metrics=(chosen,)))
    trial = trials("super-resolution")
    recipe = trial.recipe.override({"eval_every": 1})
    made = train(recipe, tmp_path / "run", data=str(trial.data), device="cpu")
    log = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    scores = [line["held_out/psnr_y_db"] for line in log if "held_out/psnr_y_db" in line]
    assert len(set(scores)) == 4
    assert made.metrics["held_out"]["psnr_y_db"] == pytest.approx(best(scores))


def test_a_card_says_what_the_facts_say(made, monkeypatch):
    from zoo.tasks import super_resolution as task

    psnr = Metric(key="psnr_y_db", name="sharpness", unit="bel", hub_type="psnr")
    facts = {"sample": "clip", "metrics": (psnr,), "usage": 'zoo.load("{ref}")  # as {shape}'}
    monkeypatch.setattr(task, "FACTS", dataclasses.replace(task.FACTS, **facts))
    monkeypatch.setattr(card_parts, "TARGETS", card_parts.TARGETS[:1])  # each takes a second
    config = {**made.config, "data": {"source": "films", "clips": 5, "held_out": 1}}
    metrics = {"evaluations": {"mine": {"psnr_y_db": 31.5, "ssim_y": 0.5, "clips": 7}}}
    text = render_model(dataclasses.replace(made, config=config, metrics=metrics))
    assert "| clips | sharpness (bel) | how known |" in text
    assert "| mine (7) | 31.50 | measured |" in text
    assert "5 clips trained on" in text
    assert "# as 1, 1, 360, 640" in text
    assert "SSIM" not in text
    assert "image" not in text.partition("## Limits")[0].replace("image-to-image", "")
