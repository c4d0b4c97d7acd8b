"""FlatBuffers, read with every offset checked and written, by a schema that is plain data.

The generated readers that packages ship trust the file: a wrong offset raises whatever Python
happens to raise, or reads what it should not. Here a file that is not what it claims to be is an
`UnsafeFileError`, and the work is bounded by the file's size.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.errors import UnsafeFileError

_SCALARS = {
    "bool": "<?",
    "int8": "<b",
    "uint8": "<B",
    "int32": "<i",
    "uint32": "<I",
    "int64": "<q",
    "uint64": "<Q",
    "float32": "<f",
}
_DEPTH = 16


@dataclass(frozen=True)
class Field:
    """A field of a table.

    Attributes:
        slot: its number in the table.
        type: a scalar ("int32", ...), "string", "present" (whether anything is there), "vector"
            (of `item`), "table" (`item`), "tables" or "union" (`item` by the value of `tag`).
        item: a scalar's name, a `Table`, or for a union {tag value: Table}.
        default: the value of a scalar that is left out.
        tag: name of the field that says which table a union is.
        align: bytes a vector's data is aligned to.

    """

    slot: int
    type: str
    item: Any = None
    default: Any = 0
    tag: str = ""
    align: int = 4


@dataclass(frozen=True)
class Table:
    """A table: its name in messages, and its fields."""

    name: str
    fields: Mapping[str, Field]


def read(data: bytes, table: Table, identifier: bytes) -> dict[str, Any]:
    """Return the root table as a dict of every field; absent ones are their default or None.

    Raises:
        UnsafeFileError: it is not such a file, or has an impossible offset, length or nesting.

    """
    if len(data) < 8 or data[4:8] != identifier:
        raise UnsafeFileError(f"it does not begin like a {table.name} file ({identifier!r})")
    reader = _Reader(data)
    return reader.table(reader.offset(0, table.name), table, 0)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        # Tables may be shared; a file that shares them to grow beyond its size is hostile.
        self.budget = 4 * len(data) + 1024

    def scalar(self, place: int, type: str, what: str) -> Any:
        layout = _SCALARS[type]
        if not 0 <= place <= len(self.data) - struct.calcsize(layout):
            raise UnsafeFileError(f"{what} points outside the file, at byte {place}")
        return struct.unpack_from(layout, self.data, place)[0]

    def offset(self, place: int, what: str) -> int:
        return place + int(self.scalar(place, "uint32", what))

    def spend(self, amount: int, what: str) -> None:
        self.budget -= amount
        if self.budget < 0:
            raise UnsafeFileError(f"{what} holds more than a file of this size can hold")

    def vector(self, place: int, type: str, what: str) -> Any:
        count, dtype = int(self.scalar(place, "uint32", what)), np.dtype(_SCALARS[type][1:])
        if count * dtype.itemsize > len(self.data) - place - 4:
            raise UnsafeFileError(f"{what} has {count} elements, more than the file")
        self.spend(count * dtype.itemsize, what)
        return np.frombuffer(self.data, dtype.newbyteorder("<"), count, place + 4)

    def table(self, place: int, table: Table, depth: int) -> dict[str, Any]:
        name = table.name
        self.spend(4, name)
        start = place - int(self.scalar(place, "int32", name))
        if start < 0 or depth > _DEPTH:
            raise UnsafeFileError(f"{name} is nested too deeply or starts before the file")
        sizes = self.scalar(start, "uint32", name)
        layout_size, size = sizes & 0xFFFF, sizes >> 16
        if layout_size < 4 or start + layout_size > len(self.data):
            raise UnsafeFileError(f"{name} has an impossible layout")
        if size < 4 or place + size > len(self.data):
            raise UnsafeFileError(f"{name} reaches beyond the file")
        result: dict[str, Any] = {}
        for key, field in table.fields.items():
            slot = 4 + 2 * field.slot
            inner = 0
            if slot + 2 <= layout_size:
                inner = struct.unpack_from("<H", self.data, start + slot)[0]
            if inner and not 4 <= inner < size:
                raise UnsafeFileError(f"{name}.{key} lies outside its table")
            result[key] = self.field(
                place + inner if inner else 0, field, f"{name}.{key}", result, depth
            )
        return result

    def field(
        self, place: int, field: Field, what: str, siblings: dict[str, Any], depth: int
    ) -> Any:
        if field.type in _SCALARS:
            return self.scalar(place, field.type, what) if place else field.default
        if field.type == "present":
            return bool(place)
        if not place:
            return None
        target = self.offset(place, what)
        if field.type == "string":
            return self.vector(target, "uint8", what).tobytes().decode("utf-8", "replace")
        if field.type == "vector":
            return self.vector(target, field.item, what)
        if field.type == "tables":
            count = len(self.vector(target, "uint32", what))
            places = (self.offset(target + 4 + 4 * i, what) for i in range(count))
            return [self.table(place, field.item, depth + 1) for place in places]
        table = field.item.get(siblings[field.tag]) if field.type == "union" else field.item
        return None if table is None else self.table(target, table, depth + 1)


def write(value: Mapping[str, Any], table: Table, identifier: bytes) -> bytes:
    """Return the file whose root is `value`; fields that are missing or None are left out."""
    writer = _Writer()
    writer.data += bytes(4) + identifier
    writer.point(0, writer.table(value, table))
    writer.align(4)
    return bytes(writer.data)


class _Writer:
    """Writes a table and then, after it, what it points to."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.layouts: dict[bytes, int] = {}

    def align(self, size: int, before: int = 0) -> None:
        """Pad so that what follows after `before` more bytes is aligned."""
        self.data += bytes(-(len(self.data) + before) % size)

    def point(self, place: int, target: int) -> None:
        struct.pack_into("<I", self.data, place, target - place)

    def table(self, value: Mapping[str, Any], table: Table) -> int:
        fields = {k: f for k, f in table.fields.items() if value.get(k) is not None}
        # Large fields first: each is aligned to its size without holes.
        order = sorted(fields, key=lambda key: -self._size(fields[key]))
        place, places = 4, {}
        if order and self._size(fields[order[0]]) == 8:
            place = 8
        for key in order:
            places[key] = place
            place += self._size(fields[key])
        layout = [0] * (max((f.slot for f in fields.values()), default=-1) + 1)
        for key in order:
            layout[fields[key].slot] = places[key]
        packed = struct.pack(f"<{len(layout) + 2}H", 4 + 2 * len(layout), place, *layout)
        if packed not in self.layouts:
            self.align(2)
            self.layouts[packed] = len(self.data)
            self.data += packed
        self.align(8)
        start = len(self.data)
        self.data += bytes(place)
        struct.pack_into("<i", self.data, start, start - self.layouts[packed])
        for key in order:
            self.field(start + places[key], fields[key], value[key], value)
        return start

    @staticmethod
    def _size(field: Field) -> int:
        return struct.calcsize(_SCALARS.get(field.type, "<I"))

    def field(self, place: int, field: Field, value: Any, siblings: Mapping[str, Any]) -> None:
        if field.type in _SCALARS:
            struct.pack_into(_SCALARS[field.type], self.data, place, value)
        elif field.type == "string":
            text = value.encode()
            self.point(place, self.vector(len(text), text + b"\0", 4))
        elif field.type == "vector":
            array = np.ascontiguousarray(
                value, np.dtype(_SCALARS[field.item][1:]).newbyteorder("<")
            )
            align = max(field.align, array.itemsize)
            self.point(place, self.vector(array.size, array.tobytes(), align))
        elif field.type == "tables":
            start = self.vector(len(value), bytes(4 * len(value)), 4)
            self.point(place, start)
            for index, element in enumerate(value):
                self.point(start + 4 + 4 * index, self.table(element, field.item))
        elif field.type == "present":
            self.point(place, self.table({}, Table("", {})))
        else:
            table = field.item[siblings[field.tag]] if field.type == "union" else field.item
            self.point(place, self.table(value, table))

    def vector(self, count: int, content: bytes, align: int) -> int:
        self.align(align, before=4)
        start = len(self.data)
        self.data += struct.pack("<I", count) + content
        return start
