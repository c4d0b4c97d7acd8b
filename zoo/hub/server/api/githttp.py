"""`git clone` and `git fetch` over HTTP. Writing goes through commits; `git push` is told so.

A clone without files (`--filter=blob:none`) asks for them later by their ids, which are in no list
of references; what a repository holds may be asked for by those who may read it.
"""

import re
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, cast

from starlette.responses import Response

from zoo.hub.server.api.downloads import Stream
from zoo.hub.server.budget import Budget, GoneError, OverError
from zoo.hub.server.call import Call, Routes
from zoo.hub.server.common import MIB, Refused, bad
from zoo.hub.server.store.clones import Filter, FilterError, Walk, Wish
from zoo.hub.server.store.git import Git
from zoo.hub.server.store.stored import TAG, Stored

routes = Routes()
_REQUEST = 8 * MIB  # of wants and haves
_MEMORY = 8 * MIB  # a larger pack is put together on the disk
_SERVICE = "git-upload-pack"
_CPU_S = 20.0  # for one clone; the next one of the same finds its pack
_BAND = 65515  # bytes of a pack in one line: 65520 with its length and the number of the band
_CAPABILITIES = (
    "multi_ack_detailed side-band-64k ofs-delta thin-pack shallow no-progress include-tag filter "
    "allow-tip-sha1-in-want allow-reachable-sha1-in-want object-format=sha1 agent=zoo-hub"
)
_ID = re.compile(rb"[0-9a-f]{40}")
_NO_PUSH = "this hub takes no git push: write with zoo push, hf upload or create_commit"


class _SaidError(Exception):
    """What git shows to its user as the reason."""


def _line(text: str) -> bytes:
    data = text.encode()
    return b"%04x" % (len(data) + 4) + data


def _lines(body: bytes) -> Iterator[bytes | None]:
    """Yield the lines that git sent; None for the mark after some of them.

    Raises:
        Refused: 400; it was not git that sent it.

    """
    at = 0
    while at < len(body):
        try:
            size = int(body[at : at + 4], 16)
        except ValueError:
            size = 1
        if size and not 4 <= size <= len(body) - at:
            raise bad("this is not what git sends")
        yield body[at + 4 : at + size].rstrip(b"\n") if size else None
        at += size or 4


def _id(text: bytes) -> bytes:
    if not _ID.fullmatch(text):
        raise bad("this is not what git sends")
    return bytes.fromhex(text.decode())


def _stored_id(text: bytes, stored: Stored) -> bytes:
    if (sha := _id(text)) not in stored:
        raise _SaidError(f"upload-pack: not our ref {sha.hex()}")
    return sha


def _read_wish(lines: Iterator[bytes | None], stored: Stored) -> tuple[Wish, set[bytes]]:
    """Return what is asked for, and the capabilities of the client.

    What is not stored ends the reading: whoever lists a million ids is told so at the first.
    """
    wish, words = Wish(), set[bytes]()
    for line in lines:
        if line is None:
            break
        key, _, value = line.partition(b" ")
        if key == b"want":
            if not wish.wants:
                words = set(value[40:].split())
            wish.wants.add(_stored_id(value[:40] if not wish.wants else value, stored))
        elif key == b"shallow":
            if (sha := _id(value)) in stored:
                wish.shallow.add(sha)
        elif key == b"deepen" and value.isdigit() and len(value) < 12:
            wish.deepen = int(value) or None
        elif key == b"filter":
            try:
                wish.filter = Filter.parsed(value.decode("ascii", "replace"))
            except FilterError as error:
                raise _SaidError(str(error)) from None
        else:
            raise bad("this is not what git sends")
    return wish, words


def _negotiate(stored: Stored, wish: Wish, lines: Iterator[bytes | None]) -> tuple[bytes, bool]:
    """Note what the client has; return what to say to it, and whether it now waits for a pack."""
    said, last = b"", None
    for line in lines:
        if line is None:
            ready = _line(f"ACK {last} ready\n") if last else b""
            return said + ready + _line("NAK\n"), False
        key, _, value = line.partition(b" ")
        if key == b"done":
            return _line(f"ACK {last}\n" if last else "NAK\n"), True
        if key != b"have":
            raise bad("this is not what git sends")
        sha = _id(value)
        if sha not in wish.haves and sha in stored:  # once: what is said twice is said again
            wish.haves.add(sha)
            last = sha.hex()
            said += _line(f"ACK {last} common\n")
    return said, False


def _tags(stored: Stored, git: Git) -> dict[bytes, bytes]:
    """Return the tags with a text of their own, by what they mark."""
    tags = {}
    for sha in git.refs("tags").values():
        *found, marked = stored.chain(bytes.fromhex(sha))
        if found:
            tags[marked] = found[0]
    return tags


def _spool(call: Call) -> IO[bytes]:
    folder = str(call.hub.objects.temporary)
    return cast(IO[bytes], tempfile.SpooledTemporaryFile(_MEMORY, dir=folder))


def _answer(call: Call, git: Git, body: bytes, out: IO[bytes]) -> None:
    """Write what git is to get for a request."""
    lines = _lines(body)
    with Stored(git.path) as stored:
        wish, words = _read_wish(lines, stored)
        walk = Walk(stored, wish, Budget(_CPU_S, call.gone))
        if wish.deepen is not None:
            ends = [("shallow", walk.new_shallow), ("unshallow", walk.unshallow)]
            found = [f"{what} {sha.hex()}\n" for what, shas in ends for sha in sorted(shas)]
            out.write(b"".join(map(_line, found)) + b"0000")
        said, is_done = _negotiate(stored, wish, lines)
        out.write(said)
        if is_done and wish.wants:
            if b"include-tag" in words:
                wish.tags = _tags(stored, git)
            _pack(call, git, walk, out, is_split=b"side-band-64k" in words)


def _pack(call: Call, git: Git, walk: Walk, out: IO[bytes], *, is_split: bool) -> None:
    """Write the pack that is asked for, in pieces that git can tell from other things."""
    with call.hub.packs.pack(git.path, walk.wish.key) as (pack, is_new):
        if is_new:
            walk.write_pack(pack.write)
            pack.seek(0)
        while piece := pack.read(_BAND if is_split else MIB):
            if call.gone.is_set():
                raise GoneError
            out.write(b"%04x\x01" % (len(piece) + 5) if is_split else b"")
            out.write(piece)
    out.write(b"0000" if is_split else b"")


def _send(out: IO[bytes], kind: str) -> Response:
    size = out.tell()
    out.seek(0)

    headers = {
        "Content-Type": f"application/x-{_SERVICE}-{kind}",
        "Content-Length": str(size),
        "Cache-Control": "no-cache",
    }
    return Stream(iter(lambda: out.read(MIB), b""), 200, headers, out.close)


def _name(call: Call) -> None:
    """Accept the address with `.git` and without."""
    call.parameters["git"] = "yes"


@routes.page("GET", "/info/refs")
def references(call: Call) -> Response:
    """List the references, which begins a clone."""
    _name(call)
    service = call.request.query_params.get("service")
    if service == "git-receive-pack":  # git shows this, and no other kind of refusal
        said = _line(f"# service={service}\n") + b"0000" + _line(f"ERR {_NO_PUSH}\n")
        headers = {"Content-Type": f"application/x-{service}-advertisement"}
        return Response(said, 200, headers)
    if service != _SERVICE:
        raise Refused(403, f"unknown service; {_NO_PUSH}")
    row = call.repo("read")
    if row["upstream"]:
        call.revision(row, "main")
    git, out = call.hub.git(row), _spool(call)
    out.write(_line(f"# service={_SERVICE}\n") + b"0000")
    for line in _advertised(git):
        out.write(line)
    out.write(b"0000")
    return _send(out, "advertisement")


def _advertised(git: Git) -> Iterator[bytes]:
    heads, tags = git.refs("heads"), git.refs("tags")
    words = _CAPABILITIES
    found = [(f"refs/heads/{name}", sha) for name, sha in heads.items()]
    found += [(f"refs/tags/{name}", sha) for name, sha in tags.items()]
    if "main" in heads:
        found.insert(0, ("HEAD", heads["main"]))
        words += " symref=HEAD:refs/heads/main"
    if not found:
        found = [("capabilities^{}", "0" * 40)]
    with Stored(git.path) as stored:
        for i, (name, sha) in enumerate(found):
            yield _line(f"{sha} {name}\0{words}\n" if i == 0 else f"{sha} {name}\n")
            if name.startswith("refs/tags/") and stored.kind_and_size(bytes.fromhex(sha))[0] == TAG:
                yield _line(f"{stored.chain(bytes.fromhex(sha))[-1].hex()} {name}^{{}}\n")


@routes.page("POST", "/git-upload-pack")
async def upload_pack(call: Call) -> Response:
    """Send the objects that a clone or a fetch asks for."""
    _name(call)
    if call.request.headers.get("content-type") != f"application/x-{_SERVICE}-request":
        raise bad("this is not what git sends")
    body = await call.body(_REQUEST)
    if call.request.headers.get("content-encoding") == "gzip":
        unzip = zlib.decompressobj(wbits=31)
        try:
            body = unzip.decompress(body, _REQUEST)
        except zlib.error:
            raise bad("the body is not gzip") from None
        if unzip.unconsumed_tail:
            raise Refused(413, "the request is too large")

    def work() -> Response:
        git, out = call.hub.git(call.repo("read")), _spool(call)
        try:
            _answer(call, git, body, out)
        except (_SaidError, OverError) as error:  # git shows no other kind of refusal
            out.seek(0)
            out.truncate()
            said = str(error) or "this takes longer than the hub works on it: clone with --depth"
            out.write(_line(f"ERR {said}\n"))
        except BaseException:
            out.close()
            raise
        return _send(out, "result")

    made = await call.pooled("clones", work)
    assert isinstance(made, Response)
    return made


@routes.page("POST", "/git-receive-pack")
def receive_pack(call: Call) -> Response:
    """Refuse a push that did not ask first."""
    raise Refused(403, _NO_PUSH)
