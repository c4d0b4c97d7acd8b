"""Batch norms whose statistics cover all processes, on any device.

A batch norm that sees only its own process's samples trains a different network than one process
with the whole batch would, and torch's `SyncBatchNorm` refuses the CPU.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SharedBatchNorm(_BatchNorm):
    """A batch norm of `(N, C, ...)` over the samples of all processes, the same number in each."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize; in training by (x - E x) / sqrt(E (x - E x)^2 + eps), E over all processes."""
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        x = input.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean = _mean_of_all(x.mean(axes))
        centred = x - mean.view(shape)
        variance = _mean_of_all(centred.square().mean(axes))
        self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        factor = (variance + self.eps).rsqrt()
        if self.affine:
            factor = factor * self.weight
        y = centred * factor.view(shape)
        return (y + self.bias.view(shape) if self.affine else y).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics; the variance, of `count` a process, is unbiased."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        total = count * dist.get_world_size()
        self.running_mean.lerp_(mean.to(self.running_mean), rate)
        self.running_var.lerp_((variance * total / (total - 1)).to(self.running_var), rate)


class _MeanOfAll(torch.autograd.Function):
    """The mean over processes: of a value and, in the backward pass, of its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _MeanOfAll.forward(ctx, gradient)


def _mean_of_all(value: Tensor) -> Tensor:
    mean: Tensor = _MeanOfAll.apply(value)  # type: ignore[no-untyped-call]
    return mean


def share_batch_norms(network: nn.Module) -> None:
    """Let the batch norms of a network share their statistics, in place."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SharedBatchNorm):
                shared = SharedBatchNorm(
                    child.num_features,
                    child.eps,
                    child.momentum,
                    child.affine,
                    child.track_running_stats,
                )
                shared.load_state_dict(child.state_dict(), assign=True)  # on the same device
                setattr(module, name, shared.train(child.training))
