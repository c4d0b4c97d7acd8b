"""`estimate`: a module or a graph and a target give a `Cost`, by one of the estimators."""

import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from zoo import extensions
from zoo.cost.estimators.contract import Estimator, Subject
from zoo.cost.language import Decoder
from zoo.cost.result import Cost
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.ir import Graph

if TYPE_CHECKING:
    from torch import nn

    from zoo.graph.inputs import Shapes

    Item = nn.Module | Graph | bytes | Decoder | Subject

ESTIMATORS = "zoo.cost.estimators"
PARTS = {"SUMMARY": str, "Options": type, "refusal": Callable, "estimate": Callable}


def methods() -> list[str]:
    """Return the names of all estimators."""
    return extensions.names(ESTIMATORS)


def estimator(method: str) -> Estimator:
    """Return the estimator of that name.

    Raises:
        UnknownNameError: there is no such estimator.
        MismatchError: it lacks a part of the contract, or cannot be imported.

    """
    module: Estimator = extensions.member(ESTIMATORS, method, "method")
    extensions.require(module, PARTS, f"estimator {method!r}", f"{ESTIMATORS}.contract")
    return module


def chosen_method(target: Target, method: str) -> str:
    """Return the name of the estimator for "auto": Vela where it is installed and knows a target.

    Everywhere else it is what the target says.
    """
    if method != "auto":
        return method
    arm = target.method == "roofline" and target.name.startswith("ethos-u")
    if arm and importlib.util.find_spec("ethosu") and not estimator("vela").refusal(target):
        return "vela"
    return target.method


def _subject(item: "Item", shape: "Shapes | None") -> Subject:
    if isinstance(item, Subject):
        return item
    if isinstance(item, Decoder):
        return Subject(language=item)
    if isinstance(item, Graph):
        return Subject(given=item, input_shape=shape)
    if isinstance(item, bytes):
        return Subject(content=item)
    from zoo.graph.inputs import shapes
    from zoo.graph.program import check_module, in_float32

    check_module(item)
    if shape is not None:
        shapes(shape)
    return of_module(in_float32(item), shape)


def of_module(module: "nn.Module", shape: "Shapes | None") -> Subject:
    """Return what is priced of a module: of one that computes in integers, those.

    Args:
        module: in eval mode, in float32; on the meta device it has random weights.
        shape: of its input, or several.

    """
    from zoo.cost.deployed import on_meta
    from zoo.models.approximate.swap import exact
    from zoo.models.forms import stored_form

    network, facts = stored_form(module)
    integers: Any = None if facts is None else module.graph
    network = exact(network)  # no target is known for what was exchanged
    return Subject(module=network, input_shape=shape, integers=integers, drawn=on_meta(network))


def _settings(chosen: Estimator, name: str, options: Mapping[str, Any]) -> Any:
    if wrong := sorted(set(options) - _options(chosen)):
        have = [other for other in methods() if wrong[0] in _options(estimator(other))]
        whose = f"it is one of method {', '.join(have)}" if have else "no method has it"
        raise MismatchError(f"method {name!r} has no option {wrong[0]!r}; {whose}")
    try:
        return chosen.Options(**options)
    except TypeError as error:
        raise MismatchError(f"method {name!r}: {str(error).partition(') ')[2] or error}") from error


def _options(chosen: Estimator) -> set[str]:
    return set(inspect.signature(chosen.Options).parameters)


def estimate(
    item: "Item",
    target: Target,
    *,
    method: str = "auto",
    input_shape: "Shapes | None" = None,
    **options: Any,
) -> Cost:
    """Return what one inference costs on a target.

    Args:
        item: a module in eval mode (it may be on the meta device), its graph, the bytes of a
            `.tflite` file, the sizes of a language model, or a subject made of one of these.
        target: the device.
        method: the name of an estimator, see `methods`, or "auto": what the target says.
        input_shape: e.g. (N, C, H, W), or of several inputs, see `zoo.graph.inputs`; needed for a
            module.
        options: of the estimator.

    Raises:
        UnknownNameError: no such method.
        MismatchError: the method does not go with the target or the item, an option is not one of
            its own, the module cannot be traced, or the method does not return a valid cost.

    """
    name = chosen_method(target, method)
    if method == "auto" and isinstance(item, Graph) and item.layout == "torch":
        name = target.method  # compilers take the graph of a file
    chosen = estimator(name)
    if reason := chosen.refusal(target):
        raise MismatchError(reason)
    settings = _settings(chosen, name, options)
    cost = chosen.estimate(_subject(item, input_shape), target, settings)
    if not isinstance(cost, Cost):
        raise MismatchError(
            f"estimator {name!r} returned {cost!r:.80}; expected a Cost; see {ESTIMATORS}.contract"
        )
    for key, value in (("latency_ms", cost.latency_ms), ("energy_mj", cost.energy_mj or 0.0)):
        if not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise MismatchError(f"estimator {name!r} gives {value} as {key}; expected 0 or more")
    return cost
