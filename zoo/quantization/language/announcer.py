"""Where a long job is, on stderr: step by step on a terminal, now and then in a log; its memory."""

import sys
import time
from pathlib import Path

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


def peak_bytes() -> int:
    """Return the peak memory of this process, as far as the system tells."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
