"""What the verbs do with `.tflite` files: write one from a module, load, describe and run one."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.deploy.carray import write_c_array
from zoo.deploy.fidelity import deployable, random_input, same_as_module, small
from zoo.deploy.tflite_read import parse_tflite, read_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.files import write_bytes
from zoo.graph.ir import LIMITS, Graph
from zoo.graph.lower import lower
from zoo.graph.rewrite import on_npu, without_clamps
from zoo.quantization.int8.calibration import Options, checked_batch
from zoo.quantization.int8.post_training import prepared, quantize_at
from zoo.runtime.floating import FloatNetwork
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import dequantized, quantized


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
    """Return a file's network as a module, channels last; integers in and out if it has any."""
    graph = read_tflite(path)
    integer = any(tensor.dtype in LIMITS for tensor in graph.tensors.values())
    return IntegerNetwork(graph) if integer else FloatNetwork(graph)


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
    shapes = ((1, *first.shape[1:]), input_shape)
    if int8:
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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a file's network computed.

    Attributes:
        output: as the file returns it, with the batch in front.
        real: the same as real numbers.
        seconds: time of the network alone.

    """

    output: NDArray[Any]
    real: NDArray[Any]
    seconds: float

    def save(self, path: str | Path) -> Path:
        """Write the output as a NumPy file."""
        import io

        stream = io.BytesIO()
        np.save(stream, self.output)
        write_bytes(Path(path), stream.getvalue())
        return Path(path)

    @property
    def text(self) -> str:
        """The five best of each sample, if these are scores; then type, shape and time."""
        facts = self.to_json()
        lines = [
            "  ".join(f"{score['index']}: {score['value']:.4g}" for score in best)
            for best in facts.get("best", [])
        ]
        lines.append(f"{facts['dtype']} {tuple(facts['shape'])}, {facts['seconds']:.3f} s")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return shape, time and, for vectors of scores, the five best of each sample."""
        facts: dict[str, Any] = {
            "shape": list(self.output.shape),
            "dtype": str(self.output.dtype),
            "seconds": round(self.seconds, 4),
        }
        if self.real.ndim == 2:
            best = np.argsort(-self.real, axis=1, kind="stable")[:, :5]
            facts["best"] = [
                [{"index": int(i), "value": float(row[i])} for i in order]
                for row, order in zip(self.real, best, strict=True)
            ]
        return facts


def run_tflite(path: Path, source: Any) -> Outcome:
    """Run a file's network on a NumPy file, an array or a picture.

    Integers are taken as the file's own, floats as real numbers. Pictures are resized to the
    input's size; their pixels are in [0, 255] if the input's range ends at 2 or above, else in
    [-1, 1] if an int8 one begins below -0.5, else in [0, 1]: a file says no more than that.
    """
    network = load_tflite(path)
    x = _input(network.graph, source)
    start = time.perf_counter()
    y = network(x)
    seconds = time.perf_counter() - start
    if isinstance(y, tuple):
        raise MismatchError(f"{path} has {len(y)} outputs; use zoo.load and call the module")
    return Outcome(output=y.numpy(), real=dequantized(network.graph, y).numpy(), seconds=seconds)


def _input(graph: Graph, source: Any) -> Tensor:
    tensor = graph.tensors[graph.inputs[0]]
    if isinstance(source, str | Path) and Path(source).suffix != ".npy":
        array = _picture(graph, source)
    elif isinstance(source, str | Path):
        try:
            array = np.load(source, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise MismatchError(f"{source} is not a NumPy file: {error}") from error
    else:
        array = np.asarray(source)
    if array.shape == tensor.shape[1:]:
        array = array[None]
    if array.dtype.kind == "f":
        return quantized(graph, torch.from_numpy(array.astype(np.float32)))
    return torch.from_numpy(np.ascontiguousarray(array))


def _picture(graph: Graph, source: str | Path) -> NDArray[np.float32]:
    from PIL import Image

    from zoo.data import images

    tensor = graph.tensors[graph.inputs[0]]
    if len(tensor.shape) != 4 or tensor.shape[3] not in (1, 3):
        raise MismatchError(f"the network takes {tensor.shape}, not a picture; give a .npy file")
    _, height, width, channels = tensor.shape
    picture = images.to_pillow(images.read(source)).convert("L" if channels == 1 else "RGB")
    small = picture.resize((width, height), Image.Resampling.BICUBIC)
    pixels: NDArray[np.float32] = np.asarray(small).astype(np.float32)
    low, high = 0.0, 1.0
    if (meaning := tensor.quantization) is not None:
        low, high = ((end - meaning.zero_point) * meaning.scale for end in LIMITS[tensor.dtype])
    if high < 2:
        signed = low < -0.5 and tensor.dtype == "int8"  # int16 is symmetric whatever it holds
        pixels /= 127.5 if signed else 255
        pixels -= 1 if signed else 0
    return pixels.reshape(1, height, width, channels)


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
