"""The ASGI application: routes, errors as the client maps them, and headers of every answer."""

import inspect
import logging
import uuid

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from zoo.hub.server.api import (
    absent,
    collections,
    commits,
    downloads,
    githttp,
    lfs,
    listing,
    people,
    repositories,
    trees,
    whole,
    xet,
    xetread,
)
from zoo.hub.server.budget import OverError
from zoo.hub.server.call import Call, Route, Routes, answer, in_thread
from zoo.hub.server.common import MIB, Refused, header_text
from zoo.hub.server.door import Doorkeeper
from zoo.hub.server.pool import Pool
from zoo.hub.server.store.hub import Hub
from zoo.hub.server.store.index import is_orphan
from zoo.hub.server.store.objects import disk_errors
from zoo.hub.server.web import pages

log = logging.getLogger("zoo.hub")

_SAFE = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
}
_PAGES = (2, 100)  # threads, and how many may wait for them
_CLONES = (2, 40)
_DRAIN = 16 * MIB  # of a refused request; a client that is still sending would not read the answer


class Application:
    """The hub as an ASGI application; `host` is what it listens on."""

    def __init__(self, hub: Hub, host: str = "127.0.0.1") -> None:
        self.hub = hub
        self.door = Doorkeeper(hub.settings, host)
        self.pools = {"pages": Pool(*_PAGES), "clones": Pool(*_CLONES)}
        self.routes = Routes()
        # Narrow patterns come first: `listing` takes any repository, `absent` the rest of the API.
        narrow = (repositories, people, whole, trees, commits, lfs, xet, xetread, collections)
        for module in (*narrow, githttp, absent, listing, downloads, pages):
            self.routes.extend(module.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {key.lower() for key, _ in message["headers"]}
                extra = [header for header in _SAFE.items() if header[0] not in present]
                extra.append((b"x-request-id", request_id))
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        request = Request(scope, receive)
        # By it, a client's error and this server's log can be brought together.
        sent = request.headers.get("x-request-id") or request.headers.get("x-amzn-trace-id")
        request_id = (header_text(sent or "") or uuid.uuid4().hex).encode()
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        await response(scope, receive, guarded)

    async def _answer(self, request: Request) -> Response:
        call = Call(request, self.hub, self.pools)
        try:
            self.door.require(request)
            route, call.parameters = self.routes.match(request.method, request.scope["raw_path"])
            with disk_errors():
                if route.identify:
                    await in_thread(call.identify)
                return await self._run(route, call)
        except Refused as refusal:
            if refusal.status >= 500 and await in_thread(call.is_about_nothing):
                refusal = _gone()
            return await _refused(call, refusal)
        except ClientDisconnect:
            raise
        except OverError:
            return await _refused(call, Refused(503, "this takes longer than the hub works on it"))
        except Exception as error:
            # Its files went while it was worked on, or what was to be written of another one.
            if is_orphan(error) or await in_thread(call.is_about_nothing):
                return await _refused(call, _gone())
            log.exception("%s %s", request.method, request.url.path)
            return answer({"error": "internal error; the server's log has the details"}, 500)

    async def _run(self, route: Route, call: Call) -> Response:
        handler, made = route.handler, None
        if inspect.iscoroutinefunction(handler):
            made = await handler(call)
        elif route.pool:
            made = await call.pooled(route.pool, lambda: handler(call))
        else:
            made = await in_thread(handler, call)
        assert isinstance(made, Response)
        return made


def _gone() -> Refused:
    return Refused(404, "the repository is gone", "RepoNotFound")


async def _refused(call: Call, refusal: Refused) -> Response:
    request = call.request
    await _drain(request)
    if refusal.status == 401 and "git" in request.headers.get("user-agent", ""):
        refusal.headers["WWW-Authenticate"] = 'Basic realm="zoo hub"'  # git then asks
    if _is_person(request):
        shown = pages.refused(call, refusal)
        shown.headers.update(refusal.headers)
        return shown
    return answer(refusal.body, refusal.status, refusal.headers)


def _is_person(request: Request) -> bool:
    """Say whether a browser asks for a page; clients of the API accept anything."""
    wanted = request.headers.get("accept", "")
    return "text/html" in wanted and not request.url.path.startswith("/api/")


def _announced(request: Request) -> int:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


async def _drain(request: Request) -> None:
    """Read on for a while, so that the client has sent its body and reads our answer."""
    if request.method in ("GET", "HEAD") or _announced(request) > _DRAIN:
        return
    seen = 0
    try:
        async for data in request.stream():
            seen += len(data)
            if seen > _DRAIN:
                return
    except (RuntimeError, ClientDisconnect):  # it was read to its end already
        return
