"""Artifacts that the zoo did not make: a `.tflite` file, and folders of other libraries."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.texts import text_file
from zoo.errors import MismatchError, UnsafeFileError
from zoo.files import given


def text_to_judge(data: Path, protocol: Mapping[str, Any]) -> Path:
    """Return a text's file; refuse what is missing before a language model is loaded.

    Raises:
        MismatchError: there is no such text; see `zoo.data.texts`.
        MissingExtraError: the protocol has tasks of lm-eval, which is not installed.

    """
    path = text_file(data, test=True)
    given(path, "file")
    if protocol.get("tasks"):
        from zoo.tasks.text_generation.zero_shot import require

        require()
    return path


def check_options(
    ref: str, options: Mapping[str, Any], function: Callable[..., Any] | None = None
) -> None:
    """Refuse options that a task's function does not have, beyond the four that all take.

    Raises:
        MismatchError: there is one.

    """
    known = [] if function is None else list(inspect.signature(function).parameters)[4:]
    if others := sorted(set(options) - set(known)):
        what = f"takes {', '.join(known)}" if known else "takes none"
        raise MismatchError(f"{others[0]!r} is no option of {ref}; its task {what}: leave it out")


@dataclass(frozen=True)
class OtherModel:
    """A model of another library; the kinds below say what each can do.

    Attributes:
        ref: how it was named.
        path: its folder or file.

    """

    ref: str
    path: Path
    recipe: None = None

    @property
    def refusal(self) -> str:
        """Why it cannot do more, and what to type."""
        return (
            f"{self.ref} is not a checkpoint of the zoo but another library's model; its files "
            f"are verified and in {self.path}"
        )

    def load(self, *, device: str = "cpu", dtype: Any = None) -> Any:
        """Return the network."""
        raise MismatchError(self.refusal)

    def run(
        self,
        source: Any,
        out: Path | None = None,
        *,
        device: str = "cpu",
        dtype: Any = None,
        **options: Any,
    ) -> Any:
        """Return the result of one inference."""
        raise MismatchError(self.refusal)

    def default_output(self, source: Path) -> Path | None:
        """Return None: the results of these models are printed."""

    def evaluate(
        self, data: Path, *, device: str = "cpu", dtype: Any = None, **protocol: Any
    ) -> dict[str, Any]:
        """Return the metrics on data."""
        raise MismatchError(self.refusal)

    def structure(self) -> Any:
        """Return what can be costed."""
        raise MismatchError(self.refusal)

    def graph(self, input_shape: tuple[int, ...] | None = None) -> Any:
        """Return the graph of one inference."""
        graph = self.structure()
        if input_shape not in (None, graph.input_shape):
            raise self._other_shape(graph.input_shape, input_shape)
        return graph

    def _other_shape(self, own: tuple[int, ...], given: Any) -> MismatchError:
        return MismatchError(f"{self.ref} takes inputs of {own}; leave {given} out")


@dataclass(frozen=True)
class TfliteModel(OtherModel):
    """A `.tflite` file."""

    @property
    def refusal(self) -> str:
        """Why it cannot do more: a file does not say what its numbers mean."""
        return (
            f"{self.path} does not say which task it is for; evaluate the checkpoint it was made "
            "from"
        )

    def load(self, *, device: str = "cpu", dtype: Any = None) -> Any:
        """Return a module that takes and returns the file's own tensors, channels last."""
        from zoo.deploy.tflite import load_tflite

        return load_tflite(self.path)

    def run(
        self,
        source: Any,
        out: Path | None = None,
        *,
        device: str = "cpu",
        dtype: Any = None,
        **options: Any,
    ) -> Any:
        """Return the network's outputs for arrays, a NumPy file, a picture or a sound."""
        check_options(self.ref, options)
        from zoo.deploy.tflite_run import run_tflite

        outcome = run_tflite(self.path, source)
        if out is not None:
            outcome.save(out)
        return outcome

    def content(self, input_shape: tuple[int, ...] | None = None) -> bytes:
        """Return the file's bytes, for programs that read them by themselves.

        Raises:
            MismatchError: another input shape than the file's is wanted.
            MissingWeightsError, UnsafeFileError: it cannot be read, or is no TFLite file.

        """
        from zoo.deploy.tflite_outline import outline
        from zoo.deploy.tflite_read import read_bytes

        data = read_bytes(self.path)
        try:
            found = outline(data)
        except UnsafeFileError as error:
            raise UnsafeFileError(f"{self.path}: {error}") from error
        if input_shape not in (None, found.input_shape):
            raise self._other_shape(found.input_shape, input_shape)
        return data

    def stream(
        self,
        source: Any,
        out: Path | None = None,
        *,
        device: str = "cpu",
        dtype: Any = None,
        **options: Any,
    ) -> Any:
        """Return the network's outputs for one frame of a source after the other."""
        check_options(self.ref, options)
        from zoo.deploy.tflite_run import stream_tflite

        outcome = stream_tflite(self.path, source)
        if out is not None:
            outcome.save(out)
        return outcome

    def structure(self) -> Any:
        """Return the file's graph."""
        from zoo.deploy.tflite_read import read_tflite

        return read_tflite(self.path)


@dataclass(frozen=True)
class TransformersModel(OtherModel):
    """A folder with a model that transformers saved: an encoder, or one for pictures or sound."""

    @property
    def refusal(self) -> str:
        """Why it cannot do more: its task is none of the zoo's."""
        return (
            f"{self.ref} is a model of transformers for a task that is not the zoo's: transformers "
            "runs it, and zoo compress makes it smaller"
        )

    def load(self, *, device: str = "cpu", dtype: Any = None) -> Any:
        """Return the model, opened by transformers without trusting the folder."""
        from zoo.artifacts.placing import dtype_of
        from zoo.quantization.language.opening import load

        return load(self.path, device=device, dtype=dtype_of(dtype))


@dataclass(frozen=True)
class LanguageModel(TransformersModel):
    """A folder with a causal language model that transformers saved."""

    @property
    def refusal(self) -> str:
        """Why it cannot do more: a language model has no graph here yet."""
        return (
            f"{self.ref} is a language model, which is not costed as a graph of fixed shapes; "
            "zoo compress makes it smaller"
        )

    def run(
        self,
        source: Any,
        out: Path | None = None,
        *,
        device: str = "cpu",
        dtype: Any = None,
        **options: Any,
    ) -> Any:
        """Return the likeliest continuation of a prompt."""
        from zoo.quantization.language.step import quicken
        from zoo.tasks.text_generation import run

        check_options(self.ref, options, run)
        model = self.load(device=device, dtype=dtype)
        quicken(model)
        return run(model, None, source, out, **options)

    def evaluate(
        self, data: Path, *, device: str = "cpu", dtype: Any = None, **protocol: Any
    ) -> dict[str, Any]:
        """Return the perplexity on a text."""
        data = text_to_judge(data, protocol)
        from zoo.tasks.text_generation import evaluate

        check_options(self.ref, protocol, evaluate)
        return evaluate(self.load(device=device, dtype=dtype), None, data, **protocol)
