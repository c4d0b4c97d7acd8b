"""Integer ONNX files: QuantizeLinear and DequantizeLinear around every operator (QDQ).

Runtimes recognise the pattern and compute in int8. They do not match the device bit for bit: ONNX
multiplies a sum by one float32 factor and rounds halves to even, TFLite's fixed-point factor is
rounded twice, halves away from zero. Sums, and everything that only moves integers, are the same,
so one operator differs by at most one step, where a product lies next to a half.

ONNX Runtime has its own error on x86 processors without VNNI: its fastest kernels add pairs of
products in 16 bits, which saturates (SESR: up to 19 steps). Its session setting
`session.x64quantprecision = 1` avoids that; the comparison here uses it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.deploy.fidelity import (
    Fidelity,
    by_inference,
    deployable,
    faithful,
    random_input,
    small,
    snr_db,
    weakest,
)
from zoo.deploy.onnx import OnnxFile, packages, ran
from zoo.deploy.onnx_model import Model
from zoo.errors import MismatchError, MissingExtraError
from zoo.files import write_bytes
from zoo.graph.ir import Graph
from zoo.graph.kinds import is_batched
from zoo.quantization.int8.calibration import Options, checked_batch, inference
from zoo.quantization.int8.post_training import prepared, quantize_at
from zoo.runtime.values import channels_first, channels_last, computed

_LOST_DB = 3.0  # how much further another runtime may be from the module than our integers


def export_qdq(
    module: nn.Module,
    path: Path,
    input_shape: tuple[int, ...],
    calibration: Sequence[Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    options: Options = Options(),  # noqa: B008  # frozen
) -> OnnxFile:
    """Write a module in eval mode as an int8 ONNX file, after a comparison in ONNX Runtime.

    The input is real, `(batch, C, H, W)` with the sizes of `input_shape`, and so is the output.

    Args:
        module: on the CPU, with its weights.
        path: the file, which is replaced in one step or not at all.
        input_shape: shape of one inference, (1, C, H, W).
        calibration: batches of inputs, `(N, C, H, W)`, that ranges are learned from.
        metadata: stored in the file's metadata properties.
        options: how ranges are chosen.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        MismatchError: the module or the inputs cannot be used, or ONNX Runtime computes
            something else.

    """
    _, runtime = packages()
    module = deployable(module)
    calibration = [checked_batch(batch, n, input_shape) for n, batch in enumerate(calibration)]
    first = calibration[0] if calibration else torch.empty(0)
    shapes = ((inference(first, input_shape), *first.shape[1:]), input_shape)
    probe, graph = quantize_at(module, calibration, shapes, options)

    def explain() -> str:
        return weakest(module, probe, prepared(module, shapes[0], options), first)

    content = qdq_model(graph, metadata).SerializeToString()
    fidelity, steps = _compare(runtime, module, probe, first, explain)
    write_bytes(path, content)
    return OnnxFile(path=path, max_steps=steps, **dataclasses.asdict(fidelity))


def export_quantized(
    module: nn.Module,
    graph: Callable[[tuple[int, ...]], Graph],
    path: Path,
    input_shape: tuple[int, ...],
    *,
    metadata: Mapping[str, str] | None = None,
) -> OnnxFile:
    """Write an integer network that has its ranges, after a comparison on random pixels.

    Args:
        module: computes the integers for real inputs.
        graph: returns its integer graph for an input shape.
        path: the file, which is replaced in one step or not at all.
        input_shape: shape of one inference, (1, C, H, W).
        metadata: stored in the file's metadata properties.

    """
    _, runtime = packages()
    x = random_input((2, *small(input_shape)[1:]))
    fidelity, steps = _compare(runtime, module, graph((1, *x.shape[1:])), x)
    content = qdq_model(graph(input_shape), metadata).SerializeToString()
    write_bytes(path, content)
    return OnnxFile(path=path, max_steps=steps, **dataclasses.asdict(fidelity))


def _compare(
    runtime: Any,
    module: nn.Module,
    graph: Graph,
    x: Tensor,
    explain: Callable[[], str] | None = None,
) -> tuple[Fidelity, int]:
    """Return how close ONNX Runtime is to the module, and to our integers in steps."""
    settings = runtime.SessionOptions()
    settings.add_session_config_entry("session.x64quantprecision", "1")
    integers = computed(graph, x)
    name, wanted, most = type(module).__name__, by_inference(module, graph, x), 0
    content = qdq_model(graph).SerializeToString()
    parts = [x] if is_batched(graph) else x.split(graph.input_shape[0])
    made = [ran(runtime, content, part, settings) for part in parts]
    outputs = [torch.cat(column) for column in zip(*made, strict=True)]
    for place, (y, right) in enumerate(zip(outputs, wanted, strict=True)):
        meaning = graph.tensors[graph.outputs[place]].quantization
        assert meaning is not None
        ours, theirs = integers[place], channels_last(y)
        steps = ((theirs - ours) / meaning.scale).round()
        # Halves that are rounded differently add up where a layer has finer steps than its inputs.
        apart = [snr_db(right, channels_first(z) - right) for z in (ours, theirs)]
        if not float(steps.abs().mean()) <= 1 and not apart[1] >= apart[0] - _LOST_DB:
            raise MismatchError(
                f"ONNX Runtime is {float(steps.abs().mean()):.1f} steps away from the int8 "
                f"{name}, on average; expected at most 1"
            )
        most = max(most, int(steps.abs().max()))
    return faithful(name, wanted, outputs, graph, what="ONNX Runtime", explain=explain), most


def qdq_model(graph: Graph, metadata: Mapping[str, str] | None = None) -> Any:
    """Return the `onnx.ModelProto` of an int8 graph, with real inputs and outputs (N, C, H, W).

    Raises:
        MissingExtraError: onnx is not installed.
        MismatchError: the graph is not int8, or an operator has no form here; it is named.

    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError.of("onnx", "export") from error
    first = graph.tensors[graph.inputs[0]]
    if graph.layout != "channels_last" or first.dtype != "int8":
        raise MismatchError(
            f"an integer ONNX file is written from an int8 graph, not {first.dtype}; int16 "
            "activations need --format tflite"
        )
    model = Model(graph, onnx).model()
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    return model
