"""From a module to the graph IR, through `torch.export`."""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from zoo.errors import MismatchError
from zoo.graph.constants import Derived, Ref, with_derived
from zoo.graph.fold import absorb_padding, fold_batch_norm
from zoo.graph.inputs import Shapes
from zoo.graph.ir import Graph, Kind, Op, Tensor
from zoo.graph.kinds import ATEN, KINDS, counted
from zoo.graph.operators.cutting import slice_of
from zoo.graph.program import export_program, only_broadcast, refuse_meta
from zoo.graph.substitutes import SUBSTITUTES

_ALIASES = frozenset(
    {"contiguous", "clone", "dropout", "feature_dropout", "alias", "detach", "identity"}
)


def trace(module: nn.Module, input_shape: Shapes, *, values: bool = False) -> Graph:
    """Return the graph of a deployed module for one input of this shape, e.g. (N, C, H, W).

    Batch normalisations are folded into the layers before them, or become layers.

    Args:
        module: in eval mode. Nothing is computed, so it may be on the meta device.
        input_shape: fixed shape of the input, or of several; see `zoo.graph.inputs`.
        values: whether the graph also holds the constants; these need a real device.

    Returns:
        A graph in the layout "torch".

    Raises:
        MismatchError: the module is in training mode, cannot be exported (the shape does not
            fit, or control flow depends on values), or uses an operator without a mapping; or
            `values` are wanted of a module on the meta device.

    ```python
    import zoo
    from zoo.graph.trace import trace

    graph = trace(zoo.load("sesr-m5-x2"), (1, 1, 360, 640))
    print(f"{graph.macs / 1e9:.2f} GMAC in {len(graph.ops)} operators")
    ```
    """
    return folded(exported(module, input_shape), state_of(module) if values else {})


def exported(module: nn.Module, input_shape: Shapes) -> Graph:
    """Return the operators of a module as it calls them: what `folded` begins with.

    It depends on no value. A trace is slow; a network with several sets of weights needs one.
    """
    return Tracer(export_program(module, input_shape)).run()


def folded(graph: Graph, state: Mapping[str, NDArray[np.float32]]) -> Graph:
    """Return the deployed graph of an `exported` one; `state` has the parameters' values, or {}."""
    graph, state = dataclasses.replace(graph, derived=()), with_derived(graph, state)
    return counted(fold_batch_norm(absorb_padding(graph), state))


def state_of(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return the values of parameters and buffers by name, in float32.

    Raises:
        MismatchError: the module is on the meta device.

    """
    # A shared tensor under each of its names: the exporter may use any of them.
    tensors: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    refuse_meta(module)
    return {name: t.detach().to("cpu", torch.float32).numpy() for name, t in tensors.items()}


def _same_numbers(node: fx.Node) -> bool:
    """Whether a `.to` leaves the type as it is: where a tensor lies says nothing on a device."""
    source = node.all_input_nodes[0]
    return bool(source.meta["val"].dtype == node.meta["val"].dtype)


class Tracer:
    """Walks an exported graph once and collects ops and tensors."""

    def __init__(self, program: ExportedProgram) -> None:
        signature = program.graph_signature
        self.program = program
        self.sources = {
            spec.arg.name: spec.target or ""
            for spec in signature.input_specs
            if spec.kind is not InputKind.USER_INPUT
        }
        # What is changed in place (an input by a first ReLU) is returned along with the outputs.
        self.wanted = [spec.kind is OutputKind.USER_OUTPUT for spec in signature.output_specs]
        self.ops: list[Op] = []
        self.tensors: dict[str, Tensor] = {}
        self.parameters: dict[str, fx.Node] = {}
        self.names: dict[fx.Node, str] = {}  # a node that only passes a tensor on shares its name
        self.parts: dict[fx.Node, list[tuple[fx.Node, int, range, bool]]] = {}  # of splits
        self.results: dict[fx.Node, list[str]] = {}  # of operators with several that are read
        self.squares: dict[fx.Node, Any] = {}  # of nodes that are roots: what they are roots of
        self.derived: list[Derived] = []
        # Tensors that are no parameters, as `torch.tensor([0.5])` in a forward: by source.
        self.literals = {
            spec.target: program.constants[spec.target]
            for spec in signature.input_specs
            if spec.kind is InputKind.CONSTANT_TENSOR and spec.target
        }

    def run(self) -> Graph:
        """Return the graph IR of the exported program."""
        inputs: list[str] = []
        outputs: list[str] = []
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name not in self.sources:
                inputs.append(self.add_tensor(node, "input"))
            elif node.op == "placeholder":
                self.names[node] = node.name  # becomes a tensor when an op first reads it
                self.parameters[node.name] = node
                if (source := self.sources[node.name]) in self.literals:
                    self.derive(node, self.literals[source].clone)
            elif node.op == "output":
                pairs = zip(node.args[0], self.wanted, strict=True)
                results = [
                    value for value, wanted in pairs if wanted and isinstance(value, fx.Node)
                ]
                outputs = [self.output(value) for value in results]
            else:
                self.call(node)
        return Graph(
            ops=self.needed(outputs),
            tensors=self.tensors,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            derived=tuple(self.derived),
        )

    def needed(self, outputs: Iterable[str]) -> tuple[Op, ...]:
        """Return the ops that outputs depend on."""
        wanted, ops = set(outputs), list[Op]()
        for op in reversed(self.ops):
            if wanted.intersection(op.outputs):
                ops.append(op)
                wanted.update(op.inputs)
        return tuple(reversed(ops))

    def derive(self, node: fx.Node, call: Callable[..., Any]) -> None:
        """Keep a computation on parameters alone for `folded`; its result is a parameter too."""
        self.constant(node, call, fx.node.map_arg((node.args, node.kwargs), self.ref))

    def constant(self, node: fx.Node, call: Callable[..., Any], arguments: Any = ((), {})) -> None:
        """Let a node stand for what a call gives, which no input changes."""
        source = f"({node.name})"
        self.derived.append(Derived(node.name, source, call, arguments))
        self.names[node] = node.name
        self.sources[node.name] = source
        self.parameters[node.name] = node

    def ref(self, node: fx.Node) -> Any:
        """Return what stands for a parameter in the arguments of a computation."""
        value = node.meta["val"]
        dtype = value.dtype if isinstance(value, torch.Tensor) else None
        return Ref(self.names[node], self.sources[self.names[node]], dtype)

    def weight(
        self,
        node: fx.Node | str,
        shape: tuple[int, ...],
        call: Callable[..., Any],
        kind: Kind = "weight",
        form: str = "",
    ) -> str:
        """Return the name of what `call` makes of a parameter beforehand; `form` says how."""
        old = node if isinstance(node, str) else self.names[node]
        name = f"{old}.{form}{'x'.join(map(str, shape))}"
        if name not in self.sources:
            if old not in self.sources:
                raise self.unmapped(self.node, "a weight that the network computes")
            ref = Ref(old, self.sources[old], None) if isinstance(node, str) else self.ref(node)
            self.made(name, shape, call, kind, ref)
        return name

    def stored(
        self,
        part: str,
        nodes: Sequence[fx.Node],
        shape: tuple[int, ...],
        call: Callable[..., Any],
        kind: Kind,
    ) -> str:
        """Return the name of what `call` makes of parameters beforehand; `part` tells it apart."""
        name = f"{self.names[nodes[0]]}.{part}"
        if name not in self.sources:
            if any(self.names[node] not in self.sources for node in nodes):
                raise self.unmapped(nodes[0], "a weight that the network computes")
            self.made(name, shape, call, kind, *map(self.ref, nodes))
        return name

    def made(
        self, name: str, shape: tuple[int, ...], call: Callable[..., Any], kind: Kind, *refs: Ref
    ) -> str:
        """Add a parameter that `call` makes beforehand, of others or of nothing."""
        self.sources[name] = f"({name})"
        self.derived.append(Derived(name, f"({name})", call, (refs, {})))
        self.tensors[name] = Tensor(
            name=name, shape=shape, dtype="float32", kind=kind, source=f"({name})"
        )
        return name

    def add_tensor(self, node: fx.Node, kind: Kind) -> str:
        """Add the tensor that a node stands for; return its name."""
        value = node.meta["val"]
        if isinstance(value, tuple):  # an operator with extra outputs, which nothing reads
            value = value[0]
        self.names[node] = node.name
        self.tensors[node.name] = Tensor(
            name=node.name,
            shape=tuple(int(size) for size in value.shape),
            dtype=str(value.dtype).removeprefix("torch."),
            kind=kind,
            source=self.sources.get(node.name, ""),
        )
        return node.name

    def output(self, node: fx.Node) -> str:
        """Make the tensor of a node an output; return its name."""
        name = self.names[node]
        if name not in self.tensors or self.tensors[name].is_parameter:
            raise MismatchError(
                f"the module returns its own {self.sources[name]!r} unchanged; leave that out of "
                "its outputs, and give it to the application"
            )
        if self.tensors[name].kind == "activation":
            self.tensors[name] = dataclasses.replace(self.tensors[name], kind="output")
        return name

    def read(self, nodes: Iterable[fx.Node | str], roles: tuple[Kind, ...] = ()) -> tuple[str, ...]:
        """Return the names of an op's operands, typing parameters by the operand's place."""
        names = []
        for place, node in enumerate(nodes):
            name = node if isinstance(node, str) else self.names[node]
            if name in self.sources and name not in self.tensors:
                self.add_tensor(
                    self.parameters[name], roles[place] if place < len(roles) else "constant"
                )
            names.append(name)
        return tuple(names)

    def emit(
        self,
        node: fx.Node,
        kind: str,
        operands: Iterable[fx.Node | str],
        attributes: dict[str, Any] | None = None,
    ) -> None:
        """Append the op whose output `node` stands for."""
        inputs = self.read(operands, KINDS[kind].roles)
        self.append(node, kind, inputs, self.add_tensor(node, "activation"), attributes)

    def step(
        self,
        node: fx.Node,
        part: str,
        kind: str,
        operands: Iterable[fx.Node | str],
        attributes: dict[str, Any] | None = None,
        *,
        shape: tuple[int, ...] | None = None,
    ) -> str:
        """Append an op on the way to `node`, of its shape or another; return its output."""
        value, name = node.meta["val"], f"{node.name}.{part}"
        if isinstance(value, tuple):  # an operator with extra outputs, which nothing reads
            value = value[0]
        self.tensors[name] = Tensor(
            name=name,
            shape=tuple(value.shape) if shape is None else shape,
            dtype=str(value.dtype).removeprefix("torch."),
            kind="activation",
        )
        self.append(node, kind, self.read(operands, KINDS[kind].roles), name, attributes)
        return name

    def append(
        self,
        node: fx.Node,
        kind: str,
        inputs: tuple[str, ...],
        output: str,
        attributes: dict[str, Any] | None,
    ) -> None:
        """Append an op."""
        self.ops.append(
            Op(
                name=output,
                kind=kind,
                inputs=inputs,
                outputs=(output,),
                attributes=attributes or {},
                macs=0,  # until the graph is complete
                module=self.path(node),
            )
        )

    def call(self, node: fx.Node) -> None:
        """Append the op that an operator call becomes, if it computes anything of the input."""
        target, self.node = node.target, node
        if target is operator.getitem and not node.users:
            return
        if target is not operator.getitem and not isinstance(target, torch._ops.OpOverload):
            raise self.unmapped(node, str(target))
        if all(self.names.get(source) in self.sources for source in node.all_input_nodes):
            self.before_deployment(node)
        elif isinstance(target, torch._ops.OpOverload):
            self.operator(node, target)
        elif node.args[0] in self.parts:
            source, dim, part, gone = self.parts[node.args[0]][node.args[1]]  # type: ignore[index]
            slice_of(self, node, source, dim, part, gone=gone)
        elif node.args[0] in self.results:
            self.names[node] = self.results[node.args[0]][node.args[1]]  # type: ignore[index]
        elif node.args[1] == 0:
            self.names[node] = self.names[node.all_input_nodes[0]]
        else:
            raise self.unmapped(node, f"result {node.args[1]} of {node.args[0]}")

    def before_deployment(self, node: fx.Node) -> None:
        """Derive what depends on parameters alone."""
        schema = getattr(node.target, "_schema", None)
        name = schema.name.split("::")[-1].rstrip("_") if schema else ""
        if name in _ALIASES or (name == "to" and _same_numbers(node)):
            self.names[node] = self.names[node.all_input_nodes[0]]
            return
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if random and name != "scaled_dot_product_attention":  # whose dropout is 0 in eval mode
            raise self.unmapped(node, f"{node.target}, which is random,")
        if schema is None or schema.returns:
            self.derive(node, node.target)  # type: ignore[arg-type]

    def operator(self, node: fx.Node, target: torch._ops.OpOverload) -> None:
        """Append the op that an ATen operator becomes."""
        name = target._schema.name.split("::")[-1].rstrip("_")
        arguments = dict(zip((a.name for a in target._schema.arguments), node.args, strict=False))
        arguments = {
            a.name: {**arguments, **node.kwargs}.get(a.name, a.default_value)
            for a in target._schema.arguments
        }
        if not target._schema.returns and not node.users:
            return  # an assertion of the exporter's (`.to` leaves one): it computes nothing
        same = name in _ALIASES and not arguments.get("train")
        if same or (name == "to" and _same_numbers(node)) or only_broadcast(node, name):
            self.names[node] = self.names[node.all_input_nodes[0]]
            return
        if name not in ATEN:
            raise self.unmapped(node, f"aten.{name}")
        kind, reader = ATEN[name]
        if isinstance(reader, tuple):
            if any(key not in arguments for key in reader):  # another overload
                raise self.unmapped(node, str(target))
            self.emit(node, kind, node.all_input_nodes, {key: arguments[key] for key in reader})
        else:
            reader(self, node, arguments)

    def operands(self, *nodes: Any) -> list[fx.Node]:
        """Return the arguments that are tensors."""
        return [node for node in nodes if isinstance(node, fx.Node)]

    def path(self, node: fx.Node) -> str:
        """Return the path of the module that a node belongs to."""
        stack = node.meta.get("nn_module_stack") or {"": ("", None)}
        return str(list(stack.values())[-1][0])

    def where(self, node: fx.Node) -> str:
        """Return that path for messages."""
        return self.path(node) or "the top level"

    def unmapped(self, node: fx.Node, name: str) -> MismatchError:
        """Return the error that names the operator of a node without a form here."""
        schema = getattr(node.target, "_schema", None)
        known = schema.name.split("::")[-1].rstrip("_") if schema else ""
        instead = SUBSTITUTES.get(known, "replace it with operators that devices have")
        return MismatchError(
            f"{name} at {self.where(node)} has no mapping to the deployed graph: {instead}, or add "
            "it to zoo/graph/operators"
        )
