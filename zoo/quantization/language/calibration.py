"""What a model is calibrated on: windows of a text, and hidden states on disk."""

from pathlib import Path

import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.files import sync


def windows(ids: Tensor, *, count: int, length: int, seed: int) -> Tensor:
    """Return `count` random windows of a token stream (n,): (count, length).

    Raises:
        MismatchError: the stream is shorter than one window.

    """
    if len(ids) <= length:
        raise MismatchError(
            f"the calibration text has {len(ids)} tokens, less than one window of {length} and "
            "the token after it; give a longer text or a shorter length (--length)"
        )
    random = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(ids) - length, (count,), generator=random)
    return torch.stack([ids[start : start + length] for start in starts.tolist()])


class HiddenStates:
    """A file of hidden states (windows, length, width) that is mapped, not read.

    All processes of a job map the same file; each writes its own windows.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype

    @property
    def bytes(self) -> int:
        """The size of the complete file."""
        windows_, length, width = self.shape
        return windows_ * length * width * self.dtype.itemsize

    def create(self) -> None:
        """Reserve the file's space: a full disk is an error now, not in the middle of a write.

        Raises:
            OSError: there is no space.

        """
        with self.path.open("wb") as stream:
            block = bytes(1 << 20)
            for start in range(0, self.bytes, len(block)):
                stream.write(block[: self.bytes - start])

    @property
    def is_whole(self) -> bool:
        """Say whether the file exists in full length."""
        return self.path.is_file() and self.path.stat().st_size == self.bytes

    def map(self) -> Tensor:
        """Return the mapped file; what is written into it goes to disk."""
        size = self.bytes // self.dtype.itemsize
        flat = torch.from_file(str(self.path), shared=True, size=size, dtype=self.dtype)
        return flat.view(self.shape)

    def flush(self) -> None:
        """Write everything out to disk."""
        sync(self.path)
