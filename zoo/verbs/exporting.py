"""What `zoo.export` does with each kind of model: float, quantized, trained for int8, packed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import MismatchError, UnknownNameError

if TYPE_CHECKING:
    import torch

    from zoo.artifacts.resolution import Ref
    from zoo.deploy.front_end import FrontEndFile
    from zoo.deploy.onnx import OnnxFile
    from zoo.deploy.tflite import TfliteFile
    from zoo.graph.inputs import Inputs, Shapes
    from zoo.registry.artifact import Artifact
    from zoo.registry.checkpoint import Checkpoint


# The suffixes of each format's files; the first is the default.
FORMATS = {
    "onnx": (".onnx",),
    "tflite": (".tflite", ".lite"),
    "c": (".c", ".h", ".cc", ".cpp", ".hpp", ".inc"),
    "gguf": (".gguf",),
}
# Those that are folders, of language models.
FOLDERS = ("gptq", "compressed-tensors")
OF_LANGUAGE = ("gguf", *FOLDERS)


def format_of(path: Path, format: str | None) -> str:
    """Return the format to write: what was asked for, or what the file's suffix stands for.

    Raises:
        UnknownNameError: there is no such format.
        MismatchError: the suffix stands for none, or for another one.

    """
    names = (*FORMATS, *FOLDERS)
    if format is not None and format not in names:
        raise UnknownNameError.near("format", format, names, f"known: {', '.join(names)}")
    suffix = path.suffix.lower()
    meant = next((name for name, suffixes in FORMATS.items() if suffix in suffixes), None)
    if not suffix or (meant is None and format in FOLDERS):
        return format or "onnx"
    if meant is None:
        known = ", ".join(f"{name} ({suffixes[0]})" for name, suffixes in FORMATS.items())
        raise MismatchError(f"{path.name} ends in {path.suffix}, and formats are: {known}")
    if format not in (None, meant):
        own = FORMATS.get(str(format), ("",))[0]  # folders have none
        raise MismatchError(
            f"{path.name} would be a {format} {'file' if own else 'folder'} that is named like "
            f"{meant}; name it {path.stem}{own}, or leave --format {format} out"
        )
    return meant


def activations(
    format: str, *, int8: bool, int16: bool, npu: bool
) -> Literal["int8", "int16"] | None:
    """Return how activations are stored, None for floats; refuse what a format does not have."""
    if int8 and int16:
        raise MismatchError("int8 and int16 exclude each other; give one")
    if format == "onnx" and (int16 or npu):
        raise MismatchError("int16 and npu need format='tflite'")
    return "int16" if int16 else "int8" if int8 else None


def write(
    module: "torch.nn.Module",
    path: Path,
    shape: "Shapes",
    inputs: "Sequence[Inputs] | None",
    format: str,
    activations: Literal["int8", "int16"] | None,
    *,
    npu: bool,
    facts: Mapping[str, str] | None = None,
) -> "OnnxFile | TfliteFile":
    """Write a module; `activations` says how its integers are stored, None keeps floats."""
    from zoo.graph.inputs import shapes
    from zoo.graph.program import check_module

    check_module(module)
    for single in shapes(shape).values():
        if 4 * math.prod(single) >= 2**31:
            raise MismatchError(
                f"an input of shape {single} has {4 * math.prod(single)} bytes, and files hold "
                "tensors below 2 GiB; export for a smaller input and run the device on tiles"
            )
    from zoo.deploy.fidelity import random_inputs
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
        inputs or [random_inputs(shape)],  # a float file is only compared on it
        int8=activations is not None,
        npu=npu,
        c_array=format == "c",
        options=Options(activations=activations or "int8"),
    )


def single(shape: "Shapes | None") -> tuple[int, ...] | None:
    """Return the shape of a checkpoint's one input."""
    from zoo.graph.inputs import is_several

    if shape is None:
        return None
    if is_several(shape):
        raise MismatchError(f"a checkpoint's network has one input; {shape!r} is of several")
    return tuple(shape)  # type: ignore[arg-type]


def batches(data: Any, *, needed: bool) -> "Sequence[Inputs] | None":
    """Return a module's calibration inputs."""
    import torch

    if isinstance(data, torch.Tensor | Mapping):
        return [data]
    if isinstance(data, str | Path) or (needed and not data):
        raise MismatchError(
            "integers need inputs like those the device will see, to learn their ranges; give a "
            "module's as data=[batch, ...], tensors of the shape (N, C, H, W)"
        )
    return data


def data_path(data: str | Path) -> Path:
    """Return where data lie: absolute for what can only be a file, there or not."""
    path = Path(data).expanduser()
    if path != Path(data) or not isinstance(data, str) or data.startswith((".", "/")):
        return path.absolute()
    return path  # maybe a Hub data set, org/name


def calibration_inputs(source: "Checkpoint", data: Path | None) -> "list[torch.Tensor]":
    """Return the inputs that ranges are learned from."""
    from zoo.tasks import calibration

    if data is None:
        raise MismatchError(
            "integers need inputs like those the device will see, to learn their ranges; "
            "add --data DIR, a folder of them"
        )
    return calibration(source.recipe, data)


def facts_of(source: "Checkpoint") -> dict[str, str]:
    """Return what a file records about its weights: recipe, licence and SHA-256."""
    return {
        "recipe": source.label,
        "license": source.license,
        "sha256": source.config["files"]["model.safetensors"]["sha256"],
    }


def refuse_packed(format: str, *, int8: bool, data: Path | None) -> None:
    """Refuse what a packed language model's checkpoint cannot be exported with.

    Raises:
        MismatchError: another format than onnx here, or an option.

    """
    if format != "onnx" or int8 or data is not None:
        raise MismatchError(
            "a packed language model is exported with --format gguf, onnx, gptq or "
            "compressed-tensors, and no other option"
        )


def write_packed(source: "Checkpoint", path: Path) -> "OnnxFile":
    """Write a packed language model with its codes."""
    import torch

    from zoo.deploy.onnx_language import export
    from zoo.quantization.language.opening import load

    facts = {"recipe": source.label, "license": source.license}
    return export(load(source.path, dtype=torch.float32), path, metadata=facts)


def refuse_options(format: str, *options: Any) -> None:
    """Refuse what only networks have."""
    if any(option not in (None, False) for option in options):
        raise MismatchError(
            f"--format {format} writes a language model as it was compressed; it takes no --int8, "
            "--int16, --npu, --data or --shape"
        )


def write_language(item: "Ref | Artifact | torch.nn.Module", path: Path, format: str) -> Any:
    """Write a language model, packed or not, for another runtime.

    Raises:
        MismatchError: it is none, or has no form there.

    """
    from zoo.artifacts.files import LanguageModel
    from zoo.artifacts.networks import Network
    from zoo.artifacts.resolution import is_artifact, resolve
    from zoo.models.structured.network import is_structured
    from zoo.verbs.compression import license_of

    if not isinstance(item, str | Path) and not is_artifact(item):
        raise MismatchError(
            f"{type(item).__name__} is a module; --format {format} takes a language model's folder "
            "with its tokenizer: save it with save_pretrained"
        )
    found = resolve(item) if isinstance(item, str | Path) else item
    if isinstance(found, Network) and found.recipe.of_transformers:
        facts = {"recipe": found.checkpoint.label, "license": found.checkpoint.license}
    elif isinstance(found, LanguageModel):
        facts = {"recipe": found.path.name, "license": license_of(found.path)}
    else:
        raise MismatchError(
            f"{found.ref} is no language model, and --format {format} is for those; networks are "
            "exported with --format tflite, onnx or c"
        )
    model = found.load()
    if is_structured(model):
        raise MismatchError(
            f"{found.ref} holds its matrices in forms, for which --format {format} has no place; "
            "add --format onnx, or export the model it was made from"
        )
    if format == "gguf":
        from zoo.deploy.language.gguf_file import export

        return export(model, found.path, path, facts=facts)
    from zoo.deploy.language.folders import export as export_folder

    return export_folder(model, found.path, path, format)


def write_trained(
    source: "Checkpoint",
    path: Path,
    shape: tuple[int, ...],
    data: Path | None,
    *,
    npu: bool,
    format: str,
) -> "OnnxFile | TfliteFile":
    """Write the integer network of a checkpoint, with the ranges that were trained."""
    from zoo.deploy.file_network import FileNetwork, integer_network, write_file
    from zoo.deploy.tflite import write_quantized

    if data is not None:
        raise MismatchError(
            f"{source.recipe.name}.{source.tag} has the ranges it was trained with; leave --data "
            "out"
        )
    network = integer_network(source)
    if isinstance(network, FileNetwork):
        network.graph(shape)  # of this shape and no other
        if format == "onnx":
            raise MismatchError(
                f"the integers of {source.recipe.name}.{source.tag} are those of a .tflite file; "
                "add --format tflite, or leave --int8 out for its float weights"
            )
        return write_file(network, path, npu=npu, c_array=format == "c")
    if format == "onnx":
        from zoo.deploy.onnx_qdq import export_quantized

        return export_quantized(network, network.graph, path, shape, metadata=facts_of(source))
    return write_quantized(network, network.graph, path, shape, npu=npu, c_array=format == "c")


def write_heard(item: "Artifact", path: Path) -> "FrontEndFile":
    """Write the front end of a network that hears as C source, for its device.

    Raises:
        MismatchError: the network has none, or the name is not that of a header.

    """
    from zoo.data import frontends
    from zoo.deploy.front_end import write_front_end

    facts = item.recipe.preprocessing if item.recipe else {}
    if "front_end" not in facts:
        raise MismatchError(f"{item.ref} has no front end; networks that hear have one")
    if path.suffix.lower() not in FORMATS["c"]:
        raise MismatchError(f"{path.name} is C source; name it {path.stem}.h")
    return write_front_end(frontends.named(str(facts["front_end"])), path)
