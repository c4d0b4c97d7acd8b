"""Requests that the page of another site makes a browser send, and hosts that are not ours."""

import base64

import pytest

from zoo.errors import HubError
from zoo.hub import server
from zoo.hub.server import Settings


@pytest.fixture(scope="module")
def mine(tmp_path_factory, wire):
    """The address of a hub, its owner's client, and the header of the owner's browser."""
    folder = tmp_path_factory.mktemp("forged") / "hub"
    with server.running(folder, Settings(host_names=("hub.test",))) as address:
        owner = wire(address, server.token(folder, "me"))
        assert owner("POST", "/api/repos/create", {"name": "repo"}).status == 200
        basic = base64.b64encode(f"me:{owner.token}".encode()).decode()
        yield address, owner, {"Authorization": f"Basic {basic}"}


CREATE = b'{"name": "forged"}'
FORGED = {
    "a form that reads as JSON": {"Content-Type": "text/plain"},
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "a form of parts": {"Content-Type": "multipart/form-data; boundary=x"},
    "another site": {"Origin": "http://evil.test"},
    "another port of this machine": {"Origin": "http://127.0.0.1:1"},
    "a page without an origin": {"Origin": "null"},
    "an old browser": {"Sec-Fetch-Site": "cross-site"},
    "a sibling": {"Sec-Fetch-Site": "same-site"},
    "an origin that is none": {"Origin": "http://127.0.0.1@evil.test"},
}


@pytest.mark.parametrize("forgery", FORGED)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/repos/create"),
        ("DELETE", "/api/repos/delete"),
        ("PUT", "/api/models/me/repo/settings"),
        ("POST", "/api/models/me/repo/commit/main"),
        ("POST", "/api/models/me/repo/branch/forged"),
        ("POST", "/api/collections"),
    ],
)
def test_a_forgery_writes_nothing(mine, forgery, method, path):
    _, owner, _ = mine
    before = owner("GET", "/api/models/me/repo").json
    body = CREATE if method == "POST" else b'{"name": "repo", "private": true}'
    answer = owner(method, path, body, headers=FORGED[forgery])
    assert answer.status in (403, 415), answer
    assert owner("GET", "/api/models/me/repo").json == before
    assert owner("GET", "/api/models/me/forged").status == 404


def test_what_a_browser_signed_in_with_does_not_write(mine, wire):
    address, _, basic = mine
    browser = wire(address)
    answer = browser("POST", "/api/repos/create", CREATE, headers=basic)
    assert answer.status == 401
    assert "Bearer" in answer.json["error"]
    assert browser("GET", "/api/models/me/repo", headers=basic).status == 200
    # The addresses of git and git-lfs, which know nothing but a password.
    batch = {"operation": "download", "objects": []}
    path = "/me/repo.git/info/lfs/objects/batch"
    assert browser("POST", path, batch, headers=basic).status == 200
    assert browser("POST", path, batch, headers=basic | {"Origin": "http://a.b"}).status == 403


def test_programs_and_our_own_pages_write(mine):
    address, owner, _ = mine
    host = address.removeprefix("http://")
    for i, more in enumerate([
        {}, {"Content-Type": "application/json"}, {"Origin": f"http://{host}"},
        {"Origin": f"http://{host.upper()}", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ]):  # fmt: skip
        assert owner("POST", "/api/repos/create", {"name": f"n{i}"}, headers=more).status == 200
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as the client sends it
    path = "/api/models/me/repo/paths-info/main"
    answer = owner("POST", path, b"paths=.gitattributes", headers=form)
    assert [row["path"] for row in answer.json] == [".gitattributes"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("localhost:7870", 200), ("[::1]:7870", 200), ("10.1.2.3", 200),
        ("hub.test", 200), ("HUB.test.:80", 200), ("a.localhost", 200),
        ("evil.test", 421), ("hub.test.evil.test", 421), ("localhost.evil.test", 421),
        ("127.0.0.1.evil.test", 421), ("2130706433", 421), ("a b", 400), ("hub.test:x", 400),
        ("hub.test@evil.test", 400), ("évil".encode().decode("latin-1"), 400),
    ],
)  # fmt: skip
def test_only_hosts_that_are_ours_are_answered(mine, host, status):
    _, owner, _ = mine
    for path in ("/api/models/me/repo", "/", "/health", "/me/repo/resolve/main/.gitattributes"):
        assert owner("GET", path, headers={"Host": host}).status == status
    if status == 421:
        said = owner("GET", "/health", headers={"Host": host}).json["error"]
        assert f"--host-name {host.rstrip('.')}" in said


def test_a_public_address_is_ours(serve, wire):
    served = serve(public_url="https://hub.example/")
    owner = wire(served.address, served.token())
    for host in ("hub.example", "127.0.0.1"):
        more = {"Host": host, "Origin": "https://hub.example"}
        assert owner("POST", "/api/repos/create", {"name": host}, headers=more).status == 200
    more = {"Host": "127.0.0.1", "Origin": "https://other.example"}
    assert owner("POST", "/api/repos/create", {"name": "x"}, headers=more).status == 403


@pytest.mark.parametrize(
    "name", ["http://hub.example", "hub:80", "a b", "", "*.example", "é.example"]
)
def test_a_host_name_that_is_none_is_refused_at_once(tmp_path, name):
    with (
        pytest.raises(HubError, match="not a host name"),
        server.running(tmp_path / "hub", Settings(host_names=(name,))),
    ):
        pass
    with server.running(tmp_path / "hub"):  # the folder is free again
        pass
