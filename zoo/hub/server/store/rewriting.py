"""Changes of a repository's past: one commit in place of many, or a history without some files."""

from collections.abc import Mapping

from dulwich.objects import Commit, ObjectID, ShaFile, Tag
from dulwich.repo import Repo

from zoo.hub.server.store.git import Git
from zoo.hub.server.store.packing import Batch


def squash(git: Git, branch: str, head: str, message: str, author: str) -> str:
    """Put one commit without parents in place of a branch's history; return its id."""
    with git.batch() as batch:
        sha = git.commit(batch, git.tree(head), [], message, author)
    git.set_ref(f"refs/heads/{branch}", sha)
    return sha


def without(git: Git, oids: set[str]) -> None:
    """Leave large files out of every commit that a branch or a tag leads to.

    Authors, times and messages stay; ids change from the first commit on that had such a file.
    """
    with git.open() as repo, git.batch() as batch:
        old = {name: sha for name, sha in repo.refs.as_dict().items() if name.startswith(b"refs/")}
        made: dict[ObjectID, ObjectID] = {}
        for sha in _oldest_first(repo, list(old.values())):
            made[sha] = _made_anew(git, repo.object_store[sha], batch, oids, made)
        batch.publish()
        for name, sha in old.items():
            if made[sha] != sha:
                git.set_ref(name.decode(), made[sha].decode())


def _oldest_first(repo: Repo, tips: list[ObjectID]) -> list[ObjectID]:
    """Return commits and tags, each after all that it stands on."""
    order: list[ObjectID] = []
    seen: set[ObjectID] = set()
    todo = [(tip, False) for tip in tips]
    while todo:
        sha, ready = todo.pop()
        if ready:
            order.append(sha)
        if ready or sha in seen:
            continue
        seen.add(sha)
        todo.append((sha, True))
        stored = repo.object_store[sha]
        if isinstance(stored, Commit):
            todo += [(parent, False) for parent in stored.parents]
        elif isinstance(stored, Tag):
            todo.append((stored.object[1], False))
    return order


def _made_anew(
    git: Git,
    stored: ShaFile,
    batch: Batch,
    oids: set[str],
    made: Mapping[ObjectID, ObjectID],
) -> ObjectID:
    """Return the id of what stands in place of a commit or a tag."""
    if isinstance(stored, Tag):
        kind, inner = stored.object
        if made.get(inner, inner) == inner:
            return stored.id
        stored.object = (kind, made[inner])
        return ObjectID(batch.add(stored).encode())
    if not isinstance(stored, Commit):
        return stored.id
    files = git.tree(stored.id.decode())
    contents = git.contents(files.values())
    kept = {path: blob for path, blob in files.items() if contents[blob].oid not in oids}
    parents = [made[parent] for parent in stored.parents]
    if len(kept) == len(files) and parents == stored.parents:
        return stored.id
    if len(kept) != len(files):
        stored.tree = ObjectID(git.add_tree(batch, kept).encode())
    stored.parents = parents
    return ObjectID(batch.add(stored).encode())
