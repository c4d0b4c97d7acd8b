"""Hub servers on free loopback ports: one in this process, and one that can be killed."""

import contextlib
import hashlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dulwich")

from zoo.hub import server
from zoo.hub.server import Settings


@dataclass(frozen=True)
class Served:
    """A hub that is being served."""

    folder: Path
    address: str

    def token(self, user: str = "me", role: str = "write", days: float | None = None) -> str:
        """Return a new token of this hub."""
        return server.token(self.folder, user, role=role, days=days)


class ServedProcess:
    """`zoo hub serve` as a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        command = [sys.executable, "-c", _MAIN, str(folder), *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("zoo hub: "):
            self.stop()
            raise AssertionError(f"the server did not start: {line}")
        self.address = line.split()[-1]

    def kill(self) -> None:
        """End it as a power cut would, as far as a process can tell."""
        self.process.kill()
        self._reap()

    def stop(self) -> str:
        """End it as a user would; return what it wrote to stderr."""
        self.process.terminate()
        return self._reap()

    def _reap(self) -> str:
        return self.process.communicate(timeout=20)[1]


# Only what the server needs: the whole command line would import more, and tests restart it often.
_MAIN = """
import sys
from pathlib import Path
from zoo.hub import server
server.serve(Path(sys.argv[1]), port=0)
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Return a function that serves a new hub from a thread of this process."""
    with contextlib.ExitStack() as stack:

        def start(name: str = "hub", **settings: object) -> Served:
            folder = tmp_path / name
            values = Settings(**settings)  # type: ignore[arg-type]
            return Served(folder, stack.enter_context(server.running(folder, values)))

        yield start


@pytest.fixture
def serve_process(tmp_path: Path) -> Iterator[Callable[..., ServedProcess]]:
    """Return a function that serves a folder from another process, which may be killed."""
    running: list[ServedProcess] = []

    def start(name: str = "hub") -> ServedProcess:
        running.append(ServedProcess(tmp_path / name))
        return running[-1]

    yield start
    for served in running:
        if served.process.returncode is None:
            served.kill()


@pytest.fixture
def client_environment(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that makes the environment of a process that is a Hub client."""

    def make(address: str, token: str | None = None, **more: str) -> dict[str, str]:
        values = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "client"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            **more,
        }
        if token:
            values["HF_TOKEN"] = token
        return values

    return make


class Wire:
    """Raw requests: what a client library would refuse to send."""

    def __init__(self, address: str, token: str | None = None, timeout_s: float = 30) -> None:
        self.host = address.removeprefix("http://")
        self.token = token
        self.timeout_s = timeout_s

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> "Answer":
        """Send one request; a dict becomes JSON, a list NDJSON."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        elif isinstance(body, list):
            body = b"".join(json.dumps(line).encode() + b"\n" for line in body)
        given = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connection = http.client.HTTPConnection(self.host, timeout=self.timeout_s)
        try:
            connection.request(method, path, body, given | (headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def pages(self, path: str) -> Iterator[Any]:
        """Yield the pages of a list, as far as the `link` header leads."""
        while path:
            answer = self("GET", path)
            assert answer.status == 200, answer
            yield answer.json
            link = {key.lower(): value for key, value in answer.headers.items()}.get("link", "")
            path = link.partition(">")[0].partition(self.host)[2]

    def upload(self, repo: str, data: bytes) -> "Answer":
        """Bring a large file into a repository; return the answer to the upload itself."""
        oid = hashlib.sha256(data).hexdigest()
        objects = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
        batch = self("POST", f"/{repo}.git/info/lfs/objects/batch", objects)
        assert batch.status == 200, batch
        [found] = batch.json["objects"]
        if "actions" not in found:
            return batch
        path = found["actions"]["upload"]["href"].partition(self.host)[2]
        return Wire(f"http://{self.host}")("PUT", path, data)

    def commit(
        self, repo: str, *operations: tuple[str, Mapping[str, object]], **header: object
    ) -> "Answer":
        """Commit operations to main."""
        lines = [{"key": "header", "value": {"summary": "test", **header}}]
        lines += [{"key": key, "value": value} for key, value in operations]
        return self("POST", f"/api/models/{repo}/commit/main", lines)

    def commit_large(self, repo: str, path: str, data: bytes) -> "Answer":
        """Upload and commit one large file."""
        assert self.upload(repo, data).status == 200
        value = {"path": path, "algo": "sha256", "oid": hashlib.sha256(data).hexdigest()}
        return self.commit(repo, ("lfsFile", value))


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@pytest.fixture(scope="session")
def wire() -> type[Wire]:
    """The class of raw clients."""
    return Wire
