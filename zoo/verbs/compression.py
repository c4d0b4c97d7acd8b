"""The verb `zoo compress`: base model and options in, a checkpoint with its card out."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import MismatchError, MissingWeightsError, UnknownNameError
from zoo.files import sha256, write_bytes, write_json
from zoo.quantization.options import METHODS, LayerOptions
from zoo.quantization.options import PRESETS as EFFORTS
from zoo.quantization.plan import KEYS as PLAN_KEYS
from zoo.quantization.plan import Plan
from zoo.registry import refs
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.layout import CONFIG, FACTS, LICENSE, METRICS, UNSTATED
from zoo.registry.presets import PRESETS
from zoo.registry.recipe import FORMAT_VERSION, Compress, Recipe

if TYPE_CHECKING:
    from zoo.artifacts.resolve import Ref

TEST_WINDOWS = 12


def make(
    ref: "Ref | Recipe",
    out: Path,
    *,
    method: str | None,
    data: Path | None,
    test: Path | None,
    base: "Ref | None",
    license: str | None,
    resume: bool,
    device: str | None,
    options: Mapping[str, Any],
) -> Checkpoint:
    """Quantize a language model into `out`; see `zoo.compress` for the arguments."""
    from zoo.data.text import read_text
    from zoo.quantization.language.job import compress_model
    from zoo.quantization.team import Team

    options = with_preset(options)
    if isinstance(ref, Recipe):
        recipe = _changed(ref, method, options)
        where = base if base is not None else ref.compress.base
    else:
        recipe = recipe_for(ref, method, options)
        where = base if base is not None else ref
    plan = Plan.read(recipe.compress.method, recipe.compress.options)
    if plan.calibrates and data is None:
        raise MismatchError(
            f"method {plan.options.method!r} learns from a text what counts in each layer; give "
            "one with --data TEXT (only rtn works without)"
        )
    for text in (data, test):
        if text is not None:
            read_text(text)  # before the work, not after it
    folder = _folder(where)
    report = compress_model(folder, out, plan, text=data, resume=resume, device=device)
    team = Team(device)
    if team.is_main:
        metrics = {"compression": report, **(_measured(folder, out, test) if test else {})}
        _write_facts(recipe, out, metrics, license or _license_of(folder), data)
    team.wait()
    return Checkpoint.read(out)


def with_preset(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options where `preset`, "fast" or "best", is what it stands for."""
    found = dict(options)
    if (name := found.pop("preset", None)) is None:
        return found
    if name not in EFFORTS:
        raise UnknownNameError.near("preset", name, EFFORTS, f"known: {', '.join(EFFORTS)}")
    return {**EFFORTS[name], **found}


def recipe_for(ref: "Ref", method: str | None, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a model of the user's own: a record of what is done."""
    parsed = refs.parse(ref)
    if isinstance(parsed, refs.RepoRef):
        base = parsed.repo + (f"@{parsed.revision}" if parsed.revision else "")
        stem = parsed.repo.split("/")[1]
    elif isinstance(parsed, refs.PathRef):
        base = stem = parsed.path.resolve().name  # never a path of the user's machine
    else:
        raise MismatchError(f"{ref!r} is no recipe of the kind compress, and no model")
    chosen, settings = _method(method or "gptvq")
    own = {key: value for key, value in options.items() if key not in PLAN_KEYS}
    options_ = LayerOptions.from_dict({"method": chosen, **_merged(settings, own)})
    bits, dim = options_.bits, options_.dim
    label = f"{chosen}-{dim}d-{bits:g}b" if chosen == "gptvq" else f"{chosen}-int{bits:g}"
    recipe = Recipe(
        name=re.sub(r"[^a-z0-9]+", "-", f"{stem}-{label}".lower()).strip("-"),
        summary=f"{stem}, {bits:g} bits per weight by {chosen}",
        task="text-generation",
        subtask="text-generation",
        model="transformers:AutoModelForCausalLM",
        args={},
        input_shape=(1, 1024),
        preprocessing={"tokenizer": "of the base model"},
        make=Compress(base=base, method=chosen, options={"bits": bits, "dim": dim, **settings}),
        default_tag="own",
        paper="2402.15319" if chosen == "gptvq" else "2210.17323",
    )
    return _changed(recipe, None, options)


def _method(name: str) -> tuple[str, dict[str, Any]]:
    """Return method and options of a method or preset."""
    if name in PRESETS:
        settings = dict(PRESETS[name])
        return str(settings.pop("method")), settings
    if name not in METHODS:
        known = [*METHODS, *PRESETS]
        raise UnknownNameError.near("method", name, known, f"known: {', '.join(known)}")
    return name, {}


def _merged(settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a job: a group size was chosen for its bits, and goes with them."""
    changed = {"bits", "dim", "target_bpv", "group_size"} & set(options)
    kept = {k: v for k, v in settings.items() if not (changed and k == "group_size")}
    return {**kept, **options}


def _changed(recipe: Recipe, method: str | None, options: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other settings, checked."""
    before = recipe.compress
    name, kept = before.method, dict(before.options)
    if method is not None:
        name, chosen = _method(method)
        kept = {key: value for key, value in kept.items() if key in PLAN_KEYS} | chosen
    compress = dataclasses.replace(before, method=name, options=_merged(kept, options))
    Plan.read(
        compress.method, compress.options
    )  # refuses what cannot be done, before anything is read
    return dataclasses.replace(recipe, make=compress)


def _folder(ref: "Ref") -> Path:
    """Return the folder of the model a ref means, from the Hub if need be."""
    from zoo.artifacts.files import LanguageModel
    from zoo.artifacts.resolve import resolve

    parsed = refs.parse(ref)
    if isinstance(parsed, refs.PathRef) and not (parsed.path / CONFIG).is_file():
        raise MissingWeightsError(
            f"{parsed.path} is no folder of a language model (no {CONFIG}); one is made by "
            "save_pretrained, or by: zoo import FILE.gguf --out DIR"
        )
    artifact = resolve(ref)
    if not isinstance(artifact, LanguageModel):
        raise MismatchError(f"{ref} is not a language model; give the model it was made from")
    return artifact.path


def _measured(base: Path, out: Path, test: Path) -> dict[str, Any]:
    """Return perplexity and decoding speed of the result and of its base."""
    import torch

    from zoo.quantization.language.opening import load
    from zoo.quantization.language.speed import tokens_per_second
    from zoo.tasks.text_generation import evaluate

    found: dict[str, Any] = {"evaluations": {}, "decode": {"threads": torch.get_num_threads()}}
    for label, folder in (("base", base), ("packed", out)):
        model = load(folder, dtype=torch.float32)
        result = evaluate(model, None, test, windows=TEST_WINDOWS)
        name = test.name if label == "packed" else f"{test.name}, base model"
        found["evaluations"][name] = result
        found["decode"] |= {f"{label}_tokens_per_s": tokens_per_second(model)}
    return found


def _license_of(folder: Path) -> str:
    """Return the licence that the base model's card states."""
    from zoo.cards.check import front_matter

    try:
        value = front_matter((folder / "README.md").read_text(encoding="utf-8")).get("license")
    except (OSError, ValueError):
        return UNSTATED
    return value if isinstance(value, str) else UNSTATED


def _write_facts(
    recipe: Recipe, out: Path, metrics: Mapping[str, Any], license: str, data: Path | None
) -> None:
    """Write what makes a folder of transformers a checkpoint; `zoo.json` comes last."""
    from zoo.cards.model import render

    base = recipe.compress.base
    write_json(out / METRICS, metrics)
    text = (
        f"The weights in this folder were made from those of {base} by quantization.\nLicence of "
        f"that model, and hence of these weights: {license}.\nThe code that made them: Apache-2.0."
    )
    write_bytes(out / LICENSE, f"{text}\n".encode())
    listed = sorted(file for file in out.iterdir() if file.is_file() and file.name not in _UNLISTED)
    facts = {
        "format_version": FORMAT_VERSION,
        "tag": recipe.default_tag,
        "graph": "deployed",
        "license": license,
        "data": {"source": data.name if data else "none"},
        "recipe": recipe.to_json(),
        "files": {
            file.name: {"sha256": sha256(file), "bytes": file.stat().st_size} for file in listed
        },
    }
    write_json(out / FACTS, facts)
    checkpoint = Checkpoint.read(out)
    checkpoint.write_card(render(checkpoint))


_UNLISTED = {FACTS, METRICS, LICENSE, "README.md", "report.json"}
