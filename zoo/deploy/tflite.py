"""What the verbs do with `.tflite` files: write one from a module, load and describe one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.deploy.carray import write_c_array
from zoo.deploy.fidelity import deployable, random_input, same_as_module, small
from zoo.deploy.tflite_read import parse_tflite, read_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.files import write_bytes
from zoo.graph.ir import Graph
from zoo.graph.lower import lower
from zoo.graph.rewrite import on_npu, without_clamps
from zoo.quantization.int8.calibration import Options, checked_batch, inference
from zoo.quantization.int8.post_training import prepared, quantize_at
from zoo.runtime.floating import FloatNetwork
from zoo.runtime.integer import IntegerNetwork


@dataclass(frozen=True, kw_only=True)
class TfliteFile:
    """A file that was written.

    Attributes:
        path: where the file is.
        max_abs_error: largest difference between what the file computes (by our executor, which
            computes TFLite Micro's integers) and the module, on the first calibration batch.
        snr_db: the outputs' signal-to-noise ratio there; see `zoo.deploy.fidelity`.

    """

    path: Path
    max_abs_error: float
    snr_db: float


def load_tflite(path: Path) -> IntegerNetwork | FloatNetwork:
    """Return a file's network as a module, channels last, that takes and returns its own tensors.

    States of the file go from one call to the next; `reset` forgets them.
    """
    graph = read_tflite(path)
    try:
        real = all(tensor.dtype == "float32" for tensor in graph.tensors.values())
        return FloatNetwork(graph) if real and not graph.states else IntegerNetwork(graph)
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from error


def export_tflite(
    module: nn.Module,
    path: Path,
    input_shape: tuple[int, ...],
    calibration: Sequence[Tensor],
    *,
    int8: bool = True,
    npu: bool = False,
    c_array: bool = False,
    options: Options = Options(),  # noqa: B008  # frozen
) -> TfliteFile:
    """Write a module in eval mode as a `.tflite` file and compare it with the module.

    Args:
        module: on the CPU, with its weights.
        path: the file, which is replaced in one step or not at all.
        input_shape: shape of one inference, (1, C, H, W).
        calibration: batches of inputs, `(N, C, H, W)`; int8 ranges and the comparison need them.
        int8: quantize; else float32.
        npu: prefer operators that Ethos-U accelerators have over equivalent ones.
        c_array: write the file as a C array, see `zoo.deploy.carray`.
        options: how ranges are chosen.

    Raises:
        MismatchError: the module or the calibration inputs cannot be used, or the file would
            compute something else.

    """
    if not calibration:
        raise MismatchError("there are no calibration inputs; give at least one batch")
    calibration = [checked_batch(batch, n, input_shape) for n, batch in enumerate(calibration)]
    module, first = deployable(module), calibration[0]
    shapes = ((inference(first, input_shape), *first.shape[1:]), input_shape)
    if int8:
        options = replace(options, npu=npu)
        probe, graph = quantize_at(module, calibration, shapes, options)
    else:
        probe, graph = (without_clamps(lower(module, shape)) for shape in shapes)
    fidelity = same_as_module(module, probe, first, lambda: prepared(module, shapes[0], options))
    write_graph(graph, path, npu=npu, c_array=c_array)
    return TfliteFile(path=path, max_abs_error=fidelity.max_abs_error, snr_db=fidelity.snr_db)


def write_quantized(
    network: nn.Module,
    graph: Callable[[tuple[int, ...]], Graph],
    path: Path,
    input_shape: tuple[int, ...],
    *,
    npu: bool = False,
    c_array: bool = False,
) -> TfliteFile:
    """Write an integer network that has its ranges, after a comparison on random pixels.

    Args:
        network: computes the integers for real inputs.
        graph: returns its integer graph for an input shape.
        path: the file, which is replaced in one step or not at all.
        input_shape: shape of one inference, (1, C, H, W).
        npu: as for `export_tflite`.
        c_array: as for `export_tflite`.

    """
    x = random_input(small(input_shape))
    written = parse_tflite(serialize_tflite(graph(tuple(x.shape))))  # through the file's own form
    fidelity = same_as_module(network, written, x, lambda: written)
    write_graph(graph(input_shape), path, npu=npu, c_array=c_array)
    return TfliteFile(path=path, max_abs_error=fidelity.max_abs_error, snr_db=fidelity.snr_db)


def write_graph(graph: Graph, path: Path, *, npu: bool = False, c_array: bool = False) -> None:
    """Write a graph, channels last, as a `.tflite` file or as a C array; see `export_tflite`."""
    content = serialize_tflite(on_npu(graph) if npu else graph)
    if c_array:
        write_c_array(content, path)
    else:
        write_bytes(path, content)


def describe(graph: Graph) -> list[Mapping[str, Any]]:
    """Return one row per operator: what it is, makes, costs and how its output is quantized."""
    rows: list[Mapping[str, Any]] = []
    for number, op in enumerate(graph.ops):
        output = graph.tensors[op.outputs[0]]
        parameters = [graph.tensors[name] for name in op.inputs if name in graph.values]
        activation = op.attributes.get("activation")
        meaning = output.quantization
        rows.append(
            {
                "number": number,
                "kind": f"{op.kind}+{activation}" if activation else op.kind,
                "output": list(output.shape),
                "dtype": output.dtype,
                "macs": op.macs,
                "weight_bytes": sum(tensor.bytes() for tensor in parameters),
                "scale": meaning.scale if meaning else None,
                "zero_point": meaning.zero_point if meaning else None,
                "module": op.module,
            }
        )
    return rows


def tensors(graph: Graph) -> dict[str, list[dict[str, Any]]]:
    """Return name, shape and type of the inputs, the outputs and the states of a graph."""
    groups = {"inputs": graph.inputs, "outputs": graph.outputs}
    groups["states"] = tuple(state.name for state in graph.states)
    return {
        group: [
            {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype}
            for name, tensor in ((name, graph.tensors[name]) for name in names)
        ]
        for group, names in groups.items()
    }
