"""A second split: wishes learn from samples that weights do not, as bilevel searches ask for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe


class Splits:
    """A task whose batches are of one half of the training data, or of both.

    Args:
        task: the task.
        data: its training data; every second sample is in the second half.
        half: says for a step which half a batch is of, 0 or 1; None: its first rows are of the
            first half, and as many of the second.

    Raises:
        MismatchError: there are no two samples.

    """

    def __init__(self, task: Any, data: Any, half: Callable[[int], int | None]) -> None:
        if len(data.train) < 2:
            raise MismatchError("a search with a second split needs two samples or more")
        self._task, self._half = task, half
        self.halves = [part(data, 0), part(data, 1)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def batch(
        self, data: Any, recipe: Recipe, step: int, rows: range, total: int
    ) -> tuple[Tensor, Tensor]:
        """Return rows of a step's samples, as the task does; see `half`."""
        half = self._half(step)
        if half is not None:
            found: tuple[Tensor, Tensor] = self._task.batch(
                self.halves[half], recipe, step, rows, total
            )
            return found
        middle = rows.start + len(rows) // 2
        places = (range(rows.start, middle), range(middle, rows.stop))
        both = [
            self._task.batch(of, recipe, step, place, total)
            for of, place in zip(self.halves, places, strict=True)
            if len(place)
        ]
        inputs, targets = (torch.cat(parts) for parts in zip(*both, strict=True))
        return inputs, targets


def part(data: Any, which: int) -> Any:
    """Return training data of every second sample, from number `which` on."""
    train, changes = data.train, dict[str, Any]()
    numbers = list(range(which, len(train), 2))
    if hasattr(train, "some"):  # clips of machines
        changes["train"] = train.some(numbers)
    elif hasattr(train, "part"):  # pictures that stay in their files
        changes["train"] = train.part([number % 2 == which for number in range(len(train))])
    elif isinstance(train, list | tuple):
        changes["train"] = type(train)(train[number] for number in numbers)
    else:
        changes["train"] = train[torch.tensor(numbers)]
    if hasattr(data, "shares"):  # of each and those before it
        sizes = np.diff(data.shares, prepend=0.0)[numbers]
        changes["shares"] = sizes.cumsum() / sizes.sum()
    if hasattr(data, "heard"):  # by the numbers of the samples, which change
        changes["heard"] = {}
    return dataclasses.replace(data, **changes)
