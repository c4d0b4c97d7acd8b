"""`Network`: a recipe, and the checkpoint with its weights when they are needed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.files import check_options, text_to_judge
from zoo.errors import MismatchError
from zoo.files import given
from zoo.registry.artifact import Result
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Network:
    """A zoo model, named by its recipe, a checkpoint's folder or a repository.

    Attributes:
        ref: how it was named.
        recipe: how it is made and used.
        find: returns the checkpoint, or raises the error that says why there is none.
        looked_at: config and metrics of a checkpoint whose weights are not here yet.

    """

    ref: str
    recipe: Recipe
    find: Callable[[], Checkpoint]
    looked_at: Checkpoint | None = None

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """The folder with the weights; they are verified when they are loaded."""
        return self.find()

    @property
    def facts(self) -> Checkpoint:
        """A checkpoint whose config and metrics can be read; its weights may be missing."""
        return self.looked_at or self.checkpoint

    @property
    def path(self) -> Path:
        """The checkpoint's folder."""
        return self.checkpoint.path

    def load(self, *, device: str = "cpu", dtype: Any = None) -> "nn.Module":
        """Return what the device computes: the float network, the integer one, or a language model.

        Raises:
            MismatchError: a dtype is given for a network that computes in integers.

        """
        from zoo.artifacts.inputs import checked
        from zoo.artifacts.placing import dtype_of, placed

        source, kind = self.checkpoint, dtype_of(dtype)
        if source.recipe.of_transformers:
            from zoo.quantization.language.opening import load

            source.verify()
            return load(source.path, device=device, dtype=kind)
        if source.quantization is None:
            return placed(checked(source.load(), source.recipe), device, kind)
        if kind is not None:
            raise MismatchError(f"{self.ref} computes in integers; leave the dtype {kind} out")
        from zoo.deploy.file_network import integer_network

        return placed(checked(integer_network(source), source.recipe), device, None)

    def run(
        self,
        source: Any,
        out: Path | None = None,
        *,
        device: str = "cpu",
        dtype: Any = None,
        **options: Any,
    ) -> Result:
        """Return the result of the recipe's task for one input."""
        self._given(source)
        from zoo.tasks import task_of

        task = task_of(self.recipe)
        check_options(self.ref, options, task.run)
        return task.run(self.load(device=device, dtype=dtype), self.recipe, source, out, **options)

    def stream(
        self,
        source: Any,
        out: Path | None = None,
        *,
        device: str = "cpu",
        dtype: Any = None,
        **options: Any,
    ) -> Result:
        """Return what the recipe's task finds in a long input, and when."""
        self._given(source)
        task = self._following()
        check_options(self.ref, options, task.stream)
        model = self.load(device=device, dtype=dtype)
        result: Result = task.stream(model, self.recipe, source, out, **options)
        return result

    def follower(self, *, device: str = "cpu", dtype: Any = None, **options: Any) -> Any:
        """Return what takes a long input piece by piece, by `push(piece)`; its `rate` a second."""
        task = self._following()
        check_options(self.ref, options, task.stream)
        return task.follower(self.load(device=device, dtype=dtype), self.recipe, **options)

    def _following(self) -> Any:
        from zoo.tasks import task_of

        task = task_of(self.recipe)
        if not hasattr(task, "stream"):
            raise MismatchError(
                "stream is for .tflite files and networks that hear words; run "
                f"{self.ref} without it"
            )
        return task

    def default_output(self, source: Path) -> Path | None:
        """Return where the task's result goes by default."""
        self._given(source)
        from zoo.tasks import task_of

        task = task_of(self.recipe)
        if not hasattr(task, "default_output"):
            return None
        return task.default_output(self.recipe, source)

    def evaluate(
        self, data: Path, *, device: str = "cpu", dtype: Any = None, **protocol: Any
    ) -> dict[str, Any]:
        """Return the task's metrics; for an integer network also those of its float weights."""
        if self.recipe.of_transformers:
            data = text_to_judge(data, protocol)
        else:
            given(data, "folder")
        from zoo.models.forms import stored_form
        from zoo.tasks import task_of

        task = task_of(self.recipe)
        check_options(self.ref, protocol, task.evaluate)
        model = self.load(device=device, dtype=dtype)
        result: dict[str, Any] = task.evaluate(model, self.recipe, data, **protocol)
        network, quantization = stored_form(model)
        if quantization is not None:
            plain = task.evaluate(network, self.recipe, data, **protocol)
            result["float"] = {k: v for k, v in plain.items() if isinstance(v, float)}
        return result

    def _given(self, source: Any) -> None:
        """Refuse a missing file before torch is imported; a language model takes any text."""
        if source is None:
            raise MismatchError(f"{self.ref} was given nothing to run on; see zoo.run")
        if isinstance(source, str | Path) and not self.recipe.of_transformers:
            given(Path(source), "file")

    def structure(self) -> "nn.Module":
        """Return the network, freshly initialised."""
        return build(self.recipe)

    def graph(self, input_shape: tuple[int, ...] | None = None) -> Any:
        """Return the graph of the network; weights are not needed.

        Operators that were exchanged for approximations are in it as what they stand for.
        """
        from zoo.graph.trace import trace
        from zoo.models.approximate.swap import exact

        return trace(exact(self.structure()), input_shape or self.recipe.input_shape)
