"""The verbs. Each imports what it needs when it is called, so that `import zoo` stays instant."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import refs, registry
from zoo.errors import MismatchError, MissingWeightsError, UnknownNameError
from zoo.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from zoo.checkpoint import Checkpoint
    from zoo.cost import Cost
    from zoo.export.onnx import OnnxFile
    from zoo.export.tflite import TfliteFile

Ref = str | Path


def tflite_path(ref: Any) -> Path | None:
    """Return the path if a ref means a `.tflite` file: ./x.tflite."""
    parsed = refs.parse(ref) if isinstance(ref, str | Path) else None
    is_file = isinstance(parsed, refs.PathRef) and parsed.path.suffix == ".tflite"
    return parsed.path if is_file else None  # type: ignore[union-attr]


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
    from zoo.checkpoint import Checkpoint

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
        raise MissingWeightsError(
            f"no weights of {recipe.name!r} are shipped; type: zoo train {recipe.name} --data DIR "
            f"--out runs/{recipe.name}, or pass pretrained=False for random ones "
            "(zoo list shows what is shipped)"
        )
    return Checkpoint.read(registry.WEIGHTS / f"{recipe.name}.{tag}")


def pull(ref: Ref, out: Ref | None = None) -> "Checkpoint | Path":
    """Bring a Hub repository here, whole and verified; return its checkpoint.

    Where ZOO_HUB or HF_ENDPOINT name another hub than huggingface.co, that one is asked. What
    was pulled is kept in ZOO_CACHE: a commit that is there costs no request.

    Args:
        ref: `org/repo[@revision]`; a branch or tag is resolved to a commit first.
        out: a new folder that gets a copy; None leaves it in the cache.

    Returns:
        The checkpoint, or the folder if another library wrote it.

    Raises:
        HubError: not there, not allowed, not reachable, or the disk is full; what arrived is kept.
        UnsafeFileError: tampered with, hostile file names, or weights only as pickles.

    """
    from zoo.checkpoint import CONFIG, Checkpoint, is_checkpoint
    from zoo.hub import exchange, store

    parsed = refs.parse(ref)
    if not isinstance(parsed, refs.RepoRef):
        raise MismatchError(f"{str(ref)!r} is here already; expected org/repo[@revision] to pull")
    snapshot = exchange.pull(parsed.repo, parsed.revision)
    path = snapshot.path if out is None else store.copy(snapshot, Path(out).expanduser())
    return Checkpoint.read(path) if CONFIG in snapshot.files and is_checkpoint(path) else path


def push(
    item: "Ref | Checkpoint",
    repo_id: str,
    *,
    private: bool = True,
    message: str | None = None,
) -> str:
    """Publish a checkpoint: weights, config, metrics and card in one commit; return its address.

    A push of what is there already makes no commit and returns the newest one's address.

    Args:
        item: a checkpoint, its folder, a folder that transformers or peft saved, or
            `name[.tag]` of shipped weights.
        repo_id: `org/name`; the repository is made when there is none.
        private: who may see a repository made here; one that exists stays as it is.
        message: of the commit.

    Raises:
        HubError: no token, no right to write, not reachable, or somebody else pushed meanwhile.
        MismatchError: the card is wrong.
        UnsafeFileError: the weights are not the config's, or a file holds a token.

    """
    from zoo import __version__
    from zoo.checkpoint import Checkpoint, is_checkpoint
    from zoo.hub import exchange, publish, where

    where.check_repo(repo_id)
    if isinstance(item, str) and not {"/", "\\"} & set(item):  # a name; a folder there is ./name
        item = checkpoint(item)
    elif not isinstance(item, Checkpoint):
        folder = Path(item).expanduser()
        item = Checkpoint.read(folder) if is_checkpoint(folder) else folder
    if isinstance(item, Checkpoint):
        files = publish.files_of_checkpoint(item, repo_id)
        what = f"{item.recipe.name}.{item.tag}"
    else:
        files, what = publish.files_of_folder(item, repo_id), item.resolve().name
    text = message or f"{what}, with edge-zoo {__version__}"
    return exchange.push(repo_id, files, private=private, message=text)


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


def load(
    ref: "Ref | Recipe",
    *,
    pretrained: bool = True,
    device: str = "cpu",
    dtype: "torch.dtype | str | None" = None,
) -> "torch.nn.Module":
    """Return the deployed network, in eval mode, its weights verified by SHA-256.

    Args:
        ref: `name[.tag]`, `org/repo[@revision]`, the path of a checkpoint folder, or of a
            `.tflite` file; the last gives a module that takes and gives the file's own tensors,
            channels last.
        pretrained: False gives a freshly initialised network; nothing else ever does.
        device: a torch device, e.g. "cuda".
        dtype: a floating torch dtype or its name, e.g. "bfloat16"; None keeps the stored one.

    Raises:
        UnknownNameError, MissingWeightsError, UnsafeFileError, MismatchError, HubError: see
            `zoo.errors`.

    """
    import torch

    from zoo.checkpoint import build

    if path := tflite_path(ref):
        from zoo.export.tflite import load_tflite

        return load_tflite(path)
    if isinstance(dtype, str):
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise UnknownNameError(f"unknown dtype {dtype!r} (float32, bfloat16 or float16)")
        dtype = found
    if pretrained:
        model = checkpoint(ref.name if isinstance(ref, Recipe) else ref).load()
    else:
        model = build(recipe_of(ref))
    try:
        return model.to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UnknownNameError(f"device {device!r} cannot be used: {first}") from error


def run(
    ref: Ref, source: Any, out: Ref | None = None, *, device: str = "cpu", dtype: Any = None
) -> Any:
    """Run a model on a file, a picture or an array; return the task's result object.

    For super resolution that is `zoo.tasks.enlarge.Enlarged`. With `out` it is saved there too.
    """
    from zoo.tasks import task_of

    if path := tflite_path(ref):
        from zoo.export.tflite import run_tflite

        outcome = run_tflite(path, source)
        if out is not None:
            outcome.save(out)
        return outcome
    ref = pinned(ref)
    recipe = recipe_of(ref)
    model = load(ref, device=device, dtype=dtype)
    return task_of(recipe).run(model, recipe, source, None if out is None else Path(out))


def train(
    recipe: "str | Recipe",
    out: Ref,
    *,
    data: Ref,
    init: Ref | None = None,
    resume: bool = False,
    data_license: str | None = None,
    tracker: str | None = None,
    device: str | None = None,
    **overrides: Any,
) -> "Checkpoint":
    """Train a recipe under Accelerate; return the checkpoint best on held-out data.

    Args:
        recipe: its name, or a `Recipe`.
        out: the run folder.
        data: a folder, or a Hub data set id.
        init: ref of a checkpoint to start from instead of the recipe's own `train.init`;
            "none" starts from random weights.
        resume: go on after a kill, with the same result.
        data_license: licence of the data, for the card.
        tracker: "tensorboard", or another of Accelerate's trackers.
        device: "cpu" leaves an accelerator alone.
        overrides: training settings, e.g. `lr=1e-3, steps=1000`.

    """
    from zoo.card import render
    from zoo.checkpoint import UNSTATED
    from zoo.train import train as train_loop

    chosen = registry.find(recipe) if isinstance(recipe, str) else recipe
    chosen = chosen.override({key.replace("__", "."): value for key, value in overrides.items()})
    start = init if init is not None else chosen.train.init
    if start is not None:
        chosen = chosen.override({"train.init": _label(start)})
    model = None if start in (None, "none") else _initial(start, chosen.name)
    result = train_loop(
        chosen,
        Path(out),
        data=str(data),
        data_license=data_license or UNSTATED,
        init=model,
        resume=resume,
        tracker=tracker,
        device=device,
    )
    if _is_main_process():
        result.write_card(render(result))
    return result


def _label(init: Ref) -> str:
    """Return how a recipe records where it started: never a path of the user's machine."""
    if init == "none" or isinstance(refs.parse(init), refs.NameRef):
        return str(init)
    source = checkpoint(init)
    return f"{source.recipe.name}.{source.tag}"


def _initial(ref: Ref, name: str) -> "torch.nn.Module":
    try:
        return load(ref)
    except MissingWeightsError as error:
        raise MissingWeightsError(
            f"{name} starts from {ref}, which has no weights here; train that first and add "
            f"--from DIR, or add --from none to start from random weights ({error})"
        ) from error


def _is_main_process() -> bool:
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def evaluate(
    ref: Ref, data: Ref, *, record: str | None = None, device: str = "cpu", dtype: Any = None
) -> dict[str, Any]:
    """Return a model's metrics on a folder of data, with the protocol they were computed by.

    With `record` they are stored in the checkpoint under that name too, and in its card.

    Raises:
        MismatchError: `record`, and the checkpoint was pulled: the cache holds what the Hub holds.

    """
    from zoo.tasks import task_of

    if record is not None and isinstance(refs.parse(ref), refs.RepoRef):
        raise MismatchError(
            f"what was pulled is not changed; type: zoo pull {ref} --out DIR, and record in ./DIR"
        )
    ref = pinned(ref)
    recipe = recipe_of(ref)
    model = load(ref, device=device, dtype=dtype)
    result: dict[str, Any] = task_of(recipe).evaluate(model, recipe, Path(data).expanduser())
    if record is not None:
        _record(ref, record, result)
    return result


def _record(ref: Ref, name: str, result: Mapping[str, Any]) -> None:
    """Store an evaluation in a checkpoint folder; a card that nobody edited is written anew."""
    from zoo.card import render
    from zoo.checkpoint import CARD

    before = checkpoint(ref)
    file = before.path / CARD
    unedited = file.is_file() and file.read_text(encoding="utf-8") == render(before)
    after = before.record(name, result)
    if unedited:
        after.write_card(render(after))


def estimate(
    item: "Ref | Recipe | torch.nn.Module",
    target: str,
    *,
    method: str = "auto",
    input_shape: tuple[int, ...] | None = None,
) -> "Cost":
    """Return what a deployed network costs on a target, and how each number is known.

    Args:
        item: a ref or recipe (weights are not needed), or a module of your own.
        target: a name of `zoo.cost.target_names()`, e.g. "ethos-u55-256".
        method: "roofline", "vela" (Ethos-U only), "measured" (only the CPU at hand), or "auto".
        input_shape: e.g. (N, C, H, W); None takes the recipe's reference shape.

    """
    from zoo import cost

    device = cost.target(target)
    if path := tflite_path(item):
        from zoo.export.tflite_read import read_tflite

        return cost.estimate(read_tflite(path), device, method=method)
    if not isinstance(item, str | Path | Recipe):
        return cost.estimate(item, device, method=method, input_shape=input_shape)
    from zoo.checkpoint import build

    recipe = recipe_of(item)
    shape = input_shape or recipe.input_shape
    return cost.estimate(build(recipe), device, method=method, input_shape=shape)


def export(
    ref: Ref,
    path: Ref,
    *,
    format: str = "onnx",
    int8: bool = False,
    npu: bool = False,
    data: Ref | None = None,
) -> "OnnxFile | TfliteFile":
    """Write a model as a deployable file; return its path and its largest error.

    Args:
        ref: of a checkpoint.
        path: of the file.
        format: "onnx" (run in ONNX Runtime and compared before it is written), "tflite", or "c"
            (a `.tflite` file as a C array).
        int8: quantize to int8, with ranges seen on `data`; not for onnx.
        npu: use operators that Ethos-U accelerators have; not for onnx.
        data: folder of pictures that int8 ranges are learned from.

    """
    formats = ("onnx", "tflite", "c")
    if format not in formats:
        raise UnknownNameError.near("format", format, formats, f"known: {', '.join(formats)}")
    if format == "onnx" and (int8 or npu):
        raise MismatchError("int8 and npu need format='tflite'; ONNX files are float")
    from zoo.files import probe

    source = checkpoint(ref)
    probe(Path(path).parent)  # before the work, not after it
    shape = source.recipe.input_shape
    if format != "onnx":
        import torch

        from zoo.export.tflite import export_tflite
        from zoo.tasks import task_of

        if data is not None:
            folder = Path(data).expanduser()
            inputs = task_of(source.recipe).calibration(source.recipe, folder)
        elif int8:
            raise MismatchError(
                "int8 needs inputs like those the device will see, to learn their ranges; "
                "add --data DIR, a folder of pictures"
            )
        else:
            inputs = [torch.rand(shape)]  # a float file is only compared on it
        module, array = source.load(), format == "c"
        return export_tflite(module, Path(path), shape, inputs, int8=int8, npu=npu, c_array=array)
    from zoo.export.onnx import export_onnx

    facts = {
        "recipe": f"{source.recipe.name}.{source.tag}",
        "license": source.license,
        "sha256": source.config["files"]["model.safetensors"]["sha256"],
    }
    return export_onnx(source.load(), Path(path), shape, metadata=facts)


def card(ref: Ref) -> str:
    """Return the model card of a checkpoint: front matter for the Hub, then Markdown."""
    from zoo.card import render

    return render(checkpoint(ref))


def check_card(ref: Ref) -> list[str]:
    """Return what is wrong with the card that lies beside a checkpoint, one sentence each.

    Its metadata must be what the Hub understands, and every number in it a fact of the
    checkpoint: measured, recorded, or computed again.
    """
    from zoo.card_check import problems
    from zoo.checkpoint import CARD

    source = checkpoint(ref)
    if not (source.path / CARD).is_file():
        return [f"there is no {CARD}; zoo card {ref} --out {CARD} writes one"]
    return problems((source.path / CARD).read_text(encoding="utf-8"), source)


def serve(port: int | None = None, *, open_browser: bool = False) -> None:
    """Serve the demo page on this machine until interrupted."""
    from zoo.serve import serve as serve_page

    serve_page(port, open_browser=open_browser)
