"""Kills, damage and full disks: what was acknowledged is there, and nothing is there by half."""

import base64
import errno
import hashlib
import http.client
import os
import random
import subprocess
import threading
import time
import zlib
from pathlib import Path

import pytest

from zoo.hub.server.store import objects


class Writer(threading.Thread):
    """A client that commits one small and one large file after the other, until it cannot."""

    def __init__(self, client, number, seed):
        super().__init__()
        self.client, self.number = client, number
        self.random = random.Random(seed)
        self.acknowledged = []
        self.tried = []

    def run(self):
        try:
            for i in range(10_000):
                name = f"{self.number}-{i}"
                data = self.random.randbytes(self.random.randrange(1, 300_000))
                small = base64.b64encode(name.encode()).decode()
                oid = hashlib.sha256(data).hexdigest()
                self.tried.append(name)
                if self.client.upload("me/repo", data).status != 200:
                    return
                many = 30 if i % 2 else 0  # so many that they become a pack
                answer = self.client.commit(
                    "me/repo",
                    ("file", {"path": f"{name}.txt", "content": small}),
                    ("lfsFile", {"path": f"{name}.bin", "oid": oid, "size": len(data)}),
                    *(("file", part_of(name, part)) for part in range(many)),
                )
                if answer.status == 200:
                    self.acknowledged.append((name, oid, answer.json["commitOid"]))
        except (OSError, AssertionError, ValueError, http.client.HTTPException):
            return  # the server was killed


def part_of(name, part):
    text = base64.b64encode(f"{name} {part}".encode()).decode()
    return {"path": f"parts/{name}/{part}.md", "content": text}


def kill_often(serve_process, wire, token, kills, seed):
    """Kill the server `kills` times while two clients write; return what was acknowledged."""
    chance, acknowledged, tried = random.Random(seed), [], set()
    for kill in range(kills):
        served = serve_process()
        writers = [
            Writer(wire(served.address, token), f"{kill}-{i}", f"{seed}{kill}{i}") for i in range(2)
        ]
        for writer in writers:
            writer.start()
        # A random moment of the work, however fast the machine is just now.
        wanted, end = chance.randrange(4), time.monotonic() + 20
        while sum(len(w.acknowledged) for w in writers) < wanted and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        served.kill()
        for writer in writers:
            writer.join()
            acknowledged += writer.acknowledged
            tried |= set(writer.tried)
    return acknowledged, tried


def check(serve_process, wire, token, acknowledged, tried, folder):
    served = serve_process()
    client = wire(served.address, token)
    commits = set()
    for page in client.pages("/api/models/me/repo/commits/main?limit=1000"):
        commits |= {commit["id"] for commit in page}
    tree, cursor = {}, 0
    path = "/api/models/me/repo/tree/main?recursive=true&cursor="
    while page := client("GET", f"{path}{cursor}").json:
        tree |= {item["path"]: item for item in page}
        cursor += len(page)
    for name, oid, commit in acknowledged:
        assert commit in commits
        assert tree[f"{name}.bin"]["lfs"]["oid"] == oid
        assert f"{name}.txt" in tree
    parts = {path for path in tree if path.startswith("parts/") and path.endswith(".md")}
    names = {path.rpartition(".")[0] for path in tree if path.endswith((".txt", ".bin"))}
    assert len(parts) == 30 * sum(int(name.rpartition("-")[2]) % 2 for name in names)
    assert names <= tried
    for name in names:  # acknowledged or not: both files, whole
        assert client("GET", f"/me/repo/resolve/main/{name}.txt").body == name.encode()
        data = client("GET", f"/me/repo/resolve/main/{name}.bin").body
        assert hashlib.sha256(data).hexdigest() == tree[f"{name}.bin"]["lfs"]["oid"]
    for path in sorted(parts)[::30]:
        text = f"{path.split('/')[1]} {path.split('/')[2][:-3]}"
        assert client("GET", f"/me/repo/resolve/main/{path}").body == text.encode()
    assert not list((folder / "tmp").iterdir())
    for path in (folder / "objects").glob("??/??/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    served.stop()
    git = ["git", "-C", str(folder / "repos" / "1.git"), "fsck", "--strict"]
    subprocess.run(git, check=True, capture_output=True)


def killed(serve_process, wire, tmp_path, kills):
    from zoo.hub import server

    folder = tmp_path / "hub"
    token = server.token(folder, "me")
    first = serve_process()
    wire(first.address, token)("POST", "/api/repos/create", {"name": "repo"})
    first.stop()
    acknowledged, tried = kill_often(serve_process, wire, token, kills, seed=4)
    check(serve_process, wire, token, acknowledged, tried, folder)
    print(f"{kills} kills, {len(tried)} commits tried, {len(acknowledged)} acknowledged")
    assert acknowledged


def test_kills(serve_process, wire, tmp_path):
    killed(serve_process, wire, tmp_path, 4)


@pytest.mark.slow
def test_fifty_kills(serve_process, wire, tmp_path):
    killed(serve_process, wire, tmp_path, 50)


def test_the_answer_comes_after_every_flush(serve, wire, monkeypatch):
    """What a power cut would need, which a kill does not show: contents, names, then the answer.

    Each file is flushed before it gets its name, each name's folder after, and each new folder's
    own; all of it before the client hears yes.
    """
    served = serve()
    client = wire(served.address, served.token())
    events, fsync, replace, mkdir = [], os.fsync, Path.replace, os.mkdir

    def flushed(handle):
        fsync(handle)
        events.append(("flush", os.fstat(handle).st_ino))

    def named(path, target):
        found = path.stat().st_ino
        replace(path, target)
        events.append(("name", found, Path(target)))

    def made(path, *arguments, **more):
        mkdir(path, *arguments, **more)
        events.append(("name", None, Path(path)))

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", named)
    monkeypatch.setattr(os, "mkdir", made)
    many = (("file", part_of("x", part)) for part in range(30))
    names = 0
    for act in (
        lambda: client("POST", "/api/repos/create", {"name": "repo"}),
        lambda: client.commit_large("me/repo", "w.bin", b"w" * 100_000),
        lambda: client.commit("me/repo", ("file", {"path": "a.txt", "content": "eA=="})),
        lambda: client.commit("me/repo", *many),
        lambda: client("POST", "/api/models/me/repo/branch/a%2Fb%2Fc", {}),
        lambda: client("POST", "/api/models/me/repo/tag/main", {"tag": "v/1", "message": "m"}),
    ):
        events.clear()
        assert act().status == 200
        seen = list(events)
        for at, (kind, *facts) in enumerate(seen):
            if kind == "flush" or served.folder / "tmp" in facts[1].parents:
                continue
            inode, target = facts
            names += 1
            assert inode is None or ("flush", inode) in seen[:at], target
            assert ("flush", target.parent.stat().st_ino) in seen[at:], target
    print(f"{names} names given, each after its content and before its folder was flushed")
    assert names > 20


@pytest.fixture
def stored(serve, wire):
    """A hub with one large file; the hub, a client, the content and where it lies."""
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})
    data = os.urandom(50_000)
    assert client.commit_large("me/repo", "w.bin", data).status == 200
    oid = hashlib.sha256(data).hexdigest()
    return served, client, data, served.folder / "objects" / oid[:2] / oid[2:4] / oid


def test_a_tampered_object_is_not_served(stored):
    served, client, data, path = stored
    assert client("GET", "/me/repo/resolve/main/w.bin").body == data
    times = path.stat()
    with path.open("r+b") as stream:  # the same size, and the same time of change
        stream.seek(25_000)
        stream.write(bytes([data[25_000] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for method in ("HEAD", "GET"):
        answer = client(method, "/me/repo/resolve/main/w.bin")
        assert answer.status == 500
        assert "damaged" in {k.lower(): v for k, v in answer.headers.items()}["x-error-message"]
    # Pushing the same file again repairs it.
    assert client.upload("me/repo", data).status == 200
    assert client("GET", "/me/repo/resolve/main/w.bin").body == data
    assert (served.folder / "damaged" / path.name).exists()


def test_a_tampered_small_file_is_not_served(stored):
    """A small file is an object of git's, which git would give out as it is."""
    served, client, _, _ = stored
    data = b"text" * 99
    operation = {"path": "a.txt", "content": base64.b64encode(data).decode()}
    assert client.commit("me/repo", ("file", operation)).status == 200
    [row] = client("POST", "/api/models/me/repo/paths-info/main", {"paths": ["a.txt"]},
                   headers={"Content-Type": "application/json"}).json  # fmt: skip
    sha = row["oid"]
    path = served.folder / "repos" / "1.git" / "objects" / sha[:2] / sha[2:]
    good = path.read_bytes()
    for wrong in (b"TEXT" * 99, data[:-1]):
        path.write_bytes(zlib.compress(b"blob %d\0" % len(wrong) + wrong))
        answer = client("GET", "/me/repo/resolve/main/a.txt")
        assert (answer.status, "damaged" in answer.json["error"]) == (500, True)
    path.write_bytes(good[:20])
    assert client("GET", "/me/repo/resolve/main/a.txt").status == 500
    path.write_bytes(good)
    assert client("GET", "/me/repo/resolve/main/a.txt").body == data


def test_ranges(stored):
    _, client, data, _ = stored

    def ask(text):
        answer = client("GET", "/me/repo/resolve/main/w.bin", headers={"Range": text})
        return answer.status, answer.body

    size = len(data)
    assert ask("bytes=0-0") == (206, data[:1])
    assert ask(f"bytes=100-{size + 100}") == (206, data[100:])
    assert ask("bytes=-7") == (206, data[-7:])
    assert ask(f"bytes={size}-")[0] == 416
    assert ask("bytes=-0")[0] == 416
    for text in ("bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b", "bytes=-"):
        assert ask(text) == (200, data)


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk(stored, monkeypatch, call):
    """A full disk stops an upload or a commit with words, and the store stays as it was."""
    served, client, data, _ = stored
    before = client("GET", "/api/models/me/repo").json
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: object) -> None:
        raise full

    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr(objects.Upload, "write", within(objects.disk_errors, fail))
        elif call == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr("pathlib.Path.replace", fail)
        answer = client.upload("me/repo", b"another" * 1000)
        assert answer.status == 507
        assert "disk is full" in answer.json["error"]
        if call != "write":
            operation = ("file", {"path": "x.txt", "content": "eA=="})
            assert client.commit("me/repo", operation).status == 507
    assert client("GET", "/api/models/me/repo").json == before
    assert client("GET", "/me/repo/resolve/main/w.bin").body == data
    assert not list((served.folder / "tmp").iterdir())
    assert client.commit_large("me/repo", "b.bin", b"another" * 1000).status == 200


def within(manager, function):
    """Return `function` as it runs inside a context manager."""

    def run(*arguments):
        with manager():
            return function(*arguments)

    return run


def test_parallel_commits(stored):
    """Twenty-four clients commit to one branch at once: all files are kept, in one line."""
    _, client, _, _ = stored
    statuses = []

    def commit(i, **header):
        operation = ("file", {"path": f"{i}.txt", "content": "eA=="})
        statuses.append(client.commit("me/repo", operation, **header).status)

    def together(count, **header):
        statuses.clear()
        threads = [
            threading.Thread(target=commit, args=(f"{count}-{i}",), kwargs=header)
            for i in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    together(24)
    assert statuses == [200] * 24
    files = {item["path"] for item in client("GET", "/api/models/me/repo/tree/main").json}
    assert files == {".gitattributes", "w.bin"} | {f"24-{i}.txt" for i in range(24)}
    history = client("GET", "/api/models/me/repo/commits/main").json
    assert len(history) == 26
    together(8, parentCommit=history[0]["id"])  # of eight with one parent, one wins
    assert sorted(statuses) == [200] + [412] * 7


def test_two_servers_on_one_folder(stored):
    from zoo.errors import HubError
    from zoo.hub import server

    with (
        pytest.raises(HubError, match="another server"),
        server.running(stored[0].folder),
    ):
        pass
