"""Keeping a hub: garbage collection, restarts, moves, memory, and requests made of noise."""

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from zoo import cli
from zoo.hub import server
from zoo.hub.server import collect


def kept(folder):
    return sorted(path.name for path in (folder / "objects").glob("??/??/*"))


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_garbage_collection(tmp_path, wire):
    folder = tmp_path / "hub"
    with server.running(folder) as address:
        client = wire(address, server.token(folder, "me"))
        for name in ("a", "b"):
            client("POST", "/api/repos/create", {"name": name})
        assert client.commit_large("me/a", "old.bin", b"old").status == 200
        assert client.commit_large("me/a", "old.bin", b"new").status == 200
        assert client.commit_large("me/b", "b.bin", b"both").status == 200
        assert client.commit_large("me/a", "b.bin", b"both").status == 200
        assert client.commit_large("me/b", "gone.bin", b"gone").status == 200
        assert client.upload("me/a", b"never committed").status == 200
        client("DELETE", "/api/repos/delete", {"name": "b"})
    assert collect(folder).removed == 0  # too young: an upload may await its commit
    found = collect(folder, hours=-1)
    assert found.removed == 2
    assert kept(folder) == sorted(map(sha, (b"old", b"new", b"both")))
    path = folder / "objects" / sha(b"old")[:2] / sha(b"old")[2:4] / sha(b"old")
    path.write_bytes(b"odd")
    found = collect(folder, check=True)
    assert (found.checked, found.damaged) == (3, [sha(b"old")])
    with server.running(folder) as address:  # history is packed now, and still there
        client = wire(address, server.token(folder, "me"))
        assert client("GET", "/me/a/resolve/main/b.bin").body == b"both"
        assert client("GET", "/me/a/resolve/main/old.bin").body == b"new"
        assert len(client("GET", "/api/models/me/a/commits/main").json) == 4


def test_a_move_keeps_the_history(serve, wire):
    served = serve()
    client = wire(served.address, served.token())
    for name in ("a", "b"):
        client("POST", "/api/repos/create", {"name": name})
    client.commit_large("me/a", "w.bin", b"w")
    client("GET", "/me/a/resolve/main/w.bin")
    before = client("GET", "/api/models/me/a").json
    move = {"fromRepo": "me/a", "toRepo": "me/c"}
    assert client("POST", "/api/repos/move", {**move, "toRepo": "me/b"}).status == 409
    assert client("POST", "/api/repos/move", {**move, "toRepo": "you/a"}).status == 403
    assert client("POST", "/api/repos/move", move).status == 200
    after = client("GET", "/api/models/me/c").json
    assert (after["sha"], after["id"]) == (before["sha"], "me/c")
    assert client("GET", "/api/models/ME/C").json["id"] == "me/c"  # names ignore case


def test_a_listing_of_many(serve, wire):
    served = serve()
    client = wire(served.address, served.token())
    for i in range(12):
        client("POST", "/api/repos/create", {"name": f"r{i}"})
    seen, path = [], "/api/models?limit=5&sort=createdAt"
    while path:
        answer = client("GET", path)
        seen += [item["id"] for item in answer.json]
        link = {k.lower(): v for k, v in answer.headers.items()}.get("link")
        path = link and link.partition(served.address)[2].partition(">")[0]
    assert seen == [f"me/r{i}" for i in reversed(range(12))]


def test_tokens_and_collection_on_the_command_line(tmp_path, capsys):
    folder = tmp_path / "hub"
    assert cli.main(["hub", "token", "create", "--dir", str(folder), "--user", "me"]) == 0
    token = capsys.readouterr().out.strip()
    assert token.startswith("hf_")
    with server.running(folder) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        connection.request("GET", "/api/whoami-v2", headers={"Authorization": f"Bearer {token}"})
        assert b'"name":"me"' in connection.getresponse().read()
        connection.close()
        assert cli.main(["hub", "gc", "--dir", str(folder)]) == 1
        assert "another server is running" in capsys.readouterr().err
    assert cli.main(["hub", "gc", "--dir", str(folder), "--check"]) == 0
    assert "damaged: none" in capsys.readouterr().out


def peak_bytes(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no peak memory")


def stream_through(served, client, size):
    """Send `size` bytes by LFS and read them back, in pieces; return the seconds of each way."""
    piece = os.urandom(1 << 20)
    count = size // len(piece)
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)
    oid = digest.hexdigest()
    body = {"operation": "upload", "objects": [{"oid": oid, "size": size}]}
    batch = client("POST", "/me/repo.git/info/lfs/objects/batch", body).json
    path = batch["objects"][0]["actions"]["upload"]["href"].partition(client.host)[2]
    start = time.perf_counter()
    connection = http.client.HTTPConnection(client.host, timeout=600)
    connection.putrequest("PUT", path)
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    for _ in range(count):
        connection.send(piece)
    assert connection.getresponse().status == 200
    connection.close()
    pushed = time.perf_counter() - start
    assert client.commit("me/repo", ("lfsFile", {"path": "w.bin", "oid": oid})).status == 200
    start, digest = time.perf_counter(), hashlib.sha256()
    connection = http.client.HTTPConnection(client.host, timeout=600)
    headers = {"Authorization": f"Bearer {client.token}"}
    connection.request("GET", "/me/repo/resolve/main/w.bin", headers=headers)
    response = connection.getresponse()
    while data := response.read(1 << 20):
        digest.update(data)
    connection.close()
    assert digest.hexdigest() == oid
    return pushed, time.perf_counter() - start


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
@pytest.mark.parametrize(
    "megabytes", [64, pytest.param(4096, marks=pytest.mark.slow)], ids=["64MB", "4GB"]
)
def test_memory_is_bounded(serve_process, wire, tmp_path, megabytes):
    token = server.token(tmp_path / "hub", "me")
    served = serve_process()
    client = wire(served.address, token)
    client("POST", "/api/repos/create", {"name": "repo"})
    before = peak_bytes(served.process.pid)
    size = megabytes << 20
    pushed, pulled = stream_through(served, client, size)
    peak = peak_bytes(served.process.pid)
    print(
        f"{megabytes} MB: push {size / pushed / 1e6:.0f} MB/s, pull {size / pulled / 1e6:.0f} MB/s"
        f"; peak {peak / 1e6:.0f} MB, of which {before / 1e6:.0f} MB before"
    )
    assert peak < 200e6


_PEAK = """
import sys
from zoo.cli import main
assert main(sys.argv[1:]) == 0
lines = open("/proc/self/status").read().splitlines()  # getrusage would count the parent's peak
print("peak", next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
@pytest.mark.parametrize(
    "megabytes", [64, pytest.param(4096, marks=pytest.mark.slow)], ids=["64MB", "4GB"]
)
def test_memory_of_push_and_pull_is_bounded(serve_process, client_environment, tmp_path, megabytes):
    token = server.token(tmp_path / "hub", "me")
    served = serve_process()
    environment = client_environment(served.address, token, ZOO_CACHE=str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    piece, digest = os.urandom(1 << 20), hashlib.sha256()
    with (folder / "model.safetensors").open("wb") as stream:
        for _ in range(megabytes):
            stream.write(piece)
            digest.update(piece)
    peaks = {}
    for command in (["push", str(folder), "me/model"], ["pull", "me/model"]):
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, *command], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        peaks[command[0]] = int(done.stdout.split()[-1])
    [pulled] = (tmp_path / "cache").glob("hub/*/*/model.safetensors")
    with pulled.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == digest.hexdigest()
    hub = peak_bytes(served.process.pid)
    print(
        f"{megabytes} MB: peak {peaks['push'] / 1e6:.0f} MB of zoo push, "
        f"{peaks['pull'] / 1e6:.0f} MB of zoo pull, {hub / 1e6:.0f} MB of the hub"
    )
    assert max(*peaks.values(), hub) < 400e6


def test_tokens_and_signatures_are_in_no_log(serve_process, wire, tmp_path):
    """What the server writes, also of requests that fail, holds nothing that opens a door."""
    token = server.token(tmp_path / "hub", "me")
    served = serve_process()
    client = wire(served.address, token)
    client("POST", "/api/repos/create", {"name": "repo"})
    objects = {"operation": "upload", "objects": [{"oid": sha(b"w"), "size": 1}]}
    batch = client("POST", "/me/repo.git/info/lfs/objects/batch", objects).json
    path = batch["objects"][0]["actions"]["upload"]["href"].partition(client.host)[2]
    upload = client("GET", "/api/models/me/repo/xet-write-token/main").json["accessToken"]
    assert client("PUT", path, b"x").status == 422
    assert client("PUT", path, b"w").status == 200
    assert client("GET", f"/api/models/me/{token}").status == 404
    assert wire(served.address, token + "x")("GET", "/api/whoami-v2").status == 401
    # A failure of the server itself, which it does log: its index is gone from under it.
    git = tmp_path / "hub" / "repos" / "1.git"
    (git / "HEAD").unlink()
    shutil.rmtree(git / "objects")
    assert client("GET", "/me/repo/resolve/main/w.bin").status == 500
    assert client("PUT", path, b"w", headers={"Content-Length": "-"}).status == 400
    log = served.stop()
    assert "Traceback" in log
    for secret in (token, path.rpartition("/")[2], upload):
        assert secret not in log
    for file in (tmp_path / "hub").rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes()


# --- noise ------------------------------------------------------------------------------------

WORDS = [
    *("api", "models", "datasets", "spaces", "me", "repo", "secret", "repo.git", "main", "tree"),
    *("resolve", "raw", "revision", "commit", "commits", "refs", "tag", "branch", "preupload"),
    *("paths-info", "settings", "auth-check", "write", "info", "lfs", "objects", "batch", "verify"),
    *("repos", "create", "delete", "move", "collections", "items", "xet", "v1", "shards", "xorbs"),
    *("default", "whoami-v2", "validate-yaml", "git-upload-pack", "xet-write-token", "f" * 40),
    *("..", "%2e%2e", "%2F", "%00", "%ff", "", "a%2Fb", "refs%2Fheads%2Fmain", "a.txt", "w.bin"),
    *("0" * 64, "99", "-1", "user-access-request", "grant", "blob", "HEAD", "x" * 300),
]
QUERIES = [
    *("", "?recursive=true", "?limit=-1", "?cursor=a", "?expand=x", "?sort=no", "?blobs=1", "?%ff"),
    *("?service=git-upload-pack", "?filter=a,b&search=%00", "?create_pr=1"),
]
KEYS = """
name organization type visibility private gated tag startingPoint files path size operation objects
oid content encoding key value summary parentCommit title namespace item id fromRepo toRepo user
paths gitIgnore srcPath srcRevision
"""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS.split()),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
REQUESTS = st.tuples(
    st.sampled_from("GET GET HEAD POST POST PUT DELETE PATCH".split()),  # noqa: SIM905
    st.lists(st.sampled_from(WORDS), max_size=7),
    st.sampled_from(QUERIES),
    st.one_of(
        st.none(),
        st.binary(max_size=50),
        st.lists(VALUES, max_size=3),
        VALUES.filter(lambda value: isinstance(value, dict)),
    ),
)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory, wire):
    """A hub with a public and a private repository, an owner and a stranger."""
    folder = tmp_path_factory.mktemp("noise") / "hub"
    with server.running(folder) as address:
        owner = wire(address, server.token(folder, "owner"))
        for name, private in (("repo", False), ("secret", True)):
            owner("POST", "/api/repos/create", {"name": name, "private": private})
            owner.commit_large(f"owner/{name}", "w.bin", b"PRIVATE BYTES" * 9)
        yield folder, [wire(address), wire(address, server.token(folder, "me"))]


def noise(noisy, case):
    folder, clients = noisy
    method, parts, query, body = case
    before = set(folder.parent.iterdir())
    for client in clients:
        for prefix in ("", "api/models/owner/secret/", "owner/secret/", "api/models/me/repo/"):
            path = f"/{prefix}{'/'.join(parts)}{query}"
            answer = client(method, path, body)
            assert answer.status < 500, (method, path, body, answer)
            if not prefix.startswith("api/models/me"):
                assert b"PRIVATE" not in answer.body
    assert set(folder.parent.iterdir()) == before


SETTINGS = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=40, **SETTINGS)
@given(case=REQUESTS)
def test_noise(noisy, case):
    noise(noisy, case)
