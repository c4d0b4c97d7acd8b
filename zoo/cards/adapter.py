"""The card of an adapter: facts of its folder, laid out by `cards/adapter.md`."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from zoo import extensions, tasks
from zoo.adapters import registry
from zoo.adapters.folder import AdapterFolder
from zoo.artifacts.resolution import checkpoint
from zoo.cards.parts import cost_rows, fill, license_matter
from zoo.errors import MissingWeightsError
from zoo.registry import refs
from zoo.registry.codec import leaves
from zoo.registry.recipe import OPTIMIZERS


def front_matter(source: AdapterFolder) -> dict[str, Any]:
    """Return the card's metadata in the Hub's terms."""
    recipe = source.recipe
    matter: dict[str, Any] = {**license_matter(source.license), "library_name": "edge-zoo"}
    if recipe.task in extensions.names(tasks.POINT):  # else it is another package's
        matter["pipeline_tag"] = tasks.named(recipe.task).FACTS.pipeline_tag
    base = recipe.base.partition("@")[0]
    if _is_base_id(base):
        matter |= {"base_model": base, "base_model_relation": "adapter"}
    matter["tags"] = ["edge-zoo", "adapter", recipe.method, recipe.task, "arxiv:2406.13175"]
    return matter


def _is_base_id(base: str) -> bool:
    return not isinstance(refs.parse(registry.base_ref(base)), refs.PathRef)


def render(source: AdapterFolder, *, repo: str | None = None) -> str:
    """Return the card of an adapter's folder: front matter for the Hub, then Markdown.

    Args:
        source: whose facts it shows.
        repo: the repository it will stand in; None takes the name.

    """
    from zoo.adapters.format import SparseAdapter

    adapter = SparseAdapter.load(source.file)
    recipe, metrics = source.recipe, source.metrics
    ref = repo or recipe.name
    numel = sum(t.numel for t in adapter.tensors.values())
    quality = _quality(metrics)
    columns = list(dict.fromkeys(key for _, values in quality for key in values))
    return fill(
        "adapter.md",
        front_matter(source),
        recipe=recipe,
        ref=ref,
        base_ref=json.dumps(registry.base_ref(recipe.base), ensure_ascii=False)[1:-1],
        local="sparse_adapter.safetensors",
        facts=_facts(source, adapter, metrics),
        quality_columns=columns,
        quality=[(n, [_number(v.get(c)) for c in columns], "measured") for n, v in quality],
        nnz=f"{adapter.nnz:,}",
        numel=f"{numel:,}",
        chance=f"{adapter.nnz**2 / numel:,.0f}",
        costs=_costs(recipe.base),
        training=_training(source),
        data={
            "source": recipe.data.get("source", "not recorded"),
            "sha256": recipe.data.get("sha256", ""),
        },
        license=source.license,
        command=command(source),
    )


def _costs(base: str) -> list[dict[str, str]]:
    """Return what a base model of the zoo costs on devices, which an adapter does not change."""
    from zoo import registry as models

    parsed = refs.parse(registry.base_ref(base))
    if not isinstance(parsed, refs.NameRef) or parsed.name not in models.names():
        return []
    recipe = models.find(parsed.name)
    if recipe.of_transformers:
        return []
    try:
        weights = checkpoint(registry.base_ref(base))
    except MissingWeightsError:
        weights = None
    return cost_rows(recipe, weights)


def _facts(
    source: AdapterFolder, adapter: Any, metrics: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    facts = [
        ("base model", f"`{source.recipe.base}`", "exact"),
        ("mask", _mask(source), "exact"),
        ("weights changed", f"{adapter.nnz:,} in {len(adapter.tensors)} tensors", "exact"),
        ("density in those tensors", f"{adapter.density:.2%}", "exact"),
        ("file", f"{source.file.stat().st_size:,} bytes", "exact"),
    ]
    if "switch" in metrics:
        switch = metrics["switch"]
        facts.append(
            (
                f"switch on and off, {switch['threads']} thread(s) of {switch['device']}",
                f"{switch['median_ms']:.3g} ms",
                "measured",
            )
        )
    return facts


def _mask(source: AdapterFolder) -> str:
    mask = source.recipe.mask
    return f"`{mask.kind}`" + (f", band {mask.band}" if mask.band else "")


def _quality(metrics: Mapping[str, Any]) -> list[tuple[str, dict[str, float]]]:
    results = dict(metrics.get("evaluations", {}))
    if "held_out" in metrics:
        results["held out"] = metrics["held_out"]
    rows = []
    for name, result in results.items():
        values = {k: float(v) for k, v in result.items() if isinstance(v, float)}
        if values:
            rows.append((name, values))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _training(source: AdapterFolder) -> str:
    facts, train = source.metrics.get("training", {}), source.recipe.train
    if not facts:
        return "Not recorded."
    state = "" if facts.get("complete") else " (unfinished)"
    return (
        f"{facts['steps']} steps{state} of {facts['samples_per_step']} samples, "
        f"{OPTIMIZERS[train.optimizer]}, peak rate "
        f"{train.lr:g}, cosine; {facts['hours']:.2f} hours on {facts['device']} with "
        f"{facts['threads']} thread(s), torch {facts['torch']}."
    )


def command(source: AdapterFolder) -> str:
    """Return the command that makes the adapter; settings as the registry has them stay out."""
    recipe = source.recipe
    named = recipe.name in registry.names()
    usual = registry.find(recipe.name) if named else None
    ours = (usual or registry.new(recipe.name, recipe.base, recipe.task)).to_json()
    words = ["zoo adapter train", recipe.name, "--data DATA", f"--out runs/{recipe.name}"]
    if not named:
        base = shlex.quote(registry.base_ref(recipe.base))
        words.append(f"--base {base} --task {recipe.task}")
    theirs = {"method": recipe.method, "rank": recipe.rank}
    theirs |= {k: v for g in ("mask", "train") for k, v in leaves({g: recipe.to_json()[g]}).items()}
    known = leaves(ours)
    for key, value in theirs.items():
        text = ",".join(value) if isinstance(value, list) else value
        if known.get(key) != value and value not in (None, "", []):
            words.append(f"--set {key}={text}")
    return " ".join(words)
