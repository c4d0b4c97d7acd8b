"""Cards: facts of a checkpoint, laid out by a template as README.md with the Hub's front matter.

Every number comes from the checkpoint's own files or is computed here from the network; each
says how it is known: `exact` (counted), `measured`, `estimated`, or `paper`.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.cards import compression, resilience
from zoo.cards.parts import TARGETS as TARGETS
from zoo.cards.parts import cost_rows, costs, fill, license_matter
from zoo.content import content
from zoo.registry.layout import FILE
from zoo.registry.recipe import OPTIMIZERS, WEIGHT_BITS, Compress, Recipe
from zoo.tasks import task_of

if TYPE_CHECKING:
    from zoo.cost import Cost
    from zoo.registry.checkpoint import Checkpoint
    from zoo.tasks.contract import Metric, TaskFacts

_DATA_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def render(checkpoint: "Checkpoint", *, repo: str | None = None) -> str:
    """Return the card of a checkpoint: YAML front matter, then Markdown.

    Args:
        checkpoint: whose facts it shows.
        repo: the repository it will stand in, for the lines to type; None takes the name.

    """
    recipe = checkpoint.recipe
    if recipe.of_transformers:
        from zoo.cards.quantized import render as render_quantized

        return render_quantized(checkpoint, repo)
    own = checkpoint.label != f"{recipe.name}.{checkpoint.tag}"
    ref = repo or (f"./{recipe.name}" if own else checkpoint.label)
    prices, task = costs(recipe, checkpoint), task_of(recipe).FACTS
    quality = _quality(checkpoint.metrics, task)
    stated = checkpoint.metrics.get("published", {})
    shown = [*(values for _, values in quality), stated]
    columns = [metric for metric in task.metrics if any(metric.key in v for v in shown)]
    data = checkpoint.config.get("data", {})
    evaluations = checkpoint.metrics.get("evaluations", {})
    return fill(
        "model.md",
        front_matter(checkpoint),
        recipe=recipe,
        ref=ref,
        snippet=task.usage.format(ref=ref, shape=", ".join(map(str, recipe.input_shape))),
        facts=_facts(prices[0], checkpoint),
        samples=task.samples,
        quality_columns=[metric.label for metric in columns],
        quality=[
            (name, [_number(values.get(metric.key)) for metric in columns], "measured")
            for name, values in [*quality, *_quality_in_float(checkpoint.metrics, task)]
        ]
        + _as_published(checkpoint.metrics, task, columns),
        protocol=next((r["protocol"] for r in evaluations.values() if "protocol" in r), ""),
        beside=compression.beside_base(checkpoint),
        reliability=resilience.rows(checkpoint.metrics),
        reliability_notes=resilience.lines(checkpoint.metrics),
        shape="x".join(map(str, recipe.input_shape)),
        costs=cost_rows(recipe, checkpoint),
        notes=[(cost.target, "; ".join(cost.notes)) for cost in prices if cost.notes],
        training=_training(checkpoint),
        data={
            "source": data.get("source", "not recorded"),
            "count": data.get(task.samples, "?"),
            "held_out_count": _count(data.get("held_out", ())),
            "sha256": data.get("sha256", "not recorded"),
        },
        license=checkpoint.license,
        licensed="file" if "published" in data else "data",
        command=_command(checkpoint),
        family=limits(recipe),
        files=sorted(checkpoint.config["files"].items()),
    )


def limits(recipe: Recipe) -> str:
    """Return what a family's authors say of its limits; of one task's networks, if they do."""
    for name in (f"{recipe.family}.{recipe.subtask}.md", f"{recipe.family}.md"):
        file = content("cards") / "families" / name
        if file.is_file():
            return file.read_text(encoding="utf-8").strip()
    return "Not described by the authors of this recipe."


def front_matter(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Return the card's metadata in the Hub's terms."""
    recipe = checkpoint.recipe
    matter: dict[str, Any] = {
        **license_matter(checkpoint.license),
        "library_name": "edge-zoo",
        "pipeline_tag": recipe.task,
        "tags": ["edge-zoo", recipe.subtask, recipe.family, "edge", f"arxiv:{recipe.paper}"],
    }
    source = checkpoint.config.get("data", {}).get("source", "")
    if _DATA_ID.fullmatch(source):  # a data set of the Hub; for a folder, only its name is recorded
        matter["datasets"] = [source]
    made = recipe.make
    base = made.base if isinstance(made, Compress) else made.init
    if base and "/" in base:  # it started from a repository of the Hub
        matter["base_model"] = base.partition("@")[0]
        relation = "quantized" if isinstance(made, Compress) else "finetune"
        matter["base_model_relation"] = relation
    task = task_of(recipe).FACTS
    if quality := _quality(checkpoint.metrics, task):
        results = [_model_index_entry(recipe, task, name, values) for name, values in quality]
        matter["metrics"] = sorted({m["type"] for entry in results for m in entry["metrics"]})
        matter["model-index"] = [{"name": recipe.name, "results": results}]
    return matter


def _model_index_entry(
    recipe: Recipe, task: "TaskFacts", name: str, values: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "task": {"type": recipe.task, "name": recipe.subtask},
        "dataset": {"type": _slug(name), "name": name},
        "metrics": [
            {"type": metric.hub_type, "name": metric.label, "value": values[metric.key]}
            for metric in task.metrics
            if metric.hub_type and metric.key in values
        ],
    }


def _slug(text: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return "-".join(words[:6]) or "unknown"


def _quality(metrics: Mapping[str, Any], task: "TaskFacts") -> list[tuple[str, dict[str, float]]]:
    """Return (set of samples, key -> value) of the task's metrics in all measurements."""
    results = dict(metrics.get("evaluations", {}))
    if "held_out" in metrics:
        results["held out"] = metrics["held_out"]
    return [
        (f"{name} ({result[task.samples]})", scores)
        for name, result in results.items()
        if (scores := {m.key: result[m.key] for m in task.metrics if m.key in result})
    ]


def _quality_in_float(
    metrics: Mapping[str, Any], task: "TaskFacts"
) -> list[tuple[str, dict[str, float]]]:
    """Return the same for the weights of an integer network, not rounded."""
    results = metrics.get("evaluations", {})
    plain = {
        name: {**result["float"], task.samples: result[task.samples]}
        for name, result in results.items()
        if "float" in result
    }
    return [
        (f"{name}, the same weights in float", scores)
        for name, scores in _quality({"evaluations": plain}, task)
    ]


def _as_published(
    metrics: Mapping[str, Any], task: "TaskFacts", columns: Sequence["Metric"]
) -> list[tuple[str, list[str], str]]:
    """Return the row of what the authors of a published file state."""
    stated = metrics.get("published")
    if stated is None:
        return []
    row = [_number(stated.get(metric.key)) for metric in columns]
    return [(f"{stated['protocol']}, as its authors state", row, "paper")]


def _count(held_out: Any) -> int:
    """Return how many samples were held out; data name them, or say how many they are."""
    return held_out if isinstance(held_out, int) else len(held_out)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if value < 1 else f"{value:.2f}"


def _facts(cost: "Cost", checkpoint: "Checkpoint") -> list[tuple[str, str, str]]:
    kinds = ", ".join(f"{kind} {count}" for kind, count in cost.parameters.items() if count)
    size = checkpoint.config["files"]["model.safetensors"]["bytes"]
    facts = [] if checkpoint.quantization is None else [_arithmetic(checkpoint.quantization)]
    return [
        *facts,
        ("parameters of the deployed network", kinds, "exact"),
        ("MACs at the input shape below", f"{cost.macs:,}", "exact"),
        ("weight file", f"{size:,} bytes", "exact"),
        *compression.sizes(checkpoint),
    ]


def _arithmetic(quantization: Mapping[str, Any]) -> tuple[str, str, str]:
    if quantization["scheme"] == "file":
        return "arithmetic", f"that of {FILE}, the published file, bit for bit", "exact"
    bits = WEIGHT_BITS[quantization["scheme"]]
    text = f"int8, weights of {bits} bits: the integers that the exported file computes"
    return "arithmetic", text, "exact"


def _training(checkpoint: "Checkpoint") -> str:
    if isinstance(checkpoint.recipe.make, Compress):
        return compression.history(checkpoint)
    if "published" in checkpoint.config["data"]:
        url = checkpoint.config["data"]["published"]
        return f"By others; this is the file [{url.rpartition('/')[2]}]({url})."
    facts, train = checkpoint.metrics.get("training", {}), checkpoint.recipe.train
    if not facts:
        return "Not recorded."
    state = "" if facts.get("complete") else " (unfinished)"
    aware = f"Quantization-aware ({train.quant}), from {train.init}: " if train.quant else ""
    taught = f"taught by {train.teacher}, " if train.teacher else ""
    return aware + (
        f"{facts['steps']} steps{state} of {facts['samples_per_step']} samples, {taught}"
        f"{OPTIMIZERS[train.optimizer]}, peak rate "
        f"{train.lr:g}, cosine, average of weights {train.ema_decay:g}; {facts['hours']:.2f} hours "
        f"on {facts['device']} with {facts['threads']} thread(s), torch {facts['torch']}."
    )


# Typed in a checkpoint's folder; its name holds for the file alone.
_RECIPE_FILE = (
    "python -c \"import json; print(json.dumps(json.load(open('config.json'))['recipe']))\" "
    "> {name}.json\n"
)


def _command(checkpoint: "Checkpoint") -> str:
    """Return the command that makes these weights; settings as the registry has them stay out."""
    from zoo import registry
    from zoo.registry.arguments import settable

    recipe = checkpoint.recipe
    if isinstance(recipe.make, Compress):
        return compression.command(checkpoint)
    if "published" in checkpoint.config["data"]:
        file = checkpoint.config["data"]["published"].rpartition("/")[2]
        return f"zoo import {file} --out runs/{recipe.name}"
    together = checkpoint.metrics.get("training", {}).get("adapters")  # see zoo.adapters.joint
    verb = "zoo adapter joint" if together else "zoo train"
    words = [verb, recipe.name, "--data DIR", f"--out runs/{recipe.name}"]
    theirs = ours = recipe.to_json()["train"]
    if recipe.name not in registry.names():  # that of a file of somebody's own
        words[:2] = [_RECIPE_FILE.format(name=recipe.name) + verb, f"{recipe.name}.json"]
    else:
        known = registry.find(recipe.name)
        ours = known.to_json()["train"]
        for name in settable(known.args, known.preprocessing):
            if recipe.args.get(name, known.args[name]) != known.args[name]:
                text = json.dumps(recipe.args[name], separators=(",", ":"))
                words.append(f"--set {shlex.quote(f'args.{name}={text}')}")
    if theirs.get("init") != ours.get("init"):
        words.append(f"--from {theirs['init'] or 'none'}")
    for key, value in theirs.items():
        if key == "options":
            old = ours.get("options", {})
            words += [f"--set train.options.{k}={v}" for k, v in value.items() if old.get(k) != v]
            words += [f"--set train.options.{k}=none" for k in old if k not in value]
        elif key != "init" and ours.get(key) != value:
            words.append(f"--set train.{key}={json.dumps(value)}")
    return " ".join(words)
