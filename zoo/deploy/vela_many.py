"""Arm's compiler for many small files: one process that stays, at 10 ms for a network of 50 kB.

`zoo.deploy.vela_process` starts a process for every file, which alone takes half a second.
"""

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from zoo.errors import MismatchError

LENGTH = struct.Struct("<Q")  # before each message, both ways


class Compiler:
    """A process of the compiler for one accelerator; use it in a `with` statement.

    A file that crashes it or takes too long ends it; the next file starts another one.
    """

    def __init__(self, settings: Mapping[str, str], *, time_limit_s: float = 60.0) -> None:
        """Prepare; see `zoo.deploy.vela_process.compiled` for what `settings` are."""
        self.settings = dict(settings)
        self.time_limit_s = time_limit_s
        self._child: subprocess.Popen[bytes] | None = None
        self._clock: threading.Timer | None = None

    def __enter__(self) -> "Compiler":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._end()

    def compiled(self, content: bytes, what: str) -> dict[str, Any]:
        """Return what the compiler reports on the bytes of a `.tflite` file.

        "cpu_s" is what that took of a processor.

        Raises:
            MismatchError: it refuses the network, crashes, or takes too long.

        """
        self.send(content)
        return self.answer(what)

    def send(self, content: bytes) -> None:
        """Let it compile the bytes of a file; `answer` waits for the report."""
        child = self._child = self._child or self._start()
        assert child.stdin is not None
        self._clock = threading.Timer(self.time_limit_s, child.kill)
        self._clock.start()
        with contextlib.suppress(OSError):  # it has gone: there will be no answer
            child.stdin.write(LENGTH.pack(len(content)) + content)
            child.stdin.flush()

    def answer(self, what: str) -> dict[str, Any]:
        """Return the report on what was sent; see `compiled`."""
        child, clock = self._child, self._clock
        assert child is not None
        assert child.stdout is not None
        assert clock is not None
        answer = _message(child.stdout)
        in_time = clock.is_alive()
        clock.cancel()
        if answer is None:
            self._end()
            how = "crashed" if in_time else f"did not finish in {self.time_limit_s:g} s"
            raise MismatchError(f"Vela {how} on {what}")
        result: dict[str, Any] = json.loads(answer)
        if reason := result.get("refused"):
            raise MismatchError(f"Vela cannot compile {what}: {reason}")
        return result

    def _start(self) -> "subprocess.Popen[bytes]":
        search = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, json.dumps(self.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search},
        )

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def _message(stream: IO[bytes]) -> bytes | None:
    """Return the next message, or None where the stream ends."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    body = stream.read(size)
    return body if len(body) == size else None


def _main() -> None:
    """Compile each file of stdin; what C++ prints goes to stderr."""
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from ethosu import regor

    from zoo.deploy.vela_process import plain

    settings = json.loads(sys.argv[1])
    while (content := _message(sys.stdin.buffer)) is not None:
        start = time.process_time()
        try:
            done = regor.compile(
                settings["architecture"], content, "TFLITE", settings["system"], settings["options"]
            )
            value = plain(done)
        except Exception as error:  # pybind11 raises RuntimeError and others
            value = {"refused": " ".join(str(error).split()) or type(error).__name__}
        value["cpu_s"] = time.process_time() - start
        answer = json.dumps(value).encode()
        reports.write(LENGTH.pack(len(answer)) + answer)
        reports.flush()


if __name__ == "__main__":
    _main()
