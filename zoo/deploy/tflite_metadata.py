"""What a `.tflite` file says about itself: labels, normalization, signatures.

The metadata are a second FlatBuffers file in one of the buffers (tflite-support's
metadata_schema.fbs); the lists of labels that it names are in a zip archive behind the network.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.deploy import flatbuffer, tflite_schema
from zoo.deploy.flatbuffer import Field, Table
from zoo.deploy.tflite_tensors import printable
from zoo.errors import UnsafeFileError

_IDENTIFIER, _NAME = b"M001", "TFLITE_METADATA"
_MOST_LABELS = 2**22  # bytes of one list
_SHOWN = 5  # labels on a line
_AXIS_LABELS, _VALUE_LABELS = 2, 3
_FILE = Table("AssociatedFile", {"name": Field(0, "string"), "type": Field(2, "int8")})
_NORMALIZATION = Table(
    "NormalizationOptions",
    {"mean": Field(0, "vector", "float32"), "std": Field(1, "vector", "float32")},
)
_UNIT = Table(
    "ProcessUnit",
    {
        "options_type": Field(0, "uint8"),
        "options": Field(1, "union", {1: _NORMALIZATION}, tag="options_type"),
    },
)
_TENSOR = Table(
    "TensorMetadata",
    {
        "name": Field(0, "string"),
        "description": Field(1, "string"),
        "process_units": Field(4, "tables", _UNIT),
        "associated_files": Field(6, "tables", _FILE),
    },
)
_SUBGRAPH = Table(
    "SubGraphMetadata",
    {
        "input_tensor_metadata": Field(2, "tables", _TENSOR),
        "output_tensor_metadata": Field(3, "tables", _TENSOR),
    },
)
SCHEMA = Table(
    "ModelMetadata",
    {
        "name": Field(0, "string"),
        "description": Field(1, "string"),
        "version": Field(2, "string"),
        "subgraph_metadata": Field(3, "tables", _SUBGRAPH),
        "author": Field(4, "string"),
        "license": Field(5, "string"),
    },
)


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """How pixels in [0, 255] become a network's real inputs: (pixel - mean) / std, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class About:
    """What a file says about itself.

    Attributes:
        texts: its name, description, version, author and license, where it gives them.
        normalization: for each input; None where the file is silent.
        labels: for each output, what its indices are called; () where the file is silent.
        signatures: names of its entry points.

    """

    texts: Mapping[str, str]
    normalization: tuple[Normalization | None, ...] = ()
    labels: tuple[tuple[str, ...], ...] = ()
    signatures: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return {
            **self.texts,
            "normalization": [
                None if how is None else {"mean": list(how.mean), "std": list(how.std)}
                for how in self.normalization
            ],
            "labels": [list(labels) for labels in self.labels],
            "signatures": list(self.signatures),
        }

    @property
    def lines(self) -> list[str]:
        """The same for people, a line for each fact."""
        lines = [f"{key}: {text}" for key, text in self.texts.items()]
        for how in filter(None, self.normalization):
            mean, std = (" ".join(f"{x:g}" for x in part) for part in (how.mean, how.std))
            lines.append(f"pixels: minus {mean}, over {std}")
        for labels in filter(None, self.labels):
            more = f", ... {labels[-1]}" if len(labels) > _SHOWN else ""
            lines.append(f"{len(labels)} labels: {', '.join(labels[:_SHOWN])}{more}")
        if len(self.signatures) > 1:
            lines.append(f"entry points: {', '.join(self.signatures)}; the main graph is run")
        return lines


def about(data: bytes) -> About:
    """Return what a file's bytes say about its network.

    Raises:
        UnsafeFileError: the file or its metadata are damaged, or made to harm.

    """
    model = flatbuffer.read(data, tflite_schema.MODEL, tflite_schema.IDENTIFIER)
    keys = [entry["signature_key"] for entry in model["signature_defs"] or []]
    signatures = tuple(printable(key) for key in keys if key)
    content = next(
        (_buffer(model, m["buffer"]) for m in model["metadata"] or [] if m["name"] == _NAME), b""
    )
    if not content:
        return About(texts={}, signatures=signatures)
    facts = flatbuffer.read(content, SCHEMA, _IDENTIFIER)
    graph: dict[str, Any] = next(iter(facts["subgraph_metadata"] or []), {})
    texts = {key: facts[key] for key in ("name", "description", "version", "author", "license")}
    outputs = graph.get("output_tensor_metadata") or []
    return About(
        texts={key: printable(" ".join(text.split())) for key, text in texts.items() if text},
        normalization=tuple(map(_normalization, graph.get("input_tensor_metadata") or [])),
        labels=tuple(_labels(data, output) for output in outputs),
        signatures=signatures,
    )


def _buffer(model: Mapping[str, Any], index: int) -> bytes:
    buffers = model["buffers"] or []
    if index >= len(buffers):
        raise UnsafeFileError(f"its metadata name buffer {index} of {len(buffers)}")
    content = buffers[index]["data"]
    return b"" if content is None else bytes(content.tobytes())


def _normalization(tensor: Mapping[str, Any]) -> Normalization | None:
    for unit in tensor["process_units"] or []:
        options = unit["options"]
        if not options:
            continue
        mean, std = (options[key] for key in ("mean", "std"))
        if mean is None or std is None or len({len(mean), len(std)} - {1}) > 1:
            raise UnsafeFileError("its metadata have a normalization that does not fit itself")
        if not np.all(np.isfinite(mean)) or not np.all(np.isfinite(std) & (std != 0)):
            raise UnsafeFileError("its metadata have a normalization that is not a number")
        return Normalization(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return None


def _labels(data: bytes, tensor: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the lines of the first list of labels that belongs to an output."""
    names = [
        file["name"]
        for file in tensor["associated_files"] or []
        if file["type"] in (_AXIS_LABELS, _VALUE_LABELS)
    ]
    if not names:
        return ()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(names[0]).file_size > _MOST_LABELS:
                raise UnsafeFileError(f"its labels {names[0]!r} have more than 4 MiB")
            with archive.open(names[0]) as file:
                text = file.read(_MOST_LABELS + 1)
    except (KeyError, OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        raise UnsafeFileError(f"its labels {names[0]!r} cannot be read") from None
    return tuple(map(printable, text.decode("utf-8", "replace").splitlines()))
