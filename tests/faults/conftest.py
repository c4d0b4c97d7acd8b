"""A hub that misbehaves on purpose: it cuts, lies, tampers, and counts what it is asked."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from zoo import cache

LARGE = (".safetensors", ".bin", ".pt", ".ckpt", ".onnx")


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeHub:
    """Repositories in memory, the reading half of the protocol and a plain commit.

    Attributes:
        repos: id -> {commit: {path: content}}; the newest commit is `main`.
        asked: (method, path, had a Range) of every request.
        tokens: the accepted ones with their role; empty: everybody may do everything.

    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.authorizations: list[str | None] = []
        self.tokens: dict[str, str] = {}
        self.visibility: dict[str, str] = {}
        # What goes wrong. Each is called with the request's facts.
        self.cut: Callable[[str, int, int], int | None] = lambda path, start, size: None
        self.content: Callable[[str, bytes], bytes] = lambda path, data: data
        self.rows: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows
        self.ranges = True
        self.fail: Callable[[str, str], tuple[int, dict[str, str]] | None] = lambda *_: None
        self.after_parent: Callable[[], None] = lambda: None
        self.objects: dict[str, bytes] = {}
        self.page = 1000
        self.next_at = ""
        self.address = ""
        self.lock = threading.Lock()

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """Make a commit that holds exactly `files`; return its id."""
        commits = self.repos.setdefault(repo, {})
        listing = repr((len(commits), sorted((k, git_sha1(v)) for k, v in files.items())))
        commit = hashlib.sha1(listing.encode()).hexdigest()
        commits[commit] = dict(files)
        return commit

    def head(self, repo: str) -> str:
        return list(self.repos[repo])[-1]

    def listing(self, repo: str, commit: str) -> list[dict[str, Any]]:
        rows = []
        for path, data in self.repos[repo][commit].items():
            row = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if path.endswith(LARGE):
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
            rows.append(row)
        return self.rows(rows)

    def count(self, method: str = "", part: str = "") -> int:
        return sum(method in m and part in p for m, p, _ in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def _begin(self) -> bool:
        authorization = self.headers.get("Authorization")
        with self.hub.lock:
            self.hub.asked.append((self.command, self.path, self.headers.get("Range")))
            self.hub.authorizations.append(authorization)
        if failure := self.hub.fail(self.command, self.path):
            status, headers = failure
            self._answer(status, b"", headers)
            return False
        token = (authorization or "").removeprefix("Bearer ")
        if token and self.hub.tokens and token not in self.hub.tokens:
            bad = "Invalid credentials in Authorization header"
            self._answer(401, b"", {"X-Error-Message": bad})
            return False
        if self.command == "POST" and self.hub.tokens.get(token, "write") != "write":
            self._answer(403, b"", {"X-Error-Message": f"token {token} may only read"})
            return False
        return True

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._answer(200, json.dumps(value).encode(), headers)

    def _missing(self, code: str) -> None:
        self._answer(404, b"", {"X-Error-Code": code})

    def do_GET(self) -> None:
        if not self._begin():
            return
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo, (kind, revision) = "/".join(parts[2:4]), (parts[4:6] or ["revision", "main"])
        else:
            repo, (kind, revision) = "/".join(parts[:2]), parts[2:4]
        if repo not in self.hub.repos:
            return self._missing("RepoNotFound")
        revision = unquote(revision)
        commit = self.hub.head(repo) if revision == "main" else revision
        if commit not in self.hub.repos[repo]:
            return self._missing("RevisionNotFound")
        if kind == "revision":
            answer = {"id": repo, "sha": commit, "siblings": []}
            self._json(answer)
            return self.hub.after_parent()
        if kind == "tree":
            return self._tree(repo, commit, int(parse_qs(url.query).get("cursor", ["0"])[0]))
        path = unquote("/".join(parts[4:]))
        data = self.hub.repos[repo][commit].get(path)
        return self._missing("EntryNotFound") if data is None else self._file(path, data)

    def _tree(self, repo: str, commit: str, at: int) -> None:
        rows, end = self.hub.listing(repo, commit), at + self.hub.page
        next_page = f'<{self.hub.next_at}{self.path.split("&")[0]}&cursor={end}>; rel="next"'
        self._json(rows[at:end], {"Link": next_page} if end < len(rows) else {})

    def _file(self, path: str, data: bytes) -> None:
        data = self.hub.content(path, data)
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.hub.ranges else 0
        body, headers = data[start:], {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        limit = self.hub.cut(path, start, len(data))
        self.send_response(206 if start else 200)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body if limit is None else body[:limit])
        if limit is not None:
            self.close_connection = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._begin():
            return None
        parts = self.path.strip("/").split("/")
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        repo, kind = "/".join(parts[2:4]), parts[4]
        if kind == "preupload":
            rows = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": rows})
        return self._commit(repo, [json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self._begin():
            self.hub.objects[hashlib.sha256(data).hexdigest()] = data
            self._answer(200, b"")

    def _create(self, wanted: dict[str, Any]) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo not in self.hub.repos:
            self.hub.visibility[repo] = wanted.get("visibility", "public")
            self.hub.add(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"http://{self.headers['Host']}/{repo}", "name": repo, "id": repo})

    def _batch(self, wanted: dict[str, Any]) -> None:
        base = f"http://{self.headers['Host']}/lfs/"
        rows = [
            {**item, "actions": {"upload": {"href": base + item["oid"]}}}
            for item in wanted["objects"]
        ]
        self._json({"transfer": "basic", "objects": rows})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        header = lines[0]["value"]
        head = self.hub.head(repo)
        if header.get("parentCommit", head) != head:
            return self._answer(412, b"", {"X-Error-Message": "stale parent"})
        files = dict(self.hub.repos[repo][head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.add(repo, files)
        url = f"http://{self.headers['Host']}/{repo}/commit/{commit}"
        return self._json({"success": True, "commitOid": commit, "commitUrl": url})


@pytest.fixture
def start_hub() -> Iterator[Callable[[], tuple[FakeHub, str]]]:
    """Start a hub; return it and its address."""
    servers = []

    def start() -> tuple[FakeHub, str]:
        hub = FakeHub()
        handler = type("Handler", (_Handler,), {"hub": hub})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return hub, f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(
    start_hub: Callable[[], tuple[FakeHub, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> FakeHub:
    """A hub that the environment names, an empty cache, and no waiting between tries."""
    from huggingface_hub import constants

    from zoo.hub import download

    fake, address = start_hub()
    fake.address = address
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("zoo.hub.client.time.sleep", lambda seconds: None)
    return fake


@pytest.fixture
def commit(hub: FakeHub, request: pytest.FixtureRequest) -> str:
    """The commit of a repository with the module's files."""
    return hub.add(request.module.REPO, request.module.FILES)


# --- what a pull leaves ---------------------------------------------------------------------------


def _content(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != ".zoo-pulled.json"
    }


def _folders() -> list[Path]:
    return [path for path in (cache.root() / "hub").glob("*/*") if not path.name.startswith(".")]


def _absent() -> bool:
    return not _folders() and not list((cache.root() / "hub").glob("*/.?*-*"))


@pytest.fixture
def content() -> Callable[[Path], dict[str, bytes]]:
    """What a pulled folder holds, our record apart."""
    return _content


@pytest.fixture
def folders() -> Callable[[], list[Path]]:
    """The commits in the cache."""
    return _folders


@pytest.fixture
def absent() -> Callable[[], bool]:
    """Nothing that could be taken for a pulled commit, nor a folder half made."""
    return _absent
