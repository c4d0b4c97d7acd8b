"""Many at once: what the hub said yes to is kept, and what it gives out is right."""

import base64
import hashlib
import http.client
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field

import pytest

from zoo.hub import server


@dataclass
class Trial:
    """What the clients of one trial saw. A commit that got no answer may be there or not."""

    acknowledged: dict[str, str] = field(default_factory=dict)  # path -> commit
    unanswered: list[str] = field(default_factory=list)
    refused: list[tuple[int, bytes]] = field(default_factory=list)
    reads: int = 0
    wrong: int = 0
    unread: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def content_of(path):
    return f"the content of {path}\n".encode() * 20


class Writer(threading.Thread):
    """Commits one new file after the other to `main`, without naming a parent."""

    def __init__(self, client, trial, number, commits):
        super().__init__()
        self.client, self.trial, self.number, self.commits = client, trial, number, commits

    def run(self):
        for i in range(self.commits):
            path = f"{self.number}/{i}.txt"
            operation = {"path": path, "content": base64.b64encode(content_of(path)).decode()}
            try:
                answer = self.client.commit("me/repo", ("file", operation))
            except (OSError, http.client.HTTPException):
                with self.trial.lock:
                    self.trial.unanswered.append(path)
                continue
            with self.trial.lock:
                if answer.status == 200:
                    self.trial.acknowledged[path] = answer.json["commitOid"]
                else:
                    self.trial.refused.append((answer.status, answer.body))


class Reader(threading.Thread):
    """Reads a large file, and what is known about the repository, until told to stop."""

    def __init__(self, client, trial, digest, stop):
        super().__init__()
        self.client, self.trial, self.digest, self.stop = client, trial, digest, stop

    def run(self):
        while not self.stop.is_set():
            try:
                data = self.client("GET", "/me/repo/resolve/main/w.bin").body
                info = self.client("GET", "/api/models/me/repo")
            except (OSError, http.client.HTTPException):
                with self.trial.lock:
                    self.trial.unread += 1
                continue
            right = hashlib.sha256(data).hexdigest() == self.digest and info.status == 200
            with self.trial.lock:
                self.trial.reads += 1
                self.trial.wrong += not right


def run(served, wire, token, readers, writers, commits, timeout_s):
    client = wire(served.address, token)
    assert client("POST", "/api/repos/create", {"name": "repo"}).status == 200
    data = os.urandom(300_000)
    assert client.commit_large("me/repo", "w.bin", data).status == 200
    trial, stop = Trial(), threading.Event()
    digest = hashlib.sha256(data).hexdigest()
    clients = [wire(served.address, token, timeout_s) for _ in range(readers + writers)]
    reading = [Reader(client, trial, digest, stop) for client in clients[:readers]]
    writing = [
        Writer(client, trial, number, commits) for number, client in enumerate(clients[readers:])
    ]
    start = time.perf_counter()
    for thread in (*reading, *writing):
        thread.start()
    for thread in writing:
        thread.join()
    seconds = time.perf_counter() - start
    stop.set()
    for thread in reading:
        thread.join()
    print(
        f"{readers} readers, {writers} writers: {len(trial.acknowledged)} commits acknowledged in "
        f"{seconds:.1f} s, {len(trial.unanswered)} without an answer, {trial.reads} reads, "
        f"{trial.unread} without an answer"
    )
    return trial


def require_all(client, folder, trial, writers, commits):
    """Every acknowledged commit is in the history, here and for git, with its file."""
    assert not trial.refused, trial.refused[:3]
    assert not trial.wrong
    assert len(trial.acknowledged) + len(trial.unanswered) == writers * commits
    assert len(set(trial.acknowledged.values())) == len(trial.acknowledged)
    git = ["git", "-C", str(folder / "repos" / "1.git")]
    subprocess.run([*git, "fsck", "--strict"], check=True, capture_output=True)
    command = [*git, "log", "--format=%H", "--name-only", "--diff-filter=A", "main"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    added, commit = {}, ""
    for line in filter(None, text.splitlines()):
        if len(line) == 40 and "/" not in line:
            commit = line
        else:
            added[line] = commit
    assert trial.acknowledged.items() <= added.items()
    assert added.keys() - trial.acknowledged.keys() <= {
        *trial.unanswered, "w.bin", ".gitattributes",
    }  # fmt: skip
    pages = client.pages("/api/models/me/repo/commits/main?limit=1000")
    history = {item["id"] for page in pages for item in page}
    assert set(trial.acknowledged.values()) <= history
    assert len(history) == len(added)  # one line of commits, each adding one file
    kept = len(trial.acknowledged.items() & added.items())
    print(
        f"after a restart: {kept} of {len(trial.acknowledged)} acknowledged commits are there, and "
        f"{len(set(trial.unanswered) & added.keys())} of {len(trial.unanswered)} without an answer"
    )
    for path, sha in trial.acknowledged.items():
        answer = client("GET", f"/me/repo/resolve/{sha}/{path}")
        assert (answer.status, answer.body) == (200, content_of(path))


@pytest.mark.parametrize(
    ("readers", "writers", "commits", "timeout_s"),
    [
        (8, 6, 2, 30),
        # So short that clients give up while the server works: they see fewer commits than there
        # are, and never one that is not there.
        (2, 8, 2, 0.4),
        pytest.param(100, 24, 10, 120, marks=pytest.mark.slow),
        pytest.param(100, 24, 10, 3, marks=pytest.mark.slow),
    ],
    ids=["some", "impatient", "many", "many-impatient"],
)
def test_nothing_acknowledged_is_lost(
    serve_process, wire, tmp_path, readers, writers, commits, timeout_s
):
    token = server.token(tmp_path / "hub", "me")
    served = serve_process()
    trial = run(served, wire, token, readers, writers, commits, timeout_s)
    served.stop()  # what was under way is finished or dropped
    served = serve_process()
    require_all(wire(served.address, token), served.folder, trial, writers, commits)
