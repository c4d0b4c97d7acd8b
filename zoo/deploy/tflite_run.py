"""A `.tflite` file's network on what people have: arrays, pictures, sounds, streams of frames."""

import io
import time
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.deploy.tflite import load_tflite
from zoo.deploy.tflite_metadata import About, Normalization, about
from zoo.errors import MismatchError
from zoo.files import write_bytes
from zoo.graph.ir import LIMITS, Graph
from zoo.graph.ir import Tensor as Node
from zoo.runtime.floating import FloatNetwork
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import dequantized, quantized

Network = IntegerNetwork | FloatNetwork


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output of a network.

    Attributes:
        name: its name in the file.
        stored: as the file returns it, with the batch in front.
        real: the same as real numbers.
        labels: what the indices of its last dimension are called; () if the file does not say.

    """

    name: str
    stored: NDArray[Any]
    real: NDArray[Any]
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return shape, type and, for vectors of scores, the five best of each sample."""
        facts: dict[str, Any] = {
            "shape": list(self.stored.shape),
            "dtype": str(self.stored.dtype),
        }
        if self.real.ndim == 2:
            best = np.argsort(-self.real, axis=1, kind="stable")[:, :5]
            facts["best"] = [
                [self._score(int(i), row) for i in order]
                for row, order in zip(self.real, best, strict=True)
            ]
        return facts

    def _score(self, index: int, row: NDArray[Any]) -> dict[str, Any]:
        label = {"label": self.labels[index]} if index < len(self.labels) else {}
        return {"index": index, "value": float(row[index]), **label}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a file's network computed.

    Attributes:
        outputs: all of its outputs.
        seconds: time of the network alone.

    """

    outputs: tuple[Output, ...]
    seconds: float

    @property
    def output(self) -> NDArray[Any]:
        """The first output, as the file returns it."""
        return self.outputs[0].stored

    @property
    def real(self) -> NDArray[Any]:
        """The first output as real numbers."""
        return self.outputs[0].real

    def save(self, path: str | Path) -> Path:
        """Write the output as a NumPy file; several, by their names, as an `.npz` archive.

        Raises:
            MismatchError: there are several, and the path does not end in `.npz`.

        """
        path, stream = Path(path), io.BytesIO()
        if path.suffix == ".npz":
            np.savez(stream, allow_pickle=False, **{o.name: o.stored for o in self.outputs})
        elif len(self.outputs) > 1:
            raise MismatchError(
                f"{path} holds one array, and the network has {len(self.outputs)} outputs; type "
                f"{path.with_suffix('.npz')}"
            )
        else:
            np.save(stream, self.output)
        write_bytes(path, stream.getvalue())
        return path

    @property
    def text(self) -> str:
        """The five best of each sample, if these are scores; then type, shape and time."""
        lines = []
        for output in self.outputs:
            facts = output.to_json()
            for best in facts.get("best", []):
                lines.append("  ".join(f"{_called(score)}: {score['value']:.4g}" for score in best))
            name = f"{output.name}: " if len(self.outputs) > 1 else ""
            lines.append(f"{name}{facts['dtype']} {tuple(facts['shape'])}")
        return "\n".join(lines) + f", {self.seconds:.3f} s"

    def to_json(self) -> dict[str, Any]:
        """Return the facts of the output, or of all under "outputs", and the time."""
        time = {"seconds": round(self.seconds, 4)}
        if len(self.outputs) == 1:
            return {**self.outputs[0].to_json(), **time}
        return {"outputs": [{"name": o.name, **o.to_json()} for o in self.outputs], **time}


def _called(score: Mapping[str, Any]) -> str:
    return str(score.get("label", score["index"]))


def run_tflite(path: Path, source: Any) -> Outcome:
    """Run a file's network on arrays, a NumPy file, a picture or a sound.

    Integers are taken as the file's own, floats as real numbers; several inputs are a list or a
    mapping of arrays, or an `.npz` file. A network that keeps states starts anew for each sample.
    Pictures are resized to the input's size. Their pixels are normalized as the file's metadata
    say; else they are in [0, 255] if the input is uint8 or its range ends at 2 or above, in [-1, 1]
    if an int8 one begins below -0.5, in [0, 1] if none of this is so. Sounds (`.wav`) are in
    [-1, 1], all channels averaged.

    Raises:
        MismatchError: the file holds something that is not supported, or the source does not fit.
        MissingWeightsError, UnsafeFileError: see `read_tflite`.

    """
    network, facts = load_tflite(path), about(path.read_bytes())
    inputs = _inputs(network.graph, source, facts)
    start = time.perf_counter()
    outputs = _by_sample(network, inputs)
    return _outcome(network.graph, facts, outputs, time.perf_counter() - start)


def stream_tflite(path: Path, source: Any) -> Outcome:
    """Run a file's network on one frame after the other, its states kept in between.

    Args:
        path: the file; it has one input.
        source: an array, a NumPy file or a sound, as `FrameStream.push` takes it.

    Returns:
        The outputs of all calls, along the first dimension.

    Raises:
        MismatchError: as for `run_tflite`; or the source is shorter than a call needs.

    """
    facts = about(path.read_bytes())
    stream = FrameStream(load_tflite(path))
    array = _array(stream.graph, 0, source, facts)
    start = time.perf_counter()
    outputs = stream.push(array)
    if not len(outputs[0]):
        raise MismatchError(f"the source has {array.size} numbers; a call takes {stream.size}")
    return _outcome(stream.graph, facts, outputs, time.perf_counter() - start)


class FrameStream:
    """A network that is fed piece by piece; how its input is cut does not change its outputs.

    Args:
        network: from `load_tflite`; its states start anew.

    Raises:
        MismatchError: it has several inputs.

    """

    def __init__(self, network: Network) -> None:
        if len(network.graph.inputs) != 1:
            raise MismatchError(
                f"a stream has one input; the network takes {', '.join(network.graph.inputs)}"
            )
        self.network, self.graph = network, network.graph
        self.node = self.graph.tensors[self.graph.inputs[0]]
        self.size = self.node.elements
        self._rest: NDArray[Any] | None = None
        if isinstance(network, IntegerNetwork):
            network.reset()

    def push(self, piece: Any) -> tuple[Tensor, ...]:
        """Return the outputs of the calls that a piece completes, along the first dimension.

        Args:
            piece: whole inputs (N, *shape[1:]), or any number of steps along the input's second
                dimension, (T, *shape[2:]) or (1, T, *shape[2:]): frames, or the samples of a sound.
                Integers are the file's own, floats real numbers.

        Raises:
            MismatchError: it has another shape or type.

        """
        array = np.asarray(piece)
        tail, unit = self.node.shape[1:], self.node.shape[2:]
        shapes = (array.shape[1:] == tail, array.shape[1:] == unit)
        if not any(shapes) and not (array.shape[:1] == (1,) and array.shape[2:] == unit):
            raise MismatchError(
                f"a piece of shape {array.shape} is neither inputs (N, {_listed(tail)}) nor steps "
                f"(T, {_listed(unit)}) of {self.node.name!r}"
            )
        flat = _as_stored(self.graph, 0, array).numpy().reshape(-1)
        if self._rest is not None:
            flat = np.concatenate([self._rest, flat])
        count = len(flat) // self.size
        self._rest = flat[count * self.size :]
        calls = torch.from_numpy(flat[: count * self.size].reshape(count, *self.node.shape).copy())
        made = [_several(self.network(call)) for call in calls]
        if made:
            return tuple(torch.cat(column) for column in zip(*made, strict=True))
        nodes = (self.graph.tensors[name] for name in self.graph.outputs)
        return tuple(torch.zeros((0, *n.shape[1:]), dtype=getattr(torch, n.dtype)) for n in nodes)


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _several(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _outcome(graph: Graph, facts: About, outputs: Sequence[Tensor], seconds: float) -> Outcome:
    labels = (*facts.labels, *((),) * len(outputs))
    return Outcome(
        outputs=tuple(
            Output(
                name=name,
                stored=value.numpy(),
                real=dequantized(graph, value, place).numpy(),
                labels=labels[place],
            )
            for place, (name, value) in enumerate(zip(graph.outputs, outputs, strict=True))
        ),
        seconds=seconds,
    )


def _by_sample(network: Network, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run a batch; where the network takes one sample at a time, one after the other, anew."""
    counts = {len(x) if x.ndim else 1 for x in inputs}
    firsts = {network.graph.tensors[name].shape[:1] for name in network.graph.inputs}
    several = len(counts) == 1 and counts != {1} and firsts == {(1,)}
    if not isinstance(network, IntegerNetwork) or network.batched or not several:
        return _several(network(*inputs))
    made = []
    for place in range(counts.pop()):
        network.reset()
        made.append(_several(network(*(x[place : place + 1] for x in inputs))))
    return tuple(torch.cat(column) for column in zip(*made, strict=True))


def _inputs(graph: Graph, source: Any, facts: About) -> list[Tensor]:
    names = graph.inputs
    if isinstance(source, str | Path) and Path(source).suffix == ".npz":
        source = _numpy(Path(source))
    if isinstance(source, Mapping):
        keys = [name if name in source else f"arr_{place}" for place, name in enumerate(names)]
        if missing := [n for n, key in zip(names, keys, strict=True) if key not in source]:
            raise MismatchError(f"there is no {missing[0]!r} among {', '.join(map(str, source))}")
        source = [source[key] for key in keys]
    elif len(names) == 1:
        source = [source]
    elif not isinstance(source, list | tuple) or len(source) != len(names):
        wanted = ", ".join(f"{name} {graph.tensors[name].shape}" for name in names)
        raise MismatchError(
            f"the network takes {len(names)} inputs: {wanted}; give FILE.npz with arrays of these "
            "names, or a list of arrays"
        )
    arrays = [_array(graph, place, given, facts) for place, given in enumerate(source)]
    tensors = []
    for place, array in enumerate(arrays):
        shape = graph.tensors[names[place]].shape
        if not array.size:
            raise MismatchError(f"the input {names[place]!r} is empty; expected {shape}")
        whole = array[None] if shape and array.shape == shape[1:] else array
        tensors.append(_as_stored(graph, place, whole))
    return tensors


def _array(graph: Graph, place: int, source: Any, facts: About) -> NDArray[Any]:
    """Return an input as an array, real or as stored."""
    if not isinstance(source, str | Path):
        return np.asarray(source)
    path, node = Path(source), graph.tensors[graph.inputs[place]]
    if path.suffix == ".npy":
        return np.asarray(_numpy(path))
    if path.suffix.lower() == ".wav":
        return _sound(path)
    known = (*facts.normalization, *(None,) * len(graph.inputs))
    return _picture(node, path, known[place])


def _numpy(path: Path) -> Any:
    try:
        loaded = np.load(path, allow_pickle=False)
        return {key: loaded[key] for key in loaded} if path.suffix == ".npz" else loaded
    except (OSError, ValueError, EOFError) as error:
        raise MismatchError(f"{path} is not a NumPy file: {error}") from error


def _as_stored(graph: Graph, place: int, array: NDArray[Any]) -> Tensor:
    """Return an input as the network takes it: reals quantized, integers as they are."""
    node = graph.tensors[graph.inputs[place]]
    if array.dtype.kind not in "fiub":
        raise MismatchError(
            f"the input {node.name!r} is {array.dtype} {array.shape}; expected real numbers or "
            f"{node.dtype}, {node.shape}"
        )
    if node.dtype == "float32":
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.kind == "f":
        if node.quantization is None:
            raise MismatchError(f"the input {node.name!r} takes {node.dtype}, not {array.dtype}")
        if np.isnan(array).any():
            raise MismatchError(f"the input {node.name!r} holds a NaN, which {node.dtype} has not")
        return quantized(graph, torch.from_numpy(array.astype(np.float32)), place)
    wanted = np.dtype(node.dtype)
    if wanted.kind in "iu" and array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if limits.min <= array.min() and array.max() <= limits.max:
            array = array.astype(wanted)
    return torch.from_numpy(np.ascontiguousarray(array))


def _sound(path: Path) -> NDArray[np.float32]:
    """Return a `.wav` file's samples in [-1, 1], its channels averaged."""
    try:
        with wave.open(str(path), "rb") as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise MismatchError(f"{path} is not a PCM .wav file: {error}") from error
    if width not in (1, 2, 4):
        raise MismatchError(f"{path} has {8 * width} bits per sample; expected 8, 16 or 32")
    kind: str = {1: "u1", 2: "<i2", 4: "<i4"}[width]
    samples = np.frombuffer(data[: len(data) // (width * channels) * width * channels], kind)
    unit = samples.astype(np.float64) / 2.0 ** (8 * width - 1) - (1 if width == 1 else 0)
    mono: NDArray[np.float32] = unit.reshape(-1, channels).mean(1).astype(np.float32)
    return mono


def _picture(node: Node, path: Path, how: Normalization | None) -> NDArray[Any]:
    from PIL import Image

    from zoo.data import images

    if len(node.shape) != 4 or node.shape[3] not in (1, 3):
        raise MismatchError(f"the network takes {node.shape}, not a picture; give a .npy file")
    _, height, width, channels = node.shape
    picture = images.to_pillow(images.read(path)).convert("L" if channels == 1 else "RGB")
    small = picture.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(small).reshape(1, height, width, channels)
    if node.dtype == "uint8":
        return pixels  # as the runtimes' own libraries do, whatever the file says
    return _unit(node, how)(pixels.astype(np.float32))


def _unit(node: Node, how: Normalization | None) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the function from pixels in [0, 255] to a network's real inputs."""
    if how is not None:
        channels = node.shape[3]
        if {len(how.mean), len(how.std)} - {1, channels}:
            raise MismatchError(f"its metadata normalize {len(how.mean)} channels of {channels}")
        mean, std = (np.array(part, np.float32) for part in (how.mean, how.std))
        return lambda pixels: (pixels - mean) / std
    low, high = 0.0, 1.0
    if (meaning := node.quantization) is not None:
        low, high = ((end - meaning.zero_point) * meaning.scale for end in LIMITS[node.dtype])
    if high >= 2:
        return lambda pixels: pixels
    if low < -0.5 and node.dtype == "int8":  # int16 is symmetric whatever it holds
        return lambda pixels: pixels / 127.5 - 1
    return lambda pixels: pixels / 255
