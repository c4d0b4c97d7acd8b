"""Large commits: one pack, few flushes, and nothing left behind by those that failed."""

import base64
import os
import subprocess
import time

import pytest

from zoo.hub import server
from zoo.hub.server import collect


@pytest.fixture
def client(serve, wire):
    served = serve()
    made = wire(served.address, served.token())
    made("POST", "/api/repos/create", {"name": "repo"})
    return made, served.folder / "repos" / "1.git"


def files(count, salt=""):
    for i in range(count):
        text = base64.b64encode(f"{salt}{i}\n".encode()).decode()
        yield "file", {"path": f"{i % 10}/{i}.txt", "content": text}


def packs(repo):
    return sorted(path.name for path in (repo / "objects" / "pack").glob("*"))


def git(repo, *arguments):
    command = ["git", "-C", str(repo), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_thousand_files_are_one_pack_and_few_flushes(client, monkeypatch):
    made, repo = client
    flushes, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushes.append(handle), real(handle))[1])
    start = time.perf_counter()
    assert made.commit("me/repo", *files(1000)).status == 200
    print(f"1000 files in one commit: {time.perf_counter() - start:.2f} s, {len(flushes)} flushes")
    assert len(flushes) <= 6  # pack, index, their folder; the reference and its folder
    assert len(packs(repo)) == 2
    assert made("GET", "/me/repo/resolve/main/7/777.txt").body == b"777\n"
    git(repo, "fsck", "--strict")
    assert len(git(repo, "ls-tree", "-r", "main").splitlines()) == 1001
    # The same again changes nothing and leaves nothing.
    assert made.commit("me/repo", *files(1000)).status == 200
    assert len(packs(repo)) == 2
    assert not list((repo.parents[1] / "tmp").iterdir())


def test_a_small_commit_stays_loose(client):
    made, repo = client
    assert made.commit("me/repo", *files(3)).status == 200
    assert packs(repo) == []


@pytest.mark.parametrize("parent", ["0" * 40, None], ids=["stale", "bad-file"])
def test_a_refused_commit_leaves_nothing(client, parent):
    made, repo = client
    bad = [("lfsFile", {"path": "w.bin", "oid": "0" * 64})] if parent is None else []
    answer = made.commit("me/repo", *files(50), *bad, parentCommit=parent)
    assert answer.status == (412 if parent else 400)
    assert packs(repo) == []
    assert not list((repo.parents[1] / "tmp").iterdir())


def test_what_a_killed_commit_left_is_collected(tmp_path, wire):
    folder = tmp_path / "hub"
    with server.running(folder) as address:
        made = wire(address, server.token(folder, "me"))
        made("POST", "/api/repos/create", {"name": "repo"})
        assert made.commit("me/repo", *files(50)).status == 200
        repo = folder / "repos" / "1.git"
        head = git(repo, "rev-parse", "main").strip()
        assert made.commit("me/repo", *files(50, "new")).status == 200
    # As if the server had been killed before the branch moved, and once more before the index.
    (repo / "refs" / "heads" / "main").write_text(f"{head}\n")
    (repo / "objects" / "pack" / f"pack-{'a' * 40}.pack").write_bytes(b"PACK")
    with server.running(folder) as address:
        assert wire(address)("GET", "/api/models/me/repo").json["sha"] == head
        assert f"pack-{'a' * 40}.pack" not in packs(repo)
        assert len(packs(repo)) == 4
    assert collect(folder).dropped == 0  # too young
    found = collect(folder, hours=-1)
    # 50 files in 10 folders, the root and the commit
    assert (found.dropped, found.packed) == (62, 65)
    assert len(packs(repo)) == 2
    assert git(repo, "fsck", "--strict", "--unreachable") == ""
    assert collect(folder, hours=-1).dropped == 0
    with server.running(folder) as address:
        assert wire(address)("GET", "/me/repo/resolve/main/3/33.txt").body == b"33\n"


def test_a_damaged_history_is_not_repacked(tmp_path, wire):
    from zoo.errors import HubError

    folder = tmp_path / "hub"
    with server.running(folder) as address:
        made = wire(address, server.token(folder, "me"))
        made("POST", "/api/repos/create", {"name": "repo"})
        assert made.commit("me/repo", *files(2)).status == 200
    repo = folder / "repos" / "1.git"
    blob = git(repo, "rev-parse", "main:1/1.txt").strip()
    (repo / "objects" / blob[:2] / blob[2:]).unlink()
    before = sorted((repo / "objects").rglob("*"))
    with pytest.raises(HubError, match=f"is damaged: object {blob} is missing"):
        collect(folder, hours=-1)
    assert sorted((repo / "objects").rglob("*")) == before
