"""The settings for quantizing one matrix: plain data that goes into a configuration."""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Mapping
from typing import Any, Literal, get_args

from zoo import extensions
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.options import read

METHODS = "zoo.quantization.methods"
GRIDS = "zoo.quantization.grids"
# How much work: `fast` for a first look, `best` for what is published.
PRESETS: dict[str, dict[str, int]] = {
    "fast": {"iterations": 10, "update_steps": 4, "rounds": 0},
    "best": {"iterations": 30, "update_steps": 6, "rounds": 2},
}
Seeding = Literal["normal", "mahalanobis", "kmeans++"]
SEEDINGS = get_args(Seeding)
_CODEBOOKS = ("codebook", "factored")
_GENERAL = (*_CODEBOOKS, "uniform")  # grids of any number of bits
# Formats by name: `--method rtn-nf4`, `--method gptq-int4`.
FORMATS: dict[str, dict[str, Any]] = {
    **{f"int{bits}": {"bits": bits} for bits in (2, 3, 4, 8)},
    **{
        name: {"grid": name}
        for module in pkgutil.iter_modules(importlib.import_module(GRIDS).__path__)
        if not module.name.startswith("_")
        and (name := module.name.replace("_", "-")) not in (*_GENERAL, "contract")
    },
}
Activations = Literal["float", "int8"]
# Grids whose codes of 4 bits stand for whole numbers, and are multiplied with inputs of 8 bits.
FOUR_BITS = ("uniform", "apot4", "fixp4", "fp4", "posit4")
# A group size was chosen for its bits: if these change, the old one is dropped.
_OF_BITS = {"goes_with": ("bits", "dim", "target_bpv", "grid")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounding:
    """What every grid has.

    Attributes:
        bits: bits of an index per weight; `bits * dim` is a whole number of at most 8; 0 takes
            those of the grid, else 2.
        dim: columns that share an index: 1 for uniform grids; 1, 2, 4 or 8 for codebooks; 0 takes
            1 or 2.
        group_size: weights per codebook, or weights of a row per scale (64 if not given).
        activations: "int8" rounds what a layer multiplies to 8 bits, with a scale per token and
            group of columns: faster on processors, and the same numbers on each; for integers of 4
            bits and codebooks.

    """

    bits: int | float = dataclasses.field(default=0, metadata={"goes_with": ("grid",)})
    dim: int = 0
    group_size: int | None = dataclasses.field(default=None, metadata=_OF_BITS)
    activations: Activations = "float"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """What methods have that round to any grid.

    Attributes:
        grid: the values that exist: integers with a scale and a zero point if not given, or the
            name of a format, e.g. nf4, posit4, mixed, mxfp4, nvfp4.

    """

    grid: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feedback(Rounding):
    """Settings of methods that feed errors on to the columns that follow.

    Attributes:
        act_order: take columns in order of falling diagonal of H; the order is stored.
        damp: added to the diagonal of H, as a fraction of its mean.

    """

    act_order: bool = False
    damp: float = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodebookOptions(Feedback):
    """Settings of methods whose values come from codebooks.

    Attributes:
        target_bpv: instead of `group_size`: the finest groups whose stored bits per weight,
            everything included, stay within this.
        columns_per_group: columns that a codebook spans; 0 for automatic.
        iterations: at most this many steps of k-means per codebook.
        update_steps: conjugate-gradient steps of the codebook update; 0 leaves it out.
        rounds: how often codes are chosen again for the updated codebooks, then these for the
            codes.
        codebook_bits: 8 (integers with a 16-bit scale per codebook) or 16 (halves).
        codebook_rank: rank of the product as which all codebooks of dim 1 are stored; -1 takes half
            of their entries, 0 stores them as they are.
        scale_block: weights of a row that share a 4-bit logarithmic scale; 0 for no such scales.
        seeding: where k-means starts.

    """

    target_bpv: float | None = None
    columns_per_group: int = 0
    iterations: int = 30
    update_steps: int = 8
    rounds: int = 0
    codebook_bits: int = 8
    codebook_rank: int = 0
    scale_block: int = 0
    seeding: Seeding = "normal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerOptions(CodebookOptions, Format):
    """How to quantize one matrix.

    Attributes:
        method: `rtn`, `gptq` (uniform integers with a scale per group, or another `grid`), `gptvq`
            (codebooks), or another module of `zoo.quantization.methods` that names a GRID and a
            SOLVER.
        seed: seed of everything drawn at random.

    """

    method: str = "gptvq"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options that no grid or solver supports."""
        usual = str(_layers(self.method).GRID)  # refuses an unknown method
        object.__setattr__(self, "grid", self.grid or usual)
        fixed = self.grid != usual and self._take_grid()
        if not self.bits:
            object.__setattr__(self, "bits", 2)
        grid = self.grid
        if self.seeding not in SEEDINGS:
            raise UnknownNameError.near("seeding", self.seeding, SEEDINGS, "of k-means")
        if not self.dim:
            object.__setattr__(self, "dim", 2 if grid == "codebook" else 1)
        index_bits = self.bits * self.dim
        _check(
            fixed or (index_bits == round(index_bits) and 1 <= index_bits <= 8),
            f"bits * dim is {index_bits:g}; expected a whole number from 1 to 8",
        )
        _check(
            fixed or self.grid == "codebook" or self.dim == 1,
            f"dim is {self.dim}; {self.method} takes dim 1: pass dim=1, or method='gptvq'",
        )
        _check(self.dim in (1, 2, 4, 8), f"dim is {self.dim}; expected 1, 2, 4 or 8")
        _check(self.codebook_bits in (8, 16), f"codebook_bits is {self.codebook_bits}; 8 or 16")
        self._check_activations()
        if self.codebook_rank:
            self._check_rank()
        _check(
            self.scale_block == 0 or self.scale_block % self.dim == 0,
            f"scale_block is {self.scale_block}; expected a multiple of dim {self.dim}",
        )
        _check(
            self.columns_per_group % math.lcm(self.dim, self.scale_block or 1) == 0,
            f"columns_per_group is {self.columns_per_group}; expected a multiple of dim "
            f"{self.dim} and of scale_block {self.scale_block}",
        )
        _check(
            self.target_bpv is None or (self.group_size is None and self.grid == "codebook"),
            "target_bpv goes with codebooks and without group_size: pass one of the two",
        )
        _check(self.damp >= 0, f"damp is {self.damp}; expected 0 or more")
        for name in ("iterations", "update_steps", "rounds", "columns_per_group", "scale_block"):
            _check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more")
        _check(
            self.group_size is None or self.group_size > 0,
            f"group_size is {self.group_size}; expected 1 or more",
        )

    def _take_grid(self) -> bool:
        """Check a grid that is not the method's own, and take what it fixes; say if it does."""
        grid = extensions.member(GRIDS, self.grid, "grid")  # refuses an unknown one
        _check(
            _layers(self.method).GRID not in _CODEBOOKS,
            f"{self.method} makes codebooks; {self.grid} goes with method='gptq' or 'rtn'",
        )
        _check(
            self.grid not in _CODEBOOKS,
            f"grid is {self.grid!r}; codebooks go with method='gptvq'",
        )
        bits, dim = getattr(grid, "BITS", 0), getattr(grid, "DIM", 1)
        _check(
            not (bits and self.bits) or self.bits == bits,
            f"bits is {self.bits:g}; {self.grid} has {bits}: leave bits out, or take another grid",
        )
        _check(
            self.dim in (0, dim),
            f"dim is {self.dim}; {self.grid} takes dim {dim}: leave it out",
        )
        object.__setattr__(self, "bits", self.bits or bits)
        object.__setattr__(self, "dim", dim)
        return bool(bits)

    def _check_activations(self) -> None:
        known = get_args(Activations)
        if self.activations not in known:
            raise UnknownNameError.near("activations", self.activations, known, "of a layer")
        _check(
            self.activations == "float" or self._has_integers(),
            f"activations int8 go with 4 bits of {', '.join(FOUR_BITS)} and with plain codebooks "
            f"of 8 bits, not with {self.bits:g} bits of {self.grid} as asked: pass one of those, "
            "leave out codebook_bits, codebook_rank and scale_block, or pass activations='float'",
        )

    def _has_integers(self) -> bool:
        if self.grid in FOUR_BITS:
            return self.index_bits == 4
        plain = self.codebook_bits == 8 and not self.codebook_rank and not self.scale_block
        return self.grid == "codebook" and plain

    def _check_rank(self) -> None:
        _check(
            self.grid == "codebook" and self.dim == 1,
            f"codebook_rank is {self.codebook_rank} and dim {self.dim}; only codebooks of dim 1 "
            "are stored as a product: pass dim=1, or codebook_rank=0",
        )
        size = 1 << self.index_bits
        if self.codebook_rank == -1:
            object.__setattr__(self, "codebook_rank", size // 2)
        _check(
            1 <= self.codebook_rank < size,
            f"codebook_rank is {self.codebook_rank}; expected 1 to {size - 1} for codebooks of "
            f"{size} entries, or -1 for half of them",
        )
        _check(
            self.codebook_bits == 8 and not self.scale_block,
            "codebook_rank goes with codebook_bits 8 and without scale_block",
        )

    @property
    def solver(self) -> str:
        """Return the name of the solver."""
        return str(_layers(self.method).SOLVER)

    @property
    def index_bits(self) -> int:
        """Return the bits of one index."""
        return round(self.bits * self.dim)

    def to_dict(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, and the method."""
        values = dataclasses.asdict(self)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        defaults["grid"] = _layers(self.method).GRID
        return {k: v for k, v in values.items() if k == "method" or v != defaults[k]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LayerOptions":
        """Build options from `to_dict`'s result, refusing unknown names and wrong types."""
        return read(cls, values, "quantization")


def _check(good: bool, message: str) -> None:
    if not good:
        raise MismatchError(message)


def _layers(name: str) -> Any:
    """Return a method that quantizes matrices: a module that names a GRID and a SOLVER."""
    method = extensions.member(METHODS, name, "method")
    _check(
        hasattr(method, "GRID") and hasattr(method, "SOLVER"),
        f"method {name!r} does not quantize single matrices; gptvq, gptq and rtn do",
    )
    return method
