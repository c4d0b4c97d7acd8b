"""A mirror in front of another hub: what it gives, what it keeps, whom it refuses."""

import hashlib
import http.client
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from zoo.cli import main
from zoo.hub import client, download, server

# huggingface_hub uploads by a call that its own HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
WEIGHTS = os.urandom(3_000_000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "sub/notes.txt": b"notes"}


class Between(BaseHTTPRequestHandler):
    """The wire between a mirror and its upstream: counts, cuts, changes, and goes down."""

    protocol_version = "HTTP/1.1"
    wire: SimpleNamespace

    def log_message(self, *_: object) -> None:
        pass

    def forward(self) -> None:
        with self.wire.lock:
            self.wire.asked.append((self.command, self.path, self.headers.get("Range")))
            self.wire.tokens.append(self.headers.get("Authorization"))
        if self.wire.down:
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        keep = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
        connection = http.client.HTTPConnection(self.wire.behind, timeout=30)
        connection.request(self.command, self.path, body, keep)
        answer = connection.getresponse()
        data = self.wire.change(self.path, answer.read())
        connection.close()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(key, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        cut = self.wire.cut(self.path, len(data))
        self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.close_connection = True

    do_GET = do_POST = do_HEAD = forward  # noqa: N815


@pytest.fixture
def mirrored(serve, monkeypatch, tmp_path):
    """An upstream with repositories, a wire that can fail, and a mirror at its other end."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(client.time, "sleep", lambda _: None)
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(download, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setattr("zoo.hub.server.mirror.mirror._DOWN_S", 0.0)
    monkeypatch.setattr("zoo.hub.server.mirror.mirror._FRESH_S", 0.0)
    monkeypatch.setattr("zoo.hub.server.mirror.mirror._ADMITTED_S", 0.0)
    upstream = serve("upstream")
    wire = SimpleNamespace(
        asked=[],
        tokens=[],
        down=False,
        behind=upstream.address.removeprefix("http://"),
        change=lambda path, data: data,
        cut=lambda path, size: None,
        lock=threading.Lock(),
    )
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Wire", (Between,), {"wire": wire}))
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{proxy.server_port}"
    token = upstream.token("org")
    api = HfApi(endpoint=upstream.address, token=token)
    api.create_repo("org/model")
    push(api, "org/model", FILES)
    api.create_tag("org/model", tag="v1")
    served = serve("mirror", upstream=address)
    yield SimpleNamespace(
        api=api, token=token, upstream=upstream, wire=wire, address=served.address,
        folder=served.folder, own=served.token("me"), served=served, at=address,
    )  # fmt: skip
    proxy.shutdown()
    proxy.server_close()


def push(api, repo, files):
    from huggingface_hub import CommitOperationAdd

    monkey, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True
    try:
        operations = [CommitOperationAdd(name, data) for name, data in files.items()]
        return api.create_commit(repo, operations, commit_message="files").oid
    finally:
        constants.HF_HUB_DISABLE_XET = monkey


def asked(mirrored, part=""):
    return [path for _, path, _ in mirrored.wire.asked if part in path]


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {".cache", ".git"} & set(path.relative_to(folder).parts)
    }


def test_a_snapshot_comes_once_and_then_without_the_upstream(mirrored, tmp_path):
    def snapshot(name, revision=None):
        folder = snapshot_download(
            "org/model",
            revision=revision,
            endpoint=mirrored.address,
            token=False,
            cache_dir=tmp_path / name / "cache",
            local_dir=tmp_path / name / "files",
        )
        found = contents(tmp_path / name / "files")
        found.pop(".gitattributes")
        return found, folder

    assert snapshot("first")[0] == FILES
    assert snapshot("tag", "v1")[0] == FILES
    commit = mirrored.api.model_info("org/model").sha
    assert len(asked(mirrored, "/resolve/")) == 1  # the large file; the others came by git
    before = len(mirrored.wire.asked)
    assert snapshot("pinned", commit)[0] == FILES
    assert len(mirrored.wire.asked) == before
    mirrored.wire.down = True
    for i, revision in enumerate((None, "v1", commit)):
        assert snapshot(f"offline{i}", revision)[0] == FILES
    mirrored.wire.down = False
    newer = push(mirrored.api, "org/model", {"config.json": b'{"a": 1}'})
    info = HfApi(endpoint=mirrored.address, token=False).model_info(
        "org/model", files_metadata=True
    )
    assert info.sha == newer
    assert {item.rfilename: item.size for item in info.siblings}["config.json"] == 8
    assert snapshot("newer")[0] == FILES | {"config.json": b'{"a": 1}'}
    assert snapshot("older", commit)[0] == FILES
    assert len(asked(mirrored, "/resolve/")) == 1


def test_history_references_and_listings_are_the_upstreams(mirrored):
    ours, theirs = HfApi(endpoint=mirrored.address, token=False), mirrored.api
    assert [c.commit_id for c in ours.list_repo_commits("org/model")] == [
        c.commit_id for c in theirs.list_repo_commits("org/model")
    ]
    refs = ours.list_repo_refs("org/model")
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [
        (ref.name, ref.target_commit) for ref in theirs.list_repo_refs("org/model").tags
    ]
    for expand in (False, True):
        assert list(ours.list_repo_tree("org/model", recursive=True, expand=expand)) == list(
            theirs.list_repo_tree("org/model", recursive=True, expand=expand)
        )
    assert [info.id for info in ours.list_models()] == ["org/model"]


def test_a_range_of_a_file_on_its_way(mirrored, wire, tmp_path):
    ask = wire(mirrored.address)
    for text, want in (("bytes=0-99", WEIGHTS[:100]), ("bytes=-7", WEIGHTS[-7:])):
        path = "/org/model/resolve/main/model.safetensors"
        answer = ask("GET", path, headers={"Range": text})
        assert (answer.status, answer.body) == (206, want)
    file = hf_hub_download(
        "org/model",
        "model.safetensors",
        endpoint=mirrored.address,
        cache_dir=tmp_path,
        token=False,
    )
    assert Path(file).read_bytes() == WEIGHTS


def test_many_readers_fetch_once(mirrored, wire):
    results = []

    def read():
        answer = wire(mirrored.address)("GET", "/org/model/resolve/main/model.safetensors")
        results.append((answer.status, hashlib.sha256(answer.body).hexdigest()))

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {(200, hashlib.sha256(WEIGHTS).hexdigest())}
    assert len(asked(mirrored, "/resolve/")) == 1
    assert len(asked(mirrored, "git-upload-pack")) == 2  # the references, and one pack


def test_a_cut_upstream_goes_on_where_it_stopped(mirrored, wire):
    cuts = [2_900_000, 1_000_000, 300_000]
    mirrored.wire.cut = lambda path, size: cuts.pop() if "/resolve/" in path and cuts else None
    answer = wire(mirrored.address)("GET", "/org/model/resolve/main/model.safetensors")
    assert answer.body == WEIGHTS
    starts = [text for _, path, text in mirrored.wire.asked if "/resolve/" in path]
    assert starts[:3] == [None, "bytes=300000-", "bytes=1300000-"]


def test_a_restarted_mirror_goes_on_where_it_stopped(mirrored, wire):
    # What an earlier server left behind of the file.
    [row] = _rows(mirrored, wire)
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    (mirrored.folder / "parts" / f"{row}-{oid}").write_bytes(WEIGHTS[:1_000_000])
    answer = wire(mirrored.address)("GET", "/org/model/resolve/main/model.safetensors")
    assert answer.body == WEIGHTS
    starts = [text for _, path, text in mirrored.wire.asked if "/resolve/" in path]
    assert starts == ["bytes=1000000-"]
    assert not list((mirrored.folder / "parts").iterdir())


def _rows(mirrored, wire):
    assert wire(mirrored.address)("GET", "/api/models/org/model").status == 200
    return [path.name.removesuffix(".git") for path in (mirrored.folder / "repos").iterdir()]


@pytest.mark.parametrize("part", ["/resolve/", "git-upload-pack"])
def test_changed_bytes_of_the_upstream_are_never_whole(mirrored, wire, part):
    def flip(path, data):
        if part not in path or len(data) < 500:
            return data
        at = len(data) // 2
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    mirrored.wire.change = flip
    ask = wire(mirrored.address)
    path = "/org/model/resolve/main/model.safetensors"
    try:
        got = len(ask("GET", path).body)
    except http.client.IncompleteRead as error:
        got = len(error.partial)
    assert got < len(WEIGHTS) - 500_000
    kept = [path for path in (mirrored.folder / "objects").rglob("*") if path.is_file()]
    assert kept == []
    mirrored.wire.change = lambda path, data: data
    # Whoever has some of the wrong bytes cannot add the right ones to them.
    answer = ask("GET", path, headers={"Range": "bytes=1000000-"} if part == "/resolve/" else {})
    assert (answer.status, answer.body) == (200, WEIGHTS)


@pytest.mark.parametrize("repo", ["org/secret", "org/gated"])
def test_what_is_not_for_everybody_is_for_those_the_upstream_lets_in(mirrored, wire, repo):
    mirrored.api.create_repo(repo, private=repo == "org/secret")
    push(mirrored.api, repo, FILES)
    mirrored.api.update_repo_settings(repo, gated=repo == "org/gated" and "auto")
    refused = RepositoryNotFoundError if repo == "org/secret" else GatedRepoError
    stranger = mirrored.upstream.token("stranger")
    path = f"/{repo}/resolve/main/model.safetensors"

    def download(token):
        return hf_hub_download(
            repo, "config.json", endpoint=mirrored.address, token=token,
            cache_dir=mirrored.folder.parent / "cache" / os.urandom(4).hex(),
        )  # fmt: skip

    strangers = [False, stranger, mirrored.own]
    for token in strangers:
        with pytest.raises(refused):
            download(token)
    assert download(mirrored.token)
    assert wire(mirrored.address, mirrored.token)("GET", path).body == WEIGHTS
    mirrored.wire.asked.clear()
    commit = mirrored.api.model_info(repo).sha
    for token in strangers:  # it is here now, and still not theirs
        with pytest.raises(refused):
            download(token)
        ask = wire(mirrored.address, token or None)
        for revision in ("main", commit):
            for about in (f"/{repo}/resolve/{revision}/config.json", path, f"/{repo}/raw/main/x"):
                answer = ask("GET", about.replace("main", revision))
                assert answer.status in (401, 403, 404)
                assert WEIGHTS[:50] not in answer.body
    shown = HfApi(endpoint=mirrored.address, token=False).list_models()
    assert "org/secret" not in {info.id for info in shown}
    mirrored.wire.down = True  # those who were let in still are; the others still are not
    assert wire(mirrored.address, mirrored.token)("GET", path.replace("main", commit)).body
    for token in strangers:
        with pytest.raises((refused, RepositoryNotFoundError)):
            download(token)


def test_a_token_of_this_hub_goes_nowhere(mirrored, wire):
    expired = mirrored.served.token("me", days=-1)
    for token in (mirrored.own, expired):
        wire(mirrored.address, token)("GET", "/org/model/resolve/main/config.json")
    sent = {text for text in mirrored.wire.tokens if text}
    assert not any(mirrored.own in text or expired in text for text in sent)
    for path in mirrored.folder.rglob("*"):
        if path.is_file():
            assert mirrored.token.encode() not in path.read_bytes()


def test_what_the_upstream_lacks_and_what_it_fails_at(mirrored, wire):
    ours = HfApi(endpoint=mirrored.address, token=False)
    with pytest.raises(RepositoryNotFoundError):
        ours.model_info("org/none")
    with pytest.raises(RevisionNotFoundError):
        ours.model_info("org/model", revision="v9")
    with pytest.raises(RevisionNotFoundError):
        ours.model_info("org/model", revision="0" * 40)
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(endpoint=mirrored.address, token="hf_unknownunknownunknown").model_info("org/model")
    assert caught.value.response.status_code == 401
    mirrored.wire.down = True
    answer = wire(mirrored.address)("GET", "/api/models/org/other")
    assert answer.status == 502
    assert "cannot be reached" in answer.json["error"]


def test_own_repositories_come_first_and_mirrored_ones_are_not_written(mirrored, wire):
    api = HfApi(endpoint=mirrored.address, token=mirrored.served.token("org"))
    assert api.model_info("org/model").id == "org/model"
    with pytest.raises(HfHubHTTPError, match="mirrors http"):
        push(api, "org/model", {"a.txt": b"a"})
    with pytest.raises(HfHubHTTPError, match="mirrors http"):
        api.delete_repo("org/model")
    api.create_repo("org/secret")  # of that name, but ours
    push(api, "org/secret", {"a.txt": b"ours"})
    before = len(asked(mirrored, "secret"))
    answer = wire(mirrored.address)("GET", "/org/secret/resolve/main/a.txt")
    assert answer.body == b"ours"
    assert len(asked(mirrored, "secret")) == before
    admin = server.token(mirrored.folder, "root", role="admin")
    HfApi(endpoint=mirrored.address, token=admin).delete_repo("org/model")


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="no git-lfs on the PATH")
def test_git_clones_a_mirror(mirrored, tmp_path):
    environment = {
        **os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": str(tmp_path),
        "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1",
    }  # fmt: skip

    def git(*arguments):
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    git("clone", f"{mirrored.address}/org/model", "clone")
    assert git("-C", "clone", "rev-parse", "HEAD").strip() == (
        mirrored.api.model_info("org/model").sha
    )
    git("-C", "clone", "lfs", "install", "--local")
    git("-C", "clone", "lfs", "pull")
    found = contents(tmp_path / "clone")
    found.pop(".gitattributes")
    assert found == FILES


def test_data_sets_and_the_zoos_own_client(mirrored, tmp_path, monkeypatch):
    import zoo

    mirrored.api.create_repo("org/data", repo_type="dataset")
    operation = {"path_or_fileobj": b"1,2\n", "path_in_repo": "a.csv", "repo_id": "org/data"}
    mirrored.api.upload_file(**operation, repo_type="dataset")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", mirrored.address)
    assert (zoo.pull("datasets/org/data") / "a.csv").read_bytes() == b"1,2\n"
    assert (zoo.pull("org/model") / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("text", ["hub", "ftp://x", "https://a:b@c"])
def test_an_upstream_that_is_no_address_is_refused(tmp_path, text, capsys):
    assert main(["hub", "serve", "--dir", str(tmp_path), "--upstream", text]) == 1
    said = capsys.readouterr().err
    assert "--upstream is not an address" in said or "has a name or a password in it" in said
