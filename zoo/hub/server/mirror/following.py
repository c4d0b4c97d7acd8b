"""Large files on their way from an upstream: fetched once, given to many while they come.

The last bytes of a file are given out only when the whole has its sha256. A reader that was given
bytes of a file that turned out wrong is cut off; and since it may come back for the rest alone,
Range is no longer honoured for that file while this server runs.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from anyio import sleep, to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from zoo.errors import HubError
from zoo.hub.server.common import MIB, Refused

log = logging.getLogger("zoo.hub")
_HELD_BACK = MIB
_POLL_S = 0.02


class Fetch:
    """One large file on its way; `bring` runs in a thread of its own.

    Args:
        part: the file that grows.
        size: what it must grow to.
        bring: brings `part` to its whole, checked content, and keeps it; or raises.

    """

    def __init__(self, part: Path, size: int, bring: Callable[["Fetch"], Path]) -> None:
        self.part, self.size = part, size
        self.whole: Path | None = None  # where it lies when it is checked
        self.error: Refused | None = None
        self.stop = threading.Event()
        self.epoch = 0  # how often what had come was thrown away
        self._bring = bring
        self._thread = threading.Thread(target=self._run, name="zoo-hub-fetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.whole = self._bring(self)
        except Refused as refusal:
            self.error = refusal
        except (OSError, HubError) as error:
            self.error = Refused(502, f"the upstream failed: {error}")
        except BaseException:
            log.exception("a fetch from the upstream failed")
            self.error = Refused(502, "the upstream failed; this server's log has the details")
            raise

    @property
    def over(self) -> bool:
        """Whether it is here, or given up."""
        return self.whole is not None or self.error is not None

    def begins(self, at: int) -> None:
        """Note that bytes are about to come from `at` on, whatever the file holds after it."""
        with contextlib.suppress(FileNotFoundError):
            self.epoch += self.part.stat().st_size > at

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def ready(self) -> int:
        """Return how many bytes may be given out."""
        if self.whole is not None:
            return self.size
        try:
            return min(self.part.stat().st_size, self.size - _HELD_BACK)
        except FileNotFoundError:
            return 0


class Follow(Response):
    """A part of a file that is on its way: its bytes as they come, without holding a thread."""

    def __init__(
        self, fetch: Fetch, first: int, length: int, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(None, status)
        self.fetch, self.first, self.end = fetch, first, first + length
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bytes; a fetch that fails cuts the answer off."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        with contextlib.ExitStack() as stack:
            at, stream, epoch = self.first, None, self.fetch.epoch
            while at < self.end and scope["method"] != "HEAD":
                if self.fetch.error or self.fetch.epoch != epoch:
                    log.warning("an answer was cut off: the upstream failed, or sent other bytes")
                    return
                ready = min(self.fetch.ready(), self.end)
                if ready <= at:
                    await sleep(_POLL_S)
                    continue
                if stream is None:
                    path = self.fetch.whole or self.fetch.part
                    with contextlib.suppress(FileNotFoundError):  # it is moved just now
                        stream = stack.enter_context(path.open("rb", buffering=0))
                    continue
                data = await to_thread.run_sync(_read, stream, at, min(ready - at, MIB))
                at += len(data)
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _read(stream: BinaryIO, at: int, length: int) -> bytes:
    stream.seek(at)
    return stream.read(length)
