"""GPTQ: uniform integers with a scale per group, errors passed on to later columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo.quantization.language.method import DATA, TAKES, TRAINS, JobOptions, compress
from zoo.quantization.options import FORMATS, Feedback, Format

__all__ = ["DATA", "GRID", "PAPER", "PRESETS", "SOLVER", "SUMMARY", "TAKES", "TRAINS", "Options",
           "compress"]  # fmt: skip

SUMMARY = "integers or a 4-bit format, errors passed on to later columns"
PAPER = "2210.17323"
GRID, SOLVER = "uniform", "gptq"
PRESETS: Mapping[str, Mapping[str, Any]] = FORMATS


@dataclass(frozen=True, kw_only=True)
class Options(JobOptions, Feedback, Format):
    """The options of GPTQ."""

    METHOD: ClassVar[str] = "gptq"
