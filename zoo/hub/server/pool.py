"""Threads set apart for what takes long, and the end of work for which nobody waits any more."""

import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import CapacityLimiter, create_task_group, to_thread
from starlette.requests import ClientDisconnect, Request

from zoo.hub.server.budget import GoneError
from zoo.hub.server.common import Refused

_Answer = TypeVar("_Answer")


class Pool:
    """A few threads for requests that may take long, so that all others go on meanwhile.

    A client that gives up leaves the queue; work that is under way for it is told to end.

    Args:
        threads: how many requests are worked on at a time.
        most: how many may wait.

    """

    def __init__(self, threads: int, most: int) -> None:
        self._limiter, self._most, self._inside = CapacityLimiter(threads), threads + most, 0

    async def run(
        self, request: Request, gone: threading.Event, work: Callable[[], _Answer]
    ) -> _Answer:
        """Return what `work` gives, in a thread; its request must have been read to its end.

        Raises:
            Refused: 503; too many wait already.
            ClientDisconnect: the client has gone.

        """
        if self._inside >= self._most:
            message = "the server has too much to do; try again in a moment"
            raise Refused(503, message, headers={"Retry-After": "5"})
        self._inside += 1
        try:
            return await self._run(request, gone, work)
        finally:
            self._inside -= 1

    async def _run(
        self, request: Request, gone: threading.Event, work: Callable[[], _Answer]
    ) -> _Answer:
        given: list[_Answer] = []
        failed: list[Exception] = []

        def worked() -> None:
            try:
                given.append(work())
            except Exception as error:  # a task group would wrap it
                failed.append(error)

        async with create_task_group() as group:

            async def watch() -> None:
                await _left(request)
                gone.set()
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await to_thread.run_sync(worked, limiter=self._limiter)
            group.cancel_scope.cancel()
        if failed and not isinstance(failed[0], GoneError):
            raise failed[0]
        if not given:
            raise ClientDisconnect
        return given[0]


async def _left(request: Request) -> None:
    """Return when the client of a request has gone."""
    receive: Callable[[], Awaitable[object]] = request.receive
    message: object = {}
    while not (isinstance(message, dict) and message.get("type") == "http.disconnect"):
        message = await receive()
