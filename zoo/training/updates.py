"""Updates: how one optimizer step is made of passes over its batch."""

from torch import Tensor
from torch.optim import Optimizer

from zoo.training.contract import Passes


def descent(passes: Passes, optimizer: Optimizer) -> Tensor:
    """Step along the gradient of the batch; return its loss."""
    loss = passes.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss
