"""Verbs that find things: what a ref means, its recipe and checkpoint.

The lowest of the verbs: adapters and quantization find their base models by it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo.errors import MismatchError, MissingWeightsError, UnknownNameError
from zoo.files import read_json
from zoo.registry import refs
from zoo.registry.layout import CONFIG, is_checkpoint
from zoo.registry.recipe import Compress, Recipe

if TYPE_CHECKING:
    import torch

    from zoo.registry.checkpoint import Checkpoint

Ref = str | Path


def tflite_path(ref: Any) -> Path | None:
    """Return the path if a ref means a `.tflite` file: ./x.tflite."""
    parsed = refs.parse(ref) if isinstance(ref, str | Path) else None
    is_file = isinstance(parsed, refs.PathRef) and parsed.path.suffix == ".tflite"
    return parsed.path if is_file else None  # type: ignore[union-attr]


def language_model(ref: Any) -> Path | None:
    """Return the folder if a ref means a language model that transformers saved: ./DIR.

    Checkpoints of the zoo are none of these, though transformers opens some of them too.
    """
    parsed = refs.parse(ref) if isinstance(ref, str | Path) else None
    if isinstance(parsed, refs.NameRef) or parsed is None:
        return None
    if isinstance(parsed, refs.RepoRef):
        found = pull(ref)
        path = found if isinstance(found, Path) else found.path
    else:
        path = parsed.path
    if not (path / CONFIG).is_file() or is_checkpoint(path):
        return None
    return path if _generates_text(path / CONFIG) else None


def _generates_text(config: Path) -> bool:
    """Say whether a config names a class that continues text, as `save_pretrained` writes it."""
    try:
        classes = read_json(config)["architectures"]
        return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in classes)
    except (MismatchError, KeyError, TypeError, AttributeError):
        return False


def checkpoint(ref: Ref) -> "Checkpoint":
    """Return the checkpoint a ref means, without loading its weights.

    Args:
        ref: `name[.tag]` of weights that the zoo ships, `org/repo[@revision]` on the Hub, or the
            path of a checkpoint folder.

    Raises:
        UnknownNameError: no such recipe or tag.
        MissingWeightsError: a recipe without shipped weights, or a folder that is no checkpoint.
        HubError, UnsafeFileError: see `pull`.

    """
    from zoo.registry.checkpoint import Checkpoint

    parsed = refs.parse(ref)
    if isinstance(parsed, refs.PathRef):
        return Checkpoint.read(parsed.path)
    if isinstance(parsed, refs.RepoRef):
        found = pull(ref)
        if isinstance(found, Path):
            raise MismatchError(
                f"{ref} is no checkpoint of the zoo but another library's model; its files are "
                f"verified and lie in {found}"
            )
        return found
    recipe = registry.find(parsed.name)
    tags = registry.shipped_tags(recipe.name)
    tag = parsed.tag or recipe.default_tag
    if tag not in tags:
        if parsed.tag and tags:
            raise UnknownNameError.near(
                f"tag of {recipe.name}", tag, tags, f"there are: {', '.join(tags)}"
            )
        if isinstance(recipe.make, Compress):
            raise MissingWeightsError(
                f"no weights of {recipe.name!r} are shipped; type: zoo compress {recipe.name} "
                f"--data TEXT --out runs/{recipe.name}"
            )
        raise MissingWeightsError(
            f"no weights of {recipe.name!r} are shipped; type: zoo train {recipe.name} --data DIR "
            f"--out runs/{recipe.name}, or pass pretrained=False for random ones "
            "(zoo list shows what is shipped)"
        )
    return Checkpoint.read(registry.weights_folder() / f"{recipe.name}.{tag}")


def pull(ref: Ref, out: Ref | None = None) -> "Checkpoint | Path":
    """Bring a Hub repository here, whole and verified; return its checkpoint.

    Where ZOO_HUB or HF_ENDPOINT name another hub than huggingface.co, that one is asked. What
    was pulled is kept in ZOO_CACHE: a commit that is there costs no request.

    Args:
        ref: `org/repo[@revision]`, or with `datasets/` or `spaces/` before it; a branch or tag is
            resolved to a commit first. For the repositories of a collection see `pull_all`.
        out: a new folder that gets a copy; None leaves it in the cache.

    Returns:
        The checkpoint, or the folder if another library wrote it.

    Raises:
        HubError: not there, not allowed, not reachable, or the disk is full; what arrived is kept.
        UnsafeFileError: tampered with, hostile file names, or weights only as pickles.

    """
    from zoo.hub import exchange, snapshots
    from zoo.registry.checkpoint import Checkpoint

    parsed = refs.parse(ref)
    if not isinstance(parsed, refs.RepoRef):
        raise MismatchError(f"{str(ref)!r} is here already; expected org/repo[@revision] to pull")
    if parsed.repo.startswith("collections/"):
        raise MismatchError(f"{ref} is a collection: zoo.pull_all, or zoo pull {ref}, brings all")
    snapshot = exchange.pull(parsed.repo, parsed.revision)
    path = snapshot.path if out is None else snapshots.copy(snapshot, Path(out).expanduser())
    return Checkpoint.read(path) if CONFIG in snapshot.files and is_checkpoint(path) else path


def pull_all(ref: Ref, out: Ref | None = None) -> "dict[str, Checkpoint | Path]":
    """Bring every repository of a collection here; return what `pull` gives for each.

    Args:
        ref: `collections/owner/slug`; any other ref is a collection of one.
        out: a folder that gets a copy of each, as `org--name`; None leaves them in the cache.

    """
    from zoo.hub import exchange

    parsed = refs.parse(ref)
    if not isinstance(parsed, refs.RepoRef) or not parsed.repo.startswith("collections/"):
        return {str(ref): pull(ref, out)}
    names = exchange.members(parsed.repo.removeprefix("collections/"))
    return {
        name: pull(name, None if out is None else Path(out) / name.replace("/", "--"))
        for name in names
    }


def pinned(ref: Ref) -> Ref:
    """Return a ref that means the same from now on: a branch or tag of the Hub as its commit."""
    if not isinstance(parsed := refs.parse(ref), refs.RepoRef):
        return ref
    from zoo.hub import exchange

    return f"{parsed.repo}@{exchange.pull(parsed.repo, parsed.revision).commit}"


def recipe_of(ref: "Ref | Recipe") -> Recipe:
    """Return the recipe a ref means; weights are not needed."""
    if isinstance(ref, Recipe):
        return ref
    parsed = refs.parse(ref)
    return (
        registry.find(parsed.name) if isinstance(parsed, refs.NameRef) else checkpoint(ref).recipe
    )


def trained(ref: Ref, dtype: "torch.dtype | None" = None) -> "torch.nn.Module":
    """Return what a checkpoint's device computes: the float network, or the integer one.

    It refuses inputs that its recipe does not describe; see `zoo.artifacts.inputs`.

    Args:
        ref: see `checkpoint`.
        dtype: of a float network; None keeps the stored one.

    Raises:
        MismatchError: a dtype for a network that computes in integers.

    """
    from zoo.artifacts.inputs import checked

    source = checkpoint(ref)
    if source.quantization is None:
        return checked(source.load().to(dtype=dtype), source.recipe)
    if dtype is not None:
        raise MismatchError(f"{ref} computes in integers; leave the dtype {dtype} out")
    from zoo.quantization.int8.network import read_quantization

    return checked(read_quantization(source.load(), source.quantization), source.recipe)


def dtype_of(name: str) -> "torch.dtype":
    """Return the floating torch dtype of that name.

    Raises:
        UnknownNameError: there is none.

    """
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UnknownNameError(f"unknown dtype {name!r} (float32, bfloat16 or float16)")
    return found
