"""An adapter on a microcontroller: a patch of the integers in a `.tflite` file's buffers.

A file whose scales hold a base and all its adapters (`zoo.deploy.family`) differs, with an adapter
in it, at the adapter's positions alone. A `Patch` is those positions and integers, for one file,
known by its SHA-256. `PatchedFile` writes it into the file's bytes where they lie in memory, and
writes the base's own bytes back.

On disk a patch is one safetensors file: per tensor of the `.tflite` file `<name>|idx`, flat
positions as in `zoo.adapters.encoding`, and `<name>|val`, integers of the tensor's type. Its one
metadata entry, `tflite_patch`, is JSON: version, label, strengths, the base file's SHA-256, and
per tensor its size, encoding and count, and a SHA-256 over all of it.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save

from zoo.adapters.encoding import KINDS, Encoded, decode, encode
from zoo.deploy import flatbuffer, tflite_schema
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError, newer
from zoo.files import write_bytes

ENTRY, VERSION, SUFFIX = "tflite_patch", 1, ".patch"
_TYPES = {"int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64}
_NAMES = {number: name for name, number in tflite_schema.TENSOR_TYPES.items()}
_HEADER = {"label": str, "strengths": dict, "base_sha256": str, "sha256": str, "tensors": dict}
_FIELDS = {"numel": int, "dtype": str, "count": int, "index": str, "block": int}
Integers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class IntegerChange:
    """What a patch does to one tensor of the file.

    Attributes:
        numel: elements of the tensor.
        where: int64, strictly increasing flat positions.
        new: as many integers of the tensor's type.

    """

    numel: int
    where: NDArray[np.int64]
    new: Integers


@dataclass(frozen=True, eq=False)
class Patch:
    """Integers that turn one `.tflite` file into the same network with adapters in it.

    Attributes:
        label: what it is called.
        strengths: of each adapter in it.
        base_sha256: of the file it is for.
        changes: by the tensor's name in the file.

    """

    label: str
    strengths: Mapping[str, float]
    base_sha256: str
    changes: Mapping[str, IntegerChange]

    @property
    def count(self) -> int:
        """Integers that change."""
        return sum(len(change.where) for change in self.changes.values())

    @property
    def written_bytes(self) -> int:
        """Bytes of the file's buffers that are written when it is put in, and again out."""
        return sum(change.new.nbytes for change in self.changes.values())

    def save(self, path: str | Path) -> Path:
        """Write the patch as a file, atomically; return its path."""
        path = Path(path)
        write_bytes(path, self.serialized())
        return path

    def serialized(self) -> bytes:
        """Return the bytes of the patch's file."""
        arrays: dict[str, NDArray[Any]] = {}
        fields: dict[str, dict[str, Any]] = {}
        for name, change in sorted(self.changes.items()):
            encoded = encode(change.where, change.numel)
            arrays[f"{name}|idx"], arrays[f"{name}|val"] = encoded.codes, change.new
            fields[name] = {
                "numel": change.numel, "dtype": change.new.dtype.name,
                "count": len(change.where), "index": encoded.kind, "block": encoded.block,
            }  # fmt: skip
        record = {
            "label": self.label, "strengths": dict(self.strengths),
            "base_sha256": self.base_sha256, "tensors": fields,
        }  # fmt: skip
        entry = {"version": VERSION, **record, "sha256": _digest(record, arrays)}
        text = json.dumps(entry, allow_nan=False, separators=(",", ":"))
        return save(arrays, metadata={ENTRY: text})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a patch's file, checking all of it.

        Raises:
            MissingWeightsError: there is no such file.
            UnsafeFileError: it is damaged, hostile, or not a patch.
            MismatchError: its version is newer than this zoo.

        """
        path = Path(path)
        if not path.is_file():
            raise MissingWeightsError(f"there is no file {path}; expected a patch ({SUFFIX})")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                return cls._read(path, file)
        except UnsafeFileError as error:
            raise UnsafeFileError(f"{path}: {error}") from error
        except MismatchError:
            raise
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise UnsafeFileError(f"{path} is not a valid patch: {error}") from error

    @classmethod
    def _read(cls, path: Path, file: Any) -> Self:
        text = (file.metadata() or {}).get(ENTRY)
        entry = json.loads(text) if text is not None else None
        if not isinstance(entry, dict):
            raise UnsafeFileError("it is not a patch of a .tflite file")
        version = entry.pop("version", None)
        if type(version) is not int or version < 1:
            raise UnsafeFileError(f"its version is {version!r}")
        if version > VERSION:
            raise MismatchError(
                f"{path} is of version {version}; this zoo reads up to {VERSION} ({newer()})"
            )
        _expect(entry, _HEADER, "its description")
        tensors, strengths = entry["tensors"], entry["strengths"]
        if any(type(value) not in (int, float) for value in strengths.values()):
            raise UnsafeFileError("a strength is not a number")
        keys = {f"{name}|{part}" for name in tensors for part in ("idx", "val")}
        if set(file.keys()) != keys:
            raise UnsafeFileError("it holds other tensors than it names")
        arrays = {key: file.get_tensor(key) for key in sorted(keys)}
        changes = {name: _change(name, fields, arrays) for name, fields in tensors.items()}
        given = entry.pop("sha256")
        if _digest(entry, arrays) != given:
            raise UnsafeFileError("it is not what its SHA-256 says: damaged; take it again")
        return cls(entry["label"], strengths, entry["base_sha256"], changes)


def _expect(record: Any, fields: Mapping[str, type], what: str) -> None:
    if not isinstance(record, dict) or set(record) != set(fields):
        raise UnsafeFileError(f"{what} has other fields than {', '.join(fields)}")
    for key, kind in fields.items():
        if type(record[key]) is not kind:
            raise UnsafeFileError(f"{key} of {what} is not of type {kind.__name__}")


def _change(name: str, fields: Any, arrays: Mapping[str, NDArray[Any]]) -> IntegerChange:
    _expect(fields, _FIELDS, f"the description of {name}")
    codes, new = arrays[f"{name}|idx"], arrays[f"{name}|val"]
    numel, count = fields["numel"], fields["count"]
    if fields["dtype"] not in _TYPES or fields["index"] not in KINDS:
        raise UnsafeFileError(f"{name} is {fields['dtype']} with indices {fields['index']!r}")
    if new.dtype != _TYPES[fields["dtype"]] or new.shape != (count,) or not 0 <= count <= numel:
        raise UnsafeFileError(f"{name} does not have the {count} integers that are announced")
    where = decode(Encoded(fields["index"], fields["block"], codes), numel, count)
    return IntegerChange(numel, where, new)


def _digest(record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode())
    for key in sorted(arrays):
        content = np.ascontiguousarray(arrays[key]).tobytes()
        digest.update(f"\0{key}\0".encode() + struct.pack("<q", len(content)) + content)
    return digest.hexdigest()


class PatchedFile:
    """The bytes of a `.tflite` file in memory, and the patch that is in them.

    A patch is checked as a whole before its first byte is written. What is restored are the
    base's own bytes, kept when a patch goes in.

    Args:
        content: the base's file. A `bytearray` is changed where it lies; `bytes` are copied.

    """

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = content if isinstance(content, bytearray) else bytearray(content)
        self.base_sha256 = hashlib.sha256(self.content).hexdigest()
        self.buffers = buffers(bytes(self.content))
        self.patch: Patch | None = None
        self._undo: list[tuple[Integers, NDArray[np.int64], Integers]] = []

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the bytes of a file, which itself stays as it is.

        Raises:
            MissingWeightsError: there is no such file.
            UnsafeFileError: it is not a `.tflite` file, or damaged.

        """
        try:
            return cls(Path(path).read_bytes())
        except UnsafeFileError as error:
            raise UnsafeFileError(f"{path}: {error}") from error
        except OSError as error:
            raise MissingWeightsError(f"{path} cannot be read: {error.strerror}") from error

    def apply(self, patch: Patch) -> int:
        """Put a patch in, in place of another; return how many bytes were written.

        Raises:
            MismatchError: the patch is for another file; nothing was written.
            UnsafeFileError: it names what the file does not have; nothing was written.

        """
        if patch.base_sha256 != self.base_sha256:
            raise MismatchError(
                f"the patch {patch.label!r} is for the file {patch.base_sha256[:12]}, and this is "
                f"{self.base_sha256[:12]} (SHA-256): another network or version; write file and "
                "patches together with: zoo export REF --format tflite --int8 --adapters PATTERN"
            )
        steps = []
        for name, change in patch.changes.items():
            live = self._live(name, change)
            steps.append((live, change.where, change.new))
        written = self.restore()
        self._undo = [(live, where, live[where]) for live, where, _ in steps]
        self.patch = patch
        for live, where, new in steps:
            live[where] = new
        return written + patch.written_bytes

    def restore(self) -> int:
        """Take the patch out, to the bit; return how many bytes were written."""
        written = 0
        for live, where, old in self._undo:
            live[where] = old
            written += old.nbytes
        self._undo, self.patch = [], None
        return written

    def _live(self, name: str, change: IntegerChange) -> Integers:
        """Return a tensor's integers in the file's own memory."""
        place = self.buffers.get(name)
        if place is None:
            raise UnsafeFileError(f"the patch changes {name!r}, which the file does not hold")
        offset, dtype, numel = place
        if (change.new.dtype.name, change.numel) != (dtype, numel):
            raise UnsafeFileError(
                f"the patch changes {name!r} as {change.numel} {change.new.dtype.name}; the file "
                f"has {numel} {dtype}"
            )
        kind = np.dtype(_TYPES[dtype]).newbyteorder("<")
        return np.frombuffer(self.content, kind, numel, offset)


def buffers(content: bytes) -> dict[str, tuple[int, str, int]]:
    """Return offset in the file, type and number of a `.tflite` file's constants, by name.

    Raises:
        UnsafeFileError: it is not such a file.

    """
    model = flatbuffer.read(content, tflite_schema.MODEL, tflite_schema.IDENTIFIER)
    start = np.frombuffer(content, np.uint8).ctypes.data
    found: dict[str, tuple[int, str, int]] = {}
    stored = model["buffers"] or []
    for table in (model["subgraphs"] or [{"tensors": []}])[0]["tensors"] or []:
        dtype, number = _NAMES.get(table["type"]), table["buffer"]
        if dtype not in _TYPES or not 0 < number < len(stored) or table["name"] is None:
            continue
        data = stored[number]["data"]
        if data is None or not len(data):
            continue
        size = np.dtype(_TYPES[dtype]).itemsize
        found[table["name"]] = (data.ctypes.data - start, dtype, len(data) // size)
    return found
