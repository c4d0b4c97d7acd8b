"""Calibration passes that repeat no work: finished parts of a module answer from memory."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from zoo.quantization.language import blocks

LIMIT = 256 << 20  # bytes of stored answers


class CalibrationRuns:
    """A module's runs on the calibration windows, one callable each.

    A part whose linear layers are final, as are all that are called before them, returns the same
    answer in every later run of the same window. It is stored, up to `limit` bytes in all, and
    returned instead of being computed.

    Args:
        module: what the runs call.
        runs: each runs the module on one window.
        limit: limit on the stored bytes.

    """

    def __init__(
        self, module: nn.Module, runs: Sequence[Callable[[], Any]], *, limit: int = LIMIT
    ) -> None:
        self._module, self._runs, self._limit = module, runs, limit
        self._final: dict[str, nn.Module] = {}
        self._kept: dict[str, dict[tuple[int, int], Any]] = {}  # by (run, number of the call)
        self._bytes = 0

    def __len__(self) -> int:
        """Return how many runs there are."""
        return len(self._runs)

    def __iter__(self) -> Iterator[Callable[[], Any]]:
        """Yield each run."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Callable[[], Any]:
        """Return a run, as a callable without arguments."""
        return partial(self._run, index)

    def finish(self, order: Iterable[str], final: set[str]) -> None:
        """Take note of which linear layers will no longer change.

        Args:
            order: the names of all layers, as they are called.
            final: those that will not change.

        """
        known = set(itertools.takewhile(final.__contains__, order))
        for name, part in self._module.named_modules():
            inner = {f"{name}.{below}" if below else name for below in blocks.linears(part)}
            called = name and not isinstance(part, nn.ModuleList | nn.ModuleDict)
            if called and inner and inner <= known:
                self._final[name] = part
                self._kept.setdefault(name, {})

    def _run(self, index: int) -> Any:
        names = list(self._final)
        usual = [part.forward for part in self._final.values()]

        def answering(number: int) -> Callable[..., Any]:
            return self._answering(names[number], usual[number], index)

        with blocks.replaced_forward(iter(self._final.values()), answering):
            return self._runs[index]()

    def _answering(self, name: str, usual: Callable[..., Any], index: int) -> Callable[..., Any]:
        kept, calls = self._kept[name], itertools.count()

        def forward(*args: Any, **kwargs: Any) -> Any:
            key = index, next(calls)
            if key in kept:
                return _copy(kept[key])
            answer = usual(*args, **kwargs)
            size = _size(answer)
            if size is not None:
                self._forget(f"{name}.", index)  # the parts of this one are not needed any more
                if self._bytes + size <= self._limit:
                    kept[key] = _copy(answer)
                    self._bytes += size
            return answer

        return forward

    def _forget(self, prefix: str, index: int) -> None:
        for name, kept in self._kept.items():
            if name.startswith(prefix):
                for key in [key for key in kept if key[0] == index]:
                    self._bytes -= _size(kept.pop(key)) or 0


def _size(answer: Any) -> int | None:
    """Return the bytes of an answer, or None if it cannot be stored."""
    if answer is None:
        return 0
    if isinstance(answer, Tensor):
        return answer.nbytes
    if type(answer) is not tuple:
        return None
    sizes = [_size(part) for part in answer]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _copy(answer: Any) -> Any:
    """Return an answer that the receiver may change in place."""
    if isinstance(answer, tuple):
        return tuple(map(_copy, answer))
    return answer.clone() if isinstance(answer, Tensor) else answer
