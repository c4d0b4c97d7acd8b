"""Checks that a loaded network gets the input its recipe describes: type, channels and range."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe

_SLACK = 0.5  # share of the range's width: noise and overshoot are fine, 8-bit pixels are not


def checked(module: nn.Module, recipe: Recipe) -> nn.Module:
    """Return the module, which from now on refuses inputs that do not fit its recipe.

    Only for recipes whose preprocessing has a range. The check is a forward pre-hook: it leaves
    the state dict alone, is copied and pickled with the module, and is not traced.

    Raises:
        MismatchError: the recipe's range is not (low, high).

    """
    limits = recipe.preprocessing.get("range")
    if limits is None:
        return module
    try:
        low, high = (float(limit) for limit in limits)
    except (TypeError, ValueError) as error:
        raise MismatchError(
            f"preprocessing.range of {recipe.name} is {limits!r}; expected two numbers"
        ) from error
    check = InputCheck(recipe.name, recipe.input_shape, (low, high))
    module.register_forward_pre_hook(check, with_kwargs=True)
    return module


@dataclass
class InputCheck:
    """A forward pre-hook that raises a one-line MismatchError for an input that does not fit.

    Type and channels are checked in every call. So is the range if the tensor is in the CPU's
    memory, else only in the first call: reading it would wait for the device. Values may leave the
    range by up to half its width.

    Attributes:
        name: the recipe's name, for messages.
        shape: shape of the recipe's input, e.g. (N, C, H, W).
        limits: low and high end of the range.
        looked: whether the range has been read once.

    """

    name: str
    shape: tuple[int, ...]
    limits: tuple[float, float]
    looked: bool = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check the first input of a call."""
        x = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(x, Tensor):
            raise self._refusal(f"a {type(x).__name__}", "torch.from_numpy makes one from an array")
        given = f"{x.dtype} {tuple(x.shape)}"
        if not x.is_floating_point():
            raise self._refusal(given, "for a range of [0, 1], 8-bit pixels are x.float() / 255")
        if not _computes_in(module, x):
            raise self._refusal(given, f"type x.to({next(module.parameters()).dtype})")
        if x.ndim != len(self.shape):
            raise self._refusal(given, f"it has {x.ndim} dimensions, not {len(self.shape)}")
        if x.shape[1:2] != self.shape[1:2]:
            raise self._refusal(given, f"it has {x.shape[1]} channels, not {self.shape[1]}")
        if x.device.type == "cpu" or not self.looked:
            self._look(x)

    def _look(self, x: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        try:
            low, high = (float(limit) for limit in x.detach().aminmax())
        except RuntimeError:  # no elements, or no values: meta and fake tensors
            return
        self.looked = True
        slack = _SLACK * (self.limits[1] - self.limits[0])
        if not (self.limits[0] - slack <= low and high <= self.limits[1] + slack):
            raise self._refusal(
                f"values from {low:g} to {high:g}",
                f"see the preprocessing of: zoo show {self.name}",
            )

    def _refusal(self, given: str, advice: str) -> MismatchError:
        low, high = self.limits
        sizes = ["N", *map(str, self.shape[1:])]
        if len(sizes) == 4:
            sizes[2:] = "HW"
        return MismatchError(
            f"the input of {self.name} is {given}; expected a float tensor ({', '.join(sizes)}) "
            f"with values in [{low:g}, {high:g}]: {advice}"
        )


def _computes_in(module: nn.Module, x: Tensor) -> bool:
    """Whether a network takes this type: its parameters have it, or something converts it."""
    dtypes = (parameter.dtype for parameter in module.parameters())
    if next(dtypes, x.dtype) == x.dtype or x.dtype in dtypes or hasattr(module, "quantization"):
        return True
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
