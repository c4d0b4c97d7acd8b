"""Round to nearest: uniform integers with a scale per group, no text needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo.quantization.language.method import DATA, TAKES, TRAINS, JobOptions, compress
from zoo.quantization.options import FORMATS, Format, Rounding

__all__ = ["DATA", "GRID", "PAPER", "PRESETS", "SOLVER", "SUMMARY", "TAKES", "TRAINS", "Options",
           "compress"]  # fmt: skip

SUMMARY = "integers with a scale per group, each weight rounded on its own; needs no text"
PAPER = "2210.17323"  # the baseline for GPTQ there
GRID, SOLVER = "uniform", "rtn"
PRESETS: Mapping[str, Mapping[str, Any]] = FORMATS


@dataclass(frozen=True, kw_only=True)
class Options(JobOptions, Rounding, Format):
    """The options of rounding to nearest."""

    METHOD: ClassVar[str] = "rtn"
