"""Linear layers that a model holds in another form, turned into `nn.Linear` and back.

GPT-2 keeps the transpose in a `Conv1D`; a mixture of experts, as transformers 5 stores it, keeps
the matrices of all experts in one tensor (experts, outputs, inputs) and multiplies with one of them
at a time. Exposed, each matrix is a layer like any other: it is calibrated on its own inputs, and
stored under its own name.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import MismatchError


class Operand:
    """Stands for a layer's weight in `F.linear(x, weight)`: the layer itself is called."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Tensor:
        """Call the layer of the second argument on the first."""
        if func is not F.linear or len(args) != 2 or kwargs or not isinstance(args[1], cls):
            raise MismatchError(
                f"the matrix of an expert is used in {getattr(func, '__name__', func)}; only "
                "F.linear(x, weight) can be packed: leave the experts out with --skip '*experts*'"
            )
        y: Tensor = args[1].layer(args[0])
        return y


class Experts(nn.Module):
    """In place of a parameter (experts, outputs, inputs): one layer per expert, "0", "1", ...

    `experts[i]` may be multiplied with as the parameter's matrix could: `F.linear(x, experts[i])`.
    """

    _is_hf_initialized = True  # transformers fills a parameter that was not in the file

    def __init__(self, layers: Iterable[nn.Linear]) -> None:
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)

    def __len__(self) -> int:
        """Return the number of experts."""
        return len(self._modules)

    def __getitem__(self, index: int | Tensor) -> Operand:
        """Return what stands for the matrix (outputs, inputs) of one expert."""
        return Operand(self.get_submodule(str(int(index))))


def find(model: nn.Module) -> list[str]:
    """Return the names of the modules and parameters of a model that can be exposed."""
    names = []
    for name, module in model.named_modules():
        if _is_transposed(module):
            names.append(name)
        elif _is_mixture(module):
            names += [f"{name}.{key}" for key in _stacks(module)]
    return names


def expose(model: nn.Module, names: Iterable[str]) -> dict[str, Any]:
    """Put linear layers, which share no memory with the model, in place of `names`.

    Returns:
        what was there, by name, for `put_back`.

    Raises:
        MismatchError: the model has no such module or parameter.

    """
    usual = {}
    for name in names:
        owner, _, key = name.rpartition(".")
        try:
            parent = model.get_submodule(owner)
            found = getattr(parent, key)
        except AttributeError:
            found = None
        if isinstance(found, nn.Module) and _is_transposed(found):
            setattr(parent, key, _linear(found.weight.T, found.bias))
        elif isinstance(found, nn.Parameter) and found.ndim == 3 and _is_mixture(parent):
            delattr(parent, key)
            setattr(parent, key, Experts(_linear(matrix) for matrix in found))
            # One expert after another: the other ways need all matrices in one tensor.
            settings: Any = copy.copy(parent.config)  # other models may share it
            settings._experts_implementation = "eager"
            parent.config = settings
        else:
            raise MismatchError(f"{type(model).__name__} has no packed form for {name!r}")
        usual[name] = found
    return usual


def put_back(model: nn.Module, usual: Mapping[str, Any]) -> None:
    """Undo `expose`, from what it returned."""
    for name, found in usual.items():
        owner, _, key = name.rpartition(".")
        parent = model.get_submodule(owner)
        delattr(parent, key)
        setattr(parent, key, found)


def conceal(model: nn.Module, names: Iterable[str]) -> None:
    """Undo `expose` for layers that are plain `nn.Linear` again."""
    for name in names:
        owner, _, key = name.rpartition(".")
        parent, found = model.get_submodule(owner), model.get_submodule(name)
        if isinstance(found, Experts):
            layers = [x.get_parameter("weight").detach() for x in found.children()]
            delattr(parent, key)
            setattr(parent, key, nn.Parameter(torch.stack(layers), requires_grad=False))
        elif isinstance(found, nn.Linear):
            setattr(parent, key, _transposed(found))


def _linear(weight: Any, bias: Any = None) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer.eval()


def _transposed(layer: nn.Linear) -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        module: Any = Conv1D(layer.out_features, layer.in_features)
    module.weight = nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=False)
    module.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    made: nn.Module = module.eval()
    return made


def _is_transposed(module: nn.Module) -> bool:
    """Say whether a module is transformers' `Conv1D`, without importing transformers."""
    kind = type(module)
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


def _is_mixture(module: nn.Module) -> bool:
    """Say whether a module multiplies with one expert's (outputs, inputs) matrix at a time."""
    plain = not getattr(module, "is_transposed", True) and not getattr(module, "has_bias", True)
    return plain and hasattr(getattr(module, "config", None), "_experts_implementation")


def _stacks(module: nn.Module) -> list[str]:
    return [key for key, value in module.named_parameters(recurse=False) if value.ndim == 3]
