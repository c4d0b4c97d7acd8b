"""DoRA (arXiv 2402.09353) through PEFT, as a baseline; its files are PEFT's."""

from torch import nn

from zoo.adapters.masks import Indices
from zoo.adapters.methods._peft import factors
from zoo.adapters.methods.contract import Attachment, Options


def budget(model: nn.Module, options: Options) -> dict[str, int]:
    """Return {}: nothing is masked; the mask's names only say which layers are adapted."""
    return {}


def attach(model: nn.Module, indices: Indices, options: Options) -> Attachment:
    """Attach factors to the linear layers that the mask covers.

    Raises:
        MissingExtraError: peft is not installed.
        MismatchError: a target is not a linear layer.

    """
    return factors(model, options, dora=True)
