"""The Xet upload route on its own: shards and xorbs made by hand, whole and damaged."""

import hashlib
import os
import struct

import lz4.frame
import pytest

from zoo.hub.server.api import xetread

XORB = "ab" * 32


def chunk(data, scheme):
    grouped = b"".join(data[i::4] for i in range(4)) if scheme == 2 else data
    packed = grouped if scheme == 0 else lz4.frame.compress(grouped)
    sizes = (len(packed).to_bytes(3, "little"), len(data).to_bytes(3, "little"))
    return b"\0" + sizes[0] + bytes([scheme]) + sizes[1] + packed


def words(text):
    """Return the bytes of a hash that is printed as four little-endian numbers."""
    return struct.pack("<4Q", *(int(text[i : i + 16], 16) for i in range(0, 64, 16)))


def shard(oid, segments, *, verified=True, metadata=True):
    flags = verified << 31 | metadata << 30
    data = bytes(48) + struct.pack("<32sII8x", bytes(32), flags, len(segments))
    for xorb, size, first, end in segments:
        data += struct.pack("<32sIIII", words(xorb), 0, size, first, end)
    data += bytes(48) * len(segments) * verified
    data += struct.pack("<32s16x", words(oid)) * metadata
    return data + b"\xff" * 32 + bytes(16)


@pytest.fixture
def upload(serve, wire):
    """Return the hub, a client, and a function that posts to the CAS with an upload token."""
    served = serve(max_xorb_bytes=1 << 20)
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})

    def post(path, body, token=None):
        given = token or client("GET", "/api/models/me/repo/xet-write-token/main").json
        headers = {"Authorization": f"Bearer {given['accessToken']}"}
        return wire(served.address)("POST", f"/xet/v1/{path}", body, headers=headers)

    return served, client, post


PARTS = [b"first" * 100, bytes(range(256)) * 7 + b"odd", b"\0" * 1000]


@pytest.mark.parametrize("scheme", [0, 1, 2])
def test_a_file_of_chunks(upload, scheme):
    _, client, post = upload
    xorb = b"".join(chunk(part, scheme) for part in PARTS)
    data = PARTS[1] + PARTS[2] + PARTS[0] + PARTS[1]
    oid = hashlib.sha256(data).hexdigest()
    assert post(f"xorbs/default/{XORB}", xorb).json == {"was_inserted": True}
    assert post(f"xorbs/default/{XORB}", xorb).json == {"was_inserted": False}
    sizes = [len(part) for part in PARTS]
    segments = [(XORB, sizes[1] + sizes[2], 1, 3), (XORB, sizes[0] + sizes[1], 0, 2)]
    assert post("shards", shard(oid, segments)).json == {"result": 1}
    value = {"path": "w.bin", "oid": oid, "size": len(data)}
    assert client.commit("me/repo", ("lfsFile", value)).status == 200
    assert client("GET", "/me/repo/resolve/main/w.bin").body == data


def test_what_is_not_a_file_is_refused(upload):
    served, _, post = upload
    xorb = b"".join(chunk(part, 1) for part in PARTS)
    assert post(f"xorbs/default/{XORB}", xorb).status == 200
    good = hashlib.sha256(PARTS[0]).hexdigest()
    size = len(PARTS[0])
    bad = {
        "wrong sha256": shard("0" * 64, [(XORB, size, 0, 1)]),
        "wrong size": shard(good, [(XORB, size - 1, 0, 1)]),
        "no such chunk": shard(good, [(XORB, size, 7, 8)]),
        "no such xorb": shard(good, [("cd" * 32, size, 0, 1)]),
        "no sha256": shard(good, [(XORB, size, 0, 1)], metadata=False),
        "too large": shard(good, [(XORB, 0xFFFFFFFF, 0, 1)] * 100),
        "cut": shard(good, [(XORB, size, 0, 1)])[:-60],
        "many segments": bytes(48) + struct.pack("<32sII8x", bytes(32), 1 << 30, 0xFFFFFFFF),
        "empty": b"",
    }
    for name, body in bad.items():
        assert post("shards", body).status in (400, 413, 422), name
    for body in (b"", b"\1" + xorb[1:], xorb[:-1], b"\0" * 8, b"x" * (2 << 20)):
        status = post(f"xorbs/default/{'ef' * 32}", body).status
        assert status in (400, 413) or body == b"\0" * 8
    assert not list((served.folder / "objects").glob("??/??/*"))
    assert not list((served.folder / "tmp").iterdir())


def test_a_chunk_that_unpacks_to_more_than_it_says(upload):
    _, _, post = upload
    packed = lz4.frame.compress(b"\0" * (8 << 20))
    head = b"\0" + len(packed).to_bytes(3, "little") + b"\1" + (16).to_bytes(3, "little")
    assert post(f"xorbs/default/{XORB}", head + packed).status == 200
    oid = hashlib.sha256(b"\0" * 16).hexdigest()
    assert post("shards", shard(oid, [(XORB, 16, 0, 1)])).status == 400


def test_upload_tokens(upload, wire):
    served, client, post = upload
    token = client("GET", "/api/models/me/repo/xet-write-token/main").json
    repo, user, expires, signature = token["accessToken"].split(".")
    for forged in (
        f"2.{user}.{expires}.{signature}",
        f"{repo}.{user}.{int(expires) + 1}.{signature}",
        f"{repo}.{user}.{expires}.",
        "",
        client.token,
    ):
        assert post("shards", b"", {"accessToken": forged}).status == 401
    # Each user has xorbs of their own: what others sent is as good as absent.
    assert post(f"xorbs/default/{XORB}", chunk(PARTS[0], 0)).status == 200
    other = wire(served.address, served.token("you"))
    other("POST", "/api/repos/create", {"name": "repo"})
    theirs = other("GET", "/api/models/you/repo/xet-write-token/main").json
    oid = hashlib.sha256(PARTS[0]).hexdigest()
    body = shard(oid, [(XORB, len(PARTS[0]), 0, 1)])
    assert post("shards", body, theirs).status == 400
    assert post("shards", body).status == 200


@pytest.fixture
def readable(serve, wire):
    """A hub with a private repository of large files of odd sizes; a token; what they hold."""
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo", "private": True})
    data = {f"w{size}.bin": os.urandom(size) for size in (1, 65_536, 65_537, 20_000_003)}
    for name, content in data.items():
        assert client.commit_large("me/repo", name, content).status == 200
    return client, f"http://{client.host}", data


def test_the_client_reads_a_large_file_by_xet(readable, tmp_path, monkeypatch):
    """However it had come: these came by LFS."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import xet_get
    from huggingface_hub.utils import XetFileData

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    client, address, data = readable
    api = HfApi(endpoint=address, token=client.token)
    for info in api.get_paths_info("me/repo", list(data)):
        assert info.xet_hash == hashlib.sha256(data[info.path]).hexdigest()
    asked, told_of = [], xetread.require_intact
    monkeypatch.setattr(xetread, "require_intact", lambda *it: asked.append(it[1]) or told_of(*it))
    route = f"{address}/api/models/me/repo/xet-read-token/main"
    for name, content in data.items():
        found = XetFileData(hashlib.sha256(content).hexdigest(), route)
        bearer = {"authorization": f"Bearer {client.token}"}
        xet_get(incomplete_path=tmp_path / name, xet_file_data=found, headers=bearer,
                expected_size=len(content))  # fmt: skip
        assert (tmp_path / name).read_bytes() == content
    assert {hashlib.sha256(content).hexdigest() for content in data.values()} == set(asked)


def plain_of(chunks):
    """Return what chunks without compression hold."""
    plain, at = b"", 0
    while at < len(chunks):
        length = int.from_bytes(chunks[at + 1 : at + 4], "little")
        plain += chunks[at + 8 : at + 8 + length]
        at += 8 + length
    return plain


def test_parts_of_a_large_file_are_for_its_readers(readable, wire):
    client, address, data = readable
    stranger = wire(address)
    assert stranger("GET", "/api/models/me/repo/xet-read-token/main").status == 401
    given = client("GET", "/api/models/me/repo/xet-read-token/main").json["accessToken"]
    reader, large = wire(address, given), data["w20000003.bin"]
    path = f"/xet/v1/reconstructions/{hashlib.sha256(large).hexdigest()}"
    assert stranger("GET", path).status == 401
    assert reader("GET", f"/xet/v1/reconstructions/{'0' * 64}").status == 404
    assert reader("GET", path, headers={"Range": "bytes=99999999-"}).status == 416
    assert reader("POST", "/xet/v1/shards", b"").status == 401  # it is not one for writing
    part = ""
    for first, last in (
        (0, 0),
        (65_535, 65_536),
        (16_777_215, 16_777_216),
        (19_999_990, 20_000_002),
    ):
        told = reader("GET", path, headers={"Range": f"bytes={first}-{last}"}).json
        plain = b""
        for term in told["terms"]:
            [found] = told["fetch_info"][term["hash"]]
            span = f"bytes={found['url_range']['start']}-{found['url_range']['end']}"
            part = found["url"].removeprefix(address)
            answer = stranger("GET", part, headers={"Range": span})
            assert answer.status == 206
            plain += plain_of(answer.body)
            assert len(plain_of(answer.body)) == term["unpacked_length"]
        begin = told["offset_into_first_range"]
        assert plain[begin : begin + last - first + 1] == large[first : last + 1]
    assert stranger("GET", part[:-1] + ("0" if part[-1] != "0" else "1")).status == 403
