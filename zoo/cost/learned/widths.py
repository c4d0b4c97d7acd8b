"""Latency as a function of widths that need not be whole: with a gradient, for searches.

Between the multiples of a step the latency is interpolated on simplices (Kuhn's triangulation):
it is exact at every multiple, continuous everywhere, and its gradient is the difference that one
more step of a width makes where the others stand. A network with L widths takes L + 1 predictions,
all of them in one batch.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.cost.learned.features import SeenPasses, all_passes_of
from zoo.cost.learned.model import Predictor, batch
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.ir import Graph

Widths = tuple[int, ...]


class LatencyOfWidths:
    """A differentiable function: widths (networks, L) to latencies (networks,) in ms.

    Networks that were seen are not built again.
    """

    def __init__(
        self,
        build: Callable[[Widths], Graph],
        predictor: Predictor,
        target: Target,
        *,
        step: int = 8,
    ) -> None:
        """Take the function that builds the int8 graph of whole widths, each a multiple of `step`.

        Args:
            build: from L widths, each at least `step`.
            predictor: of the target's costs, see `zoo.cost.learned.model.load`.
            target: the device.
            step: the grid; 8 channels are what an Ethos-U makes at once.

        """
        self.build, self.predictor, self.target, self.step = build, predictor, target, step
        self._seen: dict[Widths, SeenPasses] = {}

    def __call__(self, widths: Tensor) -> Tensor:
        """Return the latencies.

        Raises:
            MismatchError: `widths` is not (networks, L), or one is below `step`.

        """
        if widths.dim() != 2 or bool((widths.detach() < self.step).any()):
            raise MismatchError(
                f"widths of shape {tuple(widths.shape)}, least "
                f"{float(widths.detach().min()) if widths.numel() else 0:g}; expected (networks, "
                f"L), each {self.step} or more"
            )
        count, length = widths.shape
        places = widths / self.step
        base = places.detach().floor()
        parts = places - base  # their gradient is that of the widths
        order = parts.detach().argsort(dim=1, descending=True)
        ordered = parts.gather(1, order)
        ends = torch.cat([ordered.new_ones(count, 1), ordered], 1)
        shares = ends - torch.cat([ordered, ordered.new_zeros(count, 1)], 1)
        corners = np.repeat(base.long().numpy()[:, None], length + 1, axis=1)
        for place in range(length):  # each corner takes one more step than the one before
            rows = np.arange(count)
            corners[rows, place + 1 :, order[:, place].numpy()] += 1
        found = self._latencies(corners.reshape(-1, length) * self.step)
        return (shares * found.reshape(count, length + 1).to(shares)).sum(1)

    def _latencies(self, corners: "np.ndarray[tuple[int, int], np.dtype[np.int64]]") -> Tensor:
        keys = [tuple(int(value) for value in row) for row in corners]
        unique = list(dict.fromkeys(keys))
        new = [key for key in unique if key not in self._seen]
        seen = all_passes_of([self.build(key) for key in new], self.target)
        self._seen.update(zip(new, seen, strict=True))
        with torch.no_grad():
            cycles = self.predictor(batch([self._seen[key] for key in unique])).cycles
        places = {key: place for place, key in enumerate(unique)}
        clock = self.target.get("clock_hz") or 1.0
        return cycles[[places[key] for key in keys]] * (1e3 / clock)
