"""Verbs that use a model: load it, run it, measure it, cost it."""

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from zoo import registry
from zoo.artifacts.resolution import Ref, checkpoint, is_artifact, resolve
from zoo.errors import MismatchError
from zoo.registry import refs
from zoo.registry.licences import commercial
from zoo.registry.recipe import Recipe
from zoo.verbs import recording
from zoo.verbs.exporting import single

if TYPE_CHECKING:
    import torch

    from zoo.cost import Cost
    from zoo.graph.inputs import Shapes
    from zoo.registry.artifact import Artifact, Result

_LOG = logging.getLogger("zoo")


def load(
    ref: "Ref | Recipe | Artifact",
    *,
    adapter: "Ref | Mapping[str, float] | None" = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    device: str = "cpu",
    dtype: "torch.dtype | str | None" = None,
) -> "torch.nn.Module":
    """Return the deployed network, in eval mode, its weights verified by SHA-256.

    The network raises a MismatchError for an input whose type, channels or range are not those of
    the recipe. Where a name without a tag means weights that are not known to be for any use, a
    line of the log says so, once.

    Args:
        ref: `name[.tag]`, `org/repo[@revision]`, the path of a checkpoint folder, of a folder
            with a language model that transformers saved, or of a `.tflite` file. A `.tflite`
            file becomes a module that takes and returns the file's own tensors, channels last. A
            network that was trained for int8 takes and returns real numbers, and in between
            computes the device's integers, on the CPU.
        adapter: a sparse adapter to put in: a name (`zoo adapter list`), `org/repo[@revision]`,
            or a path; or several, each with its strength: {"looks-oil": 0.6, "looks-film": 0.4}.
            The base may then also be a folder of transformers or diffusers.
        pretrained: False returns a freshly initialised network; no other setting does.
        num_classes: of a classifier: with another number than its own, the last layer starts anew
            and the others are kept; with 0 there is none, and the network returns its features.
        device: a torch device, e.g. "cuda".
        dtype: a floating torch dtype or its name, e.g. "bfloat16"; None keeps the stored one.

    Returns:
        The module; for super resolution from luma (N, 1, H, W) to (N, 1, scale H, scale W), both
        in [0, 1].

    Raises:
        UnknownNameError: there is no such recipe, tag or adapter.
        MissingWeightsError: the ref has no weights here, or nothing known lies at the path.
        MismatchError: the adapter does not fit the base, the network has no such classes, or the
            device or dtype cannot be used.
        HubError, UnsafeFileError: see `pull`; UnsafeFileError also for weights of another SHA-256.

    ```python
    import torch

    import zoo

    model = zoo.load("sesr-m5-x2")
    with torch.inference_mode():
        enlarged = model(torch.rand(1, 1, 32, 32))  # luma in [0, 1]
    assert enlarged.shape == (1, 1, 64, 64)
    ```

    """
    if adapter is not None:
        if num_classes is not None:
            raise MismatchError("an adapter fits the classes of its base; leave num_classes out")
        return _with_adapter(ref, adapter, pretrained=pretrained, device=device, dtype=dtype)
    artifact = resolve(ref, weights=pretrained)
    if pretrained and isinstance(ref, str):
        _mind_the_licence(ref)
    if pretrained and num_classes is None:
        return artifact.load(device=device, dtype=dtype)
    from zoo.artifacts import heads
    from zoo.artifacts.inputs import checked
    from zoo.artifacts.placing import dtype_of, placed

    if (recipe := artifact.recipe) is None:
        raise MismatchError(f"{artifact.ref} has no recipe to build another network by")
    if num_classes is None:
        model = artifact.structure()
    elif pretrained:
        model = heads.exchanged(checkpoint(artifact), num_classes)
    else:
        model = heads.fresh(recipe, num_classes)
    return placed(checked(model, recipe), device, dtype_of(dtype))


@functools.cache
def _mind_the_licence(ref: str) -> None:
    """Say once which licence a bare name's weights have, if a product may not ship them.

    Who types a tag has chosen.
    """
    match refs.parse(ref):
        case refs.NameRef(name, None):
            tag = registry.find(name).default_tag
            license = registry.shipped_licences(name).get(tag)
            if license is not None and not commercial(license):
                _LOG.warning(
                    "%s loads its weights %s.%s, whose licence is: %s; zoo list --license "
                    "commercial lists what a product may ship", name, name, tag, license,
                )  # fmt: skip


def _with_adapter(
    ref: "Ref | Recipe | Artifact",
    adapter: "Ref | Mapping[str, float]",
    *,
    pretrained: bool,
    device: str,
    dtype: "torch.dtype | str | None",
) -> "torch.nn.Module":
    from zoo.adapters.apply import apply
    from zoo.adapters.fusion import fuse
    from zoo.artifacts import adapters
    from zoo.artifacts.base import load_base
    from zoo.artifacts.placing import dtype_of, placed

    if not pretrained or not isinstance(ref, str | Path):
        raise MismatchError("an adapter needs its trained base: give a ref, pretrained=True")
    kind = dtype_of(dtype)
    if isinstance(adapter, Mapping):
        parts = {name: adapters.adapter(name) for name in adapter}
    else:
        parts = {"": adapters.adapter(adapter)}
    # An adapter fits the type that it was made for: the base gets that first, then what is asked.
    made_for = {tensor.dtype for part in parts.values() for tensor in part.tensors.values()}
    base = load_base(ref, kind if kind in made_for else None).model
    chosen = fuse(parts, base, adapter) if isinstance(adapter, Mapping) else parts[""]
    return placed(apply(base, chosen), device, kind)


def run(
    ref: "Ref | Artifact",
    source: Any,
    out: Ref | None = None,
    *,
    adapter: Ref | Mapping[str, float] | None = None,
    stream: bool = False,
    device: str = "cpu",
    dtype: Any = None,
    **options: Any,
) -> "Result":
    """Run a model on one input; return the task's result object.

    Args:
        ref: what `load` takes.
        source: a file, a picture or an array, as the task expects; for a language model, a prompt.
        out: a file to which the result is saved as well.
        adapter: what `load` takes; the model's own task runs.
        stream: run a `.tflite` file on one frame of an array or a sound after the other, and keep
            its states in between; a network that hears words says when each was said.
        device: a torch device, e.g. "cuda".
        dtype: a floating torch dtype or its name; None keeps the stored one.
        options: of the task: to find objects, `threshold` and `suppression`; of a stream of words,
            `threshold`, `smoothing`, `stride_s` and `refractory_s`; of a language model, `tokens`
            and `cache_bits` (4 or 8, of keys and values).

    Returns:
        For super resolution, `zoo.data.made.MadePicture`; every result has
        `text`, one line, and `to_json()`.

    Raises:
        UnknownNameError: there is no such recipe.
        MissingWeightsError: the ref has no weights here.
        MismatchError: the input, the output's format, the device or the dtype cannot be used.
        HubError, UnsafeFileError: see `pull`.

    ```python
    import zoo

    zoo.run("sesr-m5-x2", "docs/samples/photos/dogs.jpg", "dogs-x2.png")
    ```

    """
    target = None if out is None else Path(out)
    artifact = resolve(ref)
    if stream:
        from zoo.artifacts.files import TfliteModel
        from zoo.artifacts.networks import Network

        if not isinstance(artifact, TfliteModel | Network):
            raise MismatchError(
                "stream is for .tflite files and networks that hear words; run "
                f"{artifact.ref} without it"
            )
        if adapter is not None:
            raise MismatchError(f"a stream takes no adapter; run {artifact.ref} without")
        return artifact.stream(source, target, device=device, dtype=dtype, **options)
    if adapter is None:
        return artifact.run(source, target, device=device, dtype=dtype, **options)
    if artifact.recipe is None:
        raise MismatchError(f"{artifact.ref} has no task to run with an adapter; type: zoo list")
    from zoo.tasks import task_of

    model = load(ref, adapter=adapter, device=device, dtype=dtype)
    return task_of(artifact.recipe).run(model, artifact.recipe, source, target, **options)


def evaluate(
    ref: "Ref | Artifact",
    data: Ref,
    *,
    record: str | None = None,
    device: str = "cpu",
    dtype: Any = None,
    **protocol: Any,
) -> dict[str, Any]:
    """Return a model's metrics on test data, with the protocol they were computed by.

    For a network that was trained for int8 these are the metrics of the integers; "float" has
    those of the same weights without rounding.

    Args:
        ref: what `load` takes.
        data: a folder, laid out as the task expects; for a language model, a text: a file, a folder
            of them, "wikitext2", "c4", "tinystories", or "org/name" on the Hub.
        record: also store the metrics in the checkpoint, and in its card, under this name.
        device: a torch device, e.g. "cuda".
        dtype: a floating torch dtype or its name; None keeps the stored one.
        protocol: settings of the task: for perplexity on a text `length`, `stride` (in tokens),
            `windows` and `cache_bits`.

    Returns:
        The means by name, e.g. "psnr_y_db" (dB), the values of each sample, e.g. "per_image", the
        number of samples, and "protocol", one line.

    Raises:
        UnknownNameError: there is no such recipe.
        MissingWeightsError: the ref has no weights here.
        MismatchError: the data cannot be used; or `record` for a pulled checkpoint, since the
            cache holds what the Hub holds, or for another library's model.
        HubError, UnsafeFileError: see `pull`.

    ```python
    import zoo

    result = zoo.evaluate("sesr-m3-x2", "docs/samples/photos")
    print(f"{result['psnr_y_db']:.2f} dB, {result['protocol']}")
    ```

    """
    artifact = resolve(ref)
    if record is not None:
        recording.check_recordable(ref, artifact, record)
    path = Path(data).expanduser()
    result = artifact.evaluate(path, device=device, dtype=dtype, **protocol)
    if record is not None:
        recording.record(artifact, "evaluations", record, result)
    return result


@overload
def estimate(
    item: "Ref | Recipe | Artifact | torch.nn.Module",
    target: str,
    *,
    method: str = ...,
    input_shape: "Shapes | None" = ...,
    **options: Any,
) -> "Cost": ...


@overload
def estimate(
    item: "Ref | Recipe | Artifact | torch.nn.Module",
    target: Sequence[str],
    *,
    method: str = ...,
    input_shape: "Shapes | None" = ...,
    **options: Any,
) -> "list[Cost]": ...


def estimate(
    item: "Ref | Recipe | Artifact | torch.nn.Module",
    target: str | Sequence[str],
    *,
    method: str = "auto",
    input_shape: "Shapes | None" = None,
    **options: Any,
) -> "Cost | list[Cost]":
    """Return what a deployed network costs on a target, and how each number is known.

    Args:
        item: a ref or recipe (weights are not needed), or a module of your own.
        target: a name of `zoo.cost.target_names()`, e.g. "ethos-u55-256"; or the path of a target's
            file: "./my-board.toml". A list of these, of globs ("stm32*"), of groups
            ("ethos-u55") or of "all" gives a list of costs.
        method: "roofline", "vela" (Ethos-U only; a `.tflite` file goes to it as it is),
            "measured" or "simulated" (only the CPU at hand), "llm" (language models), "f1" (of a
            drone), one that an installed package brings, or "auto": Vela where it is installed and
            knows the target, else what the target says. "all", for a list of targets: every method
            that prices one.
        input_shape: e.g. (N, C, H, W); None takes the recipe's reference shape. Of a module with
            several inputs a tuple of shapes, or a mapping by the names of its arguments.
        options: of the method, e.g. `time_limit_s=60` of "vela".

    Returns:
        The cost of one inference: times in ms, memory in bytes, energy in mJ. For a list: one
        for each target, without those of a glob or group that cannot be priced.

    Raises:
        UnknownNameError: there is no such recipe, target or method.
        MismatchError: the method does not fit the target, or the network cannot be traced with
            this input shape.
        HubError, UnsafeFileError: see `pull`.

    ```python
    import zoo

    cost = zoo.estimate("sesr-m5-x2", "ethos-u55-256", method="roofline")
    print(cost)
    ```

    """
    from zoo import cost
    from zoo.verbs.pricing import each, every_way, pricer, with_features

    if isinstance(item, str | Path | Recipe) or is_artifact(item):
        artifact = resolve(item, weights=False)
        subject = pricer(artifact, single(input_shape))

        def price(name: str, way: str) -> "Cost":
            device = cost.target(name)
            found = cost.estimate(subject(device, way), device, method=way, **options)
            return with_features(found, artifact, device)
    else:

        def price(name: str, way: str) -> "Cost":
            device = cost.target(name)
            return cost.estimate(item, device, method=way, input_shape=input_shape, **options)

    several = isinstance(target, Sequence) and not isinstance(target, str)
    if several and method == "all":
        return every_way(price, target)
    if method == "all":
        raise MismatchError(
            f"method 'all' gives several costs; give a list of targets: [{target!r}]"
        )
    if several:
        return each(lambda name: price(name, method), target)
    return price(cast("str", target), method)
