"""Which hub is meant: HF_ENDPOINT as every Hub tool has it, ZOO_HUB=local, or ZOO_HUB=https://…"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from zoo import cache
from zoo.errors import HubError, MismatchError

PUBLIC = "https://huggingface.co"
KINDS = ("models", "datasets", "spaces")
# The Hub's own rule. No "--" is what lets a cache folder be named org--name without ambiguity.
_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?", re.ASCII)


@dataclass(frozen=True)
class Place:
    """A hub.

    Attributes:
        endpoint: its address without a trailing slash; None for the embedded hub.
        folder: where the embedded hub keeps its repositories; None for a hub elsewhere.

    """

    endpoint: str | None
    folder: Path | None = None

    @property
    def label(self) -> str:
        """What the cache calls it: "huggingface.co", "127.0.0.1_8000", "local"."""
        if self.folder is not None:
            if self.folder == _local_folder(None):
                return "local"
            return "local-" + hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:8]
        parts = urlsplit(self.endpoint or "")
        text = f"{parts.hostname}_{parts.port}" if parts.port else str(parts.hostname)
        return re.sub(r"[^A-Za-z0-9.]+", "_", f"{text}{parts.path}").strip(".")

    @property
    def is_public(self) -> bool:
        """Whether this is huggingface.co itself."""
        return self.endpoint == PUBLIC

    @property
    def sign_in(self) -> str:
        """How to get a token for it; only the public hub hands them out on a page."""
        if self.is_public:
            return "type: hf auth login (or set HF_TOKEN)"
        return "on the hub's machine type: zoo hub token create --user NAME, and set HF_TOKEN to it"

    @property
    def is_exposed(self) -> bool:
        """Whether a token sent there can be read on the way: http to another machine."""
        parts = urlsplit(self.endpoint or "")
        host = parts.hostname or ""
        loopback = host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None
        return parts.scheme == "http" and not loopback


def place() -> Place:
    """Return the hub that the environment names.

    Raises:
        HubError: ZOO_HUB or HF_ENDPOINT is not an address, or has a password in it.

    """
    chosen = os.environ.get("ZOO_HUB") or os.environ.get("HF_ENDPOINT") or PUBLIC
    if chosen == "local":
        return Place(None, local_folder())
    return Place(endpoint(chosen, "the hub (--hub, ZOO_HUB or HF_ENDPOINT)"))


def endpoint(chosen: str, what: str) -> str:
    """Return the address of a hub, without a trailing slash.

    Raises:
        HubError: it is not an address, or has a password in it.

    """
    endpoint = chosen.rstrip("/")
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        local = "local, or " if what.startswith("the hub") else ""
        raise HubError(f"{what} is not an address; expected {local}for example {PUBLIC}")
    if parts.username is not None:
        raise HubError(
            "the hub's address has a name or a password in it; addresses end up in logs: "
            "use a token: set HF_TOKEN"
        )
    return endpoint


def local_folder() -> Path:
    """Return where `--hub local` keeps its repositories."""
    return _local_folder(os.environ.get("ZOO_HUB_DIR"))


def _local_folder(chosen: str | None) -> Path:
    return (Path(chosen).expanduser() if chosen else cache.root() / "local-hub").resolve()


def split(repo: str) -> tuple[str, str]:
    """Return (kind, id): `datasets/org/name` is of the kind datasets; without a prefix, models.

    No owner is called like a kind, so `datasets/squad` is a data set of a time without owners.
    """
    first, _, rest = repo.partition("/")
    return (first, rest) if "/" in rest or (rest and first in KINDS) else ("models", repo)


def check_repo(repo: str) -> None:
    """Accept `org/name`, or with a kind before it, as the Hub does.

    Raises:
        MismatchError: it is not a repository id.

    """
    kind, name = split(repo)
    parts = name.split("/")
    if (
        kind not in KINDS
        or len(parts) != 2
        or len(name) > 96
        or not all(_PART.fullmatch(part) for part in parts)
        or "--" in name
        or ".." in name
        or name.endswith(".git")
    ):
        raise MismatchError(
            f"{repo!r} is not a repository id; expected org/name (or datasets/org/name, "
            "spaces/org/name) of letters, digits, '-', '_' and '.', not at the ends, no two of "
            "them in a row, 96 at most"
        )
