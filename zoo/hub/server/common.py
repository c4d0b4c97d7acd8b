"""What every part of the hub server shares: settings, refusals, and checks of names and paths."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIB = 1 << 20

# What a path segment may never be: git's own folder (also under its short name on FAT), and the
# device names that Windows gives no file; a repository must be one that everyone can check out.
_DEVICES = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)}
_GIT = {".git", "git~1"}
# They make `gpj.exe` look like `exe.jpg`.
_TURNS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
# First segments of the server's own addresses.
_RESERVED = {"api", "collections", "datasets", "health", "lfs", "login", "models", "spaces", "xet"}
# What stands after a name in an address: `api/models/gpt2/refs` is not of the repository gpt2/refs.
_ACTIONS = {"auth-check", "discussions", "lfs-files", "likers", "refs", "runtime"}
SHA1 = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The limits of one server. Sizes are in bytes."""

    public_url: str | None = None  # else every address is built from the request's own host
    host_names: tuple[str, ...] = ()  # by which clients call it, besides those it knows
    inline_bytes: int = 0  # files up to this size travel inside the commit, whatever their name
    lfs_threshold: int = 10 * MIB  # files above it are large files, whatever their name
    max_file_bytes: int = 64 << 30
    max_inline_bytes: int = 32 * MIB  # one file inside a commit, before base64
    max_commit_bytes: int = 256 * MIB  # one commit's body
    max_operations: int = 20_000  # in one commit
    max_files: int = 100_000  # of one commit, as other hubs advise
    max_folders: int = 20_000
    max_json_bytes: int = 8 * MIB
    max_xorb_bytes: int = 72 * MIB  # the client fills a xorb to 64 MiB
    max_shard_bytes: int = 64 * MIB
    quota_bytes: int | None = None  # of large files, for one namespace
    upstream: str | None = None  # the hub that this one mirrors
    signed_seconds: int = 6 * 3600  # how long an upload address is good for


class Refused(Exception):  # noqa: N818  it is an answer, not a failure
    """A request that is answered with an error; the headers are what the client goes by."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {"X-Error-Message": header_text(message), **(headers or {})}
        if code:
            self.headers["X-Error-Code"] = code
        self.body = {"error": message, **(body or {})}


def header_text(text: str) -> str:
    """Return `text` as one line of printable ASCII, which is all a header may hold."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:500].strip()  # h11 insists


def bad(message: str) -> Refused:
    """Return the answer to a request that makes no sense."""
    return Refused(400, message)


@dataclass(frozen=True)
class Name:
    """A repository: its kind (models, datasets, spaces), its namespace and its name."""

    kind: str
    namespace: str
    name: str

    @property
    def id(self) -> str:
        """`namespace/name`; without a namespace (`gpt2`, of other hubs) the name."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def prefix(self) -> str:
        """What stands before the id in an address of a page or a file."""
        return "" if self.kind == "models" else f"{self.kind}/"

    @property
    def url_path(self) -> str:
        """The path of its page."""
        return f"{self.prefix}{self.id}"


def kind_of(repo_type: Any) -> str:
    """Return the plural that addresses use for the client's `type`; none means a model."""
    kinds = {None: "models", "model": "models", "dataset": "datasets", "space": "spaces"}
    if repo_type in ("bucket", "kernel", "paper"):
        raise bad(f"this hub has no {repo_type}s; expected model, dataset or space")
    if (repo_type is not None and not isinstance(repo_type, str)) or repo_type not in kinds:
        raise bad(f"unknown repository type {repo_type!r}; expected model, dataset or space")
    return kinds[repo_type]


def checked_name(text: Any, what: str) -> str:
    """Return `text` when it may be a namespace or the name of a repository."""
    plain = isinstance(text, str) and _NAME.fullmatch(text) is not None
    if not plain or "--" in text or ".." in text or text.endswith((".git", ".", "-")):
        raise bad(
            f"{text!r} is not a {what}: letters, digits and ._- (no -- or .., not ending in "
            ".git, . or -), at most 96"
        )
    reserved = _RESERVED if what == "namespace" else _ACTIONS
    if str(text).lower() in reserved:
        raise bad(f"{text!r} is reserved")
    return str(text)


def checked_path(path: Any) -> str:
    """Return `path` when it can name a file in a repository on every system.

    Raises:
        Refused: 400; traversal, absolute, `.git`, backslash, control characters, too long.

    """
    if not isinstance(path, str) or not path:
        raise bad("a path must be text, and not empty")
    shown = repr(path[:100])
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise bad(f"{shown} is not valid Unicode") from None
    if len(encoded) > 1024 or any(len(part.encode()) > 255 for part in path.split("/")):
        raise bad(f"{shown} is too long: at most 1024 bytes, 255 in one part")
    if "\\" in path or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in path):
        raise bad(f"{shown} holds a backslash or a control character")
    if any(unicodedata.bidirectional(c) in _TURNS for c in path):
        raise bad(f"{shown} holds a character that turns the direction of writing")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise bad(f"{shown} is absolute, or has an empty, '.' or '..' part")
        if part[-1] in " ." or folded(part) in _GIT or part.split(".")[0].lower() in _DEVICES:
            raise bad(f"{shown} has the reserved name {part!r}")
    return path


def checked_reference(name: Any, what: str) -> str:
    """Return `name` when it may be a branch or a tag: one that a command line, a person and git
    read as the same name. (What git itself forbids is found out where it is written.)
    """
    text = text_of(name, what, 255)
    problem = None
    if not text:
        problem = "it is empty"
    elif text.startswith("-"):
        problem = "a command would take it for an option"
    elif text.rpartition("/")[2].upper() == "HEAD":
        problem = "HEAD means what is checked out"
    elif text == "@":
        problem = "@ means HEAD"
    elif re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text, re.IGNORECASE):
        problem = "it looks like a commit"
    elif text.startswith("refs/"):
        problem = "leave out refs/..."
    elif any(unicodedata.category(c)[0] in "CZ" for c in text):
        problem = "it holds a space, or a character that nobody sees"
    if problem:
        raise bad(f"{text[:100]!r} cannot be the name of a {what}: {problem}")
    return text


def folded(path: str) -> str:
    """Return what a file system that ignores case and composition would make of `path`.

    Code points that HFS+ ignores are dropped: `.g\\u200cit` is its `.git`.
    """
    text = "".join(c for c in path if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def text_of(value: Any, what: str, limit: int = 10_000) -> str:
    """Return `value` when it is text of at most `limit` characters."""
    if not isinstance(value, str) or len(value) > limit:
        raise bad(f"{what} must be text of at most {limit} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad(f"{what} is not valid Unicode") from None
    return value


def object_of(value: Any, what: str) -> dict[str, Any]:
    """Return `value` when it is a JSON object."""
    if not isinstance(value, dict):
        raise bad(f"{what} must be a JSON object")
    return value


def size_of(value: Any, what: str) -> int:
    """Return `value` when it is a size: a whole number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 60:
        raise bad(f"{what} must be a size in bytes")
    return value
