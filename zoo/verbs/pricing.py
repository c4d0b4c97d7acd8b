"""Which targets and methods `zoo.estimate` prices, and what it hands to them."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zoo.errors import MismatchError, ZooError

if TYPE_CHECKING:
    from zoo.cost import Cost, Target
    from zoo.cost.language import Decoder
    from zoo.cost.pricing import Item
    from zoo.graph.ir import Graph
    from zoo.registry.artifact import Artifact

_LOG = logging.getLogger("zoo")


def every_way(price: "Callable[[str, str], Cost]", targets: Sequence[str]) -> "list[Cost]":
    """Price every target by every method that takes it, target by target."""
    from zoo import cost
    from zoo.cost.pricing import estimator
    from zoo.cost.result import SideBySide

    found, reasons = SideBySide(), []
    for name in dict.fromkeys(name for pattern in targets for name in cost.matching(pattern)):
        for way in cost.methods():
            module = estimator(way)
            if getattr(module, "AGAIN", False) or module.refusal(cost.target(name)) is not None:
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


def each(price: "Callable[[str], Cost]", targets: Sequence[str]) -> "list[Cost]":
    """Price every target that some names and patterns mean, once.

    What was named must be priced; of a pattern's targets, those are that can be, and at least one.
    """
    from zoo import cost
    from zoo.cost.result import SideBySide

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
    return SideBySide(found.values())


def pricer(artifact: "Artifact", shape: tuple[int, ...] | None) -> "Callable[[Target, str], Item]":
    """Return what says what is priced of an artifact, by a target and a method.

    Args:
        artifact: its network is built once for all of them.
        shape: of the input; None takes its own.

    """
    from zoo.artifacts.networks import Network

    if isinstance(artifact, Network) and artifact.recipe.of_transformers:
        from zoo.artifacts.files import LanguageModel

        artifact = LanguageModel(artifact.ref, artifact.path)
    if not isinstance(artifact, Network):
        return functools.partial(_priced, artifact, shape)
    from zoo.cost.stored import of_network

    network = functools.cache(functools.partial(of_network, artifact, shape))
    return lambda device, method: network()


def _priced(
    artifact: "Artifact", shape: tuple[int, ...] | None, device: "Target", method: str
) -> "Item":
    from zoo.artifacts.files import TfliteModel
    from zoo.cost.pricing import chosen_method

    if chosen_method(device, method) == "llm" and (model := _language(artifact)) is not None:
        return model
    if chosen_method(device, method) == "vela" and isinstance(artifact, TfliteModel):
        return artifact.content(shape)
    graph = artifact.graph(shape)  # of a file, whose shape and type are fixed
    _check_type(artifact.ref, graph, device, method)
    return graph


def with_features(found: "Cost", artifact: "Artifact", device: "Target") -> "Cost":
    """Return a cost with that of the front end, if the network hears."""
    if artifact.recipe is None or "front_end" not in artifact.recipe.preprocessing:
        return found
    from zoo.cost.hearing import with_front_end

    return with_front_end(found, artifact.recipe.preprocessing, device)


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


def _language(artifact: "Artifact") -> "Decoder | None":
    """Return the sizes of a folder with a decoder; None for anything else."""
    from zoo.artifacts.files import TransformersModel
    from zoo.cost.language import Decoder

    if not isinstance(artifact, TransformersModel):
        return None
    return Decoder.of_folder(artifact.ref, artifact.path)
