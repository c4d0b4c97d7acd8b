"""The Xet read side: what a client needs to copy a large file on the server, or to fetch it so.

No chunks are kept for reading. A large file is told of as parts of plain chunks, one after the
other, and the bytes of a part are made when they are asked for: eight bytes before each chunk. So
it can be read however it was uploaded. The name of a file is its sha256.
"""

import hashlib
import time
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from zoo.hub.server.api.downloads import Stream, byte_range, require_intact
from zoo.hub.server.call import Call, Routes, answer
from zoo.hub.server.common import MIB, SHA256, Refused
from zoo.hub.server.store.accounts import sign, signed

routes = Routes()
_CHUNK = 64 * 1024
_HEADER = 8
_PART = 16 * MIB  # of the file, in one run of chunks
_PER_PART = _PART // _CHUNK


@routes.repo("GET", "/xet-read-token/{revision}")
def read_token(call: Call) -> Response:
    """Give a token for reading the large files of one repository, and the address to ask."""
    row = call.repo("read")
    expires = int(time.time()) + call.hub.settings.signed_seconds
    text = f"read.{row['id']}.{expires}"
    token = f"{text}.{sign(call.hub.index.secret, 'xet-read', text)}"
    address = f"{call.base}/xet"
    headers = {
        "X-Xet-Cas-Url": address,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    return answer({"casUrl": address, "accessToken": token, "exp": expires}, headers=headers)


def _repo(call: Call) -> int:
    """Return the repository that the token of a request stands for."""
    scheme, _, token = call.request.headers.get("authorization", "").partition(" ")
    text, _, signature = token.strip().rpartition(".")
    secret = call.hub.index.secret
    if scheme.lower() != "bearer" or not signed(secret, signature, "xet-read", text):
        raise Refused(401, "the token for reading is not valid")
    _, repo, expires = text.split(".")
    if int(expires) < time.time():
        raise Refused(401, "the token for reading has expired")
    call.found = int(repo)
    return call.found


@routes.add("GET", "xet/v1/reconstructions/{hash}", identify=False)
def reconstruction(call: Call) -> Response:
    """Say of which chunks a file, or the part of it that Range asks for, is made."""
    repo, oid = _repo(call), call.parameters["hash"]
    size = call.hub.index.owned_size(repo, oid) if SHA256.fullmatch(oid) else None
    if size is None:
        raise Refused(404, "no such file in this repository")
    require_intact(call.hub, oid, oid)
    first, last = byte_range(call.request.headers.get("range"), size) or (0, size - 1)
    terms: list[dict[str, Any]] = []
    fetch: dict[str, list[dict[str, Any]]] = {}
    chunk = first // _CHUNK
    while size and chunk * _CHUNK <= last:
        part = chunk // _PER_PART
        end = min((part + 1) * _PER_PART, last // _CHUNK + 1)
        inside = {"start": chunk - part * _PER_PART, "end": end - part * _PER_PART}
        length = min(end * _CHUNK, size) - chunk * _CHUNK
        name = hashlib.sha256(f"{oid} {part}".encode()).hexdigest()
        terms.append({"hash": name, "unpacked_length": length, "range": inside})
        start = inside["start"] * (_CHUNK + _HEADER)
        stop = start + length + _HEADER * (end - chunk)
        fetch[name] = [{
            "range": inside,
            "url": _address(call, repo, oid, part),
            "url_range": {"start": start, "end": stop - 1},
        }]  # fmt: skip
        chunk = end
    offset = first % _CHUNK if size else 0
    body = {"offset_into_first_range": offset, "terms": terms, "fetch_info": fetch}
    return answer(body)


def _address(call: Call, repo: int, oid: str, part: int) -> str:
    expires = int(time.time()) + call.hub.settings.signed_seconds
    signature = sign(call.hub.index.secret, "xet-part", repo, oid, part, expires)
    return f"{call.base}/xet/parts/{repo}/{oid}/{part}/{expires}/{signature}"


@routes.add("GET", "xet/parts/{repo}/{oid}/{part}/{expires}/{signature}", identify=False)
def part_of(call: Call) -> Response:
    """Send a part of a file as chunks, each with its header, from a signed address."""
    fields = [call.parameters[key] for key in ("repo", "oid", "part", "expires")]
    if not signed(call.hub.index.secret, call.parameters["signature"], "xet-part", *fields):
        raise Refused(403, "the address is not one that this hub has signed")
    repo, part, expires = int(fields[0]), int(fields[2]), int(fields[3])
    if expires < time.time():
        raise Refused(403, "the address has expired; ask for a new one")
    call.found, oid = repo, fields[1]
    size = call.hub.index.owned_size(repo, oid)
    if size is None:
        raise Refused(404, "no such file in this repository")
    require_intact(call.hub, oid, oid)
    plain = min(_PART, size - part * _PART)
    whole = plain + _HEADER * -(-plain // _CHUNK)
    wanted = byte_range(call.request.headers.get("range"), whole)
    first, last = wanted or (0, whole - 1)
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    headers["Content-Length"] = str(last - first + 1)
    if wanted:
        headers["Content-Range"] = f"bytes {first}-{last}/{whole}"
    pieces = _pieces(call, oid, part * _PART, plain, first, last + 1)
    return Stream(pieces, 206 if wanted else 200, headers)


def _pieces(call: Call, oid: str, start: int, plain: int, first: int, end: int) -> Iterator[bytes]:
    """Yield the bytes `first` to `end` of a part that holds `plain` bytes from `start` on."""
    step = _CHUNK + _HEADER
    for number in range(first // step, -(-end // step)):
        length = min(_CHUNK, plain - number * _CHUNK)
        count = length.to_bytes(3, "little")
        data = b"".join(call.hub.objects.read(oid, start + number * _CHUNK, length))
        whole = b"\0" + count + b"\0" + count + data
        at = number * step
        yield whole[max(0, first - at) : end - at]
