"""Writing to a hub: a repository, one atomic commit, an entry of a collection.

By huggingface_hub's own calls: its three upload routes are not worth a second implementation.
"""

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from zoo.errors import HubError, MismatchError
from zoo.hub import where
from zoo.hub.client import Connection, UnreachableError, kind_of
from zoo.version import __version__

_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


def create(hub: Connection, repo: str, *, private: bool, sdk: str | None = None) -> str:
    """Make a repository, or take the one that is there; return the commit of its `main`."""
    kind, name = where.split(repo)
    with _writing(hub, repo):
        _api(hub).create_repo(
            name, repo_type=_TYPES[kind], private=private, exist_ok=True, space_sdk=sdk
        )
    return hub.commit_of(repo, None)


def commit(
    hub: Connection,
    repo: str,
    parent: str,
    files: Mapping[str, bytes | Path],
    delete: Sequence[str],
    message: str,
) -> str:
    """Write and delete files in one commit on top of `parent`; return the new commit.

    Raises:
        HubError: somebody else committed since `parent`, or the hub refused; then nothing of it
            is visible.

    """
    kind, name = where.split(repo)
    operations: list[Any] = [CommitOperationDelete(path) for path in delete]
    operations += [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in files.items()
    ]
    with _writing(hub, repo):
        done = _api(hub).create_commit(
            name,
            operations,
            repo_type=_TYPES[kind],
            commit_message=message,
            parent_commit=parent,
            num_threads=2,
        )
    return done.oid


def collect(hub: Connection, repo: str, title: str, *, private: bool) -> str:
    """Add a repository to the collection of that title of its owner; return `owner/slug`."""
    kind, name = where.split(repo)
    with _writing(hub, repo):
        api = _api(hub)
        collection = api.create_collection(
            title, namespace=name.partition("/")[0], private=private, exists_ok=True
        )
        api.add_collection_item(
            collection.slug,
            name,
            _TYPES[kind],  # type: ignore[arg-type]
            exists_ok=True,
        )
    return collection.slug


def _api(hub: Connection) -> HfApi:
    return HfApi(
        endpoint=hub.endpoint,
        token=hub.token or False,
        library_name="edge-zoo",
        library_version=__version__,
    )


@contextmanager
def _writing(hub: Connection, repo: str) -> Iterator[None]:
    """Turn the library's errors into ours, and silence its warnings."""
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")
            if not sys.stderr.isatty():
                stack.enter_context(disable_progress_bars())
            yield
    except HfHubHTTPError as error:
        hub.refuse(error.response, repo, "main")
    except HTTPError as error:
        hub.raise_offline(error)
        raise UnreachableError(
            f"{hub.endpoint} cannot be reached any more ({kind_of(error)}); nothing was "
            "committed: type the same again"
        ) from None
    except (HubError, MismatchError):
        raise
    except (OSError, ValueError, RuntimeError) as error:  # Xet raises RuntimeError
        hub.raise_offline(error)
        if isinstance(error.__cause__, HfHubHTTPError):  # why an upload failed
            hub.refuse(error.__cause__.response, repo, "main")
        raise HubError(f"push to {repo} failed: {hub.clean(str(error))}") from None
