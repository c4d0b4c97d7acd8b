"""Names, patterns, numbers and races that once made the server fail or others see wrong things."""

import base64
import contextlib
import hashlib
import os
import random
import subprocess
import threading
import time

import pytest

from zoo.errors import HubError
from zoo.hub.server.common import Refused
from zoo.hub.server.mirror.reach import require_outside
from zoo.hub.server.store.ignoring import Ignored

NAMES = [
    "-rf", "--upload-pack=x", "HEAD", "head", "a/HEAD", "@", "", "0" * 40, "A" * 40, "f" * 64,
    "a\u202eb", "a\u200bb", "a\u2066b", "\ufeffmain", "a b", "a\tb", "a\u00a0b", "a\u2028b",
    "main ", "refs/heads/x", "a..b", "a.lock", "a~1", "a^", "a:b", "a?b", "a*b", "a[b", "a\\b",
    "/a", "a//b", "a/", ".a", "a/.b", "a@{b", "a.", "x" * 256, "\ud800",
]  # fmt: skip


@pytest.fixture
def mine(serve, wire):
    served = serve()
    client = wire(served.address, served.token())
    assert client("POST", "/api/repos/create", {"name": "repo"}).status == 200
    return served, client


def test_branches_and_tags_that_no_repository_may_have(mine):
    _, client = mine
    for name in NAMES:
        tag = client("POST", "/api/models/me/repo/tag/main", {"tag": name})
        assert tag.status == 400, (name, tag)
        if name and name != "\ud800":
            quoted = "".join(f"%{byte:02X}" for byte in name.encode())
            branch = client("POST", f"/api/models/me/repo/branch/{quoted}", {})
            assert branch.status == 400, (name, branch)
    refs = client("GET", "/api/models/me/repo/refs").json
    assert [branch["name"] for branch in refs["branches"]] == ["main"]
    assert refs["tags"] == []
    for name in ("dev", "a/b", "v1.0", "größe", "feature-x", "deadbeef", "headless"):
        assert client("POST", "/api/models/me/repo/tag/main", {"tag": name}).status == 200


def test_paths_that_read_as_others(mine):
    _, client = mine
    for path in ("a\u202egpj.exe", "\u2066x", "a/b\u2028c"):
        answer = client.commit("me/repo", ("file", {"path": path, "content": ""}))
        assert answer.status == 400, answer


@pytest.mark.parametrize("position", [10**30, -(10**30), -1, 5, True, 1.5, "1", [], 2**63])
def test_positions_in_a_collection(mine, position):
    _, client = mine
    client("POST", "/api/repos/create", {"name": "second"})
    slug = client("POST", "/api/collections", {"title": "t", "namespace": "me"}).json["slug"]
    for name in ("me/repo", "me/second"):
        added = client("POST", f"/api/collections/{slug}/items", {"item": {"id": name}})
    items = added.json["items"]
    path = f"/api/collections/{slug}/items/{items[0]['_id']}"
    answer = client("PATCH", path, {"position": position})
    whole = isinstance(position, int) and not isinstance(position, bool)
    assert answer.status == (200 if whole else 400), answer
    shown = [item["id"] for item in client("GET", f"/api/collections/{slug}").json["items"]]
    assert shown == (
        ["me/second", "me/repo"] if whole and position > 0 else ["me/repo", "me/second"]
    )


PATTERNS = [
    "*.bin", "a/", "/a", "a/b", "**/b", "a/**", "a/**/b", "!keep.bin", "?.txt", "[ab].txt",
    "[^a].txt", "[!a].txt", "\\#x", "# no", "\\!x", "b ", "b\\ ", "*", "!*.txt", "a*b", "**",
    "/**/b", "a**b", "b/", "!b/", "d?e", "a/*", "*/b",
]  # fmt: skip
PATHS = [
    "a", "b", "x.bin", "keep.bin", "a/b", "a/x.txt", "b/a/x.bin", "a/c/b", "a/c/d/b", "c/a/b",
    "#x", "!x", "b ", "a.txt", "b.txt", "axxb", "d/d/keep.bin", "ab", "dxe", "c/b/x.txt",
]  # fmt: skip


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"', '["\\udfff"]'])
def test_values_that_no_json_can_hold(mine, value):
    _, client = mine
    body = f'{{"private": false, "mine": {value}}}'.encode()
    answer = client("PUT", "/api/models/me/repo/settings", body)
    assert (answer.status, answer.json) == (400, {"error": "this is not JSON"})


def test_a_form_and_json_may_ask_for_as_many_paths(mine):
    _, client = mine
    paths, address = ["x"] * 20_001, "/api/models/me/repo/paths-info/main"
    form = "&".join(f"paths={path}" for path in paths).encode()
    assert client("POST", address, form).status == 400
    kind = {"Content-Type": "application/json"}
    assert client("POST", address, {"paths": paths[1:]}, headers=kind).status == 200
    answer = client("POST", address, {"paths": paths}, headers=kind)
    assert (answer.status, "ask in parts" in answer.json["error"]) == (400, True)


def test_what_is_ignored_is_what_git_ignores(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "core.quotepath=off"]
    subprocess.run([*git, "init", "-q"], check=True)
    chance = random.Random(0)
    texts = [*PATTERNS, *("\n".join(chance.sample(PATTERNS, 3)) for _ in range(60))]
    for text in texts:
        (tmp_path / ".git" / "info" / "exclude").write_text(text + "\n")
        done = subprocess.run(
            [*git, "check-ignore", "--no-index", "-z", "--stdin"],
            input="\0".join(PATHS).encode(), capture_output=True, check=False,
        )  # fmt: skip
        expected = {path for path in done.stdout.decode().split("\0") if path}
        assert Ignored(text).among(PATHS) == expected, text


@pytest.mark.parametrize(
    "text", ["*a" * 12 + "b", "**/a/" * 12 + "b", "[a-z]*" * 20 + "1", "\n".join(["*x"] * 2000),
             "\n".join(["**/a/**/b"] * 2000)],
)  # fmt: skip
def test_no_pattern_takes_long(text):
    paths = ["a" * 250, "a/" * 400 + "a", *(f"d{i}/e/f{i}.bin" for i in range(256))]
    start = time.thread_time()
    with contextlib.suppress(Refused):
        Ignored(text).among(paths)
    assert time.thread_time() - start < 2


def test_preupload_with_a_slow_pattern(mine):
    _, client = mine
    files = [{"path": "a" * 200 + str(i), "size": 1} for i in range(200)]
    body = {"files": files, "gitIgnore": "*a" * 40 + "b\nb*"}
    start = time.monotonic()
    answer = client("POST", "/api/models/me/repo/preupload/main", body)
    assert answer.status == 200
    assert not any(file["shouldIgnore"] for file in answer.json["files"])
    assert time.monotonic() - start < 20
    body["gitIgnore"] = "\n".join("x" for _ in range(5000))
    assert client("POST", "/api/models/me/repo/preupload/main", body).status == 413


def test_uploads_reads_and_commits_while_the_repository_is_deleted(mine, wire, caplog):
    """Whatever loses the race is told that the repository is gone; nothing fails."""
    served, owner = mine
    statuses, stop = [], threading.Event()
    data = os.urandom(200_000)
    oid = hashlib.sha256(data).hexdigest()
    text = base64.b64encode(b"text" * 1000).decode()

    def work(number):
        client = wire(served.address, owner.token)
        asks = [
            lambda: client.upload("me/repo", data + bytes([number])),
            lambda: client.commit(
                "me/repo", *(("file", {"path": f"{i}", "content": text}) for i in range(30))
            ),
            lambda: client("GET", "/api/models/me/repo/tree/main?recursive=true&expand=true"),
            lambda: client("GET", "/me/repo"),
            lambda: client("GET", "/me/repo/resolve/main/.gitattributes"),
            lambda: client("GET", "/me/repo/info/refs?service=git-upload-pack"),
            lambda: client("POST", "/api/models/me/repo/branch/b", {}),
            lambda: client("POST", "/api/models/me/repo/user-access-request/grant", {"user": "me"}),
        ]
        while not stop.is_set():
            try:
                answer = asks[number]()
            except AssertionError as error:  # the batch before an upload was refused
                answer = error.args[0]
            statuses.append((number, getattr(answer, "status", answer)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert owner("DELETE", "/api/repos/delete", {"name": "repo"}).status in (200, 404)
        assert owner("POST", "/api/repos/create", {"name": "repo"}).status in (200, 409)
    stop.set()
    for thread in threads:
        thread.join()
    assert oid
    seen = {status for _, status in statuses if isinstance(status, int)}
    assert {200, 404} <= seen
    assert not [status for status in seen if status >= 500], seen
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_upload_to_a_repository_that_has_gone(mine):
    """The address was signed before, and the bytes are on their way."""
    _, client = mine
    data = b"weights" * 100
    oid = hashlib.sha256(data).hexdigest()
    objects = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    batch = client("POST", "/me/repo.git/info/lfs/objects/batch", objects).json
    path = batch["objects"][0]["actions"]["upload"]["href"].partition(client.host)[2]
    assert client("DELETE", "/api/repos/delete", {"name": "repo"}).status == 200
    answer = client("PUT", path, data)
    assert answer.status == 404
    assert "gone" in answer.json["error"]


@pytest.mark.parametrize(
    ("endpoint", "url", "fine"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/x", True),
        ("http://127.0.0.1:9000", "http://127.0.0.1:22/", False),
        ("https://1.1.1.1", "http://127.0.0.1/", False),
        ("https://1.1.1.1", "http://localhost:8080/", False),
        ("https://1.1.1.1", "http://[::1]/", False),
        ("https://1.1.1.1", "http://[::ffff:127.0.0.1]/", False),
        ("https://1.1.1.1", "http://169.254.169.254/latest/meta-data", False),
        ("https://1.1.1.1", "http://10.0.0.1/", False),
        ("https://1.1.1.1", "http://0.0.0.0/", False),
        ("https://1.1.1.1", "http://2130706433/", False),
        ("https://1.1.1.1", "file:///etc/passwd", False),
        ("https://1.1.1.1", "https://8.8.8.8/file", True),
        ("http://1.1.1.1", "https://1.1.1.1/file", True),
        ("http://10.0.0.1", "http://10.0.0.2:9000/file", True),
        ("http://10.0.0.1", "http://127.0.0.1/", False),
        ("http://10.0.0.1", "http://169.254.169.254/", False),
    ],
)
def test_where_an_upstream_may_send_a_mirror(endpoint, url, fine):
    if fine:
        require_outside(url, endpoint)
    else:
        with pytest.raises(HubError, match=r"not followed|no address"):
            require_outside(url, endpoint)


def test_a_collection_is_found_by_its_old_slug_too(mine):
    _, client = mine
    old = client("POST", "/api/collections", {"title": "My cool", "namespace": "me"}).json["slug"]
    changed = client("PATCH", f"/api/collections/{old}", {"title": "Other"}).json["data"]["slug"]
    assert changed.startswith("me/other-")
    for slug in (old, changed):
        assert client("GET", f"/api/collections/{slug}").json["slug"] == changed
    for wrong in ("me/other-", "me/other-00", f"you/{changed.partition('/')[2]}", "me/%25"):
        assert client("GET", f"/api/collections/{wrong}").status == 404
    assert client("DELETE", f"/api/collections/{old}").status == 200
    assert client("GET", f"/api/collections/{changed}").status == 404
