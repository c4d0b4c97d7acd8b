"""The verb `zoo compress`: a model, a method and its options in, a checkpoint with its card out."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo.artifacts.resolution import checkpoint, resolve
from zoo.compression.choice import ChosenMethod, check_data, choose, methods_for
from zoo.errors import MismatchError, MissingWeightsError
from zoo.files import check_name, probe, read_json, sha256, write_bytes, write_json
from zoo.registry import refs
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.compressed import Compressed
from zoo.registry.layout import (
    CARD,
    CONFIG,
    FACTS,
    LICENSE,
    METRICS,
    UNSTATED,
    is_checkpoint,
)
from zoo.registry.recipe import FORMAT_VERSION, Compress, Recipe

if TYPE_CHECKING:
    from zoo.artifacts.resolution import Ref

TEXT = "text-generation"
# The Hub's `pipeline_tag` of a model of transformers, by the end of its class's name.
_TASKS = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "ForSemanticSegmentation": "image-segmentation",
    "ForObjectDetection": "object-detection",
    "ForAudioClassification": "audio-classification",
    "ForCTC": "automatic-speech-recognition",
    "WhisperForConditionalGeneration": "automatic-speech-recognition",
    "T5ForConditionalGeneration": "translation",
    "MTModel": "translation",
    "BartForConditionalGeneration": "summarization",
    "ForConditionalGeneration": "image-text-to-text",
    "ForCausalLM": TEXT,
    "LMHeadModel": TEXT,
    "Model": "feature-extraction",
}
_UNLISTED = {FACTS, METRICS, LICENSE, CARD, "report.json"}


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
    """Compress a model into `out`; see `zoo.compress` for the arguments."""
    from zoo.quantization.team import Team

    check_name(out)
    known = ref if isinstance(ref, Recipe) else _recipe_of_name(ref)
    before = known.make if known is not None and isinstance(known.make, Compress) else None
    choice = choose(before, method, options, None if before else _kind(ref, known))
    check_data(choice, data)
    where: Ref | Recipe = base if base is not None else before.base if before else ref
    language = choice.method.TAKES == "language-model" or (
        choice.method.TAKES == "both" and _is_language(where)
    )
    if language:
        data, test = _texts(data, test)
    source, base_ref = (_folder(where), "") if language else _network(where, out)
    if known is not None and before is not None:
        changed = dataclasses.replace(before, method=choice.name, options=choice.said)
        recipe = dataclasses.replace(known, make=changed)
    elif isinstance(source, Checkpoint):
        recipe = _recipe_of_network(source, base_ref, choice)
    else:
        recipe = _recipe_of_model(ref, choice, source)
    result = choice.method.compress(
        source, out, choice.options, data=data, test=test, resume=resume, device=device
    )
    if not isinstance(result, Compressed):
        raise MismatchError(
            f"compression method {choice.name!r} returned {result!r:.80}; expected a "
            "Compressed; see zoo.compression.contract"
        )
    team = Team(device)
    if team.is_main:
        recipe = dataclasses.replace(recipe, **result.changes)
        _write(recipe, out, result, source, license, data)
    team.wait()
    return Checkpoint.read(out)


def _texts(data: Path | None, test: Path | None) -> tuple[Path | None, Path | None]:
    """Return the files of the texts to learn from and to judge by."""
    from zoo.data.texts import text_file

    return (
        None if data is None else text_file(data),
        None if test is None else text_file(test, test=True),
    )


def _recipe_of_name(ref: "Ref") -> Recipe | None:
    """Return the recipe of a name, or None for a path or a repository."""
    parsed = refs.parse(ref)
    return registry.find(parsed.name) if isinstance(parsed, refs.NameRef) else None


def _kind(ref: "Ref | Recipe", known: Recipe | None) -> str | None:
    """Return the kind of model a ref means, as far as can be told without the Hub."""
    if known is not None:
        return "network"
    assert not isinstance(ref, Recipe)
    parsed = refs.parse(ref)
    if not isinstance(parsed, refs.PathRef) or not (parsed.path / CONFIG).is_file():
        return None
    if not is_checkpoint(parsed.path):
        return "language-model"
    return None if Checkpoint.read(parsed.path).recipe.of_transformers else "network"


def _is_language(ref: "Ref | Recipe") -> bool:
    """Whether a ref means a folder of transformers."""
    from zoo.artifacts.files import TransformersModel

    return isinstance(resolve(ref, weights=False), TransformersModel)


def _network(ref: "Ref | Recipe", out: Path) -> tuple[Checkpoint, str]:
    """Return a network's checkpoint, and what to call it: never a path of the user's machine."""
    if (out / CONFIG).is_file():
        raise MismatchError(f"{out} holds a finished model; choose another --out, or remove it")
    probe(out)  # before the work, not after it
    artifact = resolve(ref)
    source = checkpoint(artifact)
    if source.recipe.of_transformers:
        raise MismatchError(
            f"{artifact.ref} is compressed already; give the model it was made from"
        )
    if isinstance(refs.parse(artifact.ref), refs.RepoRef):
        return source, artifact.ref
    return source, source.label


def _recipe_of_network(source: Checkpoint, base: str, choice: ChosenMethod) -> Recipe:
    """Return the recipe of a compressed network: a record of what is done."""
    return dataclasses.replace(
        source.recipe,
        name=_name(source.recipe.name, choice.options.label),
        summary=f"{source.recipe.summary}; {choice.options.summary}",
        make=Compress(base=base, method=choice.name, options=choice.said),
        default_tag=source.tag,
        # A method gets floats: what factors are stored as is no longer so.
        structure={k: v for k, v in source.recipe.structure.items() if k != "factors"},
    )


def _recipe_of_model(ref: "Ref | Recipe", choice: ChosenMethod, folder: Path) -> Recipe:
    """Return the recipe of a model of the user's own: a record of what is done."""
    parsed = None if isinstance(ref, Recipe) else refs.parse(ref)
    if isinstance(parsed, refs.RepoRef):
        base = parsed.repo + (f"@{parsed.revision}" if parsed.revision else "")
        stem = parsed.repo.split("/")[1]
    elif isinstance(parsed, refs.PathRef):
        base = stem = parsed.path.resolve().name  # never a path of the user's machine
    else:
        raise MismatchError(f"{ref!r} is not a language model")
    named = (read_json(folder / CONFIG).get("architectures") or ["AutoModelForCausalLM"])[0]
    task = next((task for end, task in _TASKS.items() if named.endswith(end)), TEXT)
    return Recipe(
        name=_name(stem, choice.options.label),
        summary=f"{stem}, {choice.options.summary}",
        task=task,
        subtask=task,
        model=f"transformers:{'AutoModelForCausalLM' if task == TEXT else named}",
        args={},
        input_shape=(1, 1024) if task == TEXT else (1,),
        preprocessing={"tokenizer" if task == TEXT else "as": "of the base model"},
        make=Compress(base=base, method=choice.name, options=choice.said),
        default_tag="own",
        paper=choice.method.PAPER,
    )


def _name(stem: str, label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{stem}-{label}".lower()).strip("-")


def _folder(ref: "Ref | Recipe") -> Path:
    """Return the folder of the language model a ref means, from the Hub if need be."""
    from zoo.artifacts.files import TransformersModel

    if isinstance(ref, Recipe):
        raise MismatchError(f"{ref.name} is not a language model")
    parsed = refs.parse(ref)
    if isinstance(parsed, refs.PathRef) and not (parsed.path / CONFIG).is_file():
        raise MissingWeightsError(
            f"{parsed.path} is not a folder of a language model (no {CONFIG}); one is made by "
            "save_pretrained, or by: zoo import FILE.gguf --out DIR"
        )
    artifact = resolve(ref)
    if not isinstance(artifact, TransformersModel):
        raise MismatchError(
            f"{ref} is not a language model; give the model it was made from, or, for a network, "
            f"another --method: {', '.join(methods_for('network'))}"
        )
    return artifact.path


def _write(
    recipe: Recipe,
    out: Path,
    result: Compressed,
    source: Checkpoint | Path,
    license: str | None,
    data: Path | None,
) -> None:
    """Write the checkpoint of a result, with its card."""
    from zoo.cards.model import render

    if result.tensors is None:
        base = source if isinstance(source, Path) else source.path
        _write_facts(recipe, out, result.metrics, license or license_of(base), data)
        made = Checkpoint.read(out)
    else:
        from zoo.cost.comparison import about

        assert isinstance(source, Checkpoint), "a method that gives tensors takes a network"
        made = Checkpoint.write(
            out,
            recipe,
            result.tensors,
            {**result.metrics, "base": about(source)},
            license=license or result.license or source.license,
            data=source.config["data"],
            quantization=result.quantization,
        )
    made.write_card(render(made))


def license_of(folder: Path) -> str:
    """Return the licence that the base model's card states."""
    from zoo.cards.check import front_matter

    try:
        value = front_matter((folder / CARD).read_text(encoding="utf-8")).get("license")
    except (OSError, ValueError):
        return UNSTATED
    return value if isinstance(value, str) else UNSTATED


def _write_facts(
    recipe: Recipe, out: Path, metrics: Mapping[str, Any], license: str, data: Path | None
) -> None:
    """Write what makes a folder of transformers a checkpoint; `zoo.json` comes last."""
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
