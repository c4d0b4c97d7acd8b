"""Asking the hub behind this one: what a revision means, who may read, history and large files.

History comes by git, so every object is checked by its own id; a large file comes by Range, as
`zoo pull` fetches it, and is checked by its sha256.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import urllib3
from dulwich.client import HTTPUnauthorized, Urllib3HttpGitClient, default_urllib3_manager
from dulwich.errors import GitProtocolError, NotGitRepository
from dulwich.objects import Commit, ObjectID, ShaFile, Tree
from dulwich.repo import Repo

from zoo.errors import HubError, UnsafeFileError
from zoo.hub import client, download
from zoo.hub.safety import RemoteFile
from zoo.hub.server.common import Refused
from zoo.hub.server.mirror.following import Fetch
from zoo.hub.server.mirror.reach import require_outside
from zoo.hub.server.store.accounts import INVALID
from zoo.hub.server.store.packing import Batch
from zoo.hub.where import Place

_TIMEOUT_S = 60.0


@contextmanager
def answered(endpoint: str) -> Iterator[None]:
    """Turn what the upstream refuses into the same answer of ours, and its faults into a 502."""
    try:
        yield
    except client.UnreachableError:
        raise
    except client.RefusedError as error:
        if error.status == 401 and not error.code:  # the client looks for these words
            raise Refused(401, INVALID) from None
        if error.status in (401, 403, 404, 429):
            raise Refused(error.status, f"upstream: {error}", error.code or None) from None
        raise Refused(502, f"the upstream failed: {error}") from None
    except (UnsafeFileError, HubError) as error:
        raise Refused(502, f"the upstream failed: {error}") from None
    except HTTPUnauthorized:
        raise Refused(
            401, f"upstream: {endpoint} does not give this history", "GatedRepo"
        ) from None
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise client.UnreachableError(f"{endpoint} cannot be reached ({error})") from None
    except (GitProtocolError, NotGitRepository, EOFError, ValueError, AssertionError) as error:
        text = f"the upstream failed: {endpoint} sent no history ({type(error).__name__})"
        raise Refused(502, text) from None


class Upstream:
    """A hub elsewhere. A visitor's own token is what it sees; we have none."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint.rstrip("/")

    def hub(self, token: str | None) -> client.Connection:
        """Return the hub as the holder of `token` sees it."""
        return client.Connection(Place(self.endpoint), self.endpoint, token, self._check)

    def _check(self, url: str) -> None:
        require_outside(url, self.endpoint)

    def facts(self, repo: str, token: str | None, about: str = "") -> dict[str, Any]:
        """Return what the API says of a repository."""
        with answered(self.endpoint):
            answer = self.hub(token).facts(repo, about, about.rpartition("/")[2] or "main")
        if not isinstance(answer, dict):
            raise Refused(
                502, f"the upstream failed: {self.endpoint} did not answer with an object"
            )
        return answer

    def require_access(self, repo: str, token: str | None) -> None:
        """Refuse who may not read the files of a repository there."""
        with answered(self.endpoint):
            self.hub(token).require_access(repo)

    def history(self, repo: str, sha: str, token: str | None, have: Repo, batch: Batch) -> None:
        """Put a commit, and all that it stands on and `have` lacks, into a batch; all checked.

        Raises:
            Refused: 404, there is no such commit; 502, what came is not what its ids say.

        """
        wanted = ObjectID(sha.encode())
        with tempfile.TemporaryDirectory(prefix="git-", dir=batch.temporary) as folder:
            came = Repo.init_bare(folder)
            # What comes may be written as a difference from what is here.
            came.object_store.add_alternate_path(str(Path(have.path) / "objects"))
            try:
                with answered(self.endpoint):
                    self._fetch(repo, wanted, token, have, came)
                    if wanted not in came.object_store:
                        text = f"revision {sha!r} is not on {self.endpoint}"
                        raise Refused(404, text, "RevisionNotFound")
                    for item in _checked(wanted, have, came):
                        batch.add(item)
            finally:
                came.close()

    def _fetch(
        self, repo: str, wanted: ObjectID, token: str | None, have: Repo, came: Repo
    ) -> None:
        endpoint = self.endpoint

        class Wary(urllib3.PoolManager):
            """Looks at each address before it is asked, those of redirects too."""

            def urlopen(self, method: str, url: str, *rest: Any, **more: Any) -> Any:
                require_outside(url, endpoint)
                return super().urlopen(method, url, *rest, **more)

        git = Urllib3HttpGitClient(
            self.endpoint + "/",
            pool_manager=default_urllib3_manager(None, Wary, base_url=endpoint),
            username="zoo" if token else None,
            password=token,
            timeout=_TIMEOUT_S,
            quiet=True,
        )
        here = have.object_store

        def wants(refs: Any, depth: int | None = None) -> list[ObjectID]:
            heads = {sha for name, sha in refs.items() if not name.endswith(b"^{}")}
            return [wanted] if wanted in heads else [sha for sha in heads if sha not in here]

        stream, commit, abort = came.object_store.add_pack()
        checked = _Checked(stream.write)
        try:
            git.fetch_pack(repo.encode(), wants, have.get_graph_walker(), checked.write)
            checked.require()
        except BaseException:
            abort()
            raise
        finally:
            git.pool_manager.clear()
        commit()

    def large(
        self, repo: str, commit: str, file: RemoteFile, token: str | None, fetch: Fetch
    ) -> None:
        """Bring the part of a fetch to the whole content of a large file, going on where it ends.

        Raises:
            Refused: 502, the content is not what it should be, or the upstream cannot be reached.

        """
        hub = self.hub(token)

        @contextmanager
        def opened(start: int) -> Iterator[download.Body]:
            with hub.opened(repo, commit, file, start) as body:
                fetch.begins(body.start)
                yield body

        with answered(self.endpoint):
            download.fetch(opened, file, fetch.part, fetch.stop)


class _Checked:
    """A pack as it is written: its last 20 bytes are the SHA-1 of all before them."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write, self._last = write, b""
        self._hash = hashlib.sha1(usedforsecurity=False)

    def write(self, data: bytes) -> int:
        """Pass on what came."""
        self._write(data)
        whole = self._last + data
        self._hash.update(whole[:-20])
        self._last = whole[-20:]
        return len(data)

    def require(self) -> None:
        """Refuse a pack that was changed or cut off on its way; none at all is not a pack."""
        if self._last and self._hash.digest() != self._last:
            raise UnsafeFileError("the history was changed or cut off on its way")


def _checked(wanted: ObjectID, have: Repo, came: Repo) -> Iterator[ShaFile]:
    """Yield what a commit stands on, as far as it came, each object by the id of its content.

    Raises:
        UnsafeFileError: something is missing, which is what a changed byte amounts to.

    """
    todo, seen = [wanted], set()
    while todo:
        sha = todo.pop()
        if sha in seen or sha in have.object_store:
            continue
        seen.add(sha)
        parsed: ShaFile | None = None
        with suppress(KeyError):
            kind, data = came.object_store.get_raw(sha)
            parsed = ShaFile.from_raw_string(kind, data)
        if parsed is None or parsed.id != sha:
            raise UnsafeFileError(f"object {sha.decode()} did not come as its id says")
        if isinstance(parsed, Commit):
            todo += [parsed.tree, *parsed.parents]
        elif isinstance(parsed, Tree):
            todo += [entry.sha for entry in parsed.items() if entry.sha]
        yield parsed
