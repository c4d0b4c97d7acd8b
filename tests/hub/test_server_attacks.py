"""Strangers' input: paths, forged objects, bombs, tokens; what comes out of a hub stays inert."""

import base64
import hashlib
import json
import re

import pytest

from zoo.hub import server
from zoo.hub.server import Settings
from zoo.hub.server.web import look

TEXT = base64.b64encode(b"text").decode()


def inline(path, content=TEXT):
    return ("file", {"path": path, "content": content, "encoding": "base64"})


@pytest.fixture(scope="module")
def mine(tmp_path_factory, wire):
    """A hub with narrow limits and one repository; its folder, and a client that may write."""
    folder = tmp_path_factory.mktemp("attacked") / "hub"
    limits = Settings(max_commit_bytes=1 << 20, max_inline_bytes=1 << 18, max_operations=50)
    with server.running(folder, limits) as address:
        client = wire(address, server.token(folder, "me"))
        assert client("POST", "/api/repos/create", {"name": "repo"}).status == 200
        assert client.commit("me/repo", inline("a/File.txt")).status == 200
        yield folder, client


PATHS = [
    *("", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a/..", "a\\b", "C:\\x"),
    *("a\0b", "a\nb", "a\x7fb", ".git/config", "x/.GIT/hooks/x", "git~1/x", ".g\u200cit/config"),
    *("con", "a/NUL.txt", "lpt1", "a ", "a.", "\ud800", "x" * 256, "d/" * 600 + "x", "a/", None, 7),
    *("A/file.txt", "a/FILE.txt", "a", "a/File.txt/b", "A/new.txt"),
]


@pytest.mark.parametrize("path", PATHS, ids=[ascii(path)[:24] for path in PATHS])
def test_paths_that_no_repository_may_hold(mine, path):
    _, client = mine
    before = client("GET", "/api/models/me/repo").json
    answer = client.commit("me/repo", inline(path))
    assert answer.status == 400, answer
    assert client("GET", "/api/models/me/repo").json == before
    oid = hashlib.sha256(b"").hexdigest()
    answer = client.commit("me/repo", ("lfsFile", {"path": path, "oid": oid}))
    assert answer.status == 400


def test_paths_of_addresses(mine):
    folder, client = mine
    outside = folder.parent / "outside.txt"
    outside.write_text("secret")
    for path in [
        "/me/repo/resolve/main/../../../../outside.txt",
        "/me/repo/resolve/main/%2e%2e%2f%2e%2e%2foutside.txt",
        f"/me/repo/resolve/main/{outside}",
        "/me/repo/resolve/..%2f..%2fHEAD/x",
        "/api/models/me/repo/tree/main/..%2f..",
        "/api/models/me/..%2frepo",
        "/api/models/../repo",
        "/me/repo/resolve/main/%00",
        "/me/repo/resolve/main/%ff",
        "/lfs/1/../../index.sqlite/1/1/x",
        f"/lfs/1/{'0' * 64}/1/99999999999/{'0' * 64}",
        "/me/repo/info/refs?service=git-upload-pack/../x",
    ]:
        answer = client("GET", path)
        assert 400 <= answer.status < 500, (path, answer)
        assert b"secret" not in answer.body


@pytest.mark.parametrize(
    "name", ["", "..", "a/b/c", "a--b", "x.git", "-x", "x" * 97, "a b", "api/x"]
)
def test_names_that_no_repository_may_have(mine, name):
    _, client = mine
    answer = client("POST", "/api/repos/create", {"name": name})
    assert answer.status in (400, 403), answer


def test_the_private_object_of_another_cannot_be_claimed(serve, wire):
    served = serve()
    me, you = wire(served.address, served.token()), wire(served.address, served.token("you"))
    me("POST", "/api/repos/create", {"name": "secret", "private": True})
    you("POST", "/api/repos/create", {"name": "mine"})
    data = b"private weights" * 100
    oid = hashlib.sha256(data).hexdigest()
    assert me.commit_large("me/secret", "w.bin", data).status == 200
    known = {"path": "w.bin", "algo": "sha256", "oid": oid, "size": len(data)}
    unknown = {**known, "oid": "0" * 64}
    # Naming the sha256 gains nothing, and the answer is that for an object that does not exist.
    answers = [you.commit("you/mine", ("lfsFile", value)) for value in (known, unknown)]
    assert [answer.status for answer in answers] == [400, 400]
    assert answers[0].json["error"] == answers[1].json["error"].replace("0" * 64, oid)
    objects = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    batch = you("POST", "/you/mine.git/info/lfs/objects/batch", objects)
    assert "upload" in batch.json["objects"][0]["actions"]
    download = {**objects, "operation": "download"}
    batch = you("POST", "/you/mine.git/info/lfs/objects/batch", download)
    assert batch.json["objects"][0]["error"]["code"] == 404
    assert you("POST", "/me/secret.git/info/lfs/objects/batch", download).status == 404
    # Nor does a small file with the text of a pointer.
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n"
    forged = base64.b64encode(pointer.encode()).decode()
    assert you.commit("you/mine", inline("w.bin", forged)).status == 200
    answer = you("GET", "/you/mine/resolve/main/w.bin")
    assert answer.body == pointer.encode()
    # What it may read, it may refer to.
    me("PUT", "/api/models/me/secret/settings", {"private": False})
    assert you.commit("you/mine", ("lfsFile", {**known, "path": "copy.bin"})).status == 200
    assert you("GET", "/you/mine/resolve/main/copy.bin").body == data


def test_wrong_content_is_not_kept(mine):
    folder, client = mine
    data = b"right" * 1000
    oid = hashlib.sha256(data).hexdigest()
    objects = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    batch = client("POST", "/me/repo.git/info/lfs/objects/batch", objects).json
    path = batch["objects"][0]["actions"]["upload"]["href"].partition(client.host)[2]
    assert client("PUT", path, b"wrong" * 1000).status == 422
    assert client("PUT", path, data[:-1]).status == 422
    assert client("PUT", path, data + b"!").status == 413
    parts = path.split("/")
    assert client("PUT", "/".join([*parts[:2], "2", *parts[3:]]), data).status == 403
    assert client("GET", path).status == 403  # signed for an upload
    assert not list((folder / "objects").glob("??/??/*"))
    assert not list((folder / "tmp").iterdir())


BOMBS = {
    "not json": b"{",
    "not an object": b"[]\n",
    "no header": b'{"key":"deletedFile","value":{"path":"a/File.txt"}}\n',
    "deep": b'{"key":"header","value":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long line": b'{"key":"header","value":{"summary":"' + b"x" * (1 << 19) + b'"}}',
    "long body": b"\n" * ((1 << 20) + 1),
    "huge number": b'{"key":"header","value":{"summary":' + b"9" * 10_000 + b"}}",
    "surrogate": b'{"key":"header","value":{"summary":"\\ud800"}}',
    "not base64": b'{"key":"header","value":{"summary":"x"}}\n'
    b'{"key":"file","value":{"path":"x","content":"***","encoding":"base64"}}',
    "many": b'{"key":"header","value":{"summary":"x"}}\n'
    + b'{"key":"file","value":{"path":"x","content":""}}\n' * 51,
    "unknown": b'{"key":"header","value":{"summary":"x"}}\n{"key":"exec","value":{}}',
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_commit_bodies_that_are_none(mine, bomb):
    _, client = mine
    before = client("GET", "/api/models/me/repo").json
    answer = client("POST", "/api/models/me/repo/commit/main", BOMBS[bomb])
    assert answer.status in (400, 413), answer
    assert client("GET", "/api/models/me/repo").json == before


def test_a_card_cannot_explode(mine):
    _, client = mine
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
    )
    card = f"---\n{laughs}---\n"
    answer = client("POST", "/api/validate-yaml", {"content": card, "repoType": "model"})
    assert answer.status == 400
    assert "alias" in answer.json["errors"][0]["message"]
    deep = "---\na: " + "[" * 5000 + "]" * 5000 + "\n---\n"
    assert client("POST", "/api/validate-yaml", {"content": deep}).status == 400
    for text in (card, deep, "---\n- a list\n---\n", "---\na: .nan\nd: 2024-01-01\n---\n"):
        content = base64.b64encode(text.encode()).decode()
        assert client.commit("me/repo", inline("README.md", content)).status == 200
        assert client("GET", "/api/models/me/repo").status == 200
        assert client("GET", "/api/models?full=true").status == 200


def test_what_is_served_runs_nothing(mine):
    _, client = mine
    page = base64.b64encode(b"<script>alert(1)</script>").decode()
    card = (
        '# Hi\n<script>alert(1)</script>\n\n<img src=x onerror="alert(1)">\n\n'
        "[a](javascript:alert(1)) [b](data:text/html,x) ![c](vbscript:x) [d](https://example.org)"
        "\n\n![e](./e.png)"
    )
    text = base64.b64encode(f"---\ntags: ['<i>tag</i>']\n---\n{card}".encode()).decode()
    files = [inline(name, page) for name in ("x.html", "x.svg", 'q"<b>.js', "x.xml")]
    assert client.commit("me/repo", inline("README.md", text), *files).status == 200
    for name in ("x.html", "x.svg", "q%22%3Cb%3E.js", "x.xml"):
        answer = client("GET", f"/me/repo/resolve/main/{name}")
        assert answer.status == 200
        headers = {key.lower(): value for key, value in answer.headers.items()}
        assert headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        kind = headers["content-type"].partition(";")[0]
        assert kind in ("text/plain", "application/octet-stream")
    for path in ("/me/repo", "/", "/me/repo/tree/main", "/?search=%22%3E%3Cscript%3E"):
        answer = client("GET", path)
        assert answer.status == 200
        shown = answer.body.decode().replace(look.ICON, "")
        assert not re.search(
            r"<(script|img src=x|i)\b|<b>\.js|=\"(javascript|data|vbscript):", shown
        )
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    shown = client("GET", "/me/repo").body.decode()
    assert 'href="https://example.org"' in shown
    assert '<img src="/me/repo/resolve/main/e.png"' in shown


def test_tokens(serve, wire):
    served = serve()
    token = served.token()
    me = wire(served.address, token)
    me("POST", "/api/repos/create", {"name": "secret", "private": True})
    assert me.commit("me/secret", inline("x")).status == 200
    expired = wire(served.address, served.token(days=-1))
    wrong = wire(served.address, token[:-1] + "?")
    for client in (expired, wrong):
        answer = client("GET", "/api/whoami-v2")
        assert answer.status == 401
        message = {k.lower(): v for k, v in answer.headers.items()}["x-error-message"]
        assert message == "Invalid credentials in Authorization header"
    anonymous = wire(served.address)
    reader, you = (wire(served.address, served.token(*who)) for who in (("me", "read"), ("you",)))
    for path in ("/me/secret/resolve/main/x", "/api/models/me/secret", "/me/secret",
                 "/me/secret/info/refs?service=git-upload-pack", "/api/models/me/secret/refs",
                 "/api/models/me/secret/tree/main", "/api/models/me/secret/commits/main",
                 "/api/models/me/secret/xet-write-token/main"):  # fmt: skip
        assert you("GET", path).status == 404, path
        assert anonymous("GET", path).status == 401, path
        assert reader("GET", path).status == (403 if "xet" in path else 200), path
    assert reader.commit("me/secret", inline("y")).status == 403
    assert you.commit("me/secret", inline("y")).status == 404
    assert anonymous.commit("me/secret", inline("y")).status == 401
    assert you("POST", "/api/repos/create", {"name": "x", "organization": "me"}).status == 403
    for path in served.folder.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path


def test_quota_and_collection(serve, wire):
    served = serve(quota_bytes=5000)
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})
    assert client.commit_large("me/repo", "a.bin", b"a" * 3000).status == 200
    oid = hashlib.sha256(b"b" * 3000).hexdigest()
    objects = {"operation": "upload", "objects": [{"oid": oid, "size": 3000}]}
    answer = client("POST", "/me/repo.git/info/lfs/objects/batch", objects)
    assert answer.status == 413
    assert "quota" in answer.json["error"]
    assert json.loads(client("GET", "/api/models/me/repo").body)["usedStorage"] > 3000
