"""One request: who asks, what for, and its body within bounds. And the table of routes.

Routes are matched on the raw path, because revisions and paths arrive with an encoded slash
(`refs%2Fpr%2F1`) that a decoded path cannot tell from a real one.
"""

import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from zoo.hub.server.common import MIB, Name, Refused, bad
from zoo.hub.server.pool import Pool
from zoo.hub.server.store.accounts import Account, account_of, is_ours, token_in
from zoo.hub.server.store.hub import Hub, Row

_AT_ONCE = 64 * 1024  # of JSON, which is parsed between the other work of the loop
KINDS = ("models", "datasets", "spaces")
# Never a bare name: our own addresses, and what a browser asks every server for.
_OURS = ("api", "collections", "health", "lfs", "login", "xet", "favicon.ico", "robots.txt", *KINDS)
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


class Call:
    """A request and what the server knows about it."""

    def __init__(self, request: Request, hub: Hub, pools: Mapping[str, Pool]) -> None:
        self.request = request
        self.hub = hub
        self.parameters: dict[str, str] = {}
        self.account: Account | None = None
        self.foreign: str | None = None  # a token that is not ours, for the upstream of a mirror
        self.gone = threading.Event()  # set when the client of a request in a pool has gone
        self.found: int | None = None  # the row of the repository that it is about
        self._pools = pools

    def identify(self) -> None:
        """Find out who is asking; a wrong token is an error, even where none is needed."""
        authorization = self.request.headers.get("authorization")
        if authorization and self.hub.mirror:
            token = token_in(authorization)
            if not is_ours(self.hub.index, token):
                self.foreign = token
                return
        self.account = account_of(self.hub.index, authorization)

    @property
    def base(self) -> str:
        """The address that the client used for us: any other host would look foreign to it."""
        if self.hub.settings.public_url:
            return self.hub.settings.public_url.rstrip("/")
        host = self.request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            raise bad("the Host header is not a host")
        return f"{self.request.url.scheme}://{host}"

    @property
    def name(self) -> Name:
        """The repository that the address names."""
        name = self.parameters["name"]
        if self.parameters.get("git"):
            name = name.removesuffix(".git")
        return Name(self.parameters["kind"], self.parameters.get("namespace", ""), name)

    def repo(self, need: str = "list") -> Row:
        """Return the row of the repository that the address names."""
        if self.hub.mirror and need != "write":
            row = self.hub.mirror.row(self.name, self.foreign, need)
            if row is not None:
                self.found = row["id"]
                return row
        row = self._row(need)
        self.found = row["id"]
        return row

    def _row(self, need: str) -> Row:
        try:
            return self.hub.find(self.name, self.account, need)
        except Refused as refusal:
            name = self.name
            new = self.hub.moved(name, self.account) if refusal.status in (401, 404) else None
            if new is None:
                raise
            # Without the host, for the client follows no other kind for a file.
            path = self.request.scope["raw_path"].decode("ascii")
            parts = path.split("/")
            at = next(i for i, part in enumerate(parts) if unquote(part) == name.namespace)
            end = ".git" if parts[at + 1].endswith(".git") else ""
            parts[at : at + 2] = [quote(new.namespace), quote(new.name) + end]
            query = self.request.scope["query_string"].decode("ascii", "replace")
            address = "/".join(parts) + (f"?{query}" if query else "")
            text = f"{name.id} is called {new.id} now"
            raise Refused(307, text, headers={"Location": address}) from None

    def is_about_nothing(self) -> bool:
        """Say whether the repository that was found for it has been deleted since."""
        sql = "SELECT 1 FROM repos WHERE id = ?"
        return self.found is not None and self.hub.index.one(sql, self.found) is None

    def revision(self, row: Row, revision: str) -> str:
        """Return the commit that a revision names; a mirror asks its upstream."""
        if row["upstream"] and self.hub.mirror:
            return self.hub.mirror.revision(row, revision, self.foreign)
        return self.hub.revision(row, revision)

    def flag(self, key: str) -> bool:
        """Return whether a query parameter is set and not false."""
        return self.request.query_params.get(key, "false").lower() not in ("false", "0", "")

    def number(self, key: str, default: int, most: int) -> int:
        """Return a query parameter as a number from 0 to `most`."""
        text = self.request.query_params.get(key, str(default))
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise bad(f"{key} must be a whole number")
        return min(int(text), most)

    async def pooled(self, pool: str, work: Callable[[], Any]) -> Any:
        """Return what `work` gives, done by a pool's threads; the body must have been read."""
        return await self._pools[pool].run(self.request, self.gone, work)

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of about 1 MiB; fewer thread switches than per packet."""
        total, pending, held = 0, [], 0
        async for data in self.request.stream():
            total += len(data)
            if total > limit:
                raise Refused(413, f"the body is larger than the {limit} bytes allowed here")
            pending.append(data)
            held += len(data)
            if held >= MIB:
                yield b"".join(pending)
                pending, held = [], 0
        if held:
            yield b"".join(pending)

    async def body(self, limit: int | None = None) -> bytes:
        """Return the whole body, which must be small; strangers get less unless `limit` says."""
        most = self.hub.settings.max_json_bytes
        known = self.account is not None or self.foreign is not None
        limit = limit or (most if known else min(most, MIB))
        return b"".join([piece async for piece in self.chunks(limit)])

    async def json(self, limit: int | None = None) -> dict[str, Any]:
        """Return the body as a JSON object; an empty body is an empty object."""
        data = await self.body(limit)
        if len(data) > _AT_ONCE:
            parsed: dict[str, Any] = await in_thread(parse_object, data)
            return parsed
        return parse_object(data) if data.strip() else {}


def parse_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object from strangers' bytes, which can be sent back as JSON.

    Python's parser also takes NaN, 1e999 and half of a surrogate pair, which no answer can hold.
    """
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise bad("this is not JSON") from None
    if not isinstance(value, dict):
        raise bad("expected a JSON object")
    return value


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return JSONResponse(value, status, headers)


def next_link(call: Call, cursor: int) -> dict[str, str]:
    """Return the Link header of a page that another one follows."""
    query = [(k, v) for k, v in call.request.query_params.multi_items() if k != "cursor"]
    text = "&".join(f"{quote(k)}={quote(v)}" for k, v in [*query, ("cursor", str(cursor))])
    path = call.request.scope["raw_path"].decode("ascii")
    return {"Link": f'<{call.base}{path}?{text}>; rel="next"'}


Handler = Callable[[Call], Response] | Callable[[Call], Awaitable[Response]]
Decorator = Callable[[Handler], Handler]


@dataclass(frozen=True)
class Route:
    """What answers a method at a pattern; `pool` names the threads it works in, if not all."""

    methods: frozenset[str]
    pattern: list[str]
    handler: Handler
    identify: bool = True
    pool: str | None = None


class Routes:
    """Patterns such as `api/{kind}/{namespace}/{name}/tree/{revision}/*path`.

    `{kind}` is one of `models datasets spaces`. `{x}` is one segment, `*x` all that follow.
    """

    def __init__(self) -> None:
        self._table: list[Route] = []

    def add(
        self, methods: str, *patterns: str, identify: bool = True, pool: str | None = None
    ) -> Decorator:
        """Register a handler; a plain function runs in a thread, a coroutine in the loop."""

        def register(handler: Handler) -> Handler:
            allowed = set(methods.split())
            if "GET" in allowed:
                allowed.add("HEAD")  # proxies probe with HEAD, on the API too
            for pattern in patterns:
                route = Route(frozenset(allowed), pattern.split("/"), handler, identify, pool)
                self._table.append(route)
            return handler

        return register

    def repo(self, methods: str, action: str) -> Decorator:
        """Register a handler at `api/{kind}/{namespace}/{name}/action`; and of a bare name."""
        # `api/models/gpt2/refs` is of gpt2: `gpt2/refs` cannot be made (`checked_name`), and the
        # routes of one repository without an action come last (`listing`).
        return self.add(
            methods,
            f"api/{{kind}}/{{namespace}}/{{name}}{action}",
            f"api/{{kind}}/{{name}}{action}",
        )

    def page(self, methods: str, action: str, pool: str | None = None) -> Decorator:
        """Register a handler at the address of a repository's page, and below it."""
        name, both = f"{{name}}{action}", f"{{namespace}}/{{name}}{action}"
        patterns = (both, f"{{kind}}/{both}", name, f"{{kind}}/{name}")
        return self.add(methods, *patterns, pool=pool)

    def extend(self, other: "Routes") -> None:
        """Take over the routes of another table."""
        self._table += other._table

    def match(self, method: str, raw_path: bytes) -> tuple[Route, dict[str, str]]:
        """Return the route of a path and the parameters in it.

        Raises:
            Refused: 404 or 405.

        """
        try:
            text = raw_path.decode("ascii")
            segments = [unquote(part, errors="strict") for part in text[1:].split("/")]
        except UnicodeDecodeError:
            raise bad("the address is not valid UTF-8") from None
        if any("\0" in part for part in segments):
            raise bad("the address holds a NUL")
        if len(segments) > 1 and segments[-1] == "":
            segments.pop()
        known = False
        for route in self._table:
            parameters = _match(route.pattern, segments)
            if parameters is not None:
                if method in route.methods:
                    return route, {"kind": "models", **parameters}
                known = True
        if known:
            raise Refused(405, f"this address takes no {method}")
        if segments[0] == "api":
            name = "/".join(segments[:2])[:60]
            raise Refused(
                404, f"this hub has no {name} of that form; see its guide for what it has"
            )
        raise Refused(404, "no such address")


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    parameters: dict[str, str] = {}
    for i, part in enumerate(pattern):
        if part.startswith("*"):
            if i >= len(segments):
                return None
            parameters[part[1:]] = "/".join(segments[i:])
            return parameters
        if i >= len(segments):
            return None
        if part.startswith("{"):
            key, suffix = part[1:].split("}", 1)
            value = segments[i]
            if (key == "kind" and value not in KINDS) or not value.endswith(suffix):
                return None
            if key == "namespace" and value in ("api", *KINDS):
                return None
            if key == "name" and "namespace" not in parameters and value in _OURS:
                return None
            parameters[key] = value.removesuffix(suffix)
        elif part != segments[i]:
            return None
    return parameters if len(segments) == len(pattern) else None


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run what reads or writes the disk without holding up other requests."""
    return await to_thread.run_sync(function, *arguments)
