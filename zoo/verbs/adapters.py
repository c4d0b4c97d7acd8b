"""The verbs of adapters: train by name, convert, describe; `zoo.cli.adapter` prints them."""

import logging
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.adapters import registry
from zoo.adapters.folder import CONFIG, FILE, AdapterFolder
from zoo.adapters.recipe import AdapterRecipe
from zoo.artifacts import adapters as adapter_refs
from zoo.artifacts.base import load_base
from zoo.artifacts.resolution import checkpoint, resolve, weights_of
from zoo.cards import adapter as card
from zoo.errors import MismatchError
from zoo.files import probe
from zoo.registry import catalogue, refs
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.layout import UNSTATED
from zoo.registry.licences import joined
from zoo.tasks import task_of
from zoo.training.run_folder import RunFolder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo.adapters.base import Base
    from zoo.adapters.format import SparseAdapter

log = logging.getLogger("zoo")


def train_adapter(
    name: str,
    out: str | Path,
    *,
    data: str | Path,
    base: str | None = None,
    task: str | None = None,
    data_license: str | None = None,
    resume: bool = False,
    dtype: str | None = None,
    tracker: str | None = None,
    device: str | None = None,
    own_filter: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> AdapterFolder:
    """Train an adapter; return its folder, card included.

    Args:
        name: of a named adapter, or of a new one, which needs `base` and `task`.
        out: the run folder.
        data: what the task trains on; "rendered:text[:COUNT]" and "rendered:screens[:COUNT]" are
            drawn by `zoo.data.render`.
        base: the base model, or where a named adapter's base is on this machine.
        task: of a new adapter.
        data_license: for the card, which adds that of the base.
        resume: continue a run that was killed; it ends with the same result.
        dtype: of the base, e.g. "bfloat16".
        tracker: "tensorboard", or another of Accelerate's.
        device: "cpu" does not use an accelerator.
        own_filter: "FILE.py:function", a function of yours that makes pairs of photographs; the
            file is executed. The pairs are written next to the run folder.
        settings: e.g. {"mask.kind": "snip", "train.lr": 1e-3}.

    """
    from zoo.adapters.training import train
    from zoo.artifacts.placing import dtype_of
    from zoo.training.accelerator import is_main_process

    recipe = registry.recipe_for(name, base, task, settings or {})
    folder = Path(out).expanduser()
    model = load_base(base or recipe.base, dtype=None if dtype is None else dtype_of(dtype))
    data = _with_own_filter(own_filter, recipe, str(data), folder, resume, device)
    custom = _union([recipe.mask.source]) if recipe.mask.kind == "custom" else None
    license = data_license or recipe.data.get("license")
    if license is None and data.startswith("rendered:"):
        license = "Apache-2.0"  # drawn by this package's code; nobody else's work is in it
    train(
        recipe,
        model,
        folder,
        data=rendered(data),
        source=data if data.startswith("rendered:") else None,
        data_license=joined(str(license or UNSTATED), _of_base(base or recipe.base, model)),
        resume=resume,
        tracker=tracker,
        device=device,
        custom=custom,
        avoid=_union(recipe.mask.avoid),
    )
    result = AdapterFolder.read(folder)
    if result.file.is_file() and is_main_process():
        result = _described(result, model.model)
    return result


def _of_base(ref: str, base: "Base") -> dict[str, str]:
    """Return the licence of a zoo base's weights, by what they did; {} for other bases."""
    if base.recipe is None:
        return {}
    origin = resolve(ref)
    return {f"started from {weights_of(origin)}": checkpoint(origin).license}


def _with_own_filter(
    own_filter: str | None,
    recipe: AdapterRecipe,
    data: str,
    out: Path,
    resume: bool,
    device: str | None,
) -> str:
    """Return `data`, or the folder of pairs that a user's own function makes of photographs."""
    from zoo.tasks import picture
    from zoo.training.accelerator import accelerator_for

    if recipe.task != picture.FACTS.name:
        if own_filter is None:
            return data
        raise MismatchError(f"--filter makes pictures; {recipe.name} is for the task {recipe.task}")
    photos, look = Path(data).expanduser(), str(recipe.train.options.get("filter", ""))
    if own_filter is None:
        picture.check_goal(photos, look)
        return data
    if look:
        raise MismatchError(
            f"--filter {own_filter!r}, and {recipe.name} has the filter {look!r} "
            "(train.options.filter); give one of them"
        )
    RunFolder(out, CONFIG).newest(resume)  # refuses before anything is made
    place = out.resolve()  # "." has no name
    pairs = place.parent / f"{place.name}-pairs"
    accelerator = accelerator_for(recipe.name, recipe.train, out, None, device)
    with accelerator.main_process_first():  # a filter that draws at random makes them once
        if accelerator.is_main_process:
            picture.pairs_by(own_filter, photos, pairs, resume=resume)
    return str(pairs)


def train_joint(
    name: str,
    out: str | Path,
    *,
    data: str,
    adapters: str | None = None,
    data_license: str | None = None,
    resume: bool = False,
    tracker: str | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Train a recipe's network together with its named adapters; return the base's checkpoint.

    The folder `adapters` beside it has one folder for each adapter.

    Args:
        name: of the recipe.
        out: the run folder.
        data: what the task trains on.
        adapters: a pattern of names; None: all that name this recipe's weights as their base.
        data_license: for the cards.
        resume: go on after a kill, with the same result.
        tracker: "tensorboard", or another of Accelerate's.
        device: "cpu" leaves an accelerator alone.
        settings: e.g. {"train.lr": 1e-3}.

    """
    from zoo.adapters import joint
    from zoo.training.accelerator import is_main_process

    recipe = catalogue.find(name).override(settings or {})
    chosen = registry.names(adapters or "*", base=name)
    folder = joint.train(
        recipe,
        [registry.find(adapter) for adapter in chosen],
        Path(out).expanduser(),
        data=data,
        data_license=str(data_license or UNSTATED),
        resume=resume,
        tracker=tracker,
        device=device,
    )
    result = Checkpoint.read(folder)
    if is_main_process():
        model = result.load()
        for path in sorted((folder / joint.ADAPTERS).iterdir()):
            _described(AdapterFolder.read(path), model)
    return result


def _described(folder: AdapterFolder, model: "nn.Module") -> AdapterFolder:
    """Measure a switch and write the card; a failure here does not cost the training."""
    from zoo.adapters.format import SparseAdapter

    try:
        facts = switch_facts(model, SparseAdapter.load(folder.file))
        folder = folder.record("switch", facts)
        folder.write_card(card.render(folder))
    except Exception as error:  # whatever it is, the adapter is whole
        log.warning(
            "%s holds the trained adapter, but its card could not be written: %s: %s",
            folder.path,
            type(error).__name__,
            error,
        )
    return folder


def rendered(data: str) -> str:
    """Return the folder of "rendered:KIND[:COUNT]", drawn on first use; other texts unchanged."""
    if not data.startswith("rendered:"):
        return data
    from zoo import cache
    from zoo.data.render import free_fonts, render

    kind, _, number = data.removeprefix("rendered:").partition(":")
    if number and not number.isdecimal():
        raise MismatchError(f"--data {data!r}; expected rendered:KIND[:COUNT]")
    count, fonts = int(number or 240), free_fonts()
    folder = cache.root() / "rendered" / f"rendered-{kind}-{count}-{len(fonts)}-fonts"
    if not folder.exists():
        render(folder, kind, count, seed=1, fonts=fonts)
    return str(folder)


def _union(adapters: "tuple[str, ...] | list[str]") -> "dict[str, torch.Tensor] | None":
    """Return the indices that these adapters change, by tensor name."""
    import torch

    union: dict[str, torch.Tensor] = {}
    for ref in adapters:
        for name, tensor in adapter_refs.adapter(ref).tensors.items():
            both = torch.cat([union[name], tensor.indices]) if name in union else tensor.indices
            union[name] = both.unique(sorted=True)
    return union or None


def switch_facts(model: "nn.Module", adapter: "SparseAdapter", rounds: int = 9) -> dict[str, Any]:
    """Return the median time of one activation and deactivation, measured here and now."""
    import torch

    from zoo.adapters.switcher import Switcher

    switcher = Switcher(model)
    try:
        switcher.register("adapter", adapter)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            switcher.activate("adapter")
            switcher.deactivate()
            times.append(time.perf_counter() - start)
    finally:
        switcher.close()
    return {
        "median_ms": statistics.median(times) * 1000,
        "threads": torch.get_num_threads(),
        "device": platform.machine(),
    }


def describe(adapter: "SparseAdapter", file: Path | None = None) -> dict[str, Any]:
    """Return what an adapter changes, and its size, as JSON types."""
    tensors = [
        {"name": name, "shape": list(t.shape), "nnz": t.nnz, "density": t.density}
        for name, t in adapter.tensors.items()
    ]
    return {
        "mode": adapter.mode,
        "nnz": adapter.nnz,
        "numel": sum(t.numel for t in adapter.tensors.values()),
        "density": adapter.density,
        "bytes": file.stat().st_size if file else 0,
        "metadata": dict(adapter.metadata),
        "tensors": tensors,
    }


def file_of(ref: str) -> Path | None:
    """Return the file of an adapter, or None if it is not a file on this machine."""
    parsed = refs.parse(ref)
    if isinstance(parsed, refs.NameRef):
        return registry.file_path(registry.find(parsed.name))
    if isinstance(parsed, refs.PathRef) and parsed.path.is_file():
        return parsed.path
    return adapter_refs.folder(ref).file


def convert(
    source: str, base: str, out: str | Path, *, to: str = "sparse", density: float = 0.01
) -> Path:
    """Convert between sparse adapters and what others saved; return what was written.

    Args:
        source: PEFT's folder (SHiRA: exact; LoRA, DoRA: the largest changes), a tuned model (the
            largest changes), or, for `to="peft"`, a sparse adapter.
        base: the base model of both.
        out: a folder.
        to: "sparse", or "peft" (linear layers only, exact).
        density: share of the weights that a lossy conversion keeps.

    """
    from zoo.adapters.conversion import from_full_finetune, from_lora

    out = Path(out).expanduser()
    probe(out)
    model = load_base(base).model
    if to == "peft":
        from zoo.adapters.peft_bridge import to_peft

        return to_peft(adapter_refs.adapter(source), out, model)
    path = Path(source).expanduser()
    facts = {"base": base} if not isinstance(refs.parse(base), refs.PathRef) else {}
    if (path / "adapter_config.json").is_file():
        import json

        kind = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        if isinstance(kind, dict) and kind.get("peft_type") == "SHIRA":
            from zoo.adapters.peft_bridge import from_peft

            return from_peft(path, model).save(out / FILE)
        return from_lora(model, path, density, metadata=facts).save(out / FILE)
    tuned = load_base(source).model
    return from_full_finetune(model, tuned, density, metadata=facts).save(out / FILE)


def loss_on(base: "Base", adapter: str, data: str) -> "Callable[[nn.Module], float]":
    """Return a function that measures a model's held-out loss on data, by an adapter's task.

    The loss is minus the selecting metric, or the metric itself where lower is better.
    """
    recipe = adapter_refs.about(adapter)
    if recipe is None:
        raise MismatchError(f"{adapter} is a lone file and names no task; give its folder")
    task_recipe = base.task_recipe(recipe)
    task = task_of(task_recipe)
    prepared = task.training_data(task_recipe, rendered(data), base.tokenizer)
    return lambda model: -task.FACTS.merit(task.validate(model, prepared, task_recipe))


def evaluate_adapter(base: "Base", adapter: "SparseAdapter", data: str, like: AdapterRecipe) -> Any:
    """Return the metrics of a base with an adapter on test data, by the task of `like`.

    The base is changed: load it again for the next adapter.
    """
    from zoo.adapters.apply import apply

    task_recipe = base.task_recipe(like)
    model = apply(base.model, adapter)
    return task_of(task_recipe).evaluate(model, task_recipe, Path(data), base.tokenizer)
