"""Users, teams and tokens. The store keeps a token's sha256 only: it is shown once, when made."""

import base64
import binascii
import hashlib
import hmac
import secrets
import string
import time
from dataclasses import dataclass
from typing import TypedDict, Unpack

from zoo.errors import HubError
from zoo.hub.server.common import Refused, checked_name
from zoo.hub.server.store.index import Index

INVALID = "Invalid credentials in Authorization header"  # the client looks for these words
ROLES = ("read", "write", "admin")  # an admin writes in every namespace
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Account:
    """Who is asking: a user, the teams it belongs to, and the rights of the token it showed."""

    user: str
    orgs: tuple[str, ...]
    role: str
    label: str

    def owns(self, namespace: str) -> bool:
        """Return whether the namespace is the user's own, or one of its teams."""
        if self.role == "admin":
            return True
        return namespace.lower() in {name.lower() for name in (self.user, *self.orgs)}


class TokenOptions(TypedDict, total=False):
    """What a token may do.

    Attributes:
        role: one of `ROLES`; "write" if not given.
        label: what its owner calls it.
        orgs: teams that the user is in.
        days: how long it is valid; None: for ever.

    """

    role: str
    label: str
    orgs: tuple[str, ...]
    days: float | None


def create_token(index: Index, user: str, **options: Unpack[TokenOptions]) -> str:
    """Return a new token of `user`, who is made a user and a member of `orgs` if need be."""
    checked_name(user, "namespace")
    role, label = options.get("role", "write"), options.get("label", "token")
    orgs, days = options.get("orgs", ()), options.get("days")
    token = "hf_" + "".join(secrets.choice(_ALPHABET) for _ in range(34))
    now = time.time()
    with index.write():
        index.run("INSERT OR IGNORE INTO users VALUES (?, ?)", user, now)
        for org in orgs:
            index.run(
                "INSERT OR IGNORE INTO members VALUES (?, ?)", user, checked_name(org, "namespace")
            )
        index.run(
            "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?)",
            *(hashed(token), label, user, role, now, None if days is None else now + days * 86400),
        )
    return token


@dataclass(frozen=True)
class Made:
    """A token that was made, without the token: `id` begins its sha256."""

    id: str
    user: str
    label: str
    role: str
    created: float
    expires: float | None


_ID_DIGITS = 12


def tokens(index: Index, user: str | None = None) -> list[Made]:
    """Return the tokens of a hub, or of one user, the oldest first."""
    rows = index.all("SELECT * FROM tokens ORDER BY created")
    return [
        Made(row["hash"][:_ID_DIGITS], *(row[key] for key in Made.__annotations__ if key != "id"))
        for row in rows
        if user is None or row["user"].lower() == user.lower()
    ]


def revoke(index: Index, which: str) -> Made:
    """Make a token worthless at once, also in a server that is running.

    Args:
        index: of the hub.
        which: the beginning of its id, or the token itself.

    Raises:
        HubError: there is none, or more than one.

    """
    begins = hashed(which) if which.startswith("hf_") else which.lower()
    found = [made for made in tokens(index) if begins.startswith(made.id)]
    found = found or [made for made in tokens(index) if begins and made.id.startswith(begins)]
    if len(found) != 1:
        said = "no token" if not found else f"{len(found)} tokens"
        shown = "that" if which.startswith("hf_") else repr(which[:40])
        raise HubError(f"{said} with the id {shown}; type: zoo hub token list")
    index.run("DELETE FROM tokens WHERE substr(hash, 1, ?) = ?", _ID_DIGITS, found[0].id)
    return found[0]


def hashed(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def token_in(authorization: str) -> str:
    """Return the token in an Authorization header.

    Raises:
        Refused: 401; the header cannot be read.

    """
    scheme, _, value = authorization.partition(" ")
    token = value.strip()
    if scheme.lower() == "basic":  # git sends the token as the password, or as the user's name
        try:
            name, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Refused(401, INVALID) from None
        token = password or name
    return token


def is_ours(index: Index, token: str) -> bool:
    """Return whether this hub made the token, even if it has expired since."""
    return index.one("SELECT 1 FROM tokens WHERE hash = ?", hashed(token)) is not None


def account_of(index: Index, authorization: str | None) -> Account | None:
    """Return the account that an Authorization header proves; None for no header.

    Raises:
        Refused: 401; the token is unknown or has expired.

    """
    if not authorization:
        return None
    digest = hashed(token_in(authorization))
    row = index.one("SELECT * FROM tokens WHERE hash = ?", digest)
    # A look-up by hash tells nothing about a token by its timing; the comparison is for form.
    if row is None or not hmac.compare_digest(row["hash"], digest):
        raise Refused(401, INVALID)
    if row["expires"] is not None and row["expires"] < time.time():
        raise Refused(401, INVALID)
    orgs = index.all("SELECT org FROM members WHERE user = ? ORDER BY org", row["user"])
    known = index.one("SELECT name FROM users WHERE name = ?", row["user"])
    user = known["name"] if known else row["user"]
    return Account(user, tuple(org["org"] for org in orgs), row["role"], row["label"])


def sign(secret: bytes, *parts: object) -> str:
    """Return the signature of `parts` under the store's secret."""
    text = "\0".join(str(part) for part in parts)
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def signed(secret: bytes, signature: str, *parts: object) -> bool:
    """Return whether `signature` is that of `parts`."""
    return hmac.compare_digest(sign(secret, *parts).encode(), signature.encode())
