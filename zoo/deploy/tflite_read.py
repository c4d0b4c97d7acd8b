"""From a `.tflite` file to a graph with values, without trusting the file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.deploy import flatbuffer, tflite_schema
from zoo.deploy.formats import TFLITE
from zoo.deploy.operators.contract import OperatorCall
from zoo.deploy.tflite_tensors import MAX_BYTES, Tensors
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.graph.check import check
from zoo.graph.ir import Graph, Kind, Op, State
from zoo.graph.kinds import KINDS, counted

_BUILTINS = {**tflite_schema.OPERATORS, **tflite_schema.FOLLOWED}
_NAMES = {builtin.code: name for name, builtin in _BUILTINS.items()}
_KINDS = {name: kind for kind, row in TFLITE.items() for name in row.names}
# Bytes of constants and states that a small file may unfold into.
_UNFOLDED = 2**24


def read_tflite(path: Path) -> Graph:
    """Return the network of a file, in the layout "channels_last".

    Operators become the kinds of `zoo.graph.ir`; shapes, axes and paddings that the file keeps
    in constant tensors become attributes. Weights and biases stay the integers they are.

    Raises:
        MissingWeightsError: there is no such file.
        UnsafeFileError: it is not a TFLite file, or damaged, or made to harm.
        MismatchError: it is one, but holds something that this reader does not support.

    """
    data = read_bytes(path)
    try:
        return parse_tflite(data)
    except (UnsafeFileError, MismatchError) as error:
        raise type(error)(f"{path}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        MissingWeightsError: it cannot be read.
        UnsafeFileError: it is larger than a TFLite file can be.

    """
    try:
        size = path.stat().st_size
        if size >= MAX_BYTES:
            raise UnsafeFileError(f"{path} has {size} bytes; a TFLite file has less than 2 GiB")
        data = path.read_bytes()
    except OSError as error:
        raise MissingWeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    return data


def parse_tflite(data: bytes) -> Graph:
    """Return the network of a file's bytes; see `read_tflite`.

    Raises:
        UnsafeFileError: the bytes are not a TFLite file, or damaged, or made to harm.
        MismatchError: they are one, but hold something that this reader does not support.

    """
    model = flatbuffer.read(data, tflite_schema.MODEL, tflite_schema.IDENTIFIER)
    if model["version"] != 3:
        raise MismatchError(f"its schema has version {model['version']}; expected 3")
    if not model["subgraphs"]:
        raise UnsafeFileError("it has no subgraph")
    graph = _Parser(model, 0, budget=16 * len(data) + _UNFOLDED).graph()
    check(graph)
    return counted(graph)


class _Parser:
    """One subgraph: its operators in order, states taken out of them, constants computed.

    A variable is known by its name in the file: of a handle (container, name), or of a tensor.
    """

    def __init__(self, model: Mapping[str, Any], place: int, budget: int) -> None:
        self.model, self.place = model, place
        self.subgraph = model["subgraphs"][place]
        self.tensors = Tensors(self.subgraph["tensors"] or [], model["buffers"] or [])
        self.budget = budget
        self.ops: list[Op] = []
        self.aliases: dict[str, str] = {}
        self.handles: dict[str, tuple[str, str]] = {}
        self.initial: dict[Any, NDArray[Any]] = {}
        self.first: dict[Any, str] = {}  # the tensor in which a call finds a variable
        self.current: dict[Any, str] = {}  # and the one that holds it by now

    def run(self) -> None:
        """Read the operators."""
        for index, table in enumerate(self.subgraph["operators"] or []):
            self.operator(index, table)

    def graph(self) -> Graph:
        self.run()
        inputs = self.tensors.pick(self.subgraph["inputs"], "the graph's inputs")
        outputs = self.tensors.pick(self.subgraph["outputs"], "the graph's outputs")
        if not inputs or not outputs or "" in (*inputs, *outputs):
            raise MismatchError("its main graph has no inputs or no outputs: nothing to run")
        outputs = tuple(self.latest(name) for name in outputs)
        states = tuple(
            State(name=name, next=self.current[key], initial=self.start(key, name))
            for key, name in self.first.items()
        )
        used = {name for op in self.ops for name in (*op.inputs, *op.outputs)}
        used |= {*inputs, *outputs, *(name for s in states for name in (s.name, s.next))}
        values = {name: value for name, value in self.tensors.values.items() if name in used}
        kinds: dict[str, Kind] = {name: "constant" for name in values}
        kinds |= {**{name: "input" for name in inputs}, **{name: "output" for name in outputs}}
        for op in self.ops:
            roles = KINDS[op.kind].roles
            for name, role in zip(op.inputs[1:], roles[1:], strict=False):
                if name in values:
                    kinds[name] = role
        return Graph(
            ops=tuple(self.ops),
            tensors={
                name: replace(tensor, kind=kinds.get(name, "activation"))
                for name, tensor in self.tensors.all.items()
                if name in used
            },
            inputs=inputs,
            outputs=outputs,
            layout="channels_last",
            values=values,
            states=states,
        )

    def operator(self, index: int, table: Mapping[str, Any]) -> None:
        codes = self.model["operator_codes"] or []
        if table["opcode_index"] >= len(codes):
            raise UnsafeFileError(f"operator {index} has no operator code")
        code = codes[table["opcode_index"]]
        # Codes above 127 do not fit the old field; old writers fill only the old one.
        number = max(code["builtin_code"], code["deprecated_builtin_code"])
        outputs = self.tensors.pick(table["outputs"], f"operator {index}")
        name = _NAMES.get(number)
        if name is None:
            raise MismatchError(
                f"operator {index}, {_called(code, number)} at {', '.join(outputs)}, is not known: "
                f"convert the network without it; {len(_NAMES)} others are read"
            )
        newest = tflite_schema.NEWEST.get(name, code["version"])
        if code["version"] > newest:
            raise MismatchError(
                f"operator {index}, {name} at {', '.join(outputs)}, has version {code['version']}; "
                f"versions up to {newest} are known"
            )
        inputs = self.tensors.pick(table["inputs"], f"operator {index}")
        options = table["builtin_options"] or {}
        if name in tflite_schema.FOLLOWED:
            what = f"operator {index}, {name},"
            wanted = {"CALL_ONCE": (0, 0), "VAR_HANDLE": (0, 1), "ASSIGN_VARIABLE": (2, 0)}
            if (len(inputs), len(outputs)) != wanted.get(name, (1, 1)) or "" in (*inputs, *outputs):
                raise UnsafeFileError(f"{what} has {len(inputs)} operands, {len(outputs)} outputs")
            if name == "SHAPE":
                self.shape(what, inputs[0], outputs[0])
            else:
                self.variable(what, name, inputs, outputs, options)
            return
        if not outputs or not inputs or "" in outputs:
            raise UnsafeFileError(f"operator {index}, {name}, has no outputs or no inputs")
        self.add(name, index, inputs, outputs, options)

    def add(
        self,
        name: str,
        index: int,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        options: Mapping[str, Any],
    ) -> None:
        row = TFLITE[_KINDS[name]]
        call = OperatorCall(
            name,
            tuple(self.latest(name) for name in inputs),
            outputs[0],
            options=options,
            tensors=self.tensors.all,
            values=self.tensors.values,
        )
        operands, attributes = row.read(call)
        if "" in operands:
            raise MismatchError(
                f"operator {index}, {name} at {outputs[0]}, leaves out operand {operands.index('')}"
            )
        if row.states:
            outputs += tuple(self.overwritten(n) for n in operands[-row.states :])
        op = Op(
            name=outputs[0],
            kind=_KINDS[name],
            inputs=operands,
            outputs=outputs,
            attributes=attributes,
            macs=0,  # until the shapes are checked
            module=outputs[0],
        )
        if all(name in self.tensors.values for name in op.inputs):
            self.compute(op)
        else:
            self.ops.append(op)

    def shape(self, what: str, source: str, output: str) -> None:
        """Make a tensor's shape a constant: all of them are fixed."""
        sizes, made = self.tensors.all[source].shape, self.tensors.all[output]
        if made.shape != (len(sizes),) or made.dtype not in ("int32", "int64"):
            raise UnsafeFileError(f"{what} makes {made.dtype} {made.shape} of {len(sizes)} sizes")
        self.tensors.values[output] = np.array(sizes, made.dtype)

    def latest(self, name: str) -> str:
        """Return the tensor that holds by now what the file calls by this name."""
        if name in self.tensors.variables:
            self.first.setdefault(name, name)
            return self.current.setdefault(name, name)
        return self.aliases.get(name, name)

    def overwritten(self, name: str) -> str:
        """Return a tensor for the new value of a state that an operator overwrites."""
        key = next((key for key, now in self.current.items() if now == name), None)
        if key not in self.tensors.variables:
            raise MismatchError(f"the state {name!r} is not a variable tensor")
        self.current[key] = self.tensors.add(name, f"{key}.next")
        return self.current[key]

    def start(self, key: Any, name: str) -> NDArray[Any]:
        """Return what a state holds at first."""
        if key not in self.initial:
            self.spend(self.tensors.all[name].bytes(), f"the state {name!r}")
            return self.tensors.start(name)
        value, tensor = self.initial[key], self.tensors.all[name]
        if (value.shape, value.dtype.name) != (tensor.shape, tensor.dtype):
            raise MismatchError(
                f"the state {name!r} is {tensor.dtype} {tensor.shape}, and starts as "
                f"{value.dtype} {value.shape}"
            )
        return value

    def variable(
        self,
        what: str,
        name: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        options: Mapping[str, Any],
    ) -> None:
        """Follow an operator of variables, which leaves no operator in the graph."""
        if name == "CALL_ONCE":
            self.initialize(what, options.get("init_subgraph_index", 0))
            return
        if name == "VAR_HANDLE":
            names = (options.get("container"), options.get("shared_name"))
            self.handles[outputs[0]] = (names[0] or "", names[1] or "")
            return
        key = self.handles.get(inputs[0])
        if key is None:
            raise UnsafeFileError(f"{what} reads {inputs[0]!r}, which is not a variable's handle")
        if name == "ASSIGN_VARIABLE":
            self.current[key] = self.latest(inputs[1])
            return
        if key not in self.current:
            self.first[key] = self.current[key] = outputs[0]
        self.aliases[outputs[0]] = self.current[key]

    def initialize(self, what: str, place: int) -> None:
        """Take the variables' first values from the subgraph that runs once."""
        if self.place or not 0 < place < len(self.model["subgraphs"]):
            raise UnsafeFileError(f"{what} calls subgraph {place}")
        once = _Parser(self.model, place, self.budget)
        once.run()
        for key, name in once.current.items():
            if name not in once.tensors.values:
                raise MismatchError(f"{what} computes {name!r} from what it is not given")
            self.initial[key] = once.tensors.values[name]

    def spend(self, size: int, what: str) -> None:
        """Keep count of the memory that a small file asks for."""
        self.budget -= size
        if self.budget < 0:
            raise UnsafeFileError(f"{what} unfolds far beyond the file's size")

    def compute(self, op: Op) -> None:
        """Make an operator on constants a constant: weights that are stored as float16, say."""
        from zoo.runtime.folding import results  # torch, which most files do without

        self.spend(sum(self.tensors.all[name].bytes() for name in op.outputs), op.label)
        self.tensors.values |= results(op, self.tensors.all, self.tensors.values)


def _called(code: Mapping[str, Any], number: int) -> str:
    """Return the name of an operator that is not known here."""
    names = tflite_schema.NAMES
    if number == names.index("CUSTOM"):
        return f"custom operator {code['custom_code']!r}"
    return f"{names[number]} (code {number})" if 0 <= number < len(names) else f"code {number}"
