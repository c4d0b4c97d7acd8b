"""The whole API under hostile requests: every route, with what it wants and with what it does not.

Each case is one request by a stranger (without a token, with one of their own, or one that may only
read) to a hub that also holds another user's private repository. Addresses and bodies are drawn
from the routes' own table: each part is good or bad by chance, so that requests come far enough to
do something. Watched on the way: status codes, the private bytes, and every file that the server
opens.
"""

import base64
import contextlib
import hashlib
import os
import random
import struct
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import lz4.frame
import pytest

from zoo.hub import server
from zoo.hub.server import Settings
from zoo.hub.server.app import Application

SECRET = b"pr1v4te-"  # begins everything that is the owner's alone, where a stranger could see it
DATA = SECRET + bytes(range(256)) * 9
OURS = b"our own weights" * 99


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# --- the hub that is attacked ---------------------------------------------------------------------


EVENTS = {
    *("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"),
    *("os.truncate", "os.chmod", "shutil.rmtree", "sqlite3.connect"),
}


class Watch:
    """What the server's threads open, make, rename or remove, by Python's audit events."""

    def __init__(self, folder):
        self.folder, self.on, self.outside, self.seen = str(folder), True, set(), 0
        self.main = threading.get_ident()
        sys.addaudithook(self.hook)  # there is no way to remove one

    def hook(self, event, arguments):
        if not self.on or event not in EVENTS or threading.get_ident() == self.main:
            return
        for path in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
            if isinstance(path, str | bytes):
                self.seen += 1
                # A bare name is relative to a folder that is being removed, or to the working
                # folder, which is empty and must stay so.
                text = os.path.normpath(os.fsdecode(path))
                if os.sep not in text:
                    continue
                if not text.startswith(self.folder + os.sep) and not self.is_code(text):
                    self.outside.add((event, text))

    @staticmethod
    def is_code(text):
        """Modules that are imported late, and what the interpreter itself reads."""
        code = (sys.prefix, sys.base_prefix, str(Path(server.__file__).parents[2]), "/proc/self")
        return text.startswith(code) or text in ("/dev/null", "/etc/mime.types")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, wire):
    """A hub with the repositories of an owner and of a stranger, and the stranger's clients."""
    top = tmp_path_factory.mktemp("attacked").resolve()
    folder = top / "hub"
    (top / "outside.txt").write_bytes(SECRET + b"outside")
    (top / "working").mkdir()
    watch = Watch(folder)
    with server.running(folder) as address, contextlib.chdir(top / "working"):
        owner = wire(address, server.token(folder, "owner"))
        secret = fill(owner, "owner/secret", DATA, private=True)
        me = wire(address, server.token(folder, "me", orgs=("crew",)))
        clients = [
            me,
            me,
            me,
            wire(address, server.token(folder, "me", role="read")),
            wire(address),
        ]
        yield SimpleNamespace(
            top=top, folder=folder, watch=watch, owner=owner, me=me, clients=clients, secret=secret,
            routes=Application(SimpleNamespace(settings=Settings())).routes._table,
            statuses=Counter(), reached=Counter(), refused=Counter(), known={},
        )  # fmt: skip
    watch.on = False
    assert (top / "outside.txt").read_bytes() == SECRET + b"outside"
    assert sorted(path.name for path in top.iterdir()) == ["hub", "outside.txt", "working"]
    assert not list((top / "working").iterdir())


def fill(client, repo, data, *, private=False):
    """Make a repository with one file of each kind; return its commit and the ids in it."""
    name = repo.partition("/")[2]
    client("POST", "/api/repos/create", {"name": name, "private": private})
    mark = data[:8].decode()
    text = {"path": f"sub/{mark}.txt", "content": base64.b64encode(data[:99]).decode()}
    card = {"path": "README.md", "content": base64.b64encode(f"# {mark}\n".encode()).decode()}
    assert client.upload(repo, data).status == 200
    large = {"path": "w.bin", "oid": sha256(data), "size": len(data)}
    done = client.commit(
        repo, ("file", text), ("file", card), ("lfsFile", large), summary=f"{mark} commit"
    )
    assert done.status == 200
    rows = client("GET", f"/api/models/{repo}/tree/main?recursive=true").json
    title = {"title": f"{mark} list", "namespace": client("GET", "/api/whoami-v2").json["name"]}
    made = client("POST", "/api/collections", {**title, "private": private}).json
    added = {"item": {"id": repo, "type": "model"}, "note": f"{mark} note"}
    entry = client("POST", f"/api/collections/{made['slug']}/items", added).json["items"][0]
    return SimpleNamespace(
        commit=done.json["commitOid"], ids=[row["oid"] for row in rows],
        slug=made["slug"].partition("/")[2], entry=entry["_id"],
    )  # fmt: skip


def restore(hub):
    """Give the stranger a repository again where an earlier request moved or removed it."""
    if hub.me("HEAD", "/api/models/me/repo/revision/main").status != 200:
        hub.known = {}
        hub.me("DELETE", "/api/repos/delete", {"name": "repo"})
        for row in hub.me("GET", "/api/collections?owner=me").json:
            hub.me("DELETE", f"/api/collections/{row['slug']}")
        hub.me("POST", "/api/repos/create", {"name": "second"})
        mine = fill(hub.me, "me/repo", OURS)
        token = hub.me("GET", "/api/models/me/repo/xet-write-token/main").json
        reading = hub.me("GET", "/api/models/me/repo/xet-read-token/main").json
        hub.known = vars(mine) | {"xet": token["accessToken"], "read": reading["accessToken"]}
        small = hub.known["small"] = os.urandom(9)
        objects = {"operation": "upload", "objects": [{"oid": sha256(small), "size": 9}]}
        batch = hub.me("POST", "/me/repo.git/info/lfs/objects/batch", objects).json
        hub.known["signed"] = batch["objects"][0]["actions"]["upload"]["href"].split("/")[4:]


# --- what is asked --------------------------------------------------------------------------------

BAD = [
    *("", "..", "../../outside.txt", "%2e%2e%2f%2e%2e%2foutside.txt", "%00", "%ff", "a%2Fb", "-1"),
    *("x" * 300, "con", ".git", "0" * 64, "0" * 40, "99999999999", "%F0%9F%A4%97", "a%20b"),
]
VALUES = [
    *(None, True, -1, 10**30, 1.5, "", "..", "a\0b", "\ud800", "x" * 5000, [], {}, [[]], "main"),
    *("../../outside.txt", "owner/secret", "owner", "secret"),
]
QUERIES = [
    *("", "", "", "recursive=true", "expand=true", "limit=2", "limit=-1", "cursor=a", "cursor=3"),
    *("expand=sha", "sort=no", "blobs=1", "%ff", "service=git-upload-pack", "create_pr=1"),
    *("filter=edge,x&search=%00", "search=pr1v4te", "author=owner", "owner=owner", "full=true"),
    *("item=models/owner/secret", "startingPoint=main"),
]
XORB = "ab" * 32
PLAIN = b"chunk" * 50
CHUNK = lz4.frame.compress(PLAIN)
CHUNK = b"\0" + len(CHUNK).to_bytes(3, "little") + b"\1" + (250).to_bytes(3, "little") + CHUNK


def parameters(hub, key):
    """Return good values of a part of an address; also those that are good for the owner alone."""
    mine, theirs = hub.known, hub.secret
    return {
        "kind": ["models"] * 18 + ["datasets", "spaces"],
        "namespace": ["me"] * 8 + ["owner", "owner", "ME"],
        "name": ["repo"] * 9 + ["secret", "secret", "repo.git", "Repo", "none"],
        "revision": ["main"] * 12 + [ "refs%2Fheads%2Fmain", mine["commit"], "dev", "v1",
                     theirs.commit, *mine["ids"], *theirs.ids],
        "path": ["w.bin", "README.md", "sub", f"sub/{OURS[:8].decode()}.txt".replace(" ", "%20"),
                 "sub/pr1v4te-.txt", "none"],
        "branch": ["dev", "a%2Fb", "main"],
        "slug": [mine["slug"], mine["slug"], theirs.slug],
        "item": [mine["entry"], theirs.entry],
        "hash": [XORB, sha256(OURS), sha256(DATA)], "part": ["0", "1"],
        "user": ["me", "owner"], "team": ["crew", "crew", "owner"], "rest": ["a", "a/b"],
        "status": ["pending", "accepted", "rejected", "other"],
        **dict(zip(("repo", "oid", "size", "expires", "signature"),
                   ([part] * 9 + ["1"] for part in mine["signed"]), strict=True)),
    }[key]  # fmt: skip


def fields(hub, path):
    """Return what the body of a route holds: name -> good values."""
    oids = [sha256(OURS), sha256(DATA), "0" * 64]
    objects = [[{"oid": oid, "size": size}] for oid in oids for size in (len(OURS), len(DATA))]
    known = {
        "repos/create": {"name": ["new", "repo", "me/other", "owner/new"],
                         "organization": ["me", "owner"], "type": ["model", "dataset", "space"],
                         "private": [True, False], "visibility": ["public", "private"],
                         "sdk": ["gradio"]},
        "repos/delete": {"name": ["new", "repo", "secret"], "organization": ["me", "owner"],
                         "type": ["model", "dataset"]},
        "repos/move": {"fromRepo": ["me/new", "owner/secret", "me/repo"],
                       "toRepo": ["me/moved", "owner/new", "me/repo"], "type": ["model"]},
        "/settings": {"visibility": ["public"], "gated": ["auto", "manual", False],
                      "private": [True, False]},
        "/grant": {"user": ["me", "owner"]},
        "/handle": {"user": ["me", "owner"], "status": ["accepted", "pending", "rejected"]},
        "/super-squash/": {"message": ["m"]},
        "/lfs-files/batch": {"deletions": [{"sha": oids[:1], "rewriteHistory": True},
                                           {"sha": oids[1:], "rewriteHistory": False}]},
        "/lfs-files/duplicate": {"target": [{"type": "model", "name": "me/second"},
                                            {"type": "model", "name": "owner/secret"}],
                                 "files": [[{"sha256": oid} for oid in oids]]},
        "/duplicate": {"repository": ["me/twin", "owner/twin"], "private": [True]},
        "/branch/": {"startingPoint": ["main", hub.known["commit"], hub.secret.commit]},
        "/tag/": {"tag": ["v1", "a/b", "../x"], "message": ["m", ""]},
        "/preupload/": {"files": [[{"path": "a.bin", "size": 9, "sample": ""}],
                                  [{"path": "README.md", "size": 3}]], "gitIgnore": ["*.bin"]},
        "/paths-info/": {"paths": [["w.bin", "sub"], ["../outside.txt"]], "expand": [True]},
        "objects/batch": {"operation": ["upload", "download"], "objects": objects},
        "lfs/verify": {"oid": oids[:1] * 3 + oids, "size": [len(OURS)] * 3 + [len(DATA)]},
        "/items": {"item": [{"id": "me/repo"}, {"id": "me/second"}, {"id": "owner/secret"}],
                   "note": ["n"], "position": [0, 1]},
        "collections": {"title": ["t", "u"], "namespace": ["me", "owner"], "private": [True, False],
                        "description": ["d"]},
        "validate-yaml": {"content": ["---\nlicense: mit\n---\n", "---\na: [\n---\n"],
                          "repoType": ["model"]},
    }  # fmt: skip
    return next((found for part, found in known.items() if part in path), {"a": [1]})


def operations(hub):
    """Return lines of a commit, good and bad."""
    text = base64.b64encode(b"text").decode()
    return [
        ("file", {"path": "new.txt", "content": text}),
        ("file", {"path": "README.md", "content": base64.b64encode(b"---\na: *b\n---").decode()}),
        ("file", {"path": "../outside.txt", "content": text}),
        ("file", {"path": "p.bin", "content": base64.b64encode(forged()).decode()}),
        ("lfsFile", {"path": "w2.bin", "oid": sha256(OURS), "size": len(OURS)}),
        ("lfsFile", {"path": "stolen.bin", "oid": sha256(DATA), "size": len(DATA)}),
        ("copyFile", {"path": "c.txt", "srcPath": "README.md", "srcRevision": "main"}),
        ("copyFile", {"path": "c.bin", "srcPath": "w.bin", "srcRevision": hub.secret.commit}),
        ("deletedFile", {"path": "new.txt"}),
        ("deletedFolder", {"path": "sub"}),
        ("deletedFile", {"path": "README.md"}),
        ("exec", {}),
    ]


def words(text):
    """Return the bytes of a hash that Xet prints as four little-endian numbers."""
    return struct.pack("<4Q", *(int(text[i : i + 16], 16) for i in range(0, 64, 16)))


def forged():
    """The pointer of the owner's file as the text of a small one."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(DATA)}\n"
    return f"{text}size {len(DATA)}\n".encode()


def raw_bodies(hub, path):
    """Return bodies that are not JSON: packs, xorbs, shards, forms."""
    wants = [
        b"0032want " + sha.encode() + b"\n00000009done\n"
        for sha in (hub.known["commit"], hub.secret.commit, hub.secret.ids[0])
    ]
    head = struct.pack("<32sII8x", bytes(32), 1 << 30, 1)
    segment = struct.pack("<32sIIII", words(XORB), 0, len(PLAIN), 0, 1)
    shard = bytes(48) + head + segment + words(sha256(PLAIN)) + bytes(16) + b"\xff" * 48
    return {
        "git-upload-pack": [*wants, b"0000", b"zzzz"],
        "xet/v1/xorbs": [CHUNK, CHUNK[:-1], b"\1" + CHUNK],
        "xet/v1/shards": [shard, shard[:-50], b""],
        "lfs/{repo}": [hub.known["small"], hub.known["small"], b"wrong"],
        "/paths-info/": [b"paths=w.bin&paths=sub&expand=true", b"paths=..%2F..%2Foutside.txt"],
    }.get(next((part for part in RAW if part in path), ""), [b"{", b"[]", b"\xff" * 40, b"null"])


RAW = ("git-upload-pack", "xet/v1/xorbs", "xet/v1/shards", "lfs/{repo}", "/paths-info/")


def body_of(hub, path, chance):
    """Return a body for a route: its fields, each good, bad or left out; sometimes no JSON."""
    raw = any(part in path for part in RAW)
    if chance.random() < (0.7 if raw else 0.1):
        return chance.choice(raw_bodies(hub, path))
    if "/commit/" in path:
        header = {"summary": "s", "parentCommit": None}
        if chance.random() < 0.2:
            header["parentCommit"] = chance.choice([hub.secret.commit, hub.known["commit"], "x", 7])
        lines = [{"key": "header", "value": header}]
        for _ in range(chance.randrange(4)):
            key, value = chance.choice(operations(hub))
            lines.append({"key": key, "value": spoiled(value, chance, 0.05)})
        return lines
    wanted = {key: chance.choice(values) for key, values in fields(hub, path).items()}
    kept = {key: value for key, value in wanted.items() if chance.random() < 0.85}
    return spoiled(kept, chance, 0.08)


def spoiled(fields, chance, share):
    return {k: chance.choice(VALUES) if chance.random() < share else v for k, v in fields.items()}


def reachable(routes):
    """Leave out what is absent or refused by its name, and bare names, which are another hub's."""
    return [
        route for route in routes
        if not route.handler.__module__.endswith(".absent")
        and route.handler.__name__ not in ("receive_pack", "part_of")  # it wants a signature
        and ("{name}" not in "/".join(route.pattern) or "{namespace}" in route.pattern)
    ]  # fmt: skip


def request_of(hub, chance):
    """Return (the route, method, path, body, more headers)."""
    one = chance.choice(hub.routes if chance.random() < 0.15 else reachable(hub.routes))
    methods, pattern = one.methods, one.pattern
    parts = []
    for part in pattern:
        if not part.startswith(("{", "*")):
            parts.append(part)
            continue
        key, _, suffix = part.strip("{*").partition("}")
        good = chance.random() < 0.95
        parts.append(chance.choice(parameters(hub, key) if good else BAD) + suffix)
    route = f"{'/'.join(sorted(methods))} {'/'.join(pattern)}"
    method = chance.choice(sorted(methods)) if chance.random() < 0.97 else "PATCH"
    path, query = "/".join(parts), chance.choice(QUERIES)
    if pattern[-1:] == ["refs"] and pattern[-2:-1] == ["info"]:
        query = "service=git-upload-pack"
    headers = {"Range": "bytes=3-9"} if chance.random() < 0.1 else {}
    if "xet/v1" in path:
        key = "read" if "/reconstructions/" in path else "xet"
        headers["Authorization"] = f"Bearer {hub.known[key]}"
    if path.endswith("git-upload-pack"):
        headers["Content-Type"] = "application/x-git-upload-pack-request"
    body = None if method in ("GET", "HEAD") else body_of(hub, "/".join(pattern), chance)
    return route, method, f"/{path}{'?' * bool(query)}{query}", body, headers


def attack(hub, chance):
    restore(hub)
    route, method, path, body, headers = request_of(hub, chance)
    answer = chance.choice(hub.clients)(method, path, body, headers=headers)
    shown = (route, method, path, body, answer)
    assert answer.status < 500, shown
    said = answer.body + repr(answer.headers).encode()
    for text in ("search=pr1v4te", "pr1v4te-.txt", hub.secret.slug):
        said = said.replace(text.encode(), b"")  # what an address asks for may be repeated
    assert SECRET not in said, shown
    assert not hub.watch.outside, shown
    hub.statuses[answer.status] += 1
    (hub.reached if answer.status < 400 else hub.refused)[route] += 1


def judge(hub, caplog):
    """What must still be so after all of it."""
    assert hub.watch.seen > 100
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    owner = hub.owner("GET", "/api/models/owner/secret").json
    assert (owner["private"], owner["sha"]) == (True, hub.secret.commit)
    assert hub.owner("GET", "/owner/secret/resolve/main/w.bin").body == DATA
    for path in (hub.folder / "objects").glob("??/??/*"):
        assert sha256(path.read_bytes()) == path.name
    count = sum(hub.statuses.values())
    routes = {f"{'/'.join(sorted(r.methods))} {'/'.join(r.pattern)}" for r in reachable(hub.routes)}
    print(
        f"{count} requests, {hub.statuses[200]} answered 200; {len(hub.reached)} of {len(routes)} "
        f"routes did something; statuses {dict(sorted(hub.statuses.items()))}; "
        f"{hub.watch.seen} files touched, {len(hub.watch.outside)} outside the folder"
    )
    return routes - set(hub.reached)


@pytest.mark.parametrize("cases", [400, pytest.param(12_000, marks=pytest.mark.slow)])
def test_hostile_requests(attacked, caplog, cases):
    for seed in range(cases):
        attack(attacked, random.Random(seed))
    unreached = judge(attacked, caplog)
    assert not unreached or cases < 1000, unreached


def test_a_watch_sees_what_is_outside(tmp_path):
    """The check can fail: a thread that writes elsewhere is noticed."""
    watch = Watch(tmp_path / "inside")

    def write():
        (tmp_path / "elsewhere.txt").write_text("x")
        with tempfile.TemporaryFile(dir=tmp_path):
            pass

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    watch.on = False
    assert ("open", str((tmp_path / "elsewhere.txt").resolve())) in watch.outside
