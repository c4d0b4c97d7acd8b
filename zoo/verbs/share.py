"""Verbs that show a model to others: push and card."""

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.artifacts.resolution import Ref, checkpoint, pull
from zoo.registry import refs
from zoo.registry.layout import CARD, is_checkpoint
from zoo.version import __version__

if TYPE_CHECKING:
    from zoo.adapters.folder import AdapterFolder
    from zoo.registry.checkpoint import Checkpoint


def push(
    item: "Ref | Checkpoint",
    repo_id: str,
    *,
    private: bool = True,
    message: str | None = None,
    collection: str | None = None,
) -> str:
    """Publish a checkpoint: weights, config, metrics and card in one commit; return its address.

    Pushing what the repository holds already makes no commit.

    Args:
        item: a checkpoint, its folder, a folder that transformers or peft saved, or
            `name[.tag]` of shipped weights; for a Space or a data set, its folder.
        repo_id: `org/name`, `spaces/org/name` or `datasets/org/name`; a missing repository is
            created.
        private: whether a repository created here is private; an existing one stays as it is.
        message: of the commit; None names what is pushed.
        collection: title of a collection of the same owner that the repository is added to; a
            missing collection is created.

    Returns:
        The address of the commit, or of the newest one if nothing changed.

    Raises:
        HubError: no token, no right to write, not reachable, or someone else pushed meanwhile.
        MissingWeightsError: there is no such folder, or it holds no weights in a safe format.
        MismatchError: the card is wrong, or `repo_id` is not a repository id.
        UnsafeFileError: the weights are not the ones that the config describes, a file is a
            symbolic link, or a text holds a token.
        MissingExtraError: the extra `[hub]` is not installed, which the local hub needs.

    ```python
    import zoo

    print(zoo.push("sesr-m3-x2", "me/sesr-m3-x2"))  # here with ZOO_HUB=local in the environment
    ```

    """
    from zoo.cards import publication
    from zoo.hub import exchange, where
    from zoo.registry.checkpoint import Checkpoint

    where.check_repo(repo_id)
    kind, sdk = where.split(repo_id)[0], None
    if kind != "models":
        path = item.path if isinstance(item, Checkpoint) else Path(item).expanduser()
        label = path.resolve().name
        if kind == "spaces":
            files, sdk = publication.files_of_space(path)
        else:
            files = publication.files_of_dataset(path, repo_id)
    else:
        source = _source(item)
        if isinstance(source, Checkpoint):
            files = publication.files_of_checkpoint(source, repo_id)
            label = source.label
        else:
            files, label = publication.files_of_folder(source, repo_id), source.resolve().name
    text = message or f"{label}, with edge-zoo {__version__}"
    return exchange.push(
        repo_id, files, private=private, message=text, sdk=sdk, collection=collection
    )


def _source(item: "Ref | Checkpoint") -> "Checkpoint | Path":
    """Return the checkpoint that is meant, or the folder of another library."""
    from zoo.registry.checkpoint import Checkpoint

    if isinstance(item, Checkpoint):
        return item
    if isinstance(item, str) and not {"/", "\\"} & set(item):  # a name; a folder is ./name
        return checkpoint(item)
    folder = Path(item).expanduser()
    return Checkpoint.read(folder) if is_checkpoint(folder) else folder


def card(ref: Ref) -> str:
    """Return the card of a checkpoint or adapter: front matter for the Hub, then Markdown.

    The commands in it name what `ref` names: a path stays that path, until `push` writes a card for
    the repository.

    Args:
        ref: `name[.tag]`, `org/repo[@revision]`, or the folder of a checkpoint or an adapter.

    Returns:
        The whole text of a README.md.

    Raises:
        UnknownNameError: there is no such recipe or tag.
        MissingWeightsError: the ref has no weights here.
        HubError, UnsafeFileError: see `pull`.

    ```python
    import zoo

    print(zoo.card("sesr-m5-x2"))
    ```
    """
    from zoo.adapters.folder import AdapterFolder

    source = _carded(ref)
    if isinstance(source, AdapterFolder):
        from zoo.cards import adapter as of_adapter

        return of_adapter.render(source)
    from zoo.cards.model import render

    named = isinstance(refs.parse(ref), refs.NameRef)
    return render(source, repo=None if named else str(ref))


def check_card(ref: Ref) -> list[str]:
    """Return what is wrong with the card next to a checkpoint or adapter.

    Its metadata must be what the Hub understands, and every number in it a fact: measured,
    recorded, or computed again. One sentence each.
    """
    from zoo.cards.check import problems

    source = _carded(ref)
    if not (source.path / CARD).is_file():
        return [f"there is no {CARD}; zoo card {ref} --out {CARD} writes one"]
    return problems((source.path / CARD).read_text(encoding="utf-8"), source)


def _carded(ref: Ref) -> "Checkpoint | AdapterFolder":
    """Return the checkpoint that a ref means, or the adapter whose folder or repository it is."""
    from zoo.adapters.folder import CONFIG, AdapterFolder
    from zoo.registry.checkpoint import Checkpoint

    match refs.parse(ref):
        case refs.PathRef(path):
            folder = path
        case refs.RepoRef():
            pulled = pull(ref)
            folder = pulled if isinstance(pulled, Path) else pulled.path
        case _:
            return checkpoint(ref)
    if (folder / CONFIG).is_file():
        return AdapterFolder.read(folder)
    return Checkpoint.read(folder)
