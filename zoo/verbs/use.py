"""Verbs that use a model: load it, run it, measure it, cost it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.resolve import (
    Ref,
    checkpoint,
    dtype_of,
    language_model,
    pinned,
    recipe_of,
    tflite_path,
    trained,
)
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry import refs
from zoo.registry.layout import CARD
from zoo.registry.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from zoo.cost import Cost


def load(
    ref: "Ref | Recipe",
    *,
    adapter: "Ref | None" = None,
    pretrained: bool = True,
    device: str = "cpu",
    dtype: "torch.dtype | str | None" = None,
) -> "torch.nn.Module":
    """Return the deployed network, in eval mode, its weights verified by SHA-256.

    An input whose type, channels or range are not those of the recipe is a MismatchError.

    Args:
        ref: `name[.tag]`, `org/repo[@revision]`, the path of a checkpoint folder, of a folder
            with a language model that transformers saved, or of a `.tflite` file; the last gives
            a module that takes and gives the file's own tensors, channels last. A network that
            was trained for int8 takes and gives real numbers, and computes the device's integers
            between, on the CPU.
        adapter: a sparse adapter to put in: a name (`zoo adapter list`), `org/repo[@revision]`,
            or a path. The base may then also be a folder of transformers or diffusers.
        pretrained: False gives a freshly initialised network; nothing else ever does.
        device: a torch device, e.g. "cuda".
        dtype: a floating torch dtype or its name, e.g. "bfloat16"; None keeps the stored one.

    Raises:
        UnknownNameError, MissingWeightsError, UnsafeFileError, MismatchError, HubError: see
            `zoo.errors`.

    """
    from zoo.artifacts.inputs import checked
    from zoo.registry.checkpoint import build

    if path := tflite_path(ref):
        from zoo.deploy.tflite import load_tflite

        return load_tflite(path)
    if isinstance(dtype, str):
        dtype = dtype_of(dtype)
    if adapter is not None:
        from zoo.adapters.apply import load_with

        if not pretrained or isinstance(ref, Recipe):
            raise MismatchError("an adapter needs its trained base: give a ref, pretrained=True")
        model = load_with(ref, adapter, dtype)
    elif pretrained and (folder := language_model(ref)):
        from zoo.quantization.language.opening import load as load_language_model

        return load_language_model(folder, device=device, dtype=dtype)
    elif pretrained:
        model = trained(ref.name if isinstance(ref, Recipe) else ref, dtype)
    else:
        recipe = recipe_of(ref)
        model = checked(build(recipe), recipe)
    try:
        return model.to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UnknownNameError(f"device {device!r} cannot be used: {first}") from error


def run(
    ref: Ref, source: Any, out: Ref | None = None, *, device: str = "cpu", dtype: Any = None
) -> Any:
    """Run a model on a file, a picture or an array; return the task's result object.

    For super resolution that is `zoo.tasks.super_resolution.enlarging.Enlarged`. With `out` it is
    saved there too.
    """
    from zoo.tasks import task_of

    if path := tflite_path(ref):
        from zoo.deploy.tflite import run_tflite

        outcome = run_tflite(path, source)
        if out is not None:
            outcome.save(out)
        return outcome
    ref = pinned(ref)
    if language_model(ref):
        from zoo.tasks.text_generation import run as generate

        target = None if out is None else Path(out)
        return generate(load(ref, device=device, dtype=dtype), None, source, target)
    recipe = recipe_of(ref)
    model = load(ref, device=device, dtype=dtype)
    return task_of(recipe).run(model, recipe, source, None if out is None else Path(out))


def evaluate(
    ref: Ref,
    data: Ref,
    *,
    record: str | None = None,
    device: str = "cpu",
    dtype: Any = None,
    **protocol: Any,
) -> dict[str, Any]:
    """Return a model's metrics on a folder of data, with the protocol they were computed by.

    Of a network that was trained for int8 these are the integers' metrics; `float` has those of
    the same weights without rounding. With `record` they are stored in the checkpoint under that
    name too, and in its card. `protocol` is the task's own: `length`, `stride` and `windows` of
    perplexity on a text.

    Raises:
        MismatchError: `record`, and the checkpoint was pulled: the cache holds what the Hub holds.

    """
    from zoo.models.forms import stored_form
    from zoo.tasks import task_of

    if record is not None and isinstance(refs.parse(ref), refs.RepoRef):
        raise MismatchError(
            f"what was pulled is not changed; type: zoo pull {ref} --out DIR, and record in ./DIR"
        )
    ref = pinned(ref)
    path = Path(data).expanduser()
    if language_model(ref):
        from zoo.tasks.text_generation import evaluate as evaluate_text

        if record is not None:
            raise MismatchError(f"{ref} is no checkpoint of the zoo: nothing is recorded in it")
        return evaluate_text(load(ref, device=device, dtype=dtype), None, path, **protocol)
    recipe = recipe_of(ref)
    model = load(ref, device=device, dtype=dtype)
    task = task_of(recipe)
    result: dict[str, Any] = task.evaluate(model, recipe, path, **protocol)
    network, quantization = stored_form(model)
    if quantization is not None:
        plain = task.evaluate(network, recipe, path, **protocol)
        result["float"] = {k: v for k, v in plain.items() if isinstance(v, float)}
    if record is not None:
        _record(ref, record, result)
    return result


def _record(ref: Ref, name: str, result: Mapping[str, Any]) -> None:
    """Store an evaluation in a checkpoint folder; a card that nobody edited is written anew."""
    from zoo.cards.model import render

    before = checkpoint(ref)
    file = before.path / CARD
    unedited = file.is_file() and file.read_text(encoding="utf-8") == render(before)
    after = before.record(name, result)
    if unedited:
        after.write_card(render(after))


def estimate(
    item: "Ref | Recipe | torch.nn.Module",
    target: str,
    *,
    method: str = "auto",
    input_shape: tuple[int, ...] | None = None,
) -> "Cost":
    """Return what a deployed network costs on a target, and how each number is known.

    Args:
        item: a ref or recipe (weights are not needed), or a module of your own.
        target: a name of `zoo.cost.target_names()`, e.g. "ethos-u55-256".
        method: "roofline", "vela" (Ethos-U only), "measured" (only the CPU at hand), or "auto".
        input_shape: e.g. (N, C, H, W); None takes the recipe's reference shape.

    """
    from zoo import cost

    device = cost.target(target)
    if path := tflite_path(item):
        from zoo.deploy.tflite_read import read_tflite

        return cost.estimate(read_tflite(path), device, method=method)
    if not isinstance(item, str | Path | Recipe):
        return cost.estimate(item, device, method=method, input_shape=input_shape)
    from zoo.registry.checkpoint import build

    recipe = recipe_of(item)
    shape = input_shape or recipe.input_shape
    return cost.estimate(build(recipe), device, method=method, input_shape=shape)
