"""Real git against the hub: clones without files, and pushes that are told why not."""

import os
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="no git on the PATH")


def git(*arguments, cwd, check=True):
    environment = {
        **{key: os.environ[key] for key in ("PATH",)},
        "HOME": str(cwd), "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip
    return subprocess.run(
        ["git", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=check
    )


@pytest.fixture
def mine(serve, wire):
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})
    for i in range(3):
        files = [
            ("file", {"path": f"d{i}/f{j}.txt", "content": f"{i}{j}==", "encoding": "utf-8"})
            for j in range(20)
        ]
        assert client.commit("me/repo", *files).status == 200
    return served, client


HOWS = ["blob:none", "tree:0", "tree:2", "blob:limit=3", "combine:blob:none+tree:2"]


@pytest.mark.parametrize("how", HOWS)
def test_a_clone_without_files_fetches_them_when_they_are_needed(mine, tmp_path, how):
    served, _ = mine
    address = f"{served.address}/me/repo"
    git("clone", f"--filter={how}", "--no-checkout", address, "clone", cwd=tmp_path)
    clone = tmp_path / "clone"
    if not how.startswith("tree"):  # of which rev-list cannot speak
        missing = git("rev-list", "--objects", "--all", "--missing=print", cwd=clone).stdout
        assert "?" in missing
    git("checkout", "main", cwd=clone)
    assert (clone / "d1" / "f7.txt").read_text() == "17=="
    assert git("log", "--stat", "--format=%H", cwd=clone).stdout.count("d2/f3.txt") == 1
    git("fsck", cwd=clone)
    git("clone", "--depth", "1", address, "shallow", cwd=tmp_path)
    assert (tmp_path / "shallow" / "d0" / "f0.txt").exists()


@pytest.mark.parametrize("how", HOWS)
def test_a_shallow_clone_may_leave_files_out_too(mine, tmp_path, how):
    served, _ = mine
    done = git("clone", "--depth", "2", f"--filter={how}", f"{served.address}/me/repo", "clone",
               cwd=tmp_path)  # fmt: skip
    assert "error" not in done.stderr
    clone = tmp_path / "clone"
    assert (clone / "d0" / "f0.txt").read_text() == "00=="
    assert len(git("log", "--format=%H", cwd=clone).stdout.split()) == 2
    git("fetch", "--depth", "3", cwd=clone)
    assert len(git("log", "--format=%H", cwd=clone).stdout.split()) == 3
    git("fetch", "--unshallow", cwd=clone)
    assert len(git("log", "--format=%H", cwd=clone).stdout.split()) == 4
    git("fsck", cwd=clone)


@pytest.mark.parametrize("packed", [False, True])
def test_a_fetch_gets_what_is_new_and_little_else(mine, tmp_path, packed):
    """Also from a repository that git has packed, where objects lie as differences."""
    served, client = mine
    address, bare = f"{served.address}/me/repo", served.folder / "repos" / "1.git"
    client("POST", "/api/models/me/repo/tag/main", {"tag": "v1", "message": "first"})
    git("clone", address, "clone", cwd=tmp_path)
    if packed:
        git("gc", "-q", cwd=bare)
    client.commit("me/repo", ("file", {"path": "d1/new.txt", "content": "bmV3"}))
    client("POST", "/api/models/me/repo/tag/main", {"tag": "v2", "message": "second"})
    clone = tmp_path / "clone"
    done = git("-c", "fetch.unpackLimit=1", "pull", cwd=clone)
    assert (clone / "d1" / "new.txt").read_text() == "new"
    assert "v2" in done.stderr  # a tag goes along with its commit
    *_, newest = sorted((clone / ".git/objects/pack").glob("*.idx"), key=os.path.getmtime)
    listed = git("verify-pack", "-v", str(newest), cwd=clone).stdout
    kinds = [line.split()[1] for line in listed.splitlines() if len(line.split()) >= 5]
    assert sorted(kinds) == ["blob", "commit", "tag", "tree", "tree"]
    git("clone", "--mirror", address, "again", cwd=tmp_path)
    git("fsck", "--strict", cwd=tmp_path / "again")
    wanted = git("rev-list", "--objects", "--all", cwd=bare).stdout.split("\n")
    given = git("rev-list", "--objects", "--all", cwd=tmp_path / "again").stdout.split("\n")
    assert sorted(given) == sorted(wanted)


def test_git_shows_why_a_clone_is_refused(mine, tmp_path):
    served, _ = mine
    address = f"{served.address}/me/repo"
    for arguments, reason in [
        (("clone", "--filter=sparse:oid=x", address, "a"), "no filter 'sparse:oid=x'; there are"),
        (("clone", "--filter=object:type=tag", address, "b"), "no filter 'object:type=tag'"),
    ]:
        done = git(*arguments, cwd=tmp_path, check=False)
        assert done.returncode != 0
        assert f"remote error: {reason}" in done.stderr
    git("clone", address, "clone", cwd=tmp_path)
    done = git("fetch", "origin", "1" * 40, cwd=tmp_path / "clone", check=False)
    assert f"remote error: upload-pack: not our ref {'1' * 40}" in done.stderr


def test_what_is_not_in_a_repository_is_not_given(mine, wire, tmp_path):
    served, client = mine
    client("POST", "/api/repos/create", {"name": "secret", "private": True})
    done = client.commit("me/secret", ("file", {"path": "x", "content": "c2VjcmV0"}))
    [sha] = [row["oid"] for row in client("GET", "/api/models/me/secret/tree/main").json
             if row["path"] == "x"]  # fmt: skip
    assert done.status == 200
    stranger = wire(served.address)
    kind = {"Content-Type": "application/x-git-upload-pack-request"}
    body = f"0032want {sha}\n00000009done\n".encode()
    refused = stranger("POST", "/me/repo/git-upload-pack", body, headers=kind)
    assert refused.body == f"004aERR upload-pack: not our ref {sha}\n".encode()
    assert stranger("POST", "/me/secret/git-upload-pack", body, headers=kind).status == 401


def test_a_push_is_told_why_not(mine, tmp_path):
    served, client = mine
    address = served.address.replace("http://", f"http://me:{client.token}@")
    git("clone", f"{address}/me/repo.git", "clone", cwd=tmp_path)
    clone = tmp_path / "clone"
    (clone / "new.txt").write_text("new")
    git("add", "new.txt", cwd=clone)
    git("commit", "-qm", "new", cwd=clone)
    before = client("GET", "/api/models/me/repo").json["sha"]
    for target in ("origin", f"{served.address}/me/repo", f"{served.address}/me/none"):
        done = git("push", target, "HEAD:main", cwd=clone, check=False)
        assert done.returncode != 0
        assert "no git push: write with zoo push, hf upload" in done.stderr, done.stderr
    assert client("GET", "/api/models/me/repo").json["sha"] == before
