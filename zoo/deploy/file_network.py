"""`FileNetwork`: the integers of a published `.tflite` file, between real inputs and logits."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.deploy.carray import write_c_array
from zoo.deploy.tflite import TfliteFile, write_graph
from zoo.deploy.tflite_read import parse_tflite
from zoo.errors import MismatchError
from zoo.files import write_bytes
from zoo.graph.ir import LIMITS, Graph
from zoo.graph.layout import channels_first
from zoo.quantization.int8.network import QuantizedNetwork, read_quantization
from zoo.registry.layout import FILE
from zoo.runtime.values import quantized

if TYPE_CHECKING:
    from zoo.registry.checkpoint import Checkpoint

SCHEME = "file"  # of the quantization in a checkpoint's config: its integers are those of `FILE`


class FileNetwork(QuantizedNetwork):
    """Real numbers in and out, and between them what a file computes, bit for bit.

    A softmax at the file's end is left out: the networks of the zoo return logits.

    Args:
        network: the float network with the file's weights, in eval mode.
        content: the file.
        rounding: how real inputs become integers: to the "nearest", or "truncate".

    Raises:
        MismatchError, UnsafeFileError: the file cannot be read, or the rounding is not known.

    """

    def __init__(self, network: nn.Module, content: bytes, rounding: str) -> None:
        super().__init__(network, {}, "int8")
        if rounding not in ("nearest", "truncate"):
            raise MismatchError(f"rounding is {rounding!r}; expected nearest or truncate")
        self.rounding, self.content = rounding, content
        self._file = without_softmax(parse_tflite(content))

    def graph(self, input_shape: tuple[int, ...]) -> Graph:
        """Return the file's graph, which takes inputs of one shape.

        Raises:
            MismatchError: it is not this one.

        """
        own = channels_first(self._file.input_shape)
        if input_shape != own:
            raise MismatchError(f"the file's network takes {own}, not {input_shape}")
        return self._file

    def integers(self, graph: Graph, x: Tensor) -> Tensor:
        """Return real inputs as the file's integers."""
        node = graph.tensors[graph.inputs[0]]
        if self.rounding == "nearest" or node.quantization is None:
            return quantized(graph, x)
        real = x / node.quantization.scale + node.quantization.zero_point
        return real.trunc().clamp(*LIMITS[node.dtype]).to(getattr(torch, node.dtype))

    def quantization(self) -> dict[str, Any]:
        """Return what a checkpoint stores besides the tensors and the file."""
        return {"scheme": SCHEME, "rounding": self.rounding}


def write_file(network: FileNetwork, path: Path, *, npu: bool, c_array: bool) -> TfliteFile:
    """Write the very file, or with `npu` the same integers by operators that Ethos-U has."""
    if npu:
        write_graph(parse_tflite(network.content), path, npu=True, c_array=c_array)
    elif c_array:
        write_c_array(network.content, path)
    else:
        write_bytes(path, network.content)
    return TfliteFile(path=path, max_abs_error=0.0, snr_db=math.inf)


def without_softmax(graph: Graph) -> Graph:
    """Return a graph that ends in what a softmax at its end is computed from."""
    last = graph.ops[-1]
    if last.kind != "softmax" or graph.outputs != last.outputs:
        return graph
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name not in last.outputs}
    logits = last.inputs[0]
    tensors[logits] = dataclasses.replace(tensors[logits], kind="output")
    return dataclasses.replace(graph, ops=graph.ops[:-1], outputs=(logits,), tensors=tensors)


def integer_network(source: "Checkpoint") -> QuantizedNetwork:
    """Return the integer network of a quantized checkpoint, its files verified.

    Raises:
        MissingWeightsError, UnsafeFileError: a file is missing, or not the one it should be.
        MismatchError: what the config says about the integers is not well-formed.

    """
    facts = source.quantization
    if facts is None or facts.get("scheme") != SCHEME:
        return read_quantization(source.load(), facts)
    if FILE not in source.config["files"]:
        raise MismatchError(f"{source.path} has no {FILE} with its integers; import it again")
    source.verify()
    content = (source.path / FILE).read_bytes()
    return FileNetwork(source.load(), content, str(facts.get("rounding")))
