"""`git clone` and `git fetch` over HTTP. Writing goes through commits; `git push` is told so.

A clone without files (`--filter=blob:none`) asks for them later by their ids, which are in no list
of references; what a repository holds may be asked for by those who may read it.
"""

import re
import tempfile
import zlib
from collections.abc import Iterable
from typing import IO, Any, cast

from dulwich.errors import GitProtocolError
from dulwich.object_filters import FilterSpec
from dulwich.objects import ObjectID
from dulwich.protocol import ReceivableProtocol
from dulwich.refs import Ref
from dulwich.repo import Repo
from dulwich.server import DictBackend, UploadPackHandler
from starlette.responses import Response

from zoo.hub.server.api.downloads import Stream
from zoo.hub.server.budget import Budget, GoneError
from zoo.hub.server.call import Call, Routes
from zoo.hub.server.common import MIB, Refused, bad

routes = Routes()
_REQUEST = 16 * MIB  # of wants and haves
_TALK_S = 0.15  # of the processor, until all that is asked for has been read
_MEMORY = 8 * MIB  # a larger pack is put together on the disk
_SERVICE = "git-upload-pack"
_WANT = re.compile(rb"[0-9a-f]{4}want ([0-9a-f]{40})")
_NO_PUSH = "this hub takes no git push: write with zoo push, hf upload or create_commit"


class _Handler(UploadPackHandler):
    """dulwich's, which also gives objects by their ids."""

    by_id = False
    _filter_spec: FilterSpec | None = None

    def capabilities(self) -> list[bytes]:
        """Return what git may ask for."""
        return [*super().capabilities(), b"allow-tip-sha1-in-want", b"allow-reachable-sha1-in-want"]

    @property
    def filter_spec(self) -> FilterSpec | None:
        """What to leave out; nothing where files are asked for by their ids."""
        return None if self.by_id else self._filter_spec

    @filter_spec.setter
    def filter_spec(self, value: FilterSpec | None) -> None:
        self._filter_spec = value


class _Repo(Repo):
    """A repository in which the objects that are asked for count as references."""

    wanted: Iterable[bytes] = ()

    def get_refs(self) -> dict[Ref, ObjectID]:
        """Return the references, and what is asked for by its id."""
        extra = {Ref(b"refs/wanted/" + sha): ObjectID(sha) for sha in self.wanted}
        return {**super().get_refs(), **extra}


def _run(call: Call, body: bytes, *, advertise: bool) -> IO[bytes]:
    """Let dulwich answer; return the file that holds the answer."""
    row = call.repo("read")
    if advertise and row["upstream"]:
        call.revision(row, "main")
    git = call.hub.git(row)
    folder = str(call.hub.objects.temporary)
    out = cast(IO[bytes], tempfile.SpooledTemporaryFile(_MEMORY, dir=folder))  # noqa: SIM115
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        talk.require()
        data = body[at : at + size]
        at += len(data)
        return data

    def write(data: bytes) -> int:
        if call.gone.is_set():
            raise GoneError
        return out.write(data)

    repo = _Repo(str(git.path))
    try:
        store = repo.object_store
        repo.wanted = set(_WANT.findall(body))
        if not all(ObjectID(sha) in store for sha in repo.wanted):  # no second is looked for
            raise bad("not our ref: the repository does not hold everything that is asked for")
        by_id = any(store[ObjectID(sha)].type_name in (b"blob", b"tree") for sha in repo.wanted)
        proto = ReceivableProtocol(read, write)
        repositories: Any = {"/": repo}
        backend: Any = DictBackend(repositories)
        handler = _Handler(backend, ["/"], proto, stateless_rpc=True, advertise_refs=advertise)
        handler.by_id = by_id
        if advertise:
            proto.write_pkt_line(f"# service={_SERVICE}\n".encode())
            proto.write_pkt_line(None)
        talk = Budget(_TALK_S)
        handler.handle()
    except (ValueError, AssertionError, KeyError, EOFError, GitProtocolError) as error:
        out.close()
        raise bad("this is not what git sends") from error
    except BaseException:
        out.close()
        raise
    finally:
        repo.close()
    return out


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
        said = f"ERR {_NO_PUSH}\n"
        line = f"# service={service}\n"
        body = f"{len(line) + 4:04x}{line}0000{len(said) + 4:04x}{said}"
        headers = {"Content-Type": f"application/x-{service}-advertisement"}
        return Response(body.encode(), 200, headers)
    if service != _SERVICE:
        raise Refused(403, f"unknown service; {_NO_PUSH}")
    return _send(_run(call, b"", advertise=True), "advertisement")


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
    made = await call.pooled("clones", lambda: _run(call, body, advertise=False))
    return _send(made, "result")


@routes.page("POST", "/git-receive-pack")
def receive_pack(call: Call) -> Response:
    """Refuse a push that did not ask first."""
    raise Refused(403, _NO_PUSH)
