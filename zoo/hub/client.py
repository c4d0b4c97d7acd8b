"""Talking to a hub: what is there, and one atomic commit. The only user of huggingface_hub.

Reading is done here by plain requests on the library's own session (its proxies, certificates
and user agent), with limits on everything an answer may hold; writing is the library's
`create_commit`, whose three upload routes are not worth a second implementation.
"""

import json
import logging
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urljoin, urlsplit

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    disable_progress_bars,
    get_session,
)

import zoo
from zoo.errors import HubError, MismatchError, UnsafeFileError
from zoo.hub.download import CutError
from zoo.hub.safety import MAX_FILES, RemoteFile
from zoo.hub.where import Place

log = logging.getLogger("zoo")

COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_S = (5.0, 60.0, 60.0, 60.0)  # connect, read, write, wait for a connection
TRIES = 3
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


class Hub:
    """A hub and the right to use it. Errors and logs never hold the token.

    Args:
        place: which hub this is.
        endpoint: its address (the embedded hub's is known only once it runs).
        token: of the user; None sends none.

    """

    def __init__(self, place: Place, endpoint: str, token: str | None) -> None:
        self.place, self.endpoint, self.token = place, endpoint, token
        if token and place.is_exposed and endpoint not in _warned:
            _warned.add(endpoint)
            log.warning(
                "%s is not encrypted: your token can be read on the way; use https", endpoint
            )

    # --- reading ---------------------------------------------------------------------------------

    def commit_of(self, repo: str, revision: str | None) -> str:
        """Return the 40 hexadecimal digits that a branch, a tag or None (main) means now."""
        name = revision or "main"
        path = f"/api/models/{repo}/revision/{quote(name, safe='')}"
        answer, _ = self._json(self.endpoint + path, repo, name)
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise HubError(f"{self.endpoint} answered without a commit for {repo}@{name}")
        return commit

    def tree(self, repo: str, commit: str) -> list[RemoteFile]:
        """Return every file of a commit, with the hash it can be verified by."""
        url: str | None = f"{self.endpoint}/api/models/{repo}/tree/{commit}?recursive=true"
        found: list[RemoteFile] = []
        while url:
            page, url = self._json(url, repo, commit)
            found += [_remote_file(item) for item in _rows(page) if item.get("type") != "directory"]
            if len(found) > MAX_FILES:
                raise UnsafeFileError(f"{repo} lists more than {MAX_FILES:,} files; not fetched")
        return found

    @contextmanager
    def opened(self, repo: str, commit: str, file: RemoteFile, start: int) -> Iterator["_Body"]:
        """Open a file of a commit at a byte; raise `CutError` where another try may help."""
        url = f"{self.endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"
        headers = self._headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
                status = response.status_code
                if status in _BUSY:
                    raise CutError(f"the hub answered {status}", _retry_after(response))
                if status not in (200, 206):
                    self._refuse(response, repo, commit)
                given = response.headers.get("Content-Range", "")
                match = re.match(r"bytes (\d+)-", given) if status == 206 else None
                if status == 206 and match is None:
                    raise CutError("the hub sent a part without saying which")
                yield _Body(response, int(match[1]) if match else 0)
        except HTTPError as error:
            self._raise_offline(error)
            raise CutError(f"connection to {self.endpoint} lost ({_kind(error)})") from None

    def _json(self, url: str, repo: str, revision: str) -> tuple[Any, str | None]:
        """Return (the value, the address of the next page)."""
        for attempt in range(1, TRIES + 1):
            pause = 0.5 * 2 ** (attempt - 1)
            try:
                with get_session().stream(
                    "GET", url, headers=self._headers(), timeout=TIMEOUT_S
                ) as response:
                    if response.status_code not in _BUSY or attempt == TRIES:
                        if response.status_code != 200:
                            self._refuse(response, repo, revision)
                        body = b"".join(_bounded(response))
                        return json.loads(body), self._next(response)
                    pause = _retry_after(response) or pause
            except HTTPError as error:
                self._raise_offline(error)
                if attempt == TRIES:
                    raise UnreachableError(
                        f"{self.endpoint} cannot be reached ({_kind(error)}); check the network "
                        "and HF_ENDPOINT, or use --hub local"
                    ) from None
            except (OSError, ValueError, RecursionError) as error:
                self._raise_offline(error)
                if isinstance(error, HubError):
                    raise
                raise HubError(f"{self.endpoint} answered what is no JSON: {error}") from None
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
            token=self.token or False, library_name="edge-zoo", library_version=zoo.__version__
        )

    # --- writing ---------------------------------------------------------------------------------

    def head(self, repo: str) -> str | None:
        """Return the commit of `main`, or None when there is no such repository for us."""
        try:
            return self.commit_of(repo, None)
        except _MissingRepoError:
            return None

    def create(self, repo: str, *, private: bool) -> str:
        """Make a repository, or take the one that is there; return the commit of its `main`."""
        with self._writing(repo):
            self._api().create_repo(repo, private=private, exist_ok=True)
        return self.commit_of(repo, None)

    def commit(
        self,
        repo: str,
        parent: str,
        files: Mapping[str, bytes | Path],
        delete: Sequence[str],
        message: str,
    ) -> str:
        """Write and delete files in one commit on top of `parent`; return the new commit.

        Raises:
            HubError: somebody else committed since `parent`, or the hub refused; then nothing
                of it is visible.

        """
        operations: list[Any] = [CommitOperationDelete(path) for path in delete]
        operations += [
            CommitOperationAdd(name, item if isinstance(item, bytes) else str(item))
            for name, item in files.items()
        ]
        with self._writing(repo):
            done = self._api().create_commit(
                repo, operations, commit_message=message, parent_commit=parent, num_threads=2
            )
        return done.oid

    def _api(self) -> HfApi:
        return HfApi(
            endpoint=self.endpoint,
            token=self.token or False,
            library_name="edge-zoo",
            library_version=zoo.__version__,
        )

    @contextmanager
    def _writing(self, repo: str) -> Iterator[None]:
        """Turn the library's errors into ours, and its warnings of the card into errors."""
        try:
            with warnings.catch_warnings(), ExitStack() as stack:
                warnings.simplefilter("ignore")
                if not sys.stderr.isatty():
                    stack.enter_context(disable_progress_bars())
                yield
        except HfHubHTTPError as error:
            self._refuse(error.response, repo, "main")
        except HTTPError as error:
            self._raise_offline(error)
            raise UnreachableError(
                f"{self.endpoint} cannot be reached any more ({_kind(error)}); nothing was "
                "committed: type the same again"
            ) from None
        except (HubError, MismatchError):
            raise
        except (OSError, ValueError, RuntimeError) as error:  # Xet raises RuntimeError
            self._raise_offline(error)
            raise HubError(f"push to {repo} failed: {self._clean(str(error))}") from None

    # --- errors ----------------------------------------------------------------------------------

    def _refuse(self, response: Any, repo: str, revision: str) -> NoReturn:
        """Raise the error that an answer means."""
        status, where = response.status_code, self.endpoint
        code = response.headers.get("X-Error-Code", "")
        said = self._clean(response.headers.get("X-Error-Message", ""))
        known = "the token that was sent" if self.token else "no token, and none was sent"
        login = "type: hf auth login (or set HF_TOKEN)"
        if status == 401 and self.token and code not in ("RepoNotFound", "GatedRepo"):
            raise HubError(f"{where} refused the token: expired, revoked or another hub's; {login}")
        if code == "GatedRepo":
            raise HubError(f"{repo} is gated: accept its terms at {where}/{repo}, then {login}")
        if code == "RevisionNotFound":
            raise HubError(f"{repo} has no revision {revision!r}; see {where}/{repo}/commits/main")
        if code == "EntryNotFound":
            raise HubError(f"{repo} listed a file at {revision} that {where} does not have")
        if code == "RepoNotFound" or status in (401, 404):
            raise _MissingRepoError(
                f"{repo} is not on {where}, or may not be read with {known}; for a private one "
                f"{login}"
            )
        if status == 403:
            raise HubError(
                f"{where} does not let {known} do that with {repo}{f' ({said})' if said else ''}; "
                f"a push needs a token with the right to write: {login}"
            )
        if status == 412:
            raise HubError(f"{repo} was changed by somebody else meanwhile; push again")
        raise HubError(f"{where} answered {status} for {repo}{f': {said}' if said else ''}")

    def _raise_offline(self, error: BaseException) -> None:
        if isinstance(error, huggingface_hub.errors.OfflineModeIsEnabled):
            raise UnreachableError(
                "offline mode is on (HF_HUB_OFFLINE=1) and this is not in the cache; pull it once "
                "while online, by its commit: zoo pull org/name@COMMIT"
            ) from None

    def _clean(self, text: str) -> str:
        """Return a text from elsewhere as one short line without secrets or control characters."""
        if self.token:
            text = text.replace(self.token, "<token>")
        text = _SECRET.sub("<token>", text)
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


class _MissingRepoError(HubError):
    """There is no such repository, as far as we may know."""


class _Body:
    """The bytes of an answer, from `start` of the file on."""

    def __init__(self, response: Any, start: int) -> None:
        self.response, self.start = response, start

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes; `Hub.opened` turns a lost connection into `CutError`."""
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
    if not isinstance(page, list) or not all(isinstance(item, dict) for item in page):
        raise HubError("the hub answered a listing that is no list of files")
    return page


def _remote_file(item: Mapping[str, Any]) -> RemoteFile:
    """Read one row of a listing; anything but a file with a size and a hash is refused."""
    large = item.get("lfs")
    path, size, oid = item.get("path"), item.get("size"), item.get("oid")
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


def _kind(error: BaseException) -> str:
    """Return the name of an error; its text may hold a signed address."""
    return type(error).__name__
