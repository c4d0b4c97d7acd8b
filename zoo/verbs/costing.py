"""The verb that says what a network costs on devices."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from zoo.artifacts.resolution import Ref, is_artifact, resolve
from zoo.errors import MismatchError, ZooError
from zoo.registry.recipe import Recipe
from zoo.verbs.exporting import single

_LOG = logging.getLogger("zoo")

if TYPE_CHECKING:
    import torch

    from zoo.cost import Cost, Target
    from zoo.graph.inputs import Shapes
    from zoo.graph.ir import Graph
    from zoo.registry.artifact import Artifact


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
            "measured" (only the CPU at hand), one that an installed package brings, or "auto":
            Vela where it is installed and knows the target, else what the target says. "all", for
            a list of targets: every method that prices one.
        input_shape: e.g. (N, C, H, W); None takes the recipe's reference shape. Of a module with
            several inputs a tuple of shapes, or a mapping by the names of its arguments.
        options: of the method, e.g. `time_limit_s=60` of "vela".

    Returns:
        The cost of one inference: times in ms, memory in bytes, energy in mJ; of a network that
        hears, `front_end` is what its features cost on top. For a list: one for each target,
        without those of a glob or group that cannot be priced.

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

    if isinstance(item, str | Path | Recipe) or is_artifact(item):
        artifact = resolve(item, weights=False)

        def price(name: str, way: str) -> "Cost":
            device = cost.target(name)
            subject, shape = priced(artifact, device, way, single(input_shape))
            found = cost.estimate(subject, device, method=way, input_shape=shape, **options)
            if artifact.recipe is None or "front_end" not in artifact.recipe.preprocessing:
                return found
            from zoo.cost.hearing import with_front_end

            return with_front_end(found, artifact.recipe.preprocessing, device)
    else:

        def price(name: str, way: str) -> "Cost":
            device = cost.target(name)
            return cost.estimate(item, device, method=way, input_shape=input_shape, **options)

    several = isinstance(target, Sequence) and not isinstance(target, str)
    if several and method == "all":
        return _every_way(price, target)
    if method == "all":
        raise MismatchError(
            f"method 'all' gives several costs; give a list of targets: [{target!r}]"
        )
    if several:
        return _each(lambda name: price(name, method), target)
    return price(cast("str", target), method)


def _every_way(price: "Callable[[str, str], Cost]", targets: Sequence[str]) -> "list[Cost]":
    """Price every target by every method that takes it, target by target."""
    from zoo import cost
    from zoo.cost.pricing import estimator

    found, reasons = [], []
    for name in dict.fromkeys(name for pattern in targets for name in cost.matching(pattern)):
        for way in cost.methods():
            if estimator(way).refusal(cost.target(name)) is not None:
                continue
            try:
                found.append(price(name, way))
            except ZooError as error:
                reasons.append(f"{way} on {name}: {error}")
    if not found:
        raise MismatchError(reasons[0] if reasons else f"no method prices {', '.join(targets)}")
    for reason in reasons:
        _LOG.warning("left out: %s", reason)
    return found


def _each(price: "Callable[[str], Cost]", targets: Sequence[str]) -> "list[Cost]":
    """Price every target that some names and patterns mean, once.

    What was named must be priced; of a pattern's targets, those are that can be, and at least one.
    """
    from zoo import cost

    found: dict[str, Cost] = {}
    for pattern in targets:
        names, left_out = cost.matching(pattern), {}
        for name in names:
            try:
                found[name] = found[name] if name in found else price(name)
            except MismatchError as error:
                if names == [pattern]:
                    raise
                left_out[name] = error
        if left_out and not found.keys() & set(names):
            raise next(iter(left_out.values()))
        if left_out:
            reason = next(iter(left_out.values()))
            _LOG.warning("left out of %r: %s (%s)", pattern, ", ".join(left_out), reason)
    return list(found.values())


def priced(
    artifact: "Artifact", device: "Target", method: str, shape: tuple[int, ...] | None
) -> "tuple[torch.nn.Module | Graph | bytes, tuple[int, ...] | None]":
    """Return what is priced of an artifact, and the shape of its input if it has none itself."""
    from zoo.artifacts.files import TfliteModel
    from zoo.cost.pricing import chosen_method

    if artifact.recipe is not None:
        return artifact.structure(), shape or artifact.recipe.input_shape
    if chosen_method(device, method) == "vela" and isinstance(artifact, TfliteModel):
        return artifact.content(shape), None
    graph = artifact.graph(shape)  # of a file, whose shape and type are fixed
    _check_type(artifact.ref, graph, device, method)
    return graph, None


def _check_type(ref: str, graph: "Graph", device: "Target", method: str) -> None:
    """Refuse to price a file by the rates and sizes of another type of numbers."""
    from zoo.cost.pricing import chosen_method

    found = {t.dtype for t in graph.tensors.values() if not t.is_parameter}
    found |= {"int8"} if "uint8" in found else set()  # the same work on as many bytes
    stored = next((name for name in ("int8", "int16") if name in found), "float32")
    chosen = chosen_method(device, method)
    if chosen == "roofline" and stored != device.dtype:
        vela = ", or add --method vela" if stored == "int16" and "ethos" in device.name else ""
        raise MismatchError(
            f"{ref} computes in {stored}, and the rates of {device.name} are for {device.dtype}; "
            f"price a file that was exported with --{device.dtype}{vela}"
        )
