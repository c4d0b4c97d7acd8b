"""`Artifact`: what a ref turned out to be, and what can be done with it; `Result`: of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn

    from zoo.registry.recipe import Recipe


class Result(Protocol):
    """What `run` returns: of each task its own class, with more than this."""

    @property
    def text(self) -> str:
        """What `zoo run` prints."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""

    def save(self, path: str | Path) -> Path:
        """Write it to a file, and return the file's path."""


class Artifact(Protocol):
    """A model, named once and resolved for good.

    What a kind of artifact cannot do raises a MismatchError that says why, and what to type.
    """

    @property
    def ref(self) -> str:
        """How it was named; a branch or tag of the Hub as its commit."""

    @property
    def recipe(self) -> "Recipe | None":
        """How it was made, or None if that is not known."""

    @property
    def path(self) -> Path:
        """Its folder or file on this machine, fetched and verified if necessary."""

    def load(self, *, device: str = "cpu", dtype: Any = None) -> "nn.Module":
        """Return the network with its weights, in eval mode.

        Args:
            device: a torch device, e.g. "cpu", "cuda".
            dtype: a floating torch dtype or its name; None keeps the stored type.

        """

    def run(
        self,
        source: Any,
        out: Path | None = None,
        *,
        device: str = "cpu",
        dtype: Any = None,
        **options: Any,
    ) -> Result:
        """Return the result of one inference; with `out`, it is saved too.

        Args:
            source: what the model's task takes: a picture, a prompt, an array, or a file of these.
            out: the file to write.
            device: see `load`.
            dtype: see `load`.
            **options: of the task's `run`.

        """

    def default_output(self, source: Path) -> Path | None:
        """Return where a result goes by default, or None if it is printed."""

    def evaluate(
        self, data: Path, *, device: str = "cpu", dtype: Any = None, **protocol: Any
    ) -> dict[str, Any]:
        """Return the metrics on data, with their protocol.

        Args:
            data: a file or folder, as the task reads it.
            device: see `load`.
            dtype: see `load`.
            **protocol: options of the task's `evaluate`.

        """

    def structure(self) -> Any:
        """Return what can be costed without weights: a module or a `zoo.graph.ir.Graph`."""

    def graph(self, input_shape: tuple[int, ...] | None = None) -> Any:
        """Return the `zoo.graph.ir.Graph` of one inference; None takes the artifact's own shape."""
