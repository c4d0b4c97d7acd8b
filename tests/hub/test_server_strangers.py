"""What strangers typed that nobody had thought of: names like addresses, Spaces that run, races."""

import shutil
import threading

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import BadRequestError

from zoo.hub import server
from zoo.hub.server.store.hub import Hub
from zoo.hub.server.store.index import Index


@pytest.mark.parametrize("name", ["tree", "commits", "resolve", "blob", "revision", "info", "lfs"])
def test_a_repository_that_is_called_like_an_address(serve, wire, name):
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": name})
    client.commit(f"me/{name}", ("file", {"path": "d/main/x.txt", "content": "eA=="}))
    repo = f"me/{name}"
    for path in (
        f"/api/models/{repo}", f"/api/models/{repo}/tree/main", f"/api/models/{repo}/tree/main/d",
        f"/api/models/{repo}/commits/main", f"/api/models/{repo}/revision/main",
        f"/api/models/{repo}/refs", f"/{repo}", f"/{repo}/tree/main", f"/{repo}/tree/main/d",
        f"/{repo}/commits/main", f"/{repo}/resolve/main/d/main/x.txt",
        f"/{repo}/info/refs?service=git-upload-pack",
        f"/{repo}.git/info/refs?service=git-upload-pack",
    ):  # fmt: skip
        assert client("GET", path).status == 200, path
    [row] = client("GET", f"/api/models/{repo}/tree/main/d/main").json
    assert row["path"] == "d/main/x.txt"
    # Without a namespace, what follows the name is still understood.
    for path in ("/api/models/gpt2/tree/main/d", "/gpt2/resolve/main/config.json"):
        answer = client("GET", path)
        assert (answer.status, answer.headers["x-error-code"]) == (404, "RepoNotFound")
        assert "gpt2 not found" in answer.json["error"]


@pytest.mark.parametrize(
    "more",
    [{"space_secrets": [{"key": "TOKEN", "value": "s"}]}, {"space_hardware": "t4-small"},
     {"space_variables": [{"key": "A", "value": "b"}]}, {"space_sleep_time": 60}],
)  # fmt: skip
def test_a_space_that_is_to_run_is_refused_at_once(serve, monkeypatch, more):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    served = serve()
    api = HfApi(served.address, token=served.token())
    with pytest.raises(BadRequestError, match="for Spaces: it keeps their files but runs nothing"):
        api.create_repo("me/demo", repo_type="space", space_sdk="gradio", **more)
    assert not api.repo_exists("me/demo", repo_type="space")
    api.create_repo("me/demo", repo_type="space", space_sdk="gradio", space_hardware="cpu-basic")
    with pytest.raises(BadRequestError, match="runs nothing"):
        api.duplicate_repo("me/demo", "me/again", repo_type="space", **more)


@pytest.mark.parametrize("kind", ["bucket", "paper", "kernel"])
def test_a_kind_that_is_not_here_is_named(serve, wire, kind):
    served = serve()
    client = wire(served.address, served.token())
    move = {"type": kind, "fromRepo": "me/a", "toRepo": "me/b"}
    answer = client("POST", "/api/repos/move", move)
    assert answer.status == 400
    assert f"this hub has no {kind}s" in answer.json["error"]


def test_a_repository_that_goes_while_it_is_renamed(serve, wire, monkeypatch):
    """What is written of it then names nothing: the answer is 404, not 500."""
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})
    find = Hub.find
    deleted = threading.Event()

    def slowly(hub, name, account, need="list"):
        row = find(hub, name, account, need)
        if not deleted.is_set():
            deleted.set()
            hub.delete(name, account)
        return row

    monkeypatch.setattr(Hub, "find", slowly)
    answer = client("POST", "/api/repos/move", {"fromRepo": "me/repo", "toRepo": "me/new"})
    assert (answer.status, answer.headers["x-error-code"]) == (404, "RepoNotFound")


def test_one_repository_that_is_gone_does_not_stop_the_others(tmp_path, wire, caplog):
    with server.running(tmp_path / "hub") as address:
        client = wire(address, server.token(tmp_path / "hub", "me"))
        for name in ("one", "two"):
            client("POST", "/api/repos/create", {"name": name})
    shutil.rmtree(tmp_path / "hub" / "repos" / "1.git")
    with server.running(tmp_path / "hub") as address:
        again = wire(address, client.token)
        assert again("GET", "/api/models/me/two").status == 200
        assert again("GET", "/api/models/me/one").status == 500
        assert again("GET", "/api/models?author=me").status == 200
    assert "me/one cannot be read: put " in caplog.text


def test_a_name_is_not_given_while_another_repository_gets_it(serve, wire, monkeypatch):
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "old"})
    repo, moved = Index.repo, []

    def between(index, *name):
        row = repo(index, *name)
        if name[-1] == "new" and not moved:  # it is free, says the one who is to make it
            move = {"fromRepo": "me/old", "toRepo": "me/new"}
            moved.append(threading.Thread(target=client, args=("POST", "/api/repos/move", move)))
            moved[0].start()
            moved[0].join(1)
        return row

    monkeypatch.setattr(Index, "repo", between)
    assert client("POST", "/api/repos/create", {"name": "new"}).status == 200
    moved[0].join()
    assert client("GET", "/api/models/me/old").status == 200
