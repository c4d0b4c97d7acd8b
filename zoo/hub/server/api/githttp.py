"""`git clone` and `git fetch` over HTTP. Writing goes through commits; `git push` is refused."""

import tempfile
import zlib
from typing import IO, Any, cast

from dulwich.errors import GitProtocolError
from dulwich.protocol import ReceivableProtocol
from dulwich.repo import Repo
from dulwich.server import DictBackend, UploadPackHandler
from starlette.responses import Response

from zoo.hub.server.api.downloads import Stream
from zoo.hub.server.call import Call, Routes, in_thread
from zoo.hub.server.common import MIB, Refused, bad

routes = Routes()
_REQUEST = 16 * MIB  # of wants and haves
_MEMORY = 8 * MIB  # a larger pack is put together on the disk
_SERVICE = "git-upload-pack"


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
        data = body[at : at + size]
        at += len(data)
        return data

    repo = Repo(str(git.path))
    try:
        proto = ReceivableProtocol(read, out.write)
        repositories: Any = {"/": repo}
        backend: Any = DictBackend(repositories)
        handler = UploadPackHandler(
            backend, ["/"], proto, stateless_rpc=True, advertise_refs=advertise
        )
        if advertise:
            proto.write_pkt_line(f"# service={_SERVICE}\n".encode())
            proto.write_pkt_line(None)
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
    if call.request.query_params.get("service") != _SERVICE:
        raise Refused(403, "this hub takes no git push; use zoo push or hf upload")
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
    return _send(await in_thread(lambda: _run(call, body, advertise=False)), "result")
