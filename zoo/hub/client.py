"""Reading from a hub: what is there, and its bytes.

By plain requests on huggingface_hub's own session (its proxies, certificates and user agent), with
limits on everything an answer may hold. Writing is in `writing`.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import quote, urljoin, urlsplit

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    get_session,
)

from zoo.errors import HubError, UnsafeFileError
from zoo.hub import where
from zoo.hub.download import CutError
from zoo.hub.safety import MAX_FILES, RemoteFile
from zoo.hub.where import Place
from zoo.version import __version__

log = logging.getLogger("zoo")

COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_S = (5.0, 60.0, 60.0, 60.0)  # connect, read, write, wait for a connection
TRIES = 3
_REDIRECTS = 6
_BUSY = (408, 429, 500, 502, 503, 504)
_PAGE_BYTES = 32 << 20
_CHUNK_BYTES = 1 << 20
_LONGEST_PAUSE_S = 30.0
_SECRET = re.compile(r"\b(hf|api_org|zoo)_[A-Za-z0-9_-]{8,}")
_warned: set[str] = set()
# What the user had set, once, and again for each block of `suited` that is being run.
_inside: list[tuple[bool, bool]] = []
_settings_lock = threading.Lock()


class UnreachableError(HubError):
    """No answer at all, or offline mode: what is in the cache may serve instead."""


class RefusedError(HubError):
    """The hub answered, and the answer was no.

    Attributes:
        status: of HTTP.
        code: what the hub calls it, e.g. "GatedRepo"; may be empty.

    """

    def __init__(self, message: str, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class MissingRepoError(RefusedError):
    """There is no such repository, as far as we may know."""


class Connection:
    """A hub and the right to use it. Errors and logs never hold the token.

    Args:
        place: which hub this is.
        endpoint: its address (the embedded hub's is known only once it runs).
        token: of the user; None sends none.
        check: called with each address that an answer redirects to; raises to stay away.

    """

    def __init__(
        self,
        place: Place,
        endpoint: str,
        token: str | None,
        check: Callable[[str], None] | None = None,
    ) -> None:
        self.place, self.endpoint, self.token, self._check = place, endpoint, token, check
        if token and place.is_exposed and endpoint not in _warned:
            _warned.add(endpoint)
            log.warning(
                "%s is not encrypted: your token can be read on the way; use https", endpoint
            )

    # --- reading ---------------------------------------------------------------------------------

    def commit_of(self, repo: str, revision: str | None) -> str:
        """Return the 40 hexadecimal digits that a branch, a tag or None (main) means now."""
        name = revision or "main"
        answer = self.facts(repo, f"/revision/{quote(name, safe='')}", name)
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise HubError(f"{self.endpoint} answered without a commit for {repo}@{name}")
        return commit

    def facts(self, repo: str, about: str = "", revision: str = "main") -> Any:
        """Return what the API says of a repository, e.g. `about` "/refs"."""
        kind, name = where.split(repo)
        return self._json(f"{self.endpoint}/api/{kind}/{name}{about}", repo, revision)[0]

    def tree(self, repo: str, commit: str) -> list[RemoteFile]:
        """Return every file of a commit, with the hash it can be verified by."""
        kind, name = where.split(repo)
        url: str | None = f"{self.endpoint}/api/{kind}/{name}/tree/{commit}?recursive=true"
        files: list[RemoteFile] = []
        while url:
            page, url = self._json(url, repo, commit)
            files += [_remote_file(row) for row in _rows(page) if row.get("type") != "directory"]
            if len(files) > MAX_FILES:
                raise UnsafeFileError(f"{repo} lists more than {MAX_FILES:,} files; not fetched")
        return files

    @contextmanager
    def opened(self, repo: str, commit: str, file: RemoteFile, start: int) -> Iterator["_Body"]:
        """Open a file of a commit at a byte; raise `CutError` where another try may help."""
        url = f"{self.endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"
        headers = self._headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            with self._asked(url, headers) as response:
                status = response.status_code
                if status in _BUSY:
                    raise CutError(f"the hub answered {status}", _retry_after(response))
                if status not in (200, 206):
                    self.refuse(response, repo, commit)
                content_range = response.headers.get("Content-Range", "")
                match = re.match(r"bytes (\d+)-", content_range) if status == 206 else None
                if status == 206 and match is None:
                    raise CutError("the hub sent a part without saying which")
                yield _Body(response, int(match[1]) if match else 0)
        except HTTPError as error:
            self.raise_offline(error)
            raise CutError(f"connection to {self.endpoint} lost ({kind_of(error)})") from None

    def require_access(self, repo: str) -> None:
        """Raise the error that the hub answers, if it does not let us read a repository."""
        kind, name = where.split(repo)
        self._get(f"{self.endpoint}/api/{kind}/{name}/auth-check", repo, "main")

    @contextmanager
    def _asked(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        """Open an address, following redirects as far as they may go; the token stays here."""
        for _ in range(_REDIRECTS):
            with get_session().stream(
                "GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=self._check is None
            ) as response:
                if self._check is None or not response.has_redirect_location:
                    yield response
                    return
                following = urljoin(url, response.headers["Location"])
            self._check(following)
            if urlsplit(following)[:2] != urlsplit(url)[:2]:
                headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
            url = following
        raise HubError(f"{self.endpoint} redirects in circles")

    def _json(self, url: str, repo: str, revision: str) -> tuple[Any, str | None]:
        """Return (the value, the address of the next page)."""
        body, following = self._get(url, repo, revision)
        try:
            return json.loads(body), following
        except (ValueError, RecursionError) as error:
            raise HubError(f"{self.endpoint} did not answer with valid JSON: {error}") from None

    def _get(self, url: str, repo: str, revision: str) -> tuple[bytes, str | None]:
        """Return (the body, the address of the next page)."""
        for attempt in range(1, TRIES + 1):
            pause = 0.5 * 2 ** (attempt - 1)
            try:
                with self._asked(url, self._headers()) as response:
                    if response.status_code not in _BUSY or attempt == TRIES:
                        if response.status_code != 200:
                            self.refuse(response, repo, revision)
                        return b"".join(_bounded(response)), self._next(response)
                    pause = _retry_after(response) or pause
            except HTTPError as error:
                self.raise_offline(error)
                if attempt == TRIES:
                    raise UnreachableError(
                        f"{self.endpoint} cannot be reached ({kind_of(error)}); check the network "
                        "and HF_ENDPOINT, or use --hub local"
                    ) from None
            except (OSError, ValueError) as error:
                self.raise_offline(error)
                if isinstance(error, HubError):
                    raise
                raise HubError(f"{self.endpoint} cannot be read: {error}") from None
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _next(self, response: Any) -> str | None:
        """Return the next page, which must be on this hub: the token goes there."""
        link = response.links.get("next", {}).get("url")
        if link is None:
            return None
        url = urljoin(str(response.url), link)
        if urlsplit(url)[:2] != urlsplit(str(response.url))[:2]:
            raise HubError(f"{self.endpoint} continues its listing on another host; not followed")
        return url

    def _headers(self) -> dict[str, str]:
        return build_hf_headers(
            token=self.token or False, library_name="edge-zoo", library_version=__version__
        )

    def head(self, repo: str) -> str | None:
        """Return the commit of `main`, or None when there is no such repository for us."""
        try:
            return self.commit_of(repo, None)
        except MissingRepoError:
            return None

    def collection(self, name: str) -> list[str]:
        """Return the repositories of a collection `owner/slug`, with the prefix of their kind."""
        answer, _ = self._json(
            f"{self.endpoint}/api/collections/{quote(name)}", f"collections/{name}", "main"
        )
        items = answer.get("items") if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise HubError(f"{self.endpoint} answered without the items of {name}")
        prefixes = {"model": "", "dataset": "datasets/", "space": "spaces/"}
        return [
            f"{prefixes[item['type']]}{item['id']}"
            for item in items
            if isinstance(item, dict)
            and item.get("type") in prefixes
            and isinstance(item.get("id"), str)
        ]

    # --- errors ----------------------------------------------------------------------------------

    def refuse(self, response: Any, repo: str, revision: str) -> NoReturn:
        """Raise the error that an answer means."""
        status, folder = response.status_code, self.place.folder
        hub = self.endpoint if folder is None else f"the local hub {folder}"
        code = response.headers.get("X-Error-Code", "")
        said = self.clean(response.headers.get("X-Error-Message", ""))
        known = "the token that was sent" if self.token else "no token, and none was sent"
        login = self.place.sign_in
        if status == 401 and self.token and code not in ("RepoNotFound", "GatedRepo"):
            text = f"{hub} refused the token: expired, revoked or another hub's; {login}"
        elif code == "GatedRepo":
            ask = "ask its owner to let you in"  # no page but the public hub's takes a consent
            ask = f"accept its terms at {hub}/{repo}" if self.place.is_public else ask
            text = f"{repo} is gated: {ask}, then {login}"
        elif code == "RevisionNotFound":
            listed = f"see {hub}/{repo}/commits/main" if folder is None else "leave it out for main"
            text = f"{repo} has no revision {revision!r}; {listed}"
        elif code == "EntryNotFound":
            text = f"{repo} listed a file at {revision} that {hub} does not have"
        elif code == "RepoNotFound" or status in (401, 404):
            if folder is None:
                text = f"{repo} is not on {hub}, or may not be read with {known}; "
                text += f"for a private one {login}"
            else:
                whole = repo.startswith("collections/")
                place = "ORG/NAME --collection TITLE" if whole else repo
                text = f"{repo} is not in {hub}; type: zoo push MODEL {place} --hub local, or name "
                text += f"the hub that has it: --hub {where.PUBLIC}"
            raise MissingRepoError(text, status, "RepoNotFound")
        elif status == 403:
            text = (
                f"{hub} does not let {known} do that with {repo}{f' ({said})' if said else ''}; "
                f"a push needs a token with the right to write: {login}"
            )
        elif status == 412:
            text = f"{repo} was changed by somebody else meanwhile; push again"
        else:
            text = f"{hub} answered {status} for {repo}{f': {said}' if said else ''}"
        raise RefusedError(text, status, code)

    def raise_offline(self, error: BaseException) -> None:
        """Raise what offline mode means, if that is what `error` is."""
        if isinstance(error, huggingface_hub.errors.OfflineModeIsEnabled):
            raise UnreachableError(
                "offline mode is on (HF_HUB_OFFLINE=1) and this is not in the cache; pull it once "
                "while online, by its commit: zoo pull org/name@COMMIT"
            ) from None

    def clean(self, text: str) -> str:
        """Return a text from elsewhere as one short line without secrets or control characters."""
        if self.token:
            text = text.replace(self.token, "<token>")
        text = _SECRET.sub("<token>", text)
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


class _Body:
    """The bytes of an answer, from `start` of the file on."""

    def __init__(self, response: Any, start: int) -> None:
        self.response, self.start = response, start

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes; `Connection.opened` turns a lost connection into `CutError`."""
        # As they come: in blocks of one size, those before a cut would be lost.
        yield from self.response.iter_raw()


def user_token() -> str | None:
    """Return the token of the user, as every Hub tool finds it: HF_TOKEN, or a login."""
    return huggingface_hub.get_token()


@contextmanager
def suited(place: Place) -> Iterator[None]:
    """Set what the library reads at each call from its constants, for the time of a block.

    The embedded hub needs no network, so offline mode does not forbid it. Weights go as plain
    LFS to any hub but the public one: with hf_xet installed the library would not even try, and
    fails on hubs without Xet. Blocks of several threads may overlap; the last one restores.
    """
    with _settings_lock:
        if not _inside:
            _inside.append((constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET))
        _inside.append(_inside[0])
        if place.folder is not None:
            constants.HF_HUB_OFFLINE = False
        if not place.is_public:
            constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        with _settings_lock:
            if len(_inside) == 2:
                constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = _inside.pop()
            _inside.pop()


def _bounded(response: Any) -> Iterator[bytes]:
    count = 0
    for chunk in response.iter_bytes(_CHUNK_BYTES):
        count += len(chunk)
        if count > _PAGE_BYTES:
            raise ValueError(f"more than {_PAGE_BYTES:,} bytes")
        yield chunk


def _rows(page: Any) -> list[dict[str, Any]]:
    if not isinstance(page, list) or not all(isinstance(row, dict) for row in page):
        raise HubError("the hub answered with a listing that is not a list of files")
    return page


def _remote_file(row: Mapping[str, Any]) -> RemoteFile:
    """Read one row of a listing; anything but a file with a size and a hash is refused."""
    large = row.get("lfs")
    path, size, oid = row.get("path"), row.get("size"), row.get("oid")
    if isinstance(large, dict):
        size, sha = large.get("size"), large.get("oid", large.get("sha256"))
        if isinstance(path, str) and type(size) is int and isinstance(sha, str):
            return RemoteFile(path, size, sha256=sha)
    elif isinstance(path, str) and type(size) is int and isinstance(oid, str) and not large:
        return RemoteFile(path, size, git_sha1=oid)
    raise UnsafeFileError(f"the hub lists {str(path)[:200]!r} without a size and a hash")


def _retry_after(response: Any) -> float | None:
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_PAUSE_S) if text.isascii() and text.isdigit() else None


def kind_of(error: BaseException) -> str:
    """Return the name of an error; its text may hold a signed address."""
    return type(error).__name__
