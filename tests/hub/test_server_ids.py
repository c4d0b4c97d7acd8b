"""How repositories and revisions may be named, and what the client makes of what is not here."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    BadRequestError,
    BucketNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from zoo.hub import where
from zoo.hub.server.store.index import Index

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Warnings while validating metadata:UserWarning"),
]


@pytest.fixture
def api(serve, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    served = serve()
    made = HfApi(endpoint=served.address, token=served.token())
    made.served = served
    made.create_repo("me/repo")
    add(made, "README.md", b"# one")
    return made


def add(api, path, data, repo="me/repo", **more):
    operations = [CommitOperationAdd(path, data)]
    return api.create_commit(repo, operations, commit_message=path, **more).oid


def test_a_name_without_an_owner_is_not_found_as_the_client_says_it(api, wire):
    for call in (api.model_info, api.list_repo_files, api.list_repo_refs, api.auth_check,
                 api.list_repo_commits):  # fmt: skip
        with pytest.raises(RepositoryNotFoundError):
            call("gpt2")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("squad")
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("gpt2", "config.json")
    assert not api.repo_exists("gpt2")
    stranger = wire(api.endpoint)
    for path in ("/api/models/gpt2", "/gpt2/resolve/main/config.json", "/datasets/squad",
                 "/api/models/gpt2/tree/main", "/gpt2/info/refs?service=git-upload-pack",
                 "/api/datasets/squad/revision/main", "/api/models/gpt2/refs"):  # fmt: skip
        answer = stranger("GET", path)
        code = {key.lower(): value for key, value in answer.headers.items()}.get("x-error-code")
        assert (answer.status, code) == (404, "RepoNotFound"), path
    with pytest.raises(HfHubHTTPError):
        api.create_repo("me/refs")  # it would stand in the way of refs' own address


def test_a_mirror_asks_its_upstream_for_a_name_without_an_owner(serve, wire, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("zoo.hub.server.mirror.mirror._FRESH_S", 0.0)
    upstream = serve("upstream")
    owner = HfApi(endpoint=upstream.address, token=upstream.token("me", role="admin"))
    owner.create_repo("me/gpt2")
    add(owner, "config.json", b"{}", "me/gpt2")
    add(owner, "w.bin", b"w" * 3_000_000, "me/gpt2")
    # As on the public Hub, whose oldest models have no owner.
    index = Index(upstream.folder / "index.sqlite")
    index.run("UPDATE repos SET namespace = ''")
    index.close()
    mirror = HfApi(endpoint=serve("mirror", upstream=upstream.address).address)
    assert mirror.model_info("gpt2").sha == owner.model_info("gpt2").sha
    assert mirror.list_repo_files("gpt2") == [".gitattributes", "config.json", "w.bin"]
    assert mirror.list_repo_refs("gpt2").branches[0].name == "main"
    for name, size in (("config.json", 2), ("w.bin", 3_000_000)):
        path = hf_hub_download("gpt2", name, endpoint=mirror.endpoint, cache_dir=upstream.folder)
        assert Path(path).stat().st_size == size
    with pytest.raises(RepositoryNotFoundError):
        mirror.model_info("gpt3")
    assert where.split("datasets/squad") == ("datasets", "squad")
    assert where.split("org/name") == ("models", "org/name")


def test_short_commit_ids(api):
    first = api.model_info("me/repo").sha
    second = add(api, "b.txt", b"b")
    for sha in (first, second):
        for text in (sha[:7], sha[:12], sha[:39], sha.upper()):
            assert api.model_info("me/repo", revision=text).sha == sha
    assert "b.txt" not in api.list_repo_files("me/repo", revision=first[:8])
    api.create_tag("me/repo", tag="v1", revision=first[:7])
    assert api.list_repo_refs("me/repo").tags[0].target_commit == first
    blob = api.get_paths_info("me/repo", "b.txt")[0].blob_id
    for text in (first[:4], "0" * 7, blob[:10], "zzzzzzz"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("me/repo", revision=text)
    api.create_branch("me/repo", branch=first[:7], revision=second)  # a branch comes first
    assert api.model_info("me/repo", revision=first[:7]).sha == second


FRONTS = [
    "---\r\ntags: [edge]\r\n---\r\n# T\r\n",
    "\n\n---\ntags: [edge]\n---\n# T",
    "---\ntags:\n- edge\n---",
    "\ufeff---\ntags: [edge]\n---\n",
    " \n---\ntags: [edge]\n---  \n",
]


def test_front_matter_as_the_client_reads_it(api, wire):
    for text in FRONTS:
        add(api, "README.md", b"# none")
        assert "edge" not in api.model_info("me/repo").tags
        add(api, "README.md", text.encode())
        assert "edge" in api.model_info("me/repo").tags, text
        assert [model.id for model in api.list_models(filter="edge")] == ["me/repo"]
        page = wire(api.endpoint)("GET", "/me/repo").body.decode()
        assert "tags:" not in page, text


def test_a_renamed_repository_is_found_under_its_old_name(api, tmp_path, wire):
    add(api, "w.bin", b"w" * 100_000)
    api.move_repo("me/repo", "me/new")
    assert api.model_info("me/repo").id == "me/new"
    assert "w.bin" in api.list_repo_files("me/repo")
    path = api.hf_hub_download("me/repo", "w.bin", cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"w" * 100_000
    add(api, "sub/c d.txt", b"c")
    assert "sub/c d.txt" in api.list_repo_files("me/new")
    stranger = wire(api.endpoint)
    answer = stranger("GET", "/me/repo/resolve/main/sub%2Fc%20d.txt?download=true")
    location = {k.lower(): v for k, v in answer.headers.items()}["location"]
    assert (answer.status, location) == (307, "/me/new/resolve/main/sub%2Fc%20d.txt?download=true")
    # A private one is no different from none, and a new one of the old name is itself.
    api.update_repo_settings("me/new", visibility="private")
    assert stranger("GET", "/api/models/me/repo").status == 401
    api.create_repo("me/repo")
    assert api.model_info("me/repo").id == "me/repo"
    api.delete_repo("me/repo")
    assert api.model_info("me/repo").id == "me/new"
    api.move_repo("me/new", "me/repo")
    assert api.model_info("me/repo").id == "me/repo"
    api.delete_repo("me/repo")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/new")


def test_access_is_given_and_taken_back(api):
    other = HfApi(endpoint=api.endpoint, token=api.served.token("you"))
    api.update_repo_settings("me/repo", gated="manual")

    def reads():
        try:
            other.auth_check("me/repo")
        except GatedRepoError:
            return False
        return True

    def lists():
        return [
            [request.username for request in listing("me/repo")]
            for listing in (api.list_pending_access_requests, api.list_accepted_access_requests,
                            api.list_rejected_access_requests)
        ]  # fmt: skip

    assert not reads()
    api.grant_access("me/repo", "you")
    assert reads()
    assert lists() == [[], ["you"], []]
    api.cancel_access_request("me/repo", "YOU")
    assert not reads()
    assert lists() == [["you"], [], []]
    api.accept_access_request("me/repo", "you")
    assert reads()
    api.reject_access_request("me/repo", "you", rejection_reason="no")
    assert not reads()
    assert lists() == [[], [], ["you"]]
    [request] = api.list_rejected_access_requests("me/repo")
    api.accept_access_request("me/repo", request_id=request.request_id)
    assert reads()
    for wrong in (lambda: api.grant_access("me/repo", "you"),
                  lambda: api.grant_access("me/repo", "nobody"),
                  lambda: api.accept_access_request("me/repo", request_id="0" * 24),
                  lambda: other.grant_access("me/repo", "you"),
                  lambda: list(other.list_accepted_access_requests("me/repo"))):  # fmt: skip
        with pytest.raises(HfHubHTTPError):
            wrong()
    assert lists() == [[], ["you"], []]


ABSENT = {
    "discussions": lambda api: list(api.get_repo_discussions("me/repo")),
    "a pull request": lambda api: api.create_pull_request("me/repo", title="t"),
    "a comment": lambda api: api.comment_discussion("me/repo", 1, "c"),
    "a commit as pull request": lambda api: add(api, "x", b"x", create_pr=True),
    "likes": lambda api: api.unlike("me/repo"),
    "liked": lambda api: api.list_liked_repos("me"),
    "likers": lambda api: list(api.list_repo_likers("me/repo")),
    "webhooks": lambda api: api.list_webhooks(),
    "a webhook": lambda api: api.create_webhook(
        url="https://a.b", watched=[{"type": "user", "name": "me"}], domains=["repo"], secret="s"
    ),
    "a bucket": lambda api: api.create_bucket("me/bucket"),
    "a runtime": lambda api: api.get_space_runtime("me/space"),
    "a secret": lambda api: api.add_space_secret("me/space", "k", "v"),
    "a restart": lambda api: api.restart_space("me/space"),
    "followers": lambda api: list(api.list_user_followers("me")),
}


def test_what_is_absent_is_said_by_its_name(api):
    api.create_repo("me/space", repo_type="space", space_sdk="static")
    for what, ask in ABSENT.items():
        with pytest.raises(BadRequestError) as caught:
            ask(api)
        assert "this hub has no " in str(caught.value), what


def test_what_is_absent_of_what_is_not_there(api, wire):
    with pytest.raises(RepositoryNotFoundError):
        list(api.get_repo_discussions("me/none"))
    with pytest.raises(RepositoryNotFoundError):
        api.unlike("missing")
    with pytest.raises(BucketNotFoundError):
        api.bucket_info("me/bucket")
    client_ = wire(api.endpoint, api.token)
    for path in ("/api/nothing", "/api/models/me/repo/nothing", "/api/quicksearch?q=x"):
        answer = client_("GET", path)
        assert answer.status == 404
        assert "this hub has no api/" in answer.json["error"]


def test_a_pull_request_is_refused_before_anything_is_uploaded(api, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"w" * 3_000_000)
    with pytest.raises(BadRequestError, match="no pull requests"):
        api.upload_folder(repo_id="me/repo", folder_path=tmp_path, create_pr=True)
    with pytest.raises(BadRequestError, match="no pull requests"):
        api.upload_file(repo_id="me/repo", path_or_fileobj=tmp_path / "w.safetensors",
                        path_in_repo="w.safetensors", create_pr=True)  # fmt: skip
    assert not list((api.served.folder / "objects").glob("??/??/*"))
    assert not list((api.served.folder / "xorbs").glob("*/*/*"))


def test_folders_are_deleted_by_their_name(api):
    add(api, "sub/a.txt", b"a")
    add(api, "sub2", b"b")
    api.delete_file("sub", "me/repo")
    assert api.list_repo_files("me/repo") == [".gitattributes", "README.md", "sub2"]
    with pytest.raises(RemoteEntryNotFoundError):
        api.delete_file("su", "me/repo")
