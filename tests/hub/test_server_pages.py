"""The web pages: what they show to whom, and how they look in Chromium."""

import base64
import html
import re

import pytest

from zoo.hub import server
from zoo.registry import shipped_tags

BROWSER = {"Accept": "text/html,*/*"}
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip
CARD = """---
license: mit
library_name: edge-zoo
pipeline_tag: image-to-image
tags: [edge]
base_model: me/base
base_model_relation: quantized
---
# Title

| a | b |
|---|--:|
| 1 | 2 |
"""


@pytest.fixture
def shown(serve, wire):
    """A hub with a public and a private repository; a client of a stranger, one of the owner."""
    served = serve()
    owner = wire(served.address, served.token())
    for name, private in (("model", False), ("mine", True)):
        owner("POST", "/api/repos/create", {"name": name, "private": private})
        files = {"README.md": CARD, "a/b c.txt": "x", "a/d/e.txt": "y"}
        owner.commit(
            f"me/{name}",
            *(
                ("file", {"path": path, "content": base64.b64encode(text.encode()).decode()})
                for path, text in files.items()
            ),
        )
        owner.commit_large(f"me/{name}", "w.bin", b"w" * 12_345)
    return served, wire(served.address), owner


def test_lists_cards_files_and_history(shown):
    _, client, _ = shown
    listed = client("GET", "/").body.decode()
    assert '<a href="/me/model">me/model</a>' in listed
    assert "image-to-image · edge-zoo" in listed
    assert "me/mine" not in listed
    assert "No models here" in client("GET", "/?search=absent").body.decode()
    card = client("GET", "/me/model").body.decode()
    assert '<div class="wide"><table>' in card
    assert "zoo pull me/model" in card
    assert "<dt>quantized</dt><dd>of me/base</dd>" in card
    files = client("GET", "/me/model/tree/main").body.decode()
    assert '<a href="/me/model/resolve/main/w.bin">w.bin</a> <span class="tag">lfs</span>' in files
    assert "12.3 kB" in files
    inside = client("GET", "/me/model/tree/main/a").body.decode()
    assert '<a href="/me/model/resolve/main/a/b%20c.txt">b c.txt</a>' in inside
    assert '<a href="/me/model/tree/main/a/d">d/</a>' in inside
    assert client("GET", "/me/model/resolve/main/a/b%20c.txt").body == b"x"
    history = client("GET", "/me/model/commits/main").body.decode()
    assert history.count("/me/model/tree/") == 3 + 1  # the commits, and the tab


def test_every_link_of_a_page_leads_somewhere(shown):
    """Also of a branch with a slash, and of names that an address must quote."""
    _, client, owner = shown
    assert owner("POST", "/api/models/me/model/branch/a%2Fb", {}).status == 200
    for path in ("q?x=1&y#z.txt", "a/100%.txt", "<i>/'\".txt"):
        operation = ("file", {"path": path, "content": "eA=="})
        assert owner.commit("me/model", operation).status == 200
    todo, seen = ["/", "/me/model/tree/a%2Fb"], set()
    while todo:
        path = todo.pop()
        if path in seen or path == "/login" or path.startswith("https://"):
            continue
        seen.add(path)
        answer = client("GET", path)
        assert answer.status == 200, path
        if "text/html" in answer.headers.get("content-type", ""):
            todo += map(html.unescape, re.findall(r'href="(/[^"]*)"', answer.body.decode()))
    print(f"{len(seen)} links followed")
    assert {"/me/model/resolve/main/q%3Fx%3D1%26y%23z.txt", "/me/model/tree/a%2Fb/a"} <= seen


def test_signing_in_shows_what_is_ones_own(shown):
    _, client, owner = shown
    asked = client("GET", "/login", headers=BROWSER)
    assert asked.status == 401
    headers = {key.lower(): value for key, value in asked.headers.items()}
    assert headers["www-authenticate"].startswith("Basic ")
    basic = base64.b64encode(f"me:{owner.token}".encode()).decode()
    browser = {**BROWSER, "Authorization": f"Basic {basic}"}
    assert client("GET", "/login", headers=browser).status == 303
    listed = client("GET", "/", headers=browser).body.decode()
    assert "me/mine" in listed
    assert '<span class="badge">private</span>' in listed
    assert owner.token not in listed
    # The page of another site cannot make that browser write here.
    body, site = {"name": "forged"}, {"Sec-Fetch-Site": "cross-site"}
    assert client("POST", "/api/repos/create", body, headers=browser | site).status == 403
    assert client("GET", "/api/models/me/forged", headers=browser).status == 404


def test_a_refusal_is_a_page_for_people_and_json_for_programs(shown):
    _, client, _ = shown
    for path, status in (("/me/mine", 401), ("/me/model/tree/none", 404), ("/a/b/c/d", 404)):
        page = client("GET", path, headers=BROWSER)
        assert page.status == status
        assert b"<h1" in page.body
        assert client("GET", path).json["error"]
    assert client("GET", "/api/models/me/mine", headers=BROWSER).json["error"]


@pytest.mark.browser
@pytest.mark.skipif("photos" not in shipped_tags("sesr-m3-x2"), reason="no weights to push")
def test_pages_in_chromium(tmp_path, chromium, monkeypatch):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from huggingface_hub import constants

    import zoo

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = tmp_path / "hub"
    monkeypatch.setenv("HF_TOKEN", server.token(folder, "me"))
    with server.running(folder) as address, sync_api.sync_playwright() as playwright:
        monkeypatch.setenv("HF_ENDPOINT", address)
        zoo.push("sesr-m3-x2", "me/sesr", private=False)
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
            visit(browser, address, width, scheme, tmp_path)
        browser.close()


def visit(browser, address, width, scheme, folder):
    """Walk from the list to the card, its files and its history, as a visitor would."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(address, wait_until="load")
    page.get_by_role("link", name="me/sesr").click()
    for tab, text in (("card", "Cost on devices"), ("files", "model.safetensors"),
                      ("history", "with edge-zoo")):  # fmt: skip
        page.locator(".tabs").get_by_role("link", name=tab).click()
        page.get_by_text(text).first.wait_for()
        page.screenshot(path=folder / f"{tab}-{scheme}-{width}.png", full_page=True)
        assert page.locator(".tabs .here").inner_text() == tab
        # Nothing sticks out of the page at the side.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", colour)[:3])) > 3 * 128
    assert light == (scheme == "light")
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert errors == []
    context.close()
