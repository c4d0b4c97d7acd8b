"""What clones, lists of branches and large commits may take."""

import subprocess
import time

from tests.hub.costs import MOST_CPU_S, Taken, history, linux
from zoo.hub import server
from zoo.hub.server.store import git as git_module
from zoo.hub.server.store.git import Git


def line(text):
    return f"{len(text) + 4:04x}{text}".encode()


@linux
def test_no_request_of_git_takes_long(serve_process, wire):
    """Clones of a long history, and a hundred thousand times the same wish."""
    served = serve_process()
    client = wire(served.address, server.token(served.folder, "me"))
    client("POST", "/api/repos/create", {"name": "repo"})
    served.stop()
    history(served.folder / "repos" / "1.git", 100, 1000)
    served = serve_process()
    stranger = Taken(served, wire(served.address))
    head = stranger("GET", "/api/models/me/repo")[1].json["sha"]
    want, done = line(f"want {head} side-band-64k\n"), b"0000" + line("done\n")
    haves = b"".join(line(f"have {i:040x}\n") for i in range(100_000))
    kind = {"Content-Type": "application/x-git-upload-pack-request"}
    packs = set()
    for body in [
        want + done,
        want + line(f"want {head}\n") * 100_000 + done,
        want + b"0000" + haves + line("done\n"),
        want + line("deepen 99999\n") + done,
    ]:
        took, answer = stranger("POST", "/me/repo/git-upload-pack", body, headers=kind)
        assert answer.status == 200
        assert took < MOST_CPU_S, (body[:100], took)
        packs.add(answer.body[-2000:])
    assert len(packs) == 1
    assert len(answer.body) < 1 << 20  # what git keeps as a difference is sent as one


@linux
def test_no_list_of_branches_or_commits_takes_long(serve_process, wire):
    served = serve_process()
    client = wire(served.address, server.token(served.folder, "me"))
    client("POST", "/api/repos/create", {"name": "repo"})
    bare = served.folder / "repos" / "1.git"
    history(bare, 20_000, 1)
    heads = bare / "refs" / "heads"
    tip = (heads / "main").read_text()
    for i in range(2500):
        (heads / f"b{i}").write_text(tip)
    stranger = Taken(served, wire(served.address))
    page = "/api/models/me/repo/commits/main?limit=1000"
    last = [commit for found in client.pages(page) for commit in found][-1]["id"]
    for path in (
        "/api/models/me/repo/refs", "/me/repo/info/refs?service=git-upload-pack",
        f"{page}&cursor={last}", f"{page}&cursor=19990",
    ):  # fmt: skip
        took, answer = stranger("GET", path)
        assert answer.status in (200, 400)
        assert took < MOST_CPU_S, (path, took)
    assert len(stranger("GET", "/api/models/me/repo/refs")[1].json["branches"]) == 2501


def test_large_texts_are_not_read_for_their_size(tmp_path):
    git = Git.create(tmp_path / "1.git", tmp_path)
    loose = b"a" * (80 << 20)
    with git.batch() as batch:
        files = {f"{i}": batch.add_blob(b"%d" % i + loose) for i in range(2)}
        files["small"] = batch.add_blob(git_module.pointer("a" * 64, 5))
        sha = git.commit(batch, files, [], "large", "me")
    git.set_ref("refs/heads/main", sha)
    for path in ("packed", "loose"):
        git_module._contents.clear()
        start = time.thread_time()
        found = git.contents(files.values())
        assert time.thread_time() - start < 0.1, path
        assert [found[files[name]].size for name in ("0", "1")] == [len(loose) + 1] * 2
        assert found[files["small"]] == git_module.Content(
            len(git_module.pointer("a" * 64, 5)), "a" * 64, 5
        )
        command = ["git", "-C", str(git.path), "unpack-objects", "-q"]
        for pack in list((git.path / "objects" / "pack").iterdir()):
            pack.rename(tmp_path / pack.name)
            if pack.suffix == ".pack":
                data = (tmp_path / pack.name).read_bytes()
                subprocess.run(command, input=data, check=True)


def test_few_objects_that_stand_for_many_folders(serve, wire):
    """Folders share their content, so a small commit can name a million of them."""
    served = serve(max_folders=500, max_files=300)
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})
    for count, depth in [(1000, 1), (100, 100)]:
        files = [("file", {"path": f"{i}/{'a/' * depth}f", "content": ""}) for i in range(count)]
        answer = client.commit("me/repo", *files)
        assert answer.status == 413
        assert answer.json["error"].startswith("a commit may hold ")
    files = [("file", {"path": f"{i}/f", "content": ""}) for i in range(200)]
    assert client.commit("me/repo", *files).status == 200
