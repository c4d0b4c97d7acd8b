"""Many readers or one writer: forward passes share a model, a switch has it to itself.

Both sides are re-entrant per thread. A thread that reads may become the writer, which waits for
the other readers; a second thread that wants the same at that time is refused, because each would
wait for the other. Waiting writers go before new readers; readers that waited for one go before the
next, so that neither side starves.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from zoo.errors import ZooError


class Gate:
    """A shared-exclusive lock."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._readers: dict[int, int] = {}
        self._writer: int | None = None
        self._depth = 0
        self._waiting = 0  # writers
        self._queued = 0  # readers
        self._turn = 0  # how often a writer has left
        self._due = 0  # readers that were queued then, and have not come in
        self._upgrading: int | None = None

    def enter_shared(self) -> None:
        """Wait until no thread writes, and keep writers out."""
        me = threading.get_ident()
        with self._free:
            if me not in self._readers and self._writer != me:
                self._queue()
            self._readers[me] = self._readers.get(me, 0) + 1

    def _queue(self) -> None:
        """Wait for the current writer, and for one more if one was already waiting."""
        turn = self._turn
        self._queued += 1
        try:
            while self._writer is not None or (self._waiting and self._turn == turn):
                self._free.wait()
        finally:
            self._queued -= 1
            if self._turn != turn:
                self._due -= 1
                self._free.notify_all()

    def leave_shared(self) -> None:
        """Undo one `enter_shared` of this thread."""
        me = threading.get_ident()
        with self._free:
            self._readers[me] -= 1
            if not self._readers[me]:
                del self._readers[me]
                self._free.notify_all()

    def _enter_exclusive(self) -> None:
        me = threading.get_ident()
        with self._free:
            if self._writer == me:
                self._depth += 1
                return
            upgrade = me in self._readers
            if upgrade and self._upgrading is not None:
                raise ZooError(
                    "two threads that use adapters want to switch at once, and would wait for "
                    "each other; leave the outer using(...) before switching"
                )
            if upgrade:
                self._upgrading = me
            self._waiting += 1
            try:
                while (
                    self._writer is not None
                    or self._due
                    or any(other != me for other in self._readers)
                ):
                    self._free.wait()
                self._writer, self._depth = me, 1
            finally:
                self._waiting -= 1
                if upgrade:
                    self._upgrading = None
                self._free.notify_all()

    def _leave_exclusive(self) -> None:
        with self._free:
            self._depth -= 1
            if not self._depth:
                self._writer = None
                self._turn += 1
                self._due = self._queued
                self._free.notify_all()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Read together with others."""
        self.enter_shared()
        try:
            yield
        finally:
            self.leave_shared()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Write alone."""
        self._enter_exclusive()
        try:
            yield
        finally:
            self._leave_exclusive()
