"""The Xet upload route, so that an unmodified client can push weights of any size.

A *xorb* is a run of compressed chunks. A *shard* says of which chunks a file consists. When the
shard comes, the file is put together, checked against its sha256 and kept as any large file;
downloads are plain HTTP, so there is no Xet read side. Xorbs are kept, because a client does not
send again what it remembers having sent; each user has their own, because looking into those of
others would tell what others have.
"""

import base64
import binascii
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import lz4.frame
from starlette.responses import Response

from zoo.hub.server.api.lfs import keep
from zoo.hub.server.call import Call, Routes, answer, in_thread
from zoo.hub.server.common import SHA256, Refused, bad
from zoo.hub.server.store.accounts import sign, signed
from zoo.hub.server.store.hub import Hub
from zoo.hub.server.store.objects import Upload

routes = Routes()
_RECORD = 48
_END = b"\xff" * 32
_VERIFIED, _METADATA = 1 << 31, 1 << 30
_HEADER = struct.Struct("<32sII8x")  # of a file: its hash, flags, number of segments
_SEGMENT = struct.Struct("<32sIIII")  # xorb, flags, unpacked bytes, first chunk, end chunk
_MAGIC = b"XETBLOB"  # begins the footer that a xorb may have


@routes.repo("GET", "/xet-write-token/{revision}")
def write_token(call: Call) -> Response:
    """Give a token for uploads to one repository, and the address to send them to."""
    row = call.repo("write")
    assert call.account is not None
    expires = int(time.time()) + call.hub.settings.signed_seconds
    user = base64.urlsafe_b64encode(call.account.user.encode()).decode()
    token = f"{row['id']}.{user}.{expires}"
    token += "." + sign(call.hub.index.secret, "xet", token)
    address = f"{call.base}/xet"
    headers = {
        "X-Xet-Cas-Url": address,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    body = {"casUrl": address, "accessToken": token, "exp": expires}
    return answer(body, headers=headers)


def _holder(call: Call) -> tuple[int, str]:
    """Return the repository and the user that the upload token of a request stands for."""
    scheme, _, token = call.request.headers.get("authorization", "").partition(" ")
    text, _, signature = token.strip().rpartition(".")
    if scheme.lower() != "bearer" or not signed(call.hub.index.secret, signature, "xet", text):
        raise Refused(401, "the upload token is not valid")
    repo, user, expires = text.split(".")
    if int(expires) < time.time():
        raise Refused(401, "the upload token has expired")
    try:
        call.found = int(repo)
        return call.found, base64.urlsafe_b64decode(user).decode()
    except (binascii.Error, ValueError):
        raise Refused(401, "the upload token is not valid") from None


def _xorb(hub: Hub, user: str, name: str) -> Path:
    return hub.root / "xorbs" / user.lower() / name[:2] / name


@routes.add("POST", "xet/v1/xorbs/default/{hash}", identify=False)
async def xorb(call: Call) -> Response:
    """Keep a xorb. Its bytes are checked when a file is made of them."""
    _, user = _holder(call)
    name = call.parameters["hash"]
    if not SHA256.fullmatch(name):
        raise bad("the name of a xorb is 64 hexadecimal digits")
    target = _xorb(call.hub, user, name)
    upload_of = call.hub.objects.upload(call.hub.settings.max_xorb_bytes)
    upload = await in_thread(upload_of.__enter__)
    try:
        async for piece in call.chunks(call.hub.settings.max_xorb_bytes):
            await in_thread(upload.write, piece)

        def act() -> bool:
            new = not target.exists()
            with upload.path.open("rb") as stream:
                if not list(_chunks(stream)):
                    raise bad("the xorb has no chunks")
            _require_room(call.hub, user, upload.size)
            upload.move(target)
            return new

        return answer({"was_inserted": await in_thread(act)})
    finally:
        await in_thread(upload_of.__exit__, None, None, None)


def _require_room(hub: Hub, user: str, more: int) -> None:
    """Refuse a xorb when those of the user would take more than a namespace may have."""
    quota = hub.settings.quota_bytes
    if quota is not None:
        folder = hub.root / "xorbs" / user.lower()
        used = sum(path.stat().st_size for path in folder.glob("??/*"))
        if used + more > quota:
            raise Refused(413, f"the chunks of {user} take more than the quota of {quota} bytes")


@dataclass(frozen=True)
class Segment:
    """A run of chunks of one xorb."""

    xorb: str
    size: int
    first: int
    end: int


@routes.add("POST", "xet/v1/shards", identify=False)
async def shard(call: Call) -> Response:
    """Put together the files that a shard describes, and keep them."""
    repo, user = _holder(call)
    data = await call.body(call.hub.settings.max_shard_bytes)
    await in_thread(_shard, call.hub, repo, user, data)
    return answer({"result": 1})


def _shard(hub: Hub, repo: int, user: str, data: bytes) -> None:
    row = hub.index.one("SELECT namespace FROM repos WHERE id = ?", repo)
    if row is None:
        raise Refused(404, "the repository is gone", "RepoNotFound")
    try:
        files = list(parse_shard(data))
    except struct.error:
        raise bad("the shard ends too early") from None
    for oid, segments in files:
        size = sum(segment.size for segment in segments)
        if size > hub.settings.max_file_bytes:
            raise Refused(413, f"at most {hub.settings.max_file_bytes} bytes a file")
        if hub.index.owned_size(repo, oid) == size and hub.intact(oid):
            continue
        hub.require_quota(row["namespace"], size)
        with hub.objects.upload(size) as upload:
            for segment in segments:
                _append(hub, user, segment, upload)
            keep(hub, repo, upload, oid, size)


def parse_shard(data: bytes) -> Iterator[tuple[str, list[Segment]]]:
    """Yield the sha256 and the segments of each file of a shard.

    Raises:
        struct.error: the shard ends too early.
        Refused: a file has no sha256.

    """
    at = _RECORD
    while data[at : at + 32] != _END:
        _, flags, count = _HEADER.unpack_from(data, at)
        at += _RECORD
        if count > (len(data) - at) // _RECORD:
            raise struct.error("more segments than bytes")
        segments = []
        for _ in range(count):
            name, _, size, first, end = _SEGMENT.unpack_from(data, at)
            segments.append(Segment(_hex(name), size, first, end))
            at += _RECORD
        if flags & _VERIFIED:
            at += count * _RECORD
        if not flags & _METADATA:
            raise bad("a file of the shard has no sha256")
        (digest,) = struct.unpack_from("<32s16x", data, at)
        at += _RECORD
        yield _hex(digest), segments


def _hex(data: bytes) -> str:
    """Return a hash as Xet writes it: four little-endian numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", data))


def _append(hub: Hub, user: str, segment: Segment, upload: Upload) -> None:
    """Write the chunks `first` to `end` of a xorb to the file."""
    try:
        stream = _xorb(hub, user, segment.xorb).open("rb")
    except FileNotFoundError:
        raise bad(f"the xorb {segment.xorb} was not uploaded") from None
    written = 0
    os.utime(stream.fileno())  # garbage collection goes by the last use
    with stream:
        for i, (packed, scheme, size) in enumerate(_chunks(stream)):
            if i >= segment.end:
                break
            if i < segment.first:
                stream.seek(packed, 1)
                continue
            data = _unpack(stream.read(packed), scheme, size)
            written += len(data)
            upload.write(data)
    if written != segment.size:
        raise bad(f"a segment of {segment.xorb} has {written} bytes, not {segment.size}")


def _chunks(stream: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yield packed size, scheme and size of each chunk; the stream is then at its bytes.

    The reader may leave the stream anywhere.
    """
    end = stream.seek(0, 2)
    at = 0
    while at < end:
        stream.seek(at)
        header = stream.read(8)
        if header.startswith(_MAGIC):
            return
        if len(header) < 8 or header[0] != 0:
            raise bad("the xorb is not one")
        packed, size = int.from_bytes(header[1:4], "little"), int.from_bytes(header[5:8], "little")
        at += 8 + packed
        if at > end:
            raise bad("the xorb ends too early")
        yield packed, header[4], size


def _unpack(data: bytes, scheme: int, size: int) -> bytes:
    """Return the bytes of a chunk. Never more than `size` (at most 16 MiB) are unpacked."""
    if scheme == 0:
        plain = data
    elif scheme in (1, 2):
        try:
            plain = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        except (RuntimeError, EOFError) as error:
            raise bad("a chunk of the xorb is damaged") from error
    else:
        raise bad(f"unknown compression {scheme} in a xorb")
    if len(plain) != size:
        raise bad("a chunk of the xorb is damaged")
    if scheme == 2:  # its bytes were grouped by their position modulo 4
        mixed, at = bytearray(size), 0
        for i in range(4):
            count = (size + 3 - i) // 4
            mixed[i::4] = plain[at : at + count]
            at += count
        plain = bytes(mixed)
    return plain
