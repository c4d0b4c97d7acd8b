"""How much memory TFLite Micro itself says that a file needs: its recording allocator's figures."""

import importlib
import importlib.util
import os
import re
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zoo.errors import MismatchError, MissingExtraError

_RUNTIME = "tflite_micro.python.tflite_micro.runtime"
_PRINTING = threading.Lock()  # it prints past Python, to the process's own stderr


@dataclass(frozen=True, kw_only=True)
class MicroArena:
    """The parts of an arena, in bytes.

    Attributes:
        total: of the arena.
        head: activations, planned over their lives.
        tail: structures, which on a device of 32 bits are smaller than here.

    """

    total: int
    head: int
    tail: int


def installed() -> bool:
    """Say whether TFLite Micro is here."""
    return importlib.util.find_spec("tflite_micro") is not None


def measured(content: bytes, *, most: int = 2**24) -> MicroArena:
    """Return the arena that TFLite Micro allocates for a file.

    Args:
        content: of a `.tflite` file.
        most: bytes that it may take.

    Raises:
        MissingExtraError: tflite-micro is not installed.
        MismatchError: it does not take the file; says why.

    """
    if not installed():
        raise MissingExtraError.of("tflite-micro", "tflite")
    runtime = importlib.import_module(_RUNTIME)
    with _heard() as said:
        try:
            runtime.Interpreter.from_bytes(content, arena_size=most).print_allocations()
        except (RuntimeError, ValueError, struct.error, IndexError) as error:
            reason = next(iter([*said(), str(error)]))
            raise MismatchError(f"TFLite Micro does not run this network: {reason}") from error
        text = "\n".join(said())
    found = dict(re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", text))
    if len(found) < 3:
        raise MismatchError(f"TFLite Micro does not say what its arena takes, but: {text:.200}")
    return MicroArena(**{part: int(size) for part, size in found.items()})


@contextmanager
def _heard():  # type: ignore[no-untyped-def]
    """Take what the process writes to stderr; yield a function that gives its lines so far."""
    with _PRINTING, tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)

        def lines() -> Iterator[str]:
            file.seek(0)
            return filter(
                None, (x.strip() for x in file.read().decode(errors="replace").splitlines())
            )

        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
