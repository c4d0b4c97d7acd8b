"""The processes of one job, under Accelerate: who does what, and sums in a fixed order."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from zoo.errors import MissingExtraError

T = TypeVar("T")


class Team:
    """This process among those that `accelerate launch` started; one alone without it."""

    def __init__(self, device: str | None = None) -> None:
        try:
            from accelerate import PartialState
        except ImportError:
            raise MissingExtraError.of("accelerate", "llm") from None
        self._state = PartialState(cpu=device == "cpu")
        self.device = device or str(self._state.device)

    @property
    def rank(self) -> int:
        """The number of this process."""
        return int(self._state.process_index)

    @property
    def size(self) -> int:
        """How many processes there are."""
        return int(self._state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            self._state.wait_for_everyone()

    def gather(self, item: T) -> list[T]:
        """Return the `item` of every process, in the order of their numbers."""
        if self.size == 1:
            return [item]
        from accelerate.utils import gather_object

        return list(gather_object([item]))

    def share(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Return the results of all tasks, each done by one process, in the tasks' order."""
        mine = {index: tasks[index]() for index in range(self.rank, len(tasks), self.size)}
        results: dict[int, T] = {}
        for part in self.gather(mine):
            results |= part
        return [results[index] for index in range(len(tasks))]

    def reduce(self, count: int, work: Callable[[int], T], add: Callable[[T, T], Any]) -> T:
        """Return work(0) + work(1) + ... of `count` parts, added in that order.

        The order is that of the parts and not of the processes, so that a sum has the same bits
        whatever their number. One round of parts is in memory at a time.
        """
        total: T | None = None
        for start in range(0, count, self.size):
            part = start + self.rank
            for value in self.gather(work(part) if part < count else None):
                if value is not None and total is None:
                    total = value
                elif value is not None and total is not None:
                    add(total, value)
        assert total is not None, "a sum has at least one part"
        return total
