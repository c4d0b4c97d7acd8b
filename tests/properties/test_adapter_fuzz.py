"""Damaged and hostile adapter files: a clear error, or an adapter that stays in its bounds."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zoo.adapters import SparseAdapter, Switcher
from zoo.adapters.encoding import KINDS, encode_as
from zoo.adapters.sparse import mask_digest
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError

GUARD = 4096  # elements on either side of each weight that nobody may write
NUMBERS = [0, 1, -1, 2, 7, 8, 16, 255, 256, 65_535, 2**31 - 1, 2**31, 2**63, -(2**63), 1e308, 0.5]
WORDS = ["", "i32", "i64", "gap8", "gap16", "float32", "bfloat16", "F32", "I64", "U8", "BF16",
         "delta", "overwrite", "w", "w|idx", "../x", "\0", "é" * 99]  # fmt: skip


class Guarded(nn.Module):
    """Weights that lie inside larger memory, so that a write outside shows."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rooms = []
        for name, shape in (("w", (16, 16)), ("conv", (4, 2, 3, 3))):
            size = int(np.prod(shape))
            room = torch.randn(2 * GUARD + size, generator=generator)
            self.rooms.append((room, room.clone(), size))
            self.register_parameter(
                name, nn.Parameter(room[GUARD : GUARD + size].view(shape), requires_grad=False)
            )

    def intact(self) -> bool:
        """Whether every byte around the weights is what it was."""
        return all(
            torch.equal(room[:GUARD], before[:GUARD])
            and torch.equal(room[GUARD + size :], before[GUARD + size :])
            for room, before, size in self.rooms
        )

    def pristine(self) -> bool:
        """Whether the weights are too."""
        return all(torch.equal(room, before) for room, before, _ in self.rooms)


def valid(model: nn.Module, folder: Path) -> list[bytes]:
    """Return files in every encoding and mode."""
    files = []
    for number, positions in enumerate(
        (range(0, 72, 3), range(16, 32), [0, 71], range(72), sorted({0, 5, 6, 70}))
    ):
        where = torch.tensor(list(positions))
        values = torch.randn(len(where), generator=torch.Generator().manual_seed(number))
        given = {name: (where, values) for name in ("w", "conv")}
        adapter = SparseAdapter.from_tensors(given, model, metadata={"name": "é"})
        for mode in ("delta", "overwrite"):
            path = folder / f"{number}{mode}.safetensors"
            files.append(adapter.to_mode(mode, model).save(path).read_bytes())
    return files


def parts(data: bytes) -> tuple[dict[str, Any], bytearray]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])


def joined(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def mutated_json(value: Any, dice: random.Random) -> Any:
    """Change, drop, double or replace something somewhere in JSON."""
    kind = dice.random()
    if isinstance(value, dict) and value and kind < 0.9:
        key = dice.choice(list(value))
        found = dict(value)
        if kind < 0.08:
            del found[key]
        elif kind < 0.16:
            found[dice.choice(WORDS)] = found[key]
        else:
            found[key] = mutated_json(found[key], dice)
        return found
    if isinstance(value, list) and value and kind < 0.9:
        place = dice.randrange(len(value))
        if kind < 0.1:
            return value[:place]
        if kind < 0.2:
            return [*value, *value]
        return [*value[:place], mutated_json(value[place], dice), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and kind < 0.5:
        return value + dice.choice([-8, -1, 1, 8])
    return dice.choice([*NUMBERS, *WORDS, None, True, [], {}])


def hostile(data: bytes, dice: random.Random) -> bytes:
    """Write, with right digests and offsets, positions that no honest writer would."""
    header, _ = parts(data)
    record = json.loads(header["__metadata__"]["sparse_adapter"])
    body = bytearray()
    out: dict[str, Any] = {"__metadata__": header["__metadata__"]}
    for name, fields in record["tensors"].items():
        numel = int(np.prod(fields["shape"]))
        count = dice.randrange(0, 12)
        low, high = dice.choice([(0, numel), (-3, numel), (0, numel + 3), (-(2**31), 2**31 - 1),
                                (-(2**63), 2**63 - 1)])  # fmt: skip
        where = [dice.randrange(low, high) for _ in range(count)]
        where = sorted(where) if dice.random() < 0.5 else where
        kind = dice.choice(list(KINDS))
        codes = np.array(where, np.int64).astype(KINDS[kind])
        honest = where == sorted(set(where)) and where and where[0] >= 0 and where[-1] < 2**16
        if dice.random() < 0.5 and honest:
            codes = encode_as(np.array(where, np.int64), kind).codes
        fields |= {"nnz": count + dice.choice([0, 0, 0, 1, -1]), "index": kind,
                   "block": dice.choice([1, 1, 1, 2, 8])}  # fmt: skip
        fields["mask_sha256"] = mask_digest(torch.tensor(where, dtype=torch.int64), numel)
        values = np.full(count, dice.choice([1.0, np.nan, np.inf, 3e38]), np.float32)
        types = {"int32": "I32", "int64": "I64", "uint8": "U8", "uint16": "U16"}
        for key, array, kind_name in (
            (f"{name}|idx", codes, types[codes.dtype.name]),
            (f"{name}|val", values, "F32"),
        ):
            start = len(body)
            body += array.tobytes()
            out[key] = {"dtype": kind_name, "shape": list(array.shape),
                        "data_offsets": [start, len(body)]}  # fmt: skip
    out["__metadata__"] = {"sparse_adapter": json.dumps(record)}
    return joined(out, bytes(body))


def damaged(files: list[bytes], dice: random.Random) -> bytes:
    """Return one file that something happened to."""
    data = dice.choice(files)
    kind = dice.randrange(6)
    if kind == 0:  # rot
        found = bytearray(data)
        for _ in range(dice.randrange(1, 9)):
            found[dice.randrange(len(found))] = dice.randrange(256)
        return bytes(found)
    if kind == 1:  # cut, or grown
        cut = dice.randrange(len(data) + 1)
        return data[:cut] + dice.choice([b"", b"\0" * 9, data])
    header, body = parts(data)
    if kind == 2:  # the description
        record = json.loads(header["__metadata__"]["sparse_adapter"])
        for _ in range(dice.randrange(1, 3)):
            record = mutated_json(record, dice)
        return joined({**header, "__metadata__": {"sparse_adapter": json.dumps(record)}}, body)
    if kind == 3:  # the table of contents
        changed = mutated_json(header, dice)
        return joined(changed if isinstance(changed, dict) else {"x": changed}, body)
    if kind == 4:  # the length of the header
        return dice.randbytes(dice.randrange(1, 9)).ljust(8, b"\0") + data[8:]
    return hostile(data, dice)


def fuzz(count: int, folder: Path) -> dict[str, int]:
    """Load and activate `count` damaged files; return how many were refused and how."""
    model = Guarded()
    files = valid(model, folder)
    switcher = Switcher(model)
    path = folder / "fuzzed.safetensors"
    seen: dict[str, int] = {}
    dice = random.Random(0)
    for _ in range(count):
        path.write_bytes(damaged(files, dice))
        try:
            switcher.register("x", path)
            try:
                switcher.activate("x")
                outcome = "harmless"
            finally:
                assert model.intact()
                switcher.deactivate()
                switcher.unregister("x")
        except (UnsafeFileError, MismatchError, MissingWeightsError) as error:
            if len(str(error)) > 2000:
                raise AssertionError("no clear error") from error
            outcome = type(error).__name__
        assert model.pristine()
        seen[outcome] = seen.get(outcome, 0) + 1
    return seen


def test_damaged_files_are_refused_or_harmless(tmp_path: Path) -> None:
    seen = fuzz(2000, tmp_path)
    assert seen["UnsafeFileError"] > 1000


@pytest.mark.slow
def test_fifty_thousand_damaged_files_are_refused_or_harmless(tmp_path: Path) -> None:
    seen = fuzz(50_000, tmp_path)
    print(seen)
    assert sum(seen.values()) == 50_000
