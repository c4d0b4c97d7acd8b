"""`torch.export` of a deployed module, with errors that say where the problem is and what to do."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from zoo.errors import MismatchError

_DATA_DEPENDENT = ("data-dependent", "Dynamic control flow", "unbacked symbol", "GuardOnData")


def export_program(module: nn.Module, input_shape: tuple[int, ...]) -> ExportedProgram:
    """Return a module in eval mode as a graph of pure operators, for one input of this shape.

    Nothing is computed, so the module may be on the meta device.

    Raises:
        MismatchError: the module is in training mode, the shape is not fixed or does not fit, or
            control flow or shapes depend on values. The part of the module is named.

    """
    name = type(module).__name__
    if module.training:
        raise MismatchError(f"{name} is in training mode; call .eval() before tracing it")
    if not input_shape or any(type(size) is not int or size < 1 for size in input_shape):
        raise MismatchError(
            f"the input shape {tuple(input_shape)} is not fixed; a deployed graph has one size, "
            "e.g. (1, 3, 96, 96): make a graph for each"
        )
    like = next(module.parameters(), torch.empty(0))
    example = torch.empty(input_shape, dtype=like.dtype, device=like.device)
    inside: list[str] = []
    try:
        with _quiet(), _following(module, inside), torch.no_grad():
            program = torch.export.export(module, (example,), strict=False)
            if any(_mutates(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # ReLU(inplace=True) to its pure form
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = f" (in {inside[-1]!r})" if inside and inside[-1] else ""
        advice = ""
        if any(word in str(error) for word in _DATA_DEPENDENT):
            advice = (
                "; control flow and sizes that depend on values have no form on a device: compute "
                "all branches and choose with torch.where, or fix the number of rounds"
            )
        raise MismatchError(
            f"cannot trace {name} with an input of shape {tuple(input_shape)}{where}: "
            f"{reason}{advice}"
        ) from error
    return program


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


@contextlib.contextmanager
def _following(module: nn.Module, inside: list[str]) -> Iterator[None]:
    """Keep in `inside` the paths of the parts that are running; an error leaves them there."""
    hooks = []
    for path, part in module.named_modules():

        def enter(part: nn.Module, inputs: object, path: str = path) -> None:
            inside.append(path)

        def leave(part: nn.Module, inputs: object, outputs: object) -> None:
            inside.pop()

        hooks.append(part.register_forward_pre_hook(enter))
        hooks.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide from the user what torch.export warns, logs and prints about its own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()):
                yield
    finally:
        logging.disable(before)
