"""ONNX files of float networks, checked in ONNX Runtime before they appear."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.deploy.fidelity import Fidelity, deployable, faithful, random_inputs, reference
from zoo.errors import MismatchError, MissingExtraError
from zoo.files import replacing
from zoo.graph.inputs import (
    Shapes,
    arguments,
    changed,
    is_several,
    made,
    of_batch,
    shapes,
    tensors,
    words,
)
from zoo.graph.program import reason

OPSET = 20  # what ONNX Runtime 1.17 (January 2024) and newer can read


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A file that was written.

    Attributes:
        path: where the file is.
        max_abs_error: largest difference between ONNX Runtime and the module, over the shapes
            that were tried.
        snr_db: the lowest signal-to-noise ratio there; see `zoo.deploy.fidelity`.
        max_steps: for an int8 file, the largest difference between ONNX Runtime and the integers
            of `zoo.runtime.integer`, in steps of the output.

    """

    path: Path
    max_abs_error: float
    snr_db: float
    max_steps: int | None = None


def export_onnx(
    module: nn.Module,
    path: Path,
    input_shape: Shapes,
    *,
    dynamic: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> OnnxFile:
    """Write a module in eval mode as one ONNX file with an `input` and an `output`.

    Several outputs are `output0`, `output1` and so on.

    Args:
        module: in eval mode, on the CPU, with its weights.
        path: the file, which is replaced in one step or not at all.
        input_shape: shape of the input, e.g. (N, C, H, W); of several a tuple of shapes, or a
            mapping by their names. Several are `input0`, `input1`, or have their own names.
        dynamic: of one input, leave the batch open, and height and width of a picture too, or
            as many of these as the module takes: a layer that flattens a picture fixes its size.
        metadata: stored in the file's metadata properties, e.g. the recipe's name.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        MismatchError: the module cannot be exported, or ONNX Runtime computes something else.

    """
    onnx, runtime = packages("onnxscript")
    module = deployable(module)
    single = next(iter(shapes(input_shape).values()))
    for axes in _open_axes(module, single, dynamic) if not is_several(input_shape) else [{}]:
        try:
            model = _convert(module, input_shape, axes)
            content = _content(onnx, model, metadata or {})
            found = [_compared(runtime, module, content, input_shape)]
            if axes:
                found += [_compared(runtime, module, content, _other(single, axes))]
            break
        except MismatchError as error:  # the exporter may need sizes that the module does not
            problem = error
    else:
        raise problem
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return written(path, found)


def _content(onnx: Any, model: Any, metadata: Mapping[str, str]) -> bytes:
    for node in model.graph.node:  # the exporter leaves this machine's paths in stack traces
        kept = [item for item in node.metadata_props if not item.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _compared(runtime: Any, module: nn.Module, content: bytes, shape: Shapes) -> Fidelity:
    x = random_inputs(shape)
    wanted, outputs = reference(module, x), ran(runtime, content, tensors(x))
    return faithful(type(module).__name__, wanted, outputs, what="ONNX Runtime")


def written(path: Path, found: Sequence[Fidelity]) -> OnnxFile:
    """Return the facts of a float file that was compared on several inputs."""
    return OnnxFile(
        path=path,
        max_abs_error=max(one.max_abs_error for one in found),
        snr_db=min(one.snr_db for one in found),
    )


def packages(*more: str) -> tuple[Any, Any]:
    """Return the modules `onnx` and `onnxruntime`.

    Raises:
        MissingExtraError: one of them, or of `more`, is not installed.

    """
    for package in ("onnx", *more, "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError.of(package, "export") from error
    import onnx
    import onnxruntime

    return onnx, onnxruntime


Axes = dict[int, str]
_AXES: tuple[Axes, ...] = ({0: "batch", 2: "height", 3: "width"}, {0: "batch"})


def _open_axes(module: nn.Module, shape: tuple[int, ...], dynamic: bool) -> Iterator[Axes]:
    """Yield the sets of axes that the module lets stay open, the largest set first."""
    for axes in _AXES if dynamic else ():
        if max(axes) == 3 and len(shape) != 4:
            continue
        try:
            reference(module, torch.zeros(_other(shape, axes)))
        except Exception:  # a layer has that size, or the module's own check of it
            continue
        yield axes
    yield {}


def _other(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    """Return the same input in another size."""
    batch, *rest = shape
    if 3 in axes:
        channels, height, width = rest
        rest = [channels, height + 4, max(width - 4, 4)]
    return (batch + 1, *rest)


def _convert(module: nn.Module, input_shape: Shapes, axes: Axes) -> Any:
    count = len(reference(module, made(input_shape, torch.zeros)))
    names = ["output"] if count == 1 else [f"output{place}" for place in range(count)]
    # An axis of size 1 would be taken for a constant.
    shape = changed(input_shape, lambda s: (max(s[0], 2), *s[1:])) if axes else input_shape
    positional, named = arguments(made(shape, torch.zeros))
    places = [f"input{name}" if name.isdigit() else name or "input" for name in shapes(shape)]
    dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                positional,
                kwargs=named,
                dynamo=True,
                opset_version=OPSET,
                input_names=places,
                output_names=names,
                dynamic_shapes=(dims,) if axes else None,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds, from several packages
        raise MismatchError(
            f"cannot export {type(module).__name__} with {words(input_shape)} to ONNX: "
            f"{_first_cause(error)}; replace that part of it"
        ) from error
    assert program is not None
    return program.model_proto


def _first_cause(error: BaseException) -> str:
    """Return the reason that the original error gives."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return reason(error)


def ran(
    runtime: Any, content: bytes, inputs: Sequence[Tensor], settings: Any = None
) -> list[Tensor]:
    """Return the outputs of ONNX Runtime for a file's bytes and its inputs in order."""
    settings = settings or runtime.SessionOptions()
    settings.log_severity_level = 4  # its errors are raised
    try:
        session = runtime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        names = [place.name for place in session.get_inputs()]
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, given)]
    except Exception as error:  # its exceptions have no class in common
        raise MismatchError(
            f"ONNX Runtime does not run the file with {words(of_batch(tuple(inputs)))}: "
            f"{_first_cause(error)}; replace that part of the module"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's prints, warnings and log lines from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # what fails is raised
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
