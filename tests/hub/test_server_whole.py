"""Whole repositories: copied, squashed, rid of large files; what an owner keeps; new Spaces."""

import hashlib

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

from zoo.hub import server

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Warnings while validating metadata:UserWarning"),
]
WEIGHTS = {name: name.encode() * 10_000 for name in ("a.bin", "b.bin", "c.bin")}


@pytest.fixture
def api(serve, monkeypatch):
    """An owner's client of a repository with three commits, a branch and a tag."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    served = serve()
    made = HfApi(endpoint=served.address, token=served.token())
    made.served = served
    made.create_repo("me/repo")
    for name in ("a.bin", "b.bin"):
        add(made, name)
    made.create_tag("me/repo", tag="v1", tag_message="one")
    made.create_branch("me/repo", branch="dev")
    add(made, "c.bin", revision="dev")
    return made


def add(api, name, repo="me/repo", **more):
    operations = [
        CommitOperationAdd(name, WEIGHTS[name]),
        CommitOperationAdd(f"n{name[0]}.txt", b"t"),
    ]
    return api.create_commit(repo, operations, commit_message=name, **more)


def titles(api, revision="main", repo="me/repo"):
    return [commit.title for commit in api.list_repo_commits(repo, revision=revision)]


def read(api, wire, path, revision="main", repo="me/repo"):
    return wire(api.endpoint, api.token)("GET", f"/{repo}/resolve/{revision}/{path}")


def test_a_branch_becomes_one_commit(api, wire):
    files = api.list_repo_files("me/repo")
    old = api.model_info("me/repo").sha
    api.super_squash_history("me/repo", commit_message="all of it")
    assert titles(api) == ["all of it"]
    assert api.list_repo_files("me/repo") == files
    assert api.model_info("me/repo").sha != old
    assert titles(api, "dev") == ["c.bin", "b.bin", "a.bin", "initial commit"]
    assert titles(api, "v1") == ["b.bin", "a.bin", "initial commit"]
    assert read(api, wire, "a.bin").body == WEIGHTS["a.bin"]
    with pytest.raises(HfHubHTTPError):
        api.super_squash_history("me/repo", branch="none")
    other = HfApi(endpoint=api.endpoint, token=api.served.token("you"))
    with pytest.raises(HfHubHTTPError):
        other.super_squash_history("me/repo")


def test_large_files_are_listed_and_taken_out_of_every_commit(api, wire):
    listed = {file.filename: file for file in api.list_lfs_files("me/repo")}
    assert {name: (file.size, file.ref) for name, file in listed.items()} == {
        "a.bin": (50_000, "refs/heads/main"),
        "b.bin": (50_000, "refs/heads/main"),
        "c.bin": (50_000, "refs/heads/dev"),
    }
    api.permanently_delete_lfs_files("me/repo", [listed["a.bin"]])
    for revision in ("main", "dev", "v1"):
        names = api.list_repo_files("me/repo", revision=revision)
        assert "a.bin" not in names
        assert {"na.txt", "b.bin"} <= set(names)
    assert titles(api, "dev") == ["c.bin", "b.bin", "a.bin", "initial commit"]
    assert read(api, wire, "a.bin").status == 404
    assert read(api, wire, "c.bin", "dev").body == WEIGHTS["c.bin"]
    assert {file.filename for file in api.list_lfs_files("me/repo")} == {"b.bin", "c.bin"}
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("me/repo", "a.bin")
    # Without rewriting, the commits stay and the content goes.
    [second] = [file for file in api.list_lfs_files("me/repo") if file.filename == "b.bin"]
    before = api.model_info("me/repo").sha
    api.permanently_delete_lfs_files("me/repo", [second], rewrite_history=False)
    assert api.model_info("me/repo").sha == before
    assert read(api, wire, "b.bin").body.startswith(b"version https://git-lfs")


def test_a_repository_is_duplicated(api, wire):
    you = HfApi(endpoint=api.endpoint, token=api.served.token("you"))
    url = you.duplicate_repo("me/repo", "you/copy", visibility="private")
    assert url.repo_id == "you/copy"
    assert titles(you, "dev", "you/copy") == titles(api, "dev")
    assert you.model_info("you/copy").sha == api.model_info("me/repo").sha
    assert you.list_repo_refs("you/copy").tags[0].name == "v1"
    assert read(you, wire, "c.bin", "dev", "you/copy").body == WEIGHTS["c.bin"]
    assert wire(api.endpoint)("GET", "/api/models/you/copy").status == 401
    add(you, "c.bin", "you/copy")
    assert "c.bin" not in api.list_repo_files("me/repo")
    api.delete_repo("me/repo")
    assert server.collect  # what is shared outlives the first owner
    assert read(you, wire, "a.bin", repo="you/copy").body == WEIGHTS["a.bin"]
    with pytest.raises(HfHubHTTPError):
        you.duplicate_repo("you/copy", "me/stolen")
    with pytest.raises(HfHubHTTPError):
        you.duplicate_repo("you/copy", "you/copy")


def test_a_private_or_gated_repository_is_duplicated_by_its_readers_only(api):
    you = HfApi(endpoint=api.endpoint, token=api.served.token("you"))
    for change in ({"gated": "auto"}, {"visibility": "private"}):
        api.update_repo_settings("me/repo", **change)
        with pytest.raises(HfHubHTTPError):
            you.duplicate_repo("me/repo", "you/copy")
    assert not you.repo_exists("you/copy")


def test_a_large_file_is_copied_on_the_server(api, wire):
    api.create_repo("me/data", repo_type="dataset")
    oid = hashlib.sha256(WEIGHTS["a.bin"]).hexdigest()
    ask = wire(api.endpoint, api.token)
    body = {"target": {"type": "dataset", "name": "me/data"},
            "files": [{"sha256": oid, "filename": "a.bin"}, {"sha256": "0" * 64}]}  # fmt: skip
    answer = ask("POST", "/api/models/me/repo/lfs-files/duplicate", body)
    assert [row["sha256"] for row in answer.json["success"]] == [oid]
    assert [row["sha256"] for row in answer.json["failed"]] == ["0" * 64]
    stranger = wire(api.endpoint, api.served.token("you"))
    assert stranger("POST", "/api/models/me/repo/lfs-files/duplicate", body).status == 403
    api.update_repo_settings("me/repo", visibility="private")
    assert stranger("POST", "/api/models/me/repo/lfs-files/duplicate", body).status == 404


def test_copies_by_the_client_between_repositories(api, wire):
    api.create_repo("me/data", repo_type="dataset")
    copies = [
        CommitOperationCopy("a.bin", "copied/a.bin", src_repo_id="me/repo", src_repo_type="model"),
        CommitOperationCopy("na.txt", "a.txt", src_repo_id="me/repo", src_repo_type="model"),
    ]
    api.create_commit("me/data", copies, commit_message="copy", repo_type="dataset")
    path = "datasets/me/data"
    assert read(api, wire, "copied/a.bin", repo=path).body == WEIGHTS["a.bin"]
    assert read(api, wire, "a.txt", repo=path).body == b"t"


def test_what_an_owner_keeps_and_who_there_is(api):
    token = server.token(api.served.folder, "me", orgs=("crew",))
    me = HfApi(endpoint=api.endpoint, token=token)
    me.create_repo("me/data", repo_type="dataset", private=True)
    me.create_repo("crew/model")
    kept = {repo.id: repo for repo in me.list_user_repos()}
    assert set(kept) == {"me/repo", "me/data"}
    assert (kept["me/repo"].storage, kept["me/repo"].storage_percent) == (150_000, 100)
    assert (kept["me/data"].type, kept["me/data"].visibility) == ("dataset", "private")
    assert [repo.id for repo in me.list_user_repos(namespace="crew")] == ["crew/model"]
    overview = me.get_user_overview("ME")
    assert (overview.username, overview.num_models, overview.num_datasets) == ("me", 1, 1)
    assert [org.name for org in overview.orgs] == ["crew"]
    you = HfApi(endpoint=api.endpoint, token=api.served.token("you"))
    assert you.get_user_overview("me").num_datasets == 0  # that one is private
    assert you.get_organization_overview("crew").num_users == 1
    assert [user.username for user in you.list_organization_members("crew")] == ["me"]
    for wrong in (lambda: list(you.list_user_repos(namespace="crew")),
                  lambda: you.get_user_overview("nobody"),
                  lambda: you.get_organization_overview("nobody")):  # fmt: skip
        with pytest.raises(HfHubHTTPError):
            wrong()


@pytest.mark.parametrize("sdk", ["gradio", "static", "docker"])
def test_a_new_space_has_a_readme(api, sdk):
    api.create_repo("me/space", repo_type="space", space_sdk=sdk)
    info = api.space_info("me/space")
    assert info.card_data is not None
    assert (info.sdk, info.card_data["sdk"], info.card_data["title"]) == (sdk, sdk, "space")
    assert "README.md" in api.list_repo_files("me/space", repo_type="space")
    assert titles(api, repo="me/repo")
