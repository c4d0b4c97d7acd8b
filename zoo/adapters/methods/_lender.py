"""What the methods share whose trained values are parameters that the model computes with."""

from torch import nn

from zoo.adapters.methods.contract import Values


class Lender:
    """Trained parameters in which other values can be put for a while.

    Args:
        trained: a module with every trained value and nothing else.

    """

    def __init__(self, trained: nn.Module) -> None:
        self.trained = trained
        self._kept: Values = {}

    def collect(self) -> None:
        """Do nothing: the gradients are already where they are needed."""

    def use(self, values: Values | None = None) -> None:
        """Let the model compute with these values, or with those being trained if None."""
        if values is None:
            values, self._kept = self._kept, {}
        elif not self._kept:
            self._kept = {k: v.detach().clone() for k, v in self.trained.state_dict().items()}
        if values:
            self.trained.load_state_dict(dict(values))
