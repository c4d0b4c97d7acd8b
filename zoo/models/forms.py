"""The two forms of a network: the trained one and the deployed one.

A network whose training form differs (wide linear blocks, batch norms to be folded) has a method
`trainable(**options)` that returns that form, and the form has `deployed()` and
`load_deployed(network)`. For every other network the two are the same module. A form whose training
has phases has `advance(share)`, which is called before each step with the share of the run that is
done, from 0 to below 1: what it sets is a function of the share alone, so that runs resume.

A deployed network that computes in integers holds the float `network` that is stored, and has
`quantization()`, its description in a config.
"""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from zoo.models.structured.network import is_structured


def training_form(network: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    """Return the form of `network` that is trained, freshly initialised.

    `options` may hold more than the form takes, because the task keeps its settings there too.
    """
    make = getattr(network, "trainable", None)
    if make is None or is_structured(network):  # whose layers are trained in their forms
        return network
    wanted = inspect.signature(make).parameters
    form: nn.Module = make(**{name: options[name] for name in wanted if name in options})
    return form


def load_deployed(form: nn.Module, network: nn.Module) -> None:
    """Start a training form from the weights of a deployed network.

    Raises:
        ValueError, RuntimeError: the weights do not fit.

    """
    if hasattr(form, "load_deployed"):
        form.load_deployed(network)  # type: ignore[operator]
    else:
        form.load_state_dict(network.state_dict())


def deployed_form(form: nn.Module) -> nn.Module:
    """Return the deployed network of a training form, in eval mode; the form is left alone."""
    make = getattr(form, "deployed", None)
    network: nn.Module = copy.deepcopy(form) if make is None else make()
    return network.eval()


def stored_form(deployed: nn.Module) -> tuple[nn.Module, dict[str, Any] | None]:
    """Return the float network whose tensors are stored, and the facts of its quantization."""
    if hasattr(deployed, "quantization"):
        return deployed.network, deployed.quantization()  # type: ignore[return-value, operator]
    return deployed, None
