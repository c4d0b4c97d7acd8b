"""The file of a sparse adapter: one safetensors file, checked before anything is built from it.

Per base tensor, under its checkpoint name: `<name>|val`, the values, and `<name>|idx`, the encoded
positions. One metadata entry, `sparse_adapter`, holds JSON: format and version, mode, the facts
given by the author, and per tensor its shape, dtype, nnz, encoding and the digests of its positions
and of the base's values there. A shared mask keeps the positions once, in `mask-<digest>` next to
the adapters that use it.

Values stay memory-mapped: they are read when they are used.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from zoo.adapters.encoding import KINDS, Encoded, decode, encode
from zoo.adapters.sparse import FLOATS, SparseTensor
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError, newer
from zoo.files import replacing

_T = TypeVar("_T")
NAME = "sparse_adapter.safetensors"
ENTRY = "sparse_adapter"
VERSION = 1
MODES = ("delta", "overwrite")
MAX_TENSORS = 100_000
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}
_FIELDS = {
    "shape": list,
    "dtype": str,
    "nnz": int,
    "index": str,
    "block": int,
    "mask_sha256": str,
    "base_sha256": str,
}


@dataclass(frozen=True)
class Header:
    """What a file says about itself, before any of its tensors is read."""

    path: Path
    mode: str
    metadata: dict[str, Any]
    mask: str | None
    tensors: dict[str, dict[str, Any]]

    @property
    def nnz(self) -> int:
        """Elements that the adapter changes."""
        return sum(fields["nnz"] for fields in self.tensors.values())


def locate(path: str | Path) -> Path:
    """Return the adapter's file, given that file or its folder."""
    path = Path(path)
    return path / NAME if path.is_dir() or not path.suffix else path


def write(
    path: Path,
    tensors: Mapping[str, SparseTensor],
    mode: str,
    metadata: Mapping[str, Any],
    *,
    shared_mask: bool = False,
) -> Path:
    """Write the file atomically; with `shared_mask` the positions go to a file next to it."""
    path = locate(path)
    values: dict[str, torch.Tensor] = {}
    masks: dict[str, torch.Tensor] = {}
    fields: dict[str, dict[str, Any]] = {}
    for name, tensor in sorted(tensors.items()):
        encoded = encode(tensor.indices.numpy(), tensor.numel)
        values[f"{name}|val"] = tensor.values.contiguous()
        masks[f"{name}|idx"] = torch.from_numpy(encoded.codes)
        fields[name] = {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "nnz": tensor.nnz,
            "index": encoded.kind,
            "block": encoded.block,
            "mask_sha256": tensor.mask_sha256,
            "base_sha256": tensor.base_sha256,
        }
    mask = None
    if shared_mask:
        mask = _common_digest(fields)
        target = path.parent / f"mask-{mask}.safetensors"
        if not target.exists():
            _save(target, masks, {})
        masks = {}
    record = {"version": VERSION, "mode": mode, "metadata": dict(metadata), "mask": mask}
    _save(path, values | masks, {ENTRY: _json({**record, "tensors": fields})})
    return path


def _save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata or None)


def _json(record: Mapping[str, Any]) -> str:
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise MismatchError(f"the adapter's metadata are not valid JSON: {error}") from error


def _common_digest(fields: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the name of the masks of all tensors together, 32 hexadecimal digits."""
    text = "\n".join(f"{name} {fields[name]['mask_sha256']}" for name in sorted(fields))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_header(path: str | Path) -> Header:
    """Read and check what the file says about itself; no tensor is read.

    Raises:
        MissingWeightsError: there is no such file.
        UnsafeFileError: it is damaged, or not a sparse adapter.
        MismatchError: its version is newer than this zoo.

    """
    path = locate(path)
    return _opened(path, lambda file: _header(path, file))


def read(path: str | Path) -> tuple[Header, dict[str, SparseTensor]]:
    """Read a file and check all of it: bounds, order, counts, digests, finite values."""
    path = locate(path)

    def content(file: Any) -> tuple[Header, dict[str, SparseTensor]]:
        header = _header(path, file)
        if header.mask is None:
            return header, {name: _tensor(header, name, file, file) for name in header.tensors}
        beside = path.parent / f"mask-{header.mask}.safetensors"
        return _opened(beside, lambda masks: (header, _with_masks(header, file, masks)))

    return _opened(path, content)


def _with_masks(header: Header, file: Any, masks: Any) -> dict[str, SparseTensor]:
    _expect_keys(masks, {f"{name}|idx" for name in header.tensors}, "the mask")
    return {name: _tensor(header, name, file, masks) for name in header.tensors}


def _opened(path: Path, use: Callable[[Any], _T]) -> _T:
    if not path.is_file():
        raise MissingWeightsError(f"there is no file {path}; expected a sparse adapter")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return use(file)
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: {error}") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        if isinstance(error, MismatchError):
            raise
        raise UnsafeFileError(f"{path} is not a valid sparse adapter: {error}") from error


def _header(path: Path, file: Any) -> Header:
    text = (file.metadata() or {}).get(ENTRY)
    if text is None:
        raise UnsafeFileError("it is not a sparse adapter (for PEFT's: zoo adapter convert)")
    record = json.loads(text)
    if not isinstance(record, dict):
        raise UnsafeFileError("its description is not a JSON object")
    version = record.get("version")
    if type(version) is not int or version < 1:
        raise UnsafeFileError(f"its version is {version!r}")
    if version > VERSION:
        raise MismatchError(
            f"{path} is of version {version}; this zoo reads up to {VERSION} ({newer()})"
        )
    mode, metadata, mask = (record.get(key) for key in ("mode", "metadata", "mask"))
    tensors = record.get("tensors")
    if mode not in MODES or not isinstance(metadata, dict) or not isinstance(tensors, dict):
        raise UnsafeFileError("mode, metadata or tensors are missing from its description")
    if len(tensors) > MAX_TENSORS:
        raise UnsafeFileError(f"it names {len(tensors)} tensors; at most {MAX_TENSORS} are read")
    for name, fields in tensors.items():
        _check_fields(name, fields)
    if mask is not None and mask != _common_digest(tensors):
        raise UnsafeFileError("its mask is not the one that its tensors name")
    header = Header(path, mode, metadata, mask, tensors)
    keys = {f"{name}|val" for name in tensors}
    _expect_keys(file, keys | ({f"{n}|idx" for n in tensors} if mask is None else set()), "it")
    return header


def _expect_keys(file: Any, expected: set[str], what: str) -> None:
    if different := sorted(set(file.keys()) ^ expected)[:3]:
        raise UnsafeFileError(f"{what} holds other tensors than it names: {', '.join(different)}")


def _check_fields(name: str, fields: Any) -> None:
    if not isinstance(fields, dict) or set(fields) != set(_FIELDS):
        raise UnsafeFileError(f"the description of {name} has other fields than {list(_FIELDS)}")
    for key, kind in _FIELDS.items():
        if type(fields[key]) is not kind:
            raise UnsafeFileError(f"{key} of {name} is {fields[key]!r}; expected {kind.__name__}")
    shape, nnz = fields["shape"], fields["nnz"]
    if len(shape) > 16 or any(type(size) is not int or size < 0 for size in shape):
        raise UnsafeFileError(f"{name} has the shape {str(shape)[:80]}")
    if math.prod(shape) >= 2**62 or not 0 <= nnz <= math.prod(shape):
        raise UnsafeFileError(f"{name} of shape {shape} cannot have {nnz} changes")
    if fields["dtype"] not in _DTYPES or fields["index"] not in KINDS:
        raise UnsafeFileError(f"{name} is {fields['dtype']} with indices {fields['index']!r}")


def _tensor(header: Header, name: str, file: Any, masks: Any) -> SparseTensor:
    fields = header.tensors[name]
    nnz, numel = fields["nnz"], math.prod(fields["shape"])
    if file.get_slice(f"{name}|val").get_shape() != [nnz]:
        raise UnsafeFileError(f"{name} does not have the {nnz} values that are announced")
    values = file.get_tensor(f"{name}|val")
    if values.dtype not in FLOATS:
        raise UnsafeFileError(f"values of {name} are {values.dtype}")
    if header.mode == "overwrite" and values.dtype != _DTYPES[fields["dtype"]]:
        raise UnsafeFileError(f"{name} overwrites {fields['dtype']} with {values.dtype}")
    if not values.isfinite().all():
        raise UnsafeFileError(f"{name} has values that are not finite")
    codes = masks.get_tensor(f"{name}|idx").numpy()
    try:
        positions = decode(Encoded(fields["index"], fields["block"], codes), numel, nnz)
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{name}: {error}") from None
    indices = torch.from_numpy(positions)
    dtype, shape = _DTYPES[fields["dtype"]], tuple(fields["shape"])
    tensor = SparseTensor(indices, values, shape, dtype, fields["base_sha256"])
    if tensor.mask_sha256 != fields["mask_sha256"]:
        raise UnsafeFileError(f"positions of {name} are not those of its digest")
    return tensor
