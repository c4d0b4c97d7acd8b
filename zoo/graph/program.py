"""`torch.export` of a deployed module, with errors that say where the problem is and what to do."""

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from zoo.errors import MismatchError
from zoo.graph.inputs import Shapes, arguments, made, shapes, words
from zoo.models.approximate.swap import is_swapped

_LOG = logging.getLogger("zoo")
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_DATA_DEPENDENT = ("data-dependent", "Dynamic control flow", "unbacked symbol", "GuardOnData")


def export_program(module: nn.Module, input_shape: Shapes) -> ExportedProgram:
    """Return a module in eval mode as a graph of pure operators, for inputs of one shape.

    Nothing is computed, so the module may be on the meta device.

    Raises:
        MismatchError: the module is in training mode, the shape is not fixed or does not fit, or
            control flow or shapes depend on values. The part of the module is named.

    """
    check_module(module)
    refuse_swapped(module)
    shapes(input_shape)
    name = type(module).__name__
    like = next(module.parameters(), torch.empty(0))
    example = made(input_shape, lambda s: torch.empty(s, dtype=like.dtype, device=like.device))
    positional, named = arguments(example)
    inside: list[str] = []
    try:
        with _quiet(), _following(module, inside), torch.no_grad():
            program = torch.export.export(module, positional, named, strict=False)
            if any(_mutates(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # ReLU(inplace=True) to its pure form
    except Exception as error:  # the module's own code runs here: anything may be raised
        where = f" (in {inside[-1]!r})" if inside and inside[-1] else ""
        raise MismatchError(
            f"cannot trace {name} with {words(input_shape)}{where}: {reason(error)}"
        ) from error
    for node in program.graph.nodes:
        _refuse_complex(node)
    return program


def check_module(module: object) -> None:
    """Raise a MismatchError if something is not a module whose deployed form can be looked for."""
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise MismatchError(f"{name} is TorchScript; give the nn.Module that it was made from")
    if not isinstance(module, nn.Module):
        raise MismatchError(
            f"{module!r:.80} is neither a ref nor a torch.nn.Module; give a module in eval mode"
        )
    if module.training:
        raise MismatchError(f"{name} is in training mode; call .eval() first")
    for path, part in module.named_modules():
        if type(part).__module__.startswith(_QUANTIZED):
            raise MismatchError(
                f"{type(part).__name__} at {path or 'the top level'} is quantized by torch, whose "
                "integers no device here computes; give the float module and export with int8"
            )


def refuse_swapped(module: nn.Module) -> None:
    """Raise a MismatchError if operators were exchanged for approximations."""
    if is_swapped(module):
        raise MismatchError(
            f"{type(module).__name__} has operators without division (--method swap), for which no "
            "file has a form; give the network it was made from"
        )


def refuse_meta(module: nn.Module) -> None:
    """Raise a MismatchError if a module is on the meta device, where it has no values."""
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise MismatchError(
            f"{type(module).__name__} is on the meta device, where parameters have no values, and "
            "this call needs them: build it on the CPU; without values there is "
            'zoo.estimate(..., method="roofline")'
        )


def in_float32(module: nn.Module) -> nn.Module:
    """Return a module as deployed files compute it: itself, or a copy in float32, and say so."""
    tensors = [*module.parameters(), *module.buffers()]
    others = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    if not others:
        return module
    words = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
    _LOG.warning("%s has weights in %s; it is computed in float32", type(module).__name__, words)
    return copy.deepcopy(module).float()


def _one_line(error: BaseException) -> str:
    """Return the first line of an error, without terminal colours; its type if that says more."""
    lines = re.sub("\x1b\\[[0-9;]*m", "", str(error)).strip().splitlines()
    if not lines or isinstance(error, KeyError | AssertionError | NotImplementedError):
        return ": ".join([type(error).__name__, *lines[:1]])
    return lines[0].rstrip(".")


def reason(error: BaseException) -> str:
    """Return, in one line, why a module's code failed, and what to do if that is known."""
    if any(word in str(error) for word in _DATA_DEPENDENT):
        return (
            "control flow and sizes that depend on values have no form on a device: compute "
            "all branches and choose with torch.where, or fix the number of rounds"
        )
    line = _one_line(error)
    if "should be the same" in line or "same dtype" in line:
        line += "; files compute in float32: leave the module's own casts out"
    return line


def _refuse_complex(node: fx.Node) -> None:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    if not any(isinstance(v, torch.Tensor) and v.is_complex() for v in values):
        return
    stack = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())
    schema = getattr(node.target, "_schema", None)
    name = f"aten.{schema.name.split('::')[-1]}" if schema else f"the tensor {node.name!r}"
    raise MismatchError(
        f"{name} at {stack[-1][0] or 'the top level'} is made of complex numbers, which no device "
        "has: compute with their real and imaginary parts"
    )


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


def only_broadcast(node: fx.Node, name: str) -> bool:
    """Whether an expansion is read only by arithmetic that would do the same."""
    if name not in ("expand", "expand_as", "broadcast_to"):
        return False
    source, rank = node.all_input_nodes[0].meta["val"].shape, node.meta["val"].ndim

    def does_the_same(user: fx.Node) -> bool:
        schema = getattr(user.target, "_schema", None)
        operator = schema.name.split("::")[-1].rstrip("_") if schema else ""
        others = [n.meta["val"].shape for n in user.all_input_nodes if n is not node]
        if operator not in ("add", "sub", "mul", "div"):
            return False
        return bool(torch.broadcast_shapes(source, *others) == user.meta["val"].shape)

    return len(source) == rank and all(does_the_same(user) for user in node.users)
