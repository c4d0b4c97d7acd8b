"""An upstream that sends its mirror to what only the mirror can reach: it does not go there."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from zoo.hub import client, download


class Elsewhere(BaseHTTPRequestHandler):
    """A service of the mirror's machine that strangers cannot reach, and the upstream before it."""

    inner = ""
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.inner:
            self.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"sha": "secret"}')
            return
        self.send_response(302)
        self.send_header("Location", f"{self.inner}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET  # noqa: N815


def start(**more):
    kind = type("Kind", (Elsewhere,), {"asked": [], **more})
    site = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    site.daemon_threads = True
    threading.Thread(target=site.serve_forever, args=(0.02,), daemon=True).start()
    return site, kind


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_redirects_to_this_machine_are_not_followed(serve, wire, monkeypatch, name):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(client.time, "sleep", lambda _: None)
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)
    inner, secret = start()
    outer, _ = start(inner=f"http://{name}:{inner.server_port}")
    served = serve(upstream=f"http://127.0.0.1:{outer.server_port}")
    visitor = wire(served.address)
    try:
        for path in ("/api/models/org/model", "/org/model/resolve/main/config.json",
                     "/api/models/org/model/refs", "/org/model", "/api/models/gpt2"):  # fmt: skip
            answer = visitor("GET", path)
            assert answer.status in (404, 502), (path, answer)
            assert b"secret" not in answer.body
        assert secret.asked == []
    finally:
        for site in (inner, outer):
            site.shutdown()
            site.server_close()
