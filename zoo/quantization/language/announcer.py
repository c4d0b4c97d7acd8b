"""Where a long job is, on stderr: step by step on a terminal, now and then in a log."""

import sys
import time

QUIET_SECONDS = 20.0  # between two lines where nobody looks on; short jobs say nothing there


class Announcer:
    """Prints lines, not all of them if stderr is not a terminal."""

    def __init__(self) -> None:
        self._spoke = time.monotonic()

    def __call__(self, line: str) -> None:
        """Print a line, unless one was printed lately and stderr is not a terminal."""
        now = time.monotonic()
        if sys.stderr.isatty() or now - self._spoke >= QUIET_SECONDS:
            self._spoke = now
            print(line, file=sys.stderr, flush=True)
