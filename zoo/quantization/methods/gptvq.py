"""GPTVQ: codebooks, chosen with error feedback and then made optimal for their codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo.quantization.language.method import DATA, TAKES, TRAINS, JobOptions, compress
from zoo.quantization.options import PRESETS as EFFORTS
from zoo.quantization.options import CodebookOptions
from zoo.registry.presets import PRESETS as SIZES

__all__ = ["DATA", "GRID", "PAPER", "PRESETS", "SOLVER", "SUMMARY", "TAKES", "TRAINS", "Options",
           "compress"]  # fmt: skip

SUMMARY = "codebooks of 1 to 8 weights per index, the most accurate at 2 to 4 bits"
PAPER = "2402.15319"
GRID, SOLVER = "codebook", "gptvq"


@dataclass(frozen=True, kw_only=True)
class Options(JobOptions, CodebookOptions):
    """The options of GPTVQ."""

    METHOD: ClassVar[str] = "gptvq"


PRESETS: Mapping[str, Mapping[str, Any]] = {
    **EFFORTS,
    **{
        name.removeprefix("gptvq-"): {k: v for k, v in values.items() if k != "method"}
        for name, values in SIZES.items()
    },
}
