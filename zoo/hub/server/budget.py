"""How much one request may take: processor time, and only while its client waits for the answer."""

import threading
import time

_EVERY = 64  # calls between two looks at the clock


class OverError(Exception):
    """The work takes more than it may."""


class GoneError(Exception):
    """Nobody waits for the answer."""


class Budget:
    """Processor time of the thread that made it; a busy machine takes nothing away."""

    def __init__(self, seconds: float, gone: threading.Event | None = None) -> None:
        self._end = time.thread_time() + seconds
        self._gone = gone
        self._calls = 0

    def check(self) -> None:
        """Raise when the work must end: `OverError`, or `GoneError` when nobody waits.

        To be called often; it seldom looks.
        """
        self._calls += 1
        if self._calls % _EVERY == 0:
            self.require()

    def require(self) -> None:
        """Do what `check` does, at once."""
        if self._gone is not None and self._gone.is_set():
            raise GoneError
        if time.thread_time() > self._end:
            raise OverError
