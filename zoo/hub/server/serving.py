"""Starting the hub: in the foreground for `zoo hub serve`, or in a thread of this process."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Unpack

import uvicorn
from filelock import FileLock, Timeout

from zoo.errors import HubError
from zoo.files import write_bytes
from zoo.hub.server.app import Application
from zoo.hub.server.common import Settings
from zoo.hub.server.mirror.mirror import Mirror
from zoo.hub.server.store import accounts
from zoo.hub.server.store.accounts import Made, TokenOptions, create_token, hashed
from zoo.hub.server.store.hub import Hub
from zoo.hub.server.store.index import Index

log = logging.getLogger("zoo.hub")
_LOCAL = "local"  # the user of an embedded hub
_ADDRESS = "address"  # the file that says where a folder is being served
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def _config(hub: Hub, host: str) -> uvicorn.Config:
    if hub.settings.upstream:
        hub.mirror = Mirror(hub, hub.settings.upstream)
    # No access log: addresses of uploads are signed, and a log is read by more people than they
    # are meant for.
    return uvicorn.Config(
        Application(hub, host),
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise HubError(f"cannot serve on {host}:{port}: {error.strerror or error}") from error
    listener.listen(512)
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    folder: Path, *, host: str = "127.0.0.1", port: int = 7870, settings: Settings | None = None
) -> None:
    """Serve `folder` until interrupted. The address is printed once requests are answered.

    Raises:
        HubError: the port is taken, or another server holds the folder.

    """
    hub = Hub(folder, settings)
    try:
        with _listen(host, port) as listener:
            if host not in _LOOPBACK:
                log.warning("tokens travel unencrypted; put a proxy with TLS before this server")
            address = _address(listener)
            write_bytes(folder / _ADDRESS, address.encode())
            print(f"zoo hub: {address}", flush=True)
            uvicorn.Server(_config(hub, host)).run(sockets=[listener])
    finally:
        (folder / _ADDRESS).unlink(missing_ok=True)
        hub.close()


def served(folder: Path) -> str | None:
    """Return the address at which another process serves `folder` just now, if one does."""
    lock = FileLock(folder / "lock")
    try:
        address = (folder / _ADDRESS).read_text()
        with lock.acquire(timeout=0):
            return None  # nobody: it was killed, and left its address behind
    except Timeout:
        return address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    except OSError:
        return None


@contextmanager
def running(
    folder: Path, settings: Settings | None = None, *, wait_seconds: float = 0
) -> Iterator[str]:
    """Serve `folder` on a free loopback port from a thread; yield the address."""
    hub = Hub(folder, settings, wait_seconds)
    try:
        with _listen("127.0.0.1", 0) as listener:
            server = uvicorn.Server(_config(hub, "127.0.0.1"))
            thread = threading.Thread(target=server.run, args=([listener],), name="zoo-hub")
            thread.start()
            try:
                while not server.started:
                    if not thread.is_alive():
                        raise HubError("the hub's server did not start")
                    time.sleep(0.01)
                yield _address(listener)
            finally:
                server.should_exit = True
                thread.join()
    finally:
        hub.close()


@contextmanager
def embedded(folder: Path, *, wait_seconds: float = 300) -> Iterator[tuple[str, str]]:
    """Serve `folder` while the block runs; yield the address and a token for everything.

    Processes that use one folder take turns; where `zoo hub serve` runs, it is asked instead.
    """
    with ExitStack() as stack:
        address = served(folder) or stack.enter_context(running(folder, wait_seconds=wait_seconds))
        index = Index(folder / "index.sqlite")
        try:  # a process that is killed leaves a token behind; it is useless after a day
            its_token = create_token(index, _LOCAL, role="admin", label="embedded", days=1)
            try:
                yield address, its_token
            finally:
                sql = "DELETE FROM tokens WHERE hash = ? OR (user = ? AND expires < ?)"
                index.run(sql, hashed(its_token), _LOCAL, time.time())
        finally:
            index.close()


@contextmanager
def _index(folder: Path) -> Iterator[Index]:
    """Open the index of a hub that may be running meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    index = Index(folder / "index.sqlite")
    try:
        yield index
    finally:
        index.close()


def token(folder: Path, user: str, **options: Unpack[TokenOptions]) -> str:
    """Return a new token for the hub in `folder`; it works at once, also in a running server."""
    with _index(folder) as index:
        return create_token(index, user, **options)


def tokens(folder: Path, user: str | None = None) -> list[Made]:
    """Return what is known of the tokens of the hub in `folder`, or of one user's."""
    with _index(folder) as index:
        return accounts.tokens(index, user)


def revoke(folder: Path, which: str) -> Made:
    """Make a token of the hub in `folder` worthless at once; see `accounts.revoke`."""
    with _index(folder) as index:
        return accounts.revoke(index, which)
