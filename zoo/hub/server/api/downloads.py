"""Serving files: HEAD, whole and by Range, with the headers that the client stores them under."""

import mimetypes
import re
import time
from collections.abc import Callable, Iterator
from typing import Protocol
from urllib.parse import quote

from anyio import to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from zoo.hub.server.api.trees import files_facts
from zoo.hub.server.call import Call, Routes
from zoo.hub.server.common import Refused
from zoo.hub.server.mirror.following import Fetch, Follow
from zoo.hub.server.mirror.mirror import Mirror
from zoo.hub.server.store.hub import Hub

routes = Routes()
_FIRST_BYTES_S = 8.0  # below the 10 s after which the client gives up
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
# A file is data, even where a browser opens it: no scripts, no plug-ins, no page of this origin.
_CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; sandbox"
_SHOWN = {"image/png", "image/jpeg", "image/webp", "image/gif", "text/plain", "application/json"}


class Stream(Response):
    """A body read in a thread, 1 MiB at a time; the length is known beforehand.

    `close` is called at the end, even when nothing was read: for HEAD, or a client that has gone.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        status: int,
        headers: dict[str, str],
        close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(None, status)
        self.pieces, self.close = pieces, close
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces; a client that has gone ends the reading."""
        start = {"type": "http.response.start", "status": self.status_code}
        try:
            await send({**start, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                while (piece := await to_thread.run_sync(next, self.pieces, b"")) != b"":
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if self.close:
                self.close()


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first and the last byte that a Range header asks for; None for all of them.

    Several ranges, or units other than bytes, are ignored, as the standard allows.

    Raises:
        Refused: 416; the range begins after the end.

    """
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":  # the last n bytes
        first, last = max(0, size - int(match[2])), size - 1
        empty = int(match[2]) == 0
    else:
        first = int(match[1])
        last = min(int(match[2]), size - 1) if match[2] else size - 1
        empty = match[2] != "" and int(match[2]) < first
        if empty:  # not a range at all
            return None
    if first >= size or empty:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Refused(416, f"the file has {size} bytes", headers=headers)
    return first, last


def send_file(
    call: Call,
    source: "ByteSource",
    size: int,
    etag: str,
    headers: dict[str, str],
    ranges: bool = True,
) -> Response:
    """Answer with a file, or, unless `ranges` is false, with the part of it that is asked for."""
    request = call.request
    headers |= {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
    if request.headers.get("if-none-match") in (f'"{etag}"', etag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if not ranges or request.headers.get("if-range") not in (None, f'"{etag}"'):
        wanted = None
    part = byte_range(wanted, size)
    first, last = part or (0, size - 1)
    length = last - first + 1
    headers["Content-Length"] = str(length)
    if part:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return source.answer(first, length, 206 if part else 200, headers)


class ByteSource(Protocol):
    """Where the bytes of an answer come from."""

    def answer(self, first: int, length: int, status: int, headers: dict[str, str]) -> Response:
        """Return the answer that holds `length` bytes from `first`."""


class Pieces:
    """Where the bytes of a file come from: memory, or the large files."""

    def __init__(self, hub: Hub, oid: str | None, data: bytes = b"") -> None:
        self._hub, self._oid, self._data = hub, oid, data

    def answer(self, first: int, length: int, status: int, headers: dict[str, str]) -> Response:
        """Return the answer that holds `length` bytes from `first`."""
        return Stream(self._read(first, length), status, headers)

    def _read(self, first: int, length: int) -> Iterator[bytes]:
        if self._oid is None:
            return iter([self._data[first : first + length]] if length else [])
        return self._hub.objects.read(self._oid, first, length)


class Coming:
    """The bytes of a large file that is on its way from the upstream."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def answer(self, first: int, length: int, status: int, headers: dict[str, str]) -> Response:
        """Return the answer that holds `length` bytes from `first`."""
        return Follow(self._fetch, first, length, status, headers)


@routes.page("GET", "/raw/{revision}/*path")
def raw(call: Call) -> Response:
    """Send what git has: for a large file, its pointer."""
    return _send(call, raw=True)


@routes.page("GET", "/resolve/{revision}/*path")
def resolve(call: Call) -> Response:
    """Send a file of a revision."""
    return _send(call, raw=False)


def _send(call: Call, *, raw: bool) -> Response:
    hub, path = call.hub, call.parameters["path"]
    row = call.repo("read")
    sha = call.revision(row, call.parameters["revision"])
    blob = hub.git(row).tree(sha).get(path)
    headers = {"X-Repo-Commit": sha}
    if blob is None:
        raise Refused(404, f"no file {path!r}", "EntryNotFound", headers=headers)
    file = files_facts(hub, row, {path: blob})[path]
    if "lfs" not in file or raw:
        data = hub.git(row).blob(blob)
        return send_file(call, Pieces(hub, None, data), len(data), blob, headers | _shown(path))
    oid, size = file["lfs"]["oid"], file["lfs"]["size"]
    source: ByteSource = Pieces(hub, oid)
    ranges = True
    if not row["upstream"]:
        require_intact(hub, oid, path)
    elif call.request.method == "GET":
        fetch = _mirror(hub, path).fetch(row, sha, path, oid, size, call.foreign)
        source, ranges = mirrored(hub, row["id"], oid, fetch)
    if call.request.method == "GET" and "range" not in call.request.headers:
        hub.count_download(row["id"])
    headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(size)}
    return send_file(call, source, size, oid, headers | _shown(path), ranges)


def _mirror(hub: Hub, path: str) -> Mirror:
    if hub.mirror is None:
        raise Refused(404, f"{path!r} is of a mirror, which is off: serve with --upstream")
    return hub.mirror


def mirrored(hub: Hub, repo: int, oid: str, fetch: Fetch | None) -> tuple[ByteSource, bool]:
    """Return where the bytes of a mirrored file come from, and whether Range may be honoured.

    An upstream that fails at once is answered in words; later, only a cut is left.
    """
    end = time.monotonic() + _FIRST_BYTES_S
    while fetch and not fetch.over and fetch.ready() <= 0 and time.monotonic() < end:
        time.sleep(0.01)
    doubtful = hub.mirror is not None and hub.mirror.is_doubtful(repo, fetch, oid)
    if fetch and fetch.error:
        raise fetch.error
    coming = fetch is not None and fetch.whole is None
    return (Coming(fetch) if fetch and coming else Pieces(hub, oid)), not doubtful


def require_intact(hub: Hub, oid: str, path: str) -> None:
    """Refuse to send a large file that is no longer what was uploaded."""
    if not hub.intact(oid):
        message = f"{path!r} was damaged on the hub's disk: its sha256 is no longer {oid}"
        raise Refused(500, message + "; push it again", "DamagedFile")


def _shown(path: str) -> dict[str, str]:
    """Return the headers that keep a browser from running what a stranger uploaded."""
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    if kind.startswith("text/") or path.endswith((".md", ".yaml", ".yml", ".toml", ".py")):
        kind = "text/plain"
    if kind not in _SHOWN:
        kind = "application/octet-stream"
    name = path.rpartition("/")[2]
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    how = "attachment" if kind == "application/octet-stream" else "inline"
    return {
        "Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
        "Content-Disposition": f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}",
        "Content-Security-Policy": _CSP,
    }
