"""A signed-in browser on the page of another site: what that page makes it send writes nothing.

On plain HTTP beyond localhost a browser does not say `Sec-Fetch-Site`, so the hub and the other
site get names of their own here.
"""

import http.server
import threading
from functools import partial

import pytest

from tests.browser.conftest import QUIET
from zoo.hub import server
from zoo.hub.server import Settings

pytestmark = pytest.mark.browser
NAMES = "--host-resolver-rules=MAP *.test 127.0.0.1"

# Each of them is what a form or a script of another site can send without being asked. A form that
# opens a window of its own takes the visitor's password for the hub along.
PAGE = """<!doctype html><title>other</title><body>
<form method="post" enctype="text/plain" target="_blank" data-path="/api/repos/create">
<input name='{"name": "forged-text", "x": "' value='"}'><button>text</button></form>
<form method="post" enctype="application/x-www-form-urlencoded" target="_blank"
data-path="/api/models/me/repo/branch/forged"><button>form</button></form>
<form method="post" enctype="multipart/form-data" target="_blank" data-path="/api/repos/create">
<input name="name" value="forged-parts"><button>parts</button></form>
<script>
const hub = location.hash.slice(1);
for (const form of document.forms) form.action = hub + form.dataset.path;
const send = (path, body, headers) => fetch(hub + path, {
  method: "POST", mode: "no-cors", credentials: "include", body, headers,
}).catch(() => null);
async function attack() {
  await send("/api/repos/create", '{"name": "forged-fetch"}', {"Content-Type": "text/plain"});
  await send("/api/repos/create", new Blob(['{"name": "forged-blob"}']));
  await send("/api/models/me/repo/branch/forged", new Blob([""]));
}
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """The other site."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def other(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text(PAGE)
    handler = partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield f"http://evil.test:{site.server_port}"
        site.shutdown()
        thread.join()


def test_pages_of_other_sites_write_nothing(tmp_path, chromium, playwright, other):
    pytest.importorskip("dulwich")
    folder = tmp_path / "hub"
    token = server.token(folder, "me")
    settings = Settings(host_names=("hub.test",))
    with server.running(folder, settings) as address:
        port = address.rpartition(":")[2]
        hub = f"http://hub.test:{port}"
        browser = playwright.chromium.launch(executable_path=chromium, args=[*QUIET, NAMES])
        context = browser.new_context(http_credentials={"username": "me", "password": token})
        bearer = {"Authorization": f"Bearer {token}"}
        api = playwright.request.new_context(base_url=address, extra_http_headers=bearer)
        assert api.post("/api/repos/create", data={"name": "repo"}).ok
        page = context.new_page()
        signed_in = page.goto(f"{hub}/login")
        assert signed_in is not None
        assert signed_in.ok
        assert page.locator("header").get_by_text("me", exact=True).count()
        sent: list[tuple[str, str, int]] = []
        context.on("response", lambda got: sent.append((got.request.method, got.url, got.status)))
        page.goto(f"{other}/#{hub}")
        page.evaluate("attack()")
        for name in ("text", "form", "parts"):
            with context.expect_page() as opened:
                page.get_by_role("button", name=name).click()
            opened.value.wait_for_load_state()
        writes = [status for method, url, status in sent if method == "POST" and hub in url]
        assert len(writes) == 6, sent
        assert set(writes) <= {401, 403, 415}, sent
        names = [row["id"] for row in api.get("/api/models").json()]
        assert names == ["me/repo"]
        branches = api.get("/api/models/me/repo/refs").json()["branches"]
        assert [branch["name"] for branch in branches] == ["main"]
        # A name that somebody else points at this machine is not a name of the hub.
        rebound = page.goto(f"http://rebound.test:{port}/")
        assert rebound is not None
        assert rebound.status == 421
        browser.close()
