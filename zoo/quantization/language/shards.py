"""Safetensors files put together byte by byte: memory does not grow with the model."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from zoo.errors import UnsafeFileError
from zoo.files import replacing, write_json

_CHUNK = 1 << 20


@dataclass(frozen=True)
class ShardEntry:
    """A tensor in a safetensors file: `start` and `bytes` say where its values lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    bytes: int

    @property
    def alignment(self) -> int:
        """The bytes of one value: readers map the file, so values start at multiples of it."""
        count = 1
        for size in self.shape:
            count *= size
        return self.bytes // count if count else 1


def entries(file: Path) -> list[ShardEntry]:
    """Return the tensors of a file, from its header alone."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise UnsafeFileError(f"{file} is not a whole safetensors file: {error}") from error
    header.pop("__metadata__", None)
    return [
        ShardEntry(
            name,
            facts["dtype"],
            tuple(facts["shape"]),
            file,
            8 + length + facts["data_offsets"][0],
            facts["data_offsets"][1] - facts["data_offsets"][0],
        )
        for name, facts in header.items()
    ]


def assemble(sources: Sequence[Path], out: Path, *, limit: int) -> int:
    """Write the tensors of all files as one model; return the bytes of their values.

    Args:
        sources: safetensors files; no name occurs in two of them.
        out: the folder; `model.safetensors`, or shards with their index.
        limit: largest size of a shard in bytes (a larger tensor gets its own shard).

    """
    shards: list[list[ShardEntry]] = [[]]
    for entry in (entry for file in sources for entry in sorted(entries(file), key=_order)):
        if shards[-1] and sum(e.bytes for e in shards[-1]) + entry.bytes > limit:
            shards.append([])
        shards[-1].append(entry)
    total = sum(entry.bytes for shard in shards for entry in shard)
    if len(shards) == 1:
        _write(out / "model.safetensors", shards[0])
        return total
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write(out / name, shard)
    index = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
    write_json(
        out / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))},
    )
    return total


def _order(entry: ShardEntry) -> tuple[int, str]:
    return -entry.alignment, entry.name


def _write(path: Path, shard: list[ShardEntry]) -> None:
    """Write one file: an 8-byte length, the header as JSON, then the values without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    shard = sorted(shard, key=_order)
    for entry in shard:
        offsets = [place, place + entry.bytes]
        header[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets}
        place += entry.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for file, group in _by_file(shard):
            for entry in group:
                _copy(file, entry, stream)


def _by_file(shard: list[ShardEntry]) -> Iterator[tuple[BinaryIO, list[ShardEntry]]]:
    """Yield the entries in order, with their file opened once per run of neighbours."""
    begin = 0
    while begin < len(shard):
        end = begin
        while end < len(shard) and shard[end].file == shard[begin].file:
            end += 1
        with shard[begin].file.open("rb") as file:
            yield file, shard[begin:end]
        begin = end


def _copy(file: BinaryIO, entry: ShardEntry, out: BinaryIO) -> None:
    file.seek(entry.start)
    left = entry.bytes
    while left:
        data = file.read(min(left, _CHUNK))
        if not data:
            raise UnsafeFileError(f"{entry.file} ends in the middle of {entry.name}")
        out.write(data)
        left -= len(data)
