"""What one request may take, and what all others get meanwhile."""

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from zoo.hub import server
from zoo.hub.server.budget import Budget, GoneError, OverError
from zoo.hub.server.store import cards
from zoo.hub.server.web import pages, rendering

MOST_CPU_S = 0.5
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts by /proc")


def cpu_s(process):
    """Processor seconds that a process has taken so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Taken:
    """What a request costs a server: the least of a few, for a machine is never quite idle."""

    def __init__(self, served, client):
        self.served, self.client = served, client

    def __call__(self, *request, **more):
        before = cpu_s(self.served.process)
        answer = self.client(*request, **more)
        return cpu_s(self.served.process) - before, answer


PARAGRAPH = "Some *text* with `code`, a [link](https://example.org) and **more** of it.\n\n"
CARDS = {
    "long": PARAGRAPH * (3_000_000 // len(PARAGRAPH)),
    "brackets": "[" * 300_000,
    "stars": "*a " * 100_000,
    "quotes": ">" * 200_000,
    "references": "[a]: /" + "u" * 20_000 + "\n\n" + "[a] " * 20_000,
    "table": "|a" * 2000 + "\n" + "|-" * 2000 + "\n" + ("|b" * 2000 + "\n") * 30,
    "lists": "".join(" " * (2 * i) + "- a\n" for i in range(500)),
    "ticks": "".join("`" * i + " " for i in range(500)),
    "entities": "&amp;" * 60_000,
    "images": "![" * 50_000 + "](x)" * 50_000,
    "front": "---\n" + "\n-" * 1_500_000,
}


def write(client, repo, path, text):
    content = base64.b64encode(text.encode()).decode()
    done = client.commit(repo, ("file", {"path": path, "content": content}))
    assert done.status == 200, done


@linux
def test_no_card_takes_long(serve_process, wire):
    served = serve_process()
    client = wire(served.address, server.token(served.folder, "me"))
    stranger = Taken(served, wire(served.address))
    client("POST", "/api/repos/create", {"name": "repo"})
    stranger("GET", "/me/repo")
    for name, text in CARDS.items():
        write(client, "me/repo", "README.md", text)
        took, answer = stranger("GET", "/me/repo")
        assert answer.status == 200
        assert took < MOST_CPU_S, (name, took)
        assert len(answer.body) < 3 << 20, name
        again, answer = stranger("GET", "/me/repo")  # it is kept
        assert again < 0.1, (name, again)
    body = b"Not shown as a page" in answer.body or b"<article>" in answer.body
    assert body


def test_a_card_that_is_too_long_is_shown_as_far_as_it_goes(monkeypatch):
    monkeypatch.setattr(rendering, "_CPU_S", 5.0)  # this is about length; a machine may be busy
    gone = threading.Event()
    shown = rendering.shown(CARDS["long"], "/f/", "/f/README.md", gone)
    assert "<strong>more</strong>" in shown
    assert '<a href="/f/README.md">the whole text</a>' in shown
    monkeypatch.setattr(rendering, "_CPU_S", 0.25)
    hard = rendering.shown(CARDS["references"], "/f/", "/f/README.md", gone)
    assert hard.startswith("<p class=dim>Not shown as a page")
    assert "<pre>[a]: /uuu" in hard
    with pytest.raises(OverError):
        rendering.render("*a " * 40_000, "/f/", Budget(0.01))


def test_a_visitor_who_has_gone_ends_the_work():
    gone = threading.Event()
    gone.set()
    with pytest.raises(GoneError):
        rendering.shown(CARDS["long"], "/f/", "/f/README.md", gone)


FRONTS = {
    "lists": "a: [" + "[]," * 43_000 + "]",
    "sums": "a: 1" + ":1" * 60_000,
    "hex": "a: 0x" + "f" * 120_000,
    "pairs": "a: !!omap [" + "a: 1," * 25_000 + "]",
    "merges": "<<: [" + "{<<: [{a: 1},{b: 2}]}," * 5000 + "]",
    "keys": "? a\n" * 30_000,
    "long": "x\n" * 2_000_000,
}


@pytest.mark.parametrize("front", FRONTS)
def test_no_front_matter_takes_long(front):
    start = time.thread_time()
    with contextlib.suppress(ValueError):
        cards.front_matter(f"---\n{FRONTS[front]}\n---\n")
    assert time.thread_time() - start < MOST_CPU_S


@pytest.mark.parametrize(
    "value",
    ["!!timestamp x", "!!bool x", '!!int ""', "!!int [1]", "!!float {a: 1}", "!!binary x",
     "!!null x", "!!set {x}", "!!omap x", "!!pairs [x]", "!!python/object:os.system x",
     "!!int -", "!!float .", "!!timestamp 2020-99-99", "!!str [a]", "1e999", "0x",
     "!!int " + "9" * 99, "!!merge x", "\x00",
     "!!int [" + "1," * 150 + "]", "&a *a", "? [a]\n: b", "%YAML 9.9", "!x y", "!<tag:a,b:c> d"],
)  # fmt: skip
def test_a_value_that_is_not_what_its_tag_says(value):
    with contextlib.suppress(ValueError):
        json.dumps(cards.front_matter(f"---\na: {value}\n---\n"), allow_nan=False)


@linux
def test_no_body_or_search_of_a_stranger_takes_long(serve_process, wire):
    served = serve_process()
    client = wire(served.address, server.token(served.folder, "me"))
    stranger = Taken(served, wire(served.address))
    for i in range(50):
        client("POST", "/api/repos/create", {"name": f"repo{i}"})
    lists = b"[" + b"[]," * 340_000 + b"[]]"
    forms = b"paths=" + b"%41" * 300_000
    wants = b"".join(b"0032want %040x\n" % i for i in range(300_000))
    git = {"Content-Type": "application/x-git-upload-pack-request"}
    for method, path, body in [
        ("POST", "/api/validate-yaml", b'{"content": ' + lists[:4_500_000] + b"}"),
        ("POST", "/api/repos/create", b'{"name": ' + lists + b"}"),
        ("POST", "/api/models/me/repo0/paths-info/main", forms),
        ("POST", "/me/repo0/git-upload-pack", wants),
        ("POST", "/me/repo0/git-upload-pack", wants[:50] * 300_000),
        ("GET", "/api/models?search=" + "+".join("re" for _ in range(20_000)), None),
        ("GET", "/?search=" + "+".join("re" for _ in range(20_000)), None),
        ("GET", "/api/models/me/repo0/tree/main?" + "expand=true&" * 5000, None),
    ]:
        took, answer = stranger(method, path, body, headers=git if "git" in path else {})
        assert 200 <= answer.status < 500, (path[:50], answer)
        assert took < MOST_CPU_S, (path[:50], took)


@linux
def test_no_talk_with_git_takes_long(serve_process, wire):
    """Real git tells of some hundred commits that it has; a stranger told of 300,000."""
    served = serve_process()
    client = wire(served.address, server.token(served.folder, "me"))
    stranger = Taken(served, wire(served.address))
    client("POST", "/api/repos/create", {"name": "repo"})
    head = client("GET", "/api/models/me/repo").json["sha"].encode()
    can = b" multi_ack_detailed side-band-64k thin-pack ofs-delta shallow"
    want = b"%04xwant %s%s\n" % (50 + len(can), head, can)
    done, kind = b"0009done\n", {"Content-Type": "application/x-git-upload-pack-request"}
    answer = stranger("POST", "/me/repo/git-upload-pack", want + b"0000" + done, headers=kind)[1]
    assert (answer.status, b"PACK" in answer.body) == (200, True)
    others = [b"%040x" % i for i in range(300_000)]
    for lines in (
        b"0000" + b"".join(b"0032have " + other + b"\n" for other in others),
        b"0000" + (b"0032have " + head + b"\n") * 300_000,
        b"".join(b"0034shallow " + other for other in others) + b"0000",
    ):
        body = want + lines + done
        took, answer = stranger("POST", "/me/repo/git-upload-pack", body, headers=kind)
        assert answer.status in (400, 503), (lines[:60], answer)
        assert took < MOST_CPU_S, (lines[:60], took)


def history(folder, commits, files):
    """Import a history in which each commit changes one file of many, as real git does it."""
    lines = []
    for i in range(commits):
        lines += [f"commit refs/heads/main\ncommitter a <a@b> {1_700_000_000 + i} +0000"]
        lines += [f"data {len(str(i))}\n{i}"]
        for j in range(files) if i == 0 else (i,):
            text = f"{i} {j}"
            lines += [f"M 644 inline f{j:05}.txt\ndata {len(text)}\n{text}"]
    subprocess.run(
        ["git", "-C", str(folder), "fast-import", "--quiet", "--force"],
        input="\n".join(lines).encode() + b"\n", check=True,
    )  # fmt: skip


@linux
@pytest.mark.parametrize(
    ("commits", "files"), [(60, 400), pytest.param(200, 5000, marks=pytest.mark.slow)]
)
def test_a_long_history_of_many_files(serve_process, wire, commits, files):
    """The tree shows who changed what last; what that takes is taken in parts, once."""
    served = serve_process()
    client = wire(served.address, server.token(served.folder, "me"))
    client("POST", "/api/repos/create", {"name": "repo"})
    served.stop()
    history(served.folder / "repos" / "1.git", commits, files)
    served = serve_process()
    client = wire(served.address, client.token)
    stranger = Taken(served, wire(served.address))
    pages = ("/me/repo/tree/main", "/api/models/me/repo/tree/main?expand=true&limit=100",
             "/me/repo", "/me/repo/commits/main", "/api/models/me/repo")  # fmt: skip
    costs = {}
    for path in pages * 8:
        took, answer = stranger("GET", path)
        assert answer.status == 200
        costs.setdefault(path, []).append(took)
    print(costs)
    assert max(max(taken[1:]) for taken in costs.values()) < MOST_CPU_S
    # The first one also reads what is kept of a tree from then on.
    assert max(taken[0] for taken in costs.values()) < 2 * MOST_CPU_S
    for _ in range(20):
        rows = client("GET", "/api/models/me/repo/tree/main?expand=true&limit=100").json
        if all("lastCommit" in row for row in rows):
            break
    titles = {row["path"]: row["lastCommit"]["title"] for row in rows}
    assert [titles[f"f{j:05}.txt"] for j in (0, 1, 2, 59)] == ["0", "1", "2", "59"]
    if files < 500:
        page = client("GET", "/me/repo/tree/main").body.decode()
        assert re.search(r"f00059\.txt</a></td><td class=what>59<", page)


def test_the_index_of_changes_agrees_with_git(serve, wire, tmp_path):
    """Files added, changed, removed, turned into folders, and branches: as `git log` sees it."""
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})
    steps = [
        [("file", "a/b/c.txt"), ("file", "a/d.txt"), ("file", "e")],
        [("file", "a/b/f.txt")],
        [("deletedFile", "e")],
        [("file", "e/g.txt"), ("deletedFile", "a/d.txt")],
        [("file", "a/b/c.txt")],
    ]
    for i, step in enumerate(steps):
        operations = [
            (key, {"path": path, "content": base64.b64encode(f"{i}{path}".encode()).decode()})
            for key, path in step
        ]
        assert client.commit("me/repo", *operations).status == 200
    rows = client("GET", "/api/models/me/repo/tree/main?recursive=true&expand=true").json
    git = ["git", "-C", str(served.folder / "repos" / "1.git"), "log", "-1", "--format=%H", "main"]
    for row in rows:
        shown = subprocess.run(
            [*git, "--", row["path"]], capture_output=True, text=True, check=True
        )
        assert row["lastCommit"]["id"] == shown.stdout.strip(), row["path"]
    assert {row["path"] for row in rows} >= {"a", "a/b", "e", "e/g.txt", ".gitattributes"}


def answered(address, path, headers=None):
    """Return how long an answer took."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    start = time.monotonic()
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == 200
    return time.monotonic() - start


@pytest.mark.parametrize("count", [12, pytest.param(45, marks=pytest.mark.slow)])
def test_programs_are_answered_while_pages_are_asked_for_and_dropped(serve_process, wire, count):
    served = serve_process()
    token = server.token(served.folder, "me")
    client = wire(served.address, token)
    for i in range(count):
        client("POST", "/api/repos/create", {"name": f"repo{i}"})
        write(client, f"me/repo{i}", "README.md", f"{i}\n\n{CARDS['long']}")
    host, _, port = served.address.removeprefix("http://").partition(":")
    asked = []
    for i in range(count):
        stream = socket.create_connection((host, int(port)))
        stream.sendall(f"GET /me/repo{i} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        asked.append(stream)
    bearer = {"Authorization": f"Bearer {token}"}
    programs = [("/health", {}), ("/api/whoami-v2", bearer),
                ("/me/repo0/resolve/main/.gitattributes", {})]  # fmt: skip
    times = [answered(served.address, *program) for program in programs for _ in range(3)]
    for stream in asked:
        stream.close()
    times += [answered(served.address, *program) for program in programs]
    # What a program asks for waits for no page.
    assert max(times) < 5, times
    start = time.monotonic()
    answered(served.address, f"/me/repo{count - 1}")
    assert time.monotonic() - start < 5


def test_a_client_that_gives_up_leaves_the_queue(serve, wire, monkeypatch):
    """What was asked for by sockets that are closed is not worked on; what is under way is told."""
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})
    write(client, "me/repo", "README.md", "# another")
    began, told = [], []

    def slow(text, files, source, gone):
        began.append(files)
        told.append(gone.wait(10))
        raise GoneError

    monkeypatch.setattr(pages, "shown", slow)
    host, _, port = served.address.removeprefix("http://").partition(":")
    streams = [socket.create_connection((host, int(port))) for _ in range(20)]
    for stream in streams:
        stream.sendall(f"GET /me/repo HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    end = time.monotonic() + 10
    while len(began) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    for stream in streams:
        stream.close()
    monkeypatch.undo()
    assert client("GET", "/me/repo").status == 200
    # Two threads work; the clients of one or two more may leave just as their turn comes.
    assert 2 <= len(began) <= 6
    assert told == [True] * len(began)


def test_a_queue_has_an_end(serve, wire, monkeypatch):
    monkeypatch.setattr("zoo.hub.server.app._PAGES", (1, 1))
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})
    write(client, "me/repo", "README.md", "# a card that no other test has")
    held = threading.Event()
    monkeypatch.setattr(pages, "shown", lambda *_: str(held.wait(20)))
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(client("GET", "/me/repo").status))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 10
    while len(statuses) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    assert wire(served.address)("GET", "/health").status == 200
    held.set()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 200, 503, 503, 503, 503]
