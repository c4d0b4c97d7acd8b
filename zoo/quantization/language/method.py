"""What compression methods for language models share: options around a method, and running it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from zoo.errors import MismatchError
from zoo.quantization.plan import QuantizationPlan, Schedule
from zoo.registry.compressed import Compressed

TAKES = "language-model"
DATA = "a text to calibrate on: a file, a folder, wikitext2, c4, tinystories, or org/name"
TRAINS = False
TEST_WINDOWS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions(Schedule):
    """What each method for language models has besides the options of its layers."""

    METHOD: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse what cannot be done, before anything is read."""
        _ = self.plan

    @property
    def plan(self) -> QuantizationPlan:
        """How the model is quantized."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return QuantizationPlan.read(self.METHOD, values)

    @property
    def needs_data(self) -> bool:
        """Whether any layer has to see inputs."""
        return self.plan.calibrates

    @property
    def label(self) -> str:
        """What a result is named after: "gptvq-2d-2b"."""
        layer = self.plan.options
        inputs = "-a8" if layer.activations == "int8" else ""
        if layer.grid == "codebook":
            return f"{self.METHOD}-{layer.dim}d-{layer.bits:g}b{inputs}"
        kind = f"int{layer.bits:g}" if layer.grid == "uniform" else layer.grid
        return f"{self.METHOD}-{kind}{'-awq' * self.awq}{inputs}"

    @property
    def summary(self) -> str:
        """What was done, in a few words."""
        layer = self.plan.options
        named = "" if layer.grid in ("uniform", "codebook") else f"{layer.grid}, "
        inputs = ", inputs of 8 bits" if layer.activations == "int8" else ""
        awq = ", awq" if self.awq else ""
        return f"{named}{layer.bits:g} bits per weight by {self.METHOD}{awq}{inputs}"


def compress(
    source: Path,
    out: Path,
    options: JobOptions,
    *,
    data: Path | None,
    test: Path | None,
    resume: bool,
    device: str | None,
) -> Compressed:
    """Quantize the language model in a folder into `out`; see `zoo.compression.contract`.

    Raises:
        MismatchError: see `zoo.quantization.language.job.compress_model`.

    """
    from zoo.data.text import read_text
    from zoo.quantization.language.job import compress_model
    from zoo.quantization.language.source import Source
    from zoo.quantization.team import Team

    if test is not None and not Source(source).is_decoder:
        raise MismatchError(
            f"--test measures perplexity, which the model in {source} has none of: leave it out"
        )
    for text in (data, test):
        if text is not None:
            read_text(text)  # before the work, not after it
    report = compress_model(source, out, options.plan, text=data, resume=resume, device=device)
    measured = _measured(source, out, test) if test and Team(device).is_main else {}
    return Compressed(metrics={"compression": report, **measured})


def _measured(base: Path, out: Path, test: Path) -> Mapping[str, Any]:
    """Return perplexity and decoding speed of the result and of its base."""
    import torch

    from zoo.quantization.language.opening import load
    from zoo.quantization.language.speed import tokens_per_second
    from zoo.quantization.language.step import quicken
    from zoo.tasks.text_generation import evaluate

    scores: dict[str, Any] = {}
    speed: dict[str, Any] = {"threads": torch.get_num_threads()}
    for label, folder in (("base", base), ("packed", out)):
        model = load(folder, dtype=torch.float32)
        name = test.name if label == "packed" else f"{test.name}, base model"
        scores[name] = evaluate(model, None, test, windows=TEST_WINDOWS)
        quicken(model)  # as `zoo run` does
        speed[f"{label}_tokens_per_s"] = tokens_per_second(model)
    return {"evaluations": scores, "decode": speed}
