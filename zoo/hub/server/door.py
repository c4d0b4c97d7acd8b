"""What is looked at before anything else: is the request meant for this hub, and meant at all?

A browser sends what a user has signed in with along with whatever the page of another site makes
it send. Such a page cannot set the headers that this module goes by: it names itself in `Origin`,
a form has one of three content types, and a token never travels as `Bearer` unless a program puts
it there. A page can also give its own name our address (DNS rebinding); then `Host` has that name.
"""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from starlette.requests import Request

from zoo.errors import HubError
from zoo.hub.server.common import Refused, Settings

_HOST = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_SAFE = ("GET", "HEAD", "OPTIONS")
_PORTS = {"http": "80", "https": "443", "": ""}


class Doorkeeper:
    """Says which requests a hub answers.

    Args:
        settings: those of the hub: its public address and further names.
        host: what it listens on.

    """

    def __init__(self, settings: Settings, host: str = "127.0.0.1") -> None:
        public = urlsplit(settings.public_url or "")
        self._origins = {_place(public.scheme, public.netloc)} - {None}
        machine = socket.gethostname().lower()
        for name in settings.host_names:
            if not _HOST.fullmatch(name) or ":" in name:
                raise HubError(
                    f"{name!r} is not a host name; expected, for example, hub.example.org"
                )
        names = {host, machine, f"{machine}.local", public.hostname, *settings.host_names}
        self._names = {name.lower().rstrip(".") for name in names if name}

    def require(self, request: Request) -> None:
        """Refuse what another site's page may have made a browser send.

        Raises:
            Refused: 400, 401, 403, 415 or 421.

        """
        host = request.headers.get("host", "")
        if host:
            self._require_name(host)
        if request.method in _SAFE:
            return
        self._require_origin(request, host)
        if request.url.path.startswith("/api/"):
            _require_program(request)

    def _require_name(self, host: str) -> None:
        match = _HOST.fullmatch(host)
        if match is None:
            raise Refused(400, "the Host header is not a host")
        name = match[1].lower().rstrip(".")
        if name == "localhost" or name.endswith(".localhost") or name in self._names:
            return
        try:  # an address cannot be somebody else's name for us
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            message = f"this hub does not go by the name {name!r}; if it should, start it with "
            raise Refused(421, f"{message}zoo hub serve --host-name {name}") from None

    def _require_origin(self, request: Request, host: str) -> None:
        site = request.headers.get("sec-fetch-site", "none")
        origin = request.headers.get("origin")
        if origin is not None:
            scheme, _, rest = origin.partition("://")
            ours = {_place(scheme, host), *self._origins}
            if _place(scheme, rest) is None or _place(scheme, rest) not in ours:
                raise Refused(403, f"the page of another site ({origin[:100]}) may not write here")
        elif site not in ("none", "same-origin"):
            raise Refused(403, "the page of another site may not write here")


def _require_program(request: Request) -> None:
    """Refuse to write by what a browser sends of its own accord."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _FORMS and "/paths-info/" not in request.url.path:  # it only reads
        raise Refused(415, f"the API takes application/json, not {kind}")
    if request.headers.get("authorization", "")[:6].lower() == "basic ":
        message = "the API takes a token as 'Authorization: Bearer hf_...', not as a password"
        raise Refused(401, message)


def _place(scheme: str, netloc: str) -> str | None:
    """Return host and port in one spelling; None for what is not an address."""
    match = _HOST.fullmatch(netloc)
    if match is None or scheme.lower() not in _PORTS:
        return None
    return f"{match[1].lower().rstrip('.')}:{match[2] or _PORTS[scheme.lower()]}"
