"""Where an upstream may send a mirror: on to others of its kind, not to what only we can reach.

A mirror often stands where more can be reached than its visitors reach: services of its own
machine, a cloud's metadata. An upstream that redirects there would have them read.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from zoo.errors import HubError

_PORTS = {"http": 80, "https": 443}


def require_outside(url: str, endpoint: str) -> None:
    """Refuse an address that the upstream at `endpoint` may not send us to.

    Its own address is fine, wherever that is, also by https; so is what everybody can reach; and
    from an upstream in a private network, others in private networks.

    Raises:
        HubError: it is one that only we can reach, or none.

    """
    there, ours = urlsplit(url), urlsplit(endpoint)
    if there.scheme not in _PORTS or not there.hostname:
        raise HubError(f"{endpoint} redirects to what is not an address of the web; not followed")
    port, its_port = (parts.port or _PORTS[parts.scheme] for parts in (there, ours))
    if there.hostname == ours.hostname and port in (its_port, 443):
        return
    inside = all(address.is_private for address in _addresses(ours.hostname or "", endpoint))
    for address in _addresses(there.hostname, endpoint):
        private = address.is_private and not (address.is_loopback or address.is_link_local)
        if not address.is_global and not (private and inside and not address.is_unspecified):
            raise HubError(
                f"{endpoint} redirects to {there.hostname}, which only this machine or its network "
                "can reach; not followed"
            )


def _addresses(host: str, endpoint: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise HubError(f"{endpoint} redirects to {host[:100]}, which has no address") from None
    made = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    mapped = [getattr(address, "ipv4_mapped", None) for address in made]
    return [inner or address for address, inner in zip(made, mapped, strict=True)]
