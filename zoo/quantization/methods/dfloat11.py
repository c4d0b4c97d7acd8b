"""DFloat11: bf16 weights without loss in about 70 % of their bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import MismatchError
from zoo.registry.compressed import Compressed

SUMMARY = "bf16 weights without loss in about 70 % of their bytes, exponents in Huffman codes"
PAPER = "2504.11651"
TAKES = "language-model"
DATA = ""
TRAINS = False
PRESETS: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of DFloat11.

    Attributes:
        cast: round weights that are not bf16 numbers to bf16 first; they are refused without it.

    """

    cast: bool = False

    @property
    def needs_data(self) -> bool:
        """Nothing is learned."""
        return False

    @property
    def label(self) -> str:
        """What a result is named after."""
        return "dfloat11"

    @property
    def summary(self) -> str:
        """What was done, in a few words."""
        return "bf16 without loss, exponents in Huffman codes"


def compress(
    source: Path,
    out: Path,
    options: Options,
    *,
    data: Path | None,
    test: Path | None,
    resume: bool,
    device: str | None,
) -> Compressed:
    """Write the folder of a language model with coded weights.

    It takes a second for some ten million weights, so there is nothing to resume, and runs on the
    CPU.

    Raises:
        MismatchError: `test` was given, which would measure nothing; or see
            `zoo.quantization.language.lossless.compress_lossless`.

    """
    from zoo.quantization.language.lossless import compress_lossless

    if test is not None:
        raise MismatchError("dfloat11 changes no number, so there is nothing to measure: leave "
                            "--test out")  # fmt: skip
    return Compressed(metrics={"compression": compress_lossless(source, out, cast=options.cast)})
