"""Labelled pictures that stay in their files, for sets that do not fit into memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.data.classified import Labelled


@dataclass(frozen=True)
class Filed:
    """Pictures with label numbers, each decoded when it is asked for.

    Attributes:
        files: path and label number of each.
        decode: gives a file's bytes `(H, W, C)`, all of one size.

    """

    files: Sequence[tuple[Path, int]]
    decode: Callable[[Path], NDArray[np.uint8]]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.files)

    def part(self, chosen: Any) -> "Filed":
        """Return some of them, still in their files; `chosen` is a mask."""
        return Filed([file for file, kept in zip(self.files, chosen, strict=True) if kept],
                     self.decode)  # fmt: skip

    def __getitem__(self, chosen: Any) -> Labelled:
        """Decode some of them; `chosen` is a slice or a tensor of numbers."""
        numbers = range(len(self.files))[chosen] if isinstance(chosen, slice) else chosen.tolist()
        files = [self.files[number] for number in numbers]
        return decoded(files, self.decode)


def decoded(
    files: Sequence[tuple[Path, int]], decode: Callable[[Path], NDArray[np.uint8]]
) -> Labelled:
    """Return pictures `(N, H, W, C)` with their labels, all of them decoded."""
    first = [decode(path) for path, _ in files[:1]]
    shape = first[0].shape if first else (0, 0, 0)
    pixels = np.empty((len(files), *shape), np.uint8)
    for slot, (path, _) in enumerate(files):
        pixels[slot] = first[0] if slot == 0 else decode(path)
    return Labelled(torch.from_numpy(pixels), torch.tensor([number for _, number in files]))
