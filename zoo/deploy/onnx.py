"""ONNX files of float networks, checked in ONNX Runtime before they appear."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.errors import MismatchError, MissingExtraError
from zoo.files import replacing

OPSET = 20  # what ONNX Runtime 1.17 (January 2024) and newer read
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A file that was written.

    Attributes:
        path: where.
        max_abs_error: largest difference between ONNX Runtime and the module, over the shapes
            that were tried.
        max_steps: of an int8 file, the largest difference between ONNX Runtime and the integers
            of `zoo.runtime.integer`, in steps of the output.

    """

    path: Path
    max_abs_error: float
    max_steps: int | None = None


def export_onnx(
    module: nn.Module,
    path: Path,
    input_shape: tuple[int, ...],
    *,
    dynamic: bool = True,
    metadata: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> OnnxFile:
    """Write a module in eval mode as one ONNX file with an `input` and an `output`.

    Args:
        module: on the CPU, with its weights, in eval mode.
        path: of the file, which is replaced in one step or not at all.
        input_shape: e.g. (N, C, H, W).
        dynamic: leave the batch open, and height and width of a 4-dimensional input too.
        metadata: stored in the file's metadata properties, e.g. the recipe's name.
        tolerance: largest allowed error, relative to the largest output (at least 1).

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        MismatchError: the module cannot be exported, or ONNX Runtime computes something else.

    """
    onnx, runtime = packages("onnxscript")
    name = type(module).__name__
    if module.training:
        raise MismatchError(f"{name} is in training mode; call .eval() before exporting it")
    if any(parameter.device.type != "cpu" for parameter in module.parameters()):
        raise MismatchError(f"{name} is not on the CPU; call .cpu() before exporting it")
    model = _convert(module, input_shape, dynamic)
    for node in model.graph.node:  # the exporter leaves this machine's paths in stack traces
        kept = [item for item in node.metadata_props if not item.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    error = 0.0
    for shape in _shapes(input_shape, dynamic):
        error = max(error, _difference(module, model, runtime, shape, tolerance))
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return OnnxFile(path=path, max_abs_error=error)


def packages(*more: str) -> tuple[Any, Any]:
    """Return the modules `onnx` and `onnxruntime`, or say which package is missing."""
    for package in ("onnx", *more, "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError.of(package, "export") from error
    import onnx
    import onnxruntime

    return onnx, onnxruntime


def _dynamic_dims(input_shape: tuple[int, ...]) -> dict[int, Any]:
    names = {0: "batch"}
    if len(input_shape) == 4:
        names |= {2: "height", 3: "width"}
    return {axis: torch.export.Dim(name) for axis, name in names.items()}


def _convert(module: nn.Module, input_shape: tuple[int, ...], dynamic: bool) -> Any:
    # An axis of size 1 would be taken for a constant.
    shape = (max(input_shape[0], 2), *input_shape[1:]) if dynamic else input_shape
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (torch.zeros(shape),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=(_dynamic_dims(shape),) if dynamic else None,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds, from several packages
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = "; try dynamic=False" if dynamic else ""
        raise MismatchError(
            f"cannot export {type(module).__name__} with an input of shape "
            f"{tuple(input_shape)} to ONNX: {reason}{advice}"
        ) from error
    assert program is not None
    return program.model_proto


def _shapes(input_shape: tuple[int, ...], dynamic: bool) -> Iterator[tuple[int, ...]]:
    yield input_shape
    if dynamic and len(input_shape) == 4:
        batch, channels, height, width = input_shape
        yield (batch + 1, channels, height + 4, max(width - 4, 4))


def _difference(
    module: nn.Module, model: Any, runtime: Any, shape: tuple[int, ...], tolerance: float
) -> float:
    """Return the largest difference on random input; MismatchError above the tolerance."""
    example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = module(example.clone())  # some write into their input
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = torch.from_numpy(session.run(["output"], {"input": example.numpy()})[0])
    if given.shape != wanted.shape:
        raise MismatchError(
            f"ONNX Runtime gives shape {tuple(given.shape)} for an input of shape {shape}; "
            f"expected {tuple(wanted.shape)}"
        )
    error = float((given - wanted).abs().max())
    allowed = tolerance * max(1.0, float(wanted.abs().max()))
    if not error <= allowed:
        raise MismatchError(
            f"ONNX Runtime differs from {type(module).__name__} by {error:.3g} for an input of "
            f"shape {shape}; allowed are {allowed:.3g}"
        )
    return error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's prints, warnings and log lines from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
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
