"""From a ref to an artifact, once; and fetching repositories."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import registry
from zoo.errors import MismatchError, MissingWeightsError, UnknownNameError
from zoo.files import read_json
from zoo.registry import refs
from zoo.registry.layout import ADAPTER, CONFIG, FACTS, METRICS, is_checkpoint
from zoo.registry.published import of_recipe
from zoo.registry.recipe import Compress, Recipe

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from zoo.artifacts.files import TransformersModel
    from zoo.registry.artifact import Artifact
    from zoo.registry.checkpoint import Checkpoint

Ref = str | Path
RECIPE_SUFFIX = ".json"
_LOOKED_AT = (CONFIG, FACTS, METRICS, ADAPTER)  # the files that say what a repository is


def resolve(item: "Ref | Recipe | Artifact", *, weights: bool = True) -> "Artifact":
    """Return the artifact that a ref means; an artifact is returned as it is.

    Args:
        item: `name[.tag]` of the zoo, `org/repo[@revision]` on the Hub, the path of a checkpoint's
            or language model's folder or of a `.tflite` file; or a recipe.
        weights: whether the weights will be needed. If not, only the small files of a repository
            are fetched until they are.

    Returns:
        The artifact, which has `ref`, `recipe` and `path`, and can `load`, `run` and `evaluate`.

    Raises:
        UnknownNameError: there is no such recipe.
        MissingWeightsError: nothing of a known kind is at the path.
        MismatchError: the item is not a ref, or names a collection.
        HubError, UnsafeFileError: see `pull`.

    ```python
    import zoo

    artifact = zoo.resolve("sesr-m5-x2")
    print(artifact.ref, artifact.recipe.summary)
    ```

    """
    if isinstance(item, Recipe):
        return _named(refs.NameRef(item.name), item)
    if not isinstance(item, str | Path):
        if is_artifact(item):
            return item
        raise MismatchError(f"{item!r} does not name a model; expected {refs.GRAMMAR}")
    match refs.parse(item):
        case refs.NameRef() as name:
            return _named(name, _as_trained(registry.find(name.name), name.tag))
        case refs.PathRef(path):
            return _at(str(item), path)
        case refs.RepoRef(repo, revision):
            return _of_the_hub(repo, revision, weights)


def is_artifact(item: object) -> "TypeIs[Artifact]":
    """Say whether something is an artifact, rather than a ref or a module."""
    from zoo.artifacts.files import OtherModel
    from zoo.artifacts.networks import Network

    return isinstance(item, Network | OtherModel)


def _named(name: refs.NameRef, recipe: Recipe) -> "Artifact":
    from zoo.artifacts.networks import Network

    ref = f"{name.name}.{name.tag}" if name.tag else name.name
    return Network(ref, recipe, lambda: _shipped(recipe, name.tag))


def _as_trained(recipe: Recipe, wanted: str | None) -> Recipe:
    """Return a recipe as the weights of a tag have it: other labels make another last layer."""
    tag = wanted or recipe.default_tag
    if tag not in registry.shipped_tags(recipe.name):
        return recipe
    kept = read_json(registry.weights_folder() / f"{recipe.name}.{tag}" / CONFIG)["recipe"]
    own = {key: kept[key] for key in ("args", "preprocessing") if key in kept}
    return dataclasses.replace(recipe, **own)


def _at(ref: str, path: Path) -> "Artifact":
    from zoo.artifacts.files import TfliteModel
    from zoo.artifacts.networks import Network
    from zoo.registry.checkpoint import Checkpoint

    if path.suffix == ".tflite":
        return TfliteModel(ref, path)
    if path.suffix == RECIPE_SUFFIX and path.is_file():
        recipe = recipe_file(path)
        return Network(ref, recipe, lambda: _untrained(recipe, path))
    foreign = (path / CONFIG).is_file() and not is_checkpoint(path)
    if foreign and (found := _of_transformers(ref, path)) is not None:
        return found
    _refuse_parts(path)
    checkpoint = Checkpoint.read(path)
    return Network(ref, checkpoint.recipe, lambda: checkpoint)


def recipe_of(ref: Ref) -> Recipe:
    """Return the recipe that a name means, or the one in a file.

    Raises:
        UnknownNameError: there is no such recipe.
        MismatchError: the file holds none.

    """
    if isinstance(ref, Path) or ref.endswith(RECIPE_SUFFIX):
        return recipe_file(Path(ref).expanduser())
    return registry.find(ref)


def recipe_file(path: Path) -> Recipe:
    """Return the recipe in a file that `zoo search` wrote.

    Raises:
        MismatchError: it cannot be read, or holds something else.

    """
    value = read_json(path)
    if "model" not in value or "input_shape" not in value:
        raise MismatchError(
            f"{path} holds no recipe; expected a file that zoo search wrote, or a recipe's name: "
            "zoo list"
        )
    return Recipe.from_json(value)


def _untrained(recipe: Recipe, path: Path) -> "Checkpoint":
    raise MissingWeightsError(
        f"{path} is a recipe, without weights; type: zoo train {path} --data DIR --out "
        f"runs/{recipe.name}, or pass pretrained=False for random ones"
    )


def _refuse_parts(path: Path) -> None:
    """Say what to do with a file, or with an adapter, which is only a part of a model."""
    if (path / ADAPTER).is_file():
        raise MissingWeightsError(
            f"{path} is an adapter, which goes into its base model: type zoo adapter info {path}, "
            'or in Python: zoo.load(BASE, adapter="...")'
        )
    if path.is_file():
        raise MissingWeightsError(
            f"{path} is a file that holds no model; expected a checkpoint's folder or a .tflite "
            'file. An adapter goes into its base, in Python: zoo.load(BASE, adapter="..."); a '
            ".patch into its .tflite file: zoo adapter patch"
        )


def _of_the_hub(repo: str, revision: str | None, weights: bool) -> "Artifact":
    from zoo.artifacts.files import OtherModel
    from zoo.artifacts.networks import Network
    from zoo.hub import exchange
    from zoo.registry.checkpoint import Checkpoint

    _refuse_collection(repo)
    if weights:
        snapshot = exchange.pull(repo, revision)
        path, commit = snapshot.path, snapshot.commit
    else:
        path, commit = exchange.look(repo, revision, _LOOKED_AT)
    ref = f"{repo}@{commit}"
    if (path / CONFIG).is_file() and is_checkpoint(path):
        seen = Checkpoint.read(path)
        if weights:
            return Network(ref, seen.recipe, lambda: seen)
        whole = functools.partial(exchange.pull, repo, commit)
        return Network(ref, seen.recipe, lambda: Checkpoint.read(whole().path), seen)
    if not weights:  # its files must say what another library's model can do
        path = exchange.pull(repo, commit).path
    return _of_transformers(ref, path) or OtherModel(ref, path)


def _of_transformers(ref: str, path: Path) -> "TransformersModel | None":
    """Return the model of a config as transformers' `save_pretrained` writes it; None for others.

    One that names a class which continues text is a language model.
    """
    from zoo.artifacts.files import LanguageModel, TransformersModel

    try:
        config = read_json(path / CONFIG)
        classes = [str(name) for name in config["architectures"]]
    except (MismatchError, KeyError, TypeError):
        return None
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in classes):
        return LanguageModel(ref, path)
    return TransformersModel(ref, path) if isinstance(config.get("model_type"), str) else None


def _shipped(recipe: Recipe, wanted: str | None) -> "Checkpoint":
    """Return the checkpoint that this package ships for a recipe; None is its default tag."""
    from zoo.registry.checkpoint import Checkpoint

    tags = registry.shipped_tags(recipe.name)
    tag = wanted or recipe.default_tag
    if tag in tags:
        return Checkpoint.read(registry.weights_folder() / f"{recipe.name}.{tag}")
    if wanted and tags:
        raise UnknownNameError.near(
            f"tag of {recipe.name}", tag, tags, f"there are: {', '.join(tags)}"
        )
    if isinstance(recipe.make, Compress):
        raise MissingWeightsError(
            f"no weights of {recipe.name!r} are shipped; type: zoo compress {recipe.name} "
            f"--data TEXT --out runs/{recipe.name}"
        )
    others = f"; others publish some, see zoo show {recipe.name}" if of_recipe(recipe.name) else ""
    raise MissingWeightsError(
        f"no weights of {recipe.name!r} are shipped; type: zoo train {recipe.name} --data DIR "
        f"--out runs/{recipe.name}, or pass pretrained=False for random ones "
        f"(zoo list shows what is shipped{others})"
    )


def checkpoint(ref: "Ref | Artifact") -> "Checkpoint":
    """Return the checkpoint that a ref means, without loading its weights.

    Args:
        ref: `name[.tag]` of weights that the zoo ships, `org/repo[@revision]` on the Hub, or the
            path of a checkpoint folder.

    Raises:
        UnknownNameError: there is no such recipe or tag.
        MissingWeightsError: the recipe has no shipped weights, or the folder is not a checkpoint.
        MismatchError: the ref means another library's model.
        HubError, UnsafeFileError: see `pull`.

    ```python
    import zoo

    print(zoo.checkpoint("sesr-m5-x2").path)
    ```

    """
    from zoo.artifacts.networks import Network
    from zoo.registry.checkpoint import Checkpoint

    if isinstance(ref, str | Path) and isinstance(parsed := refs.parse(ref), refs.PathRef):
        _refuse_parts(parsed.path)
        return Checkpoint.read(parsed.path)
    artifact = resolve(ref)
    if isinstance(artifact, Network):
        return artifact.checkpoint
    raise MismatchError(
        f"{artifact.ref} is not a checkpoint of the zoo but another library's model; its files "
        f"are verified and in {artifact.path}"
    )


def weights_of(origin: "Artifact") -> str:
    """Return which weights a ref means today: a bare name may mean others one day."""
    if isinstance(refs.parse(origin.ref), refs.RepoRef):
        return origin.ref
    return checkpoint(origin).label


def _refuse_collection(repo: str) -> None:
    if repo.startswith("collections/"):
        raise MismatchError(
            f"{repo} is a collection: zoo.pull_all, or zoo pull {repo}, brings all of it"
        )


def pull(ref: Ref, out: Ref | None = None) -> "Checkpoint | Path":
    """Fetch a whole Hub repository and verify it; return its checkpoint.

    ZOO_HUB or HF_ENDPOINT may name a hub other than huggingface.co. What was pulled is kept in
    ZOO_CACHE: a commit that is there costs no request.

    Args:
        ref: `org/repo[@revision]`, or with `datasets/` or `spaces/` before it; a branch or tag is
            resolved to a commit first. For the repositories of a collection see `pull_all`.
        out: a new folder that gets a copy; None leaves it in the cache.

    Returns:
        The checkpoint, or the folder if another library wrote it.

    Raises:
        HubError: not there, not allowed, not reachable, or the disk is full; what arrived is kept.
        UnsafeFileError: tampered with, hostile file names, or weights only as pickles.
        MismatchError: a path or a name instead of a repository, a collection, or `out` exists
            already.
        MissingExtraError: the extra `[hub]` is not installed, which the local hub needs.

    ```python
    import zoo

    zoo.push("sesr-m3-x2", "me/sesr-m3-x2")  # here with ZOO_HUB=local in the environment
    checkpoint = zoo.pull("me/sesr-m3-x2", "runs/pulled")
    print(checkpoint.path, checkpoint.license)
    ```

    """
    from zoo.hub import exchange, snapshots
    from zoo.registry.checkpoint import Checkpoint

    parsed = refs.parse(ref)
    if not isinstance(parsed, refs.RepoRef):
        raise MismatchError(f"{str(ref)!r} is already here; expected org/repo[@revision] to pull")
    _refuse_collection(parsed.repo)
    snapshot = exchange.pull(parsed.repo, parsed.revision)
    path = snapshot.path if out is None else snapshots.copy(snapshot, Path(out).expanduser())
    return Checkpoint.read(path) if CONFIG in snapshot.files and is_checkpoint(path) else path


def pull_all(ref: Ref, out: Ref | None = None) -> "dict[str, Checkpoint | Path]":
    """Fetch every repository of a collection; return the result of `pull` for each.

    Args:
        ref: `collections/owner/slug`; any other ref counts as a collection of one.
        out: a folder that gets a copy of each, as `org--name`; None leaves them in the cache.

    Returns:
        Repository -> its checkpoint, or its folder if another library wrote it.

    Raises:
        HubError, UnsafeFileError, MismatchError, MissingExtraError: see `pull`.

    ```python
    import zoo

    for name, pulled in zoo.pull_all("collections/me/small-networks-0123").items():
        print(name, pulled)
    ```

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
