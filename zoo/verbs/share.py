"""Verbs that show a model to others: the Hub, the card, the page."""

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

    A push of what is there already makes no commit and returns the newest one's address.

    Args:
        item: a checkpoint, its folder, a folder that transformers or peft saved, or
            `name[.tag]` of shipped weights; for a Space or a data set, its folder.
        repo_id: `org/name`, `spaces/org/name` or `datasets/org/name`; the repository is made when
            there is none.
        private: who may see a repository created here; an existing one stays as it is.
        message: of the commit.
        collection: title of a collection of the same owner that the repository is added to; it is
            made when there is none.

    Raises:
        HubError: no token, no right to write, not reachable, or someone else pushed meanwhile.
        MismatchError: the card is wrong.
        UnsafeFileError: the weights are not the config's, or a file holds a token.

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
            label = f"{source.recipe.name}.{source.tag}"
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

    The lines to type in it name what `ref` names: a path stays that path, until `push` writes a
    card for the repository.

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
