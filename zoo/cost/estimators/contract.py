"""What an estimator is: a module with `SUMMARY`, `Options`, `refusal` and `estimate`.

A file in this folder is an estimator by being here, named like its method; an installed package
offers one through the entry-point group "zoo.cost.estimators".
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from zoo.cost import memory
from zoo.cost.language import Decoder
from zoo.cost.result import Cost
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.ir import Graph

if TYPE_CHECKING:
    from torch import nn

    from zoo.graph.inputs import Shapes


@dataclass(frozen=True, eq=False)
class Subject:
    """What is priced: a module with the shape of its input, a graph, or a file.

    Attributes:
        module: in eval mode; it may be on the meta device. None: there is only a graph.
        given: the graph, of a file for example; None: it is traced from the module.
        input_shape: of one inference, e.g. (N, C, H, W), or of several inputs, see
            `zoo.graph.inputs`; None takes the graph's.
        content: the bytes of a `.tflite` file, for what reads files by itself.
        language: a language model, by its sizes; there is no graph then.
        integers: of a network that computes in integers: makes its int8 graph for an input shape.
        drawn: whether the weights are random ones, since there are no others.

    """

    module: "nn.Module | None" = None
    given: Graph | None = None
    input_shape: "Shapes | None" = None
    content: bytes | None = None
    language: Decoder | None = None
    integers: "Callable[[tuple[int, ...]], Graph] | None" = None
    drawn: bool = False

    @functools.cached_property
    def graph(self) -> Graph:
        """The graph of the deployed network.

        Raises:
            MismatchError: no input shape is given, or the module cannot be traced.

        """
        if self.language is not None:
            raise MismatchError(
                f"{self.language.name} is a language model: its cost is that of its tokens; take "
                "method llm and a target for it, e.g. galaxy-s24-executorch"
            )
        if self.content is not None:
            from zoo.deploy.tflite_read import parse_tflite

            return parse_tflite(self.content)
        return self.given if self.given is not None else self.retraced(self.shape)

    @property
    def shape(self) -> "Shapes":
        """The input shape of one inference, or several."""
        if self.given is not None or self.content is not None:
            return self.graph.input_shape
        if self.input_shape is None:
            raise MismatchError("a module's cost depends on its input; give input_shape")
        return self.input_shape

    @property
    def first_shape(self) -> tuple[int, ...]:
        """The shape of the first input."""
        from zoo.graph.inputs import shapes

        return next(iter(shapes(self.shape).values()))

    def integer(self, shape: "Shapes", *, parts: bool = False) -> Graph:
        """Return the module's int8 graph: its own, or one quantized with nominal ranges.

        Args:
            shape: of its input, or several.
            parts: weights that are drawn at random may be so in part, see `zoo.cost.deployed`.

        Raises:
            MismatchError: an operator has no integer form, or the network takes another shape.

        """
        from zoo.cost.deployed import integer
        from zoo.graph.inputs import is_several

        parts = parts and self.drawn
        if (key := (f"integer{parts}", str(shape))) not in self._made:
            assert self.module is not None
            if self.integers is not None and not is_several(shape):
                self._made[key] = self.integers(tuple(shape))  # type: ignore[arg-type]
            else:
                self._made[key] = integer(self.module, shape, self._exported(shape), parts=parts)
        return self._made[key]

    def retraced(self, shape: "Shapes") -> Graph:
        """Return the module's graph for another input shape."""
        from zoo.graph.trace import folded

        if (key := ("traced", str(shape))) not in self._made:
            self._made[key] = folded(self._exported(shape), {})
        return self._made[key]

    def _exported(self, shape: "Shapes") -> Graph:
        """Return the operators as the module calls them, which tracing takes seconds for."""
        from zoo.graph.trace import exported

        if (key := ("exported", str(shape))) not in self._made:
            assert self.module is not None
            self._made[key] = exported(self.module, shape)
        return self._made[key]

    @functools.cached_property
    def _made(self) -> dict[tuple[str, str], Graph]:
        """What was traced, of tiles too: once for all targets."""
        return {}


class Estimator(Protocol):
    """One way to know what a network costs.

    Attributes:
        SUMMARY: one line for people.
        Options: a frozen dataclass of its settings; every field has a default.

    An estimator whose latency is another's, as that of "f1" is, has `AGAIN = True`, and is left out
    where all methods are asked for.
    """

    SUMMARY: str
    Options: type

    @property
    def refusal(self) -> Callable[[Target], str | None]:
        """Return why a target cannot be priced, or None if it can."""

    @property
    def estimate(self) -> Callable[[Subject, Target, Any], Cost]:
        """Return the cost of a subject on a target, with options."""


def counts(graph: Graph, plan: memory.ArenaPlan, target: Target) -> dict[str, Any]:
    """Return the fields of `Cost` that are counted and not estimated."""
    return {
        "target": target.name,
        "graph": "deployed",
        "dtype": target.dtype,
        "input_shape": graph.input_shape,
        "parameters": graph.parameters,
        "macs": graph.macs,
        "weight_bytes": graph.weight_bytes(target.dtype),
        "peak_activation_bytes": plan.arena_bytes,
    }


def obtained(latency: str, target: Target) -> dict[str, str]:
    """Return how each number is known; `latency` is the text for the latency."""
    words = dict.fromkeys(("parameters", "macs"), "exact (counted on the exported graph)")
    words["weight_bytes"] = f"exact (every parameter in {target.dtype}, uncompressed)"
    words["peak_activation_bytes"] = "estimated (arena plan, greedy by size, in place)"
    words["latency_ms"] = latency
    if "power_w" in target.numbers:
        words["energy_mj"] = "estimated (mean power x latency)"
    return words


def drawn(subject: Subject) -> tuple[str, ...]:
    """Return what an estimate by encoded weights says where there are none but random ones."""
    if not subject.drawn:
        return ()
    return (
        "the weights are drawn at random and take about a byte each, encoded; trained ones take "
        "0.2 to 1.1, so that a network that waits for its weights may be faster",
    )


def energy_mj(latency_ms: float, target: Target) -> float | None:
    """Return mean power times latency, or None where the power is not known."""
    power = target.get("power_w")
    return None if power is None else power * latency_ms
