"""A disk that is really full: a file system of a few megabytes, filled to the last block.

It is made anew for each test, in memory, which takes the right to mount.
"""

import base64
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import constants

import zoo
from zoo.errors import HubError
from zoo.hub import client as hub_client
from zoo.hub import download, server, snapshots

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    """Yield the folder of a file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "zoo-test", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, left):
    """Fill the disk, but for `left` bytes; return the file that does it."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with filler.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(free - left, 1))
    return filler


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_a_hub_whose_disk_fills_up(small_disk, wire):
    """At every number of free blocks: a yes that is kept, or a no that says why."""
    folder = small_disk / "hub"
    counts = {200: 0, 507: 0}
    kept = {}
    with server.running(folder) as address:
        ask = wire(address, server.token(folder, "me"))
        assert ask("POST", "/api/repos/create", {"name": "repo"}).status == 200
        assert ask.commit_large("me/repo", "first.bin", b"first" * 100_000).status == 200
        kept["first.bin"] = b"first" * 100_000
        for blocks in range(0, 40, 2):
            filler = fill(small_disk, blocks * 4096)
            data = os.urandom(20_000)
            for path, answer in (
                (f"{blocks}.md", text(ask, f"{blocks}.md", data)),
                (f"{blocks}.bin", large(ask, f"{blocks}.bin", data)),
                (None, ask("POST", "/api/repos/create", {"name": f"new{blocks}"})),
            ):
                assert answer.status in counts, answer
                counts[answer.status] += 1
                if answer.status == 507:
                    assert "disk is full" in answer.json["error"]
                elif path:
                    kept[path] = data
            assert ask("GET", "/me/repo/resolve/main/first.bin").body == kept["first.bin"]
            filler.unlink()
        assert not list((folder / "tmp").iterdir())
    print(f"{counts[507]} writes to a full disk refused, {counts[200]} that fitted kept")
    assert min(counts.values()) > 10
    with server.running(folder) as address:
        ask = wire(address, server.token(folder, "me"))
        for path, data in kept.items():
            assert sha(ask("GET", f"/me/repo/resolve/main/{path}").body) == sha(data), path
        names = {item["path"] for item in ask("GET", "/api/models/me/repo/tree/main").json}
        assert names == {".gitattributes", *kept}
        assert text(ask, "again.md", b"again").status == 200
    for repo in (folder / "repos").iterdir():
        subprocess.run(["git", "-C", repo, "fsck", "--strict"], check=True, capture_output=True)


def text(ask, path, data):
    operation = {"path": path, "content": base64.b64encode(data).decode()}
    return ask.commit("me/repo", ("file", operation))


def large(ask, path, data):
    batch = {"operation": "upload", "objects": [{"oid": sha(data), "size": len(data)}]}
    found = ask("POST", "/me/repo.git/info/lfs/objects/batch", batch)
    if found.status != 200:
        return found
    if "actions" in found.json["objects"][0]:
        href = found.json["objects"][0]["actions"]["upload"]["href"]
        sent = ask("PUT", href.partition(ask.host)[2], data, headers={"Authorization": ""})
        if sent.status != 200:
            return sent
    return ask.commit("me/repo", ("lfsFile", {"path": path, "oid": sha(data), "size": len(data)}))


@pytest.fixture
def repository(serve, monkeypatch, tmp_path):
    """A hub on a disk with room, with one repository; the zoo uses it."""
    hub = serve()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", hub.token("me"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(hub_client.time, "sleep", lambda _: None)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(MIB))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    zoo.push(folder, "me/model")
    return folder


def test_a_pull_to_a_full_disk(small_disk, repository, monkeypatch):
    """At every number of free blocks: the whole folder, or none and an error that says why."""
    monkeypatch.setenv("ZOO_CACHE", str(small_disk / "cache"))
    usage = shutil.disk_usage("/")
    failed = whole = 0
    for blocks in [*range(0, 12, 2), 100, *range(252, 276, 2), 300]:
        shutil.rmtree(small_disk / "cache", ignore_errors=True)
        filler = fill(small_disk, blocks * 4096)
        with monkeypatch.context() as patch:  # the disk fills up after its room was looked at
            patch.setattr(snapshots.shutil, "disk_usage", lambda _: usage._replace(free=1 << 40))
            said = None
            try:
                zoo.pull("me/model")
                whole += 1
            except HubError as error:
                failed, said = failed + 1, str(error)
        if said is not None:
            assert "No space left" in said
            assert not list(Path(small_disk).glob("cache/hub/*/[!.]*"))
        filler.unlink()
        path = zoo.pull("me/model")  # with room, the same command goes on
        for name in ("model.safetensors", "config.json"):
            assert (path / name).read_bytes() == (repository / name).read_bytes()
    print(f"{failed} pulls to a full disk stopped with words, {whole} that fitted whole")
    assert min(failed, whole) > 5


def test_a_push_whose_hub_has_no_room(small_disk, repository, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    folder = small_disk / "hub"
    token = server.token(folder, "me")
    with server.running(folder) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", token)
        url = zoo.push(repository, "me/model")
        weights = (repository / "model.safetensors").read_bytes()
        (repository / "model.safetensors").write_bytes(os.urandom(9 * MIB))
        with pytest.raises(HubError, match="answered 507 for me/model: the hub's disk is full"):
            zoo.push(repository, "me/model")
        monkeypatch.setenv("ZOO_CACHE", str(repository.parent / "cache"))
        path = zoo.pull("me/model")
        assert url.endswith(path.name)
        assert (path / "model.safetensors").read_bytes() == weights
