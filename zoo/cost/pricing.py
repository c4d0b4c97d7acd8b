"""`estimate`: a module or a graph and a target give a `Cost`, by one of the estimators."""

from typing import TYPE_CHECKING, Any

from zoo import extensions
from zoo.cost.estimators.contract import Estimator, Subject
from zoo.cost.result import Cost
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.ir import Graph

if TYPE_CHECKING:
    from torch import nn

ESTIMATORS = "zoo.cost.estimators"


def methods() -> list[str]:
    """Return the names of the estimators that there are."""
    return extensions.names(ESTIMATORS)


def estimator(method: str) -> Estimator:
    """Return the estimator of that name.

    Raises:
        UnknownNameError: there is none.

    """
    module: Estimator = extensions.member(ESTIMATORS, method, "method")
    return module


def estimate(
    item: "nn.Module | Graph",
    target: Target,
    *,
    method: str = "auto",
    input_shape: tuple[int, ...] | None = None,
    **options: Any,
) -> Cost:
    """Return what one inference costs on a target.

    Args:
        item: a module in eval mode (it may be on the meta device) or its graph.
        target: the device.
        method: the name of an estimator, see `methods`, or "auto": what the target says.
        input_shape: e.g. (N, C, H, W); needed for a module.
        options: of the estimator.

    Raises:
        UnknownNameError: no such method.
        MismatchError: the method does not go with the target or the item, an option is not one of
            its, or the module cannot be traced.

    """
    chosen = estimator(target.method if method == "auto" else method)
    if reason := chosen.refusal(target):
        raise MismatchError(reason)
    graph = item if isinstance(item, Graph) else None
    module = None if isinstance(item, Graph) else item
    try:
        settings = chosen.Options(**options)
    except TypeError as error:
        raise MismatchError(f"method {method!r}: {str(error).partition(') ')[2]}") from error
    return chosen.estimate(Subject(module, graph, input_shape), target, settings)
