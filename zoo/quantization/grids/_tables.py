"""What grids share whose values come from a table: look-up, nearest value, codes that are none."""

import functools
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import MismatchError, UnsafeFileError
from zoo.quantization.grids.contract import Grid, Parameters
from zoo.quantization.options import LayerOptions

Values = tuple[float | None, ...]  # by code; None for a code that stands for nothing


@dataclass(frozen=True)
class TableGrid(Grid):
    """w = value[code] * scale, with a scale for every group of `span` columns of a row.

    Attributes:
        tables: the values by code, one table or several among which each group of a row chooses.

    """

    tables: tuple[Values, ...]

    @abstractmethod
    def scales(self, parameters: Parameters) -> Tensor:
        """Return the scales (..., rows) of one column group, or of all."""

    def choice(self, parameters: Parameters) -> Tensor | None:
        """Return the table that each row has (..., rows) of one column group, or of all."""
        return parameters.get("table")

    def scaled(self, group: Parameters, values: Tensor) -> Tensor:
        """Return `values` (rows, width) in units of the scales of a column group."""
        return values / self.scales(group).unsqueeze(1)

    def encode(self, group: Parameters, values: Tensor, metric: Tensor, offset: int = 0) -> Tensor:
        """Return the codes of the nearest values."""
        steps = self.scaled(group, values)
        codes = nearest(steps, self.tables[0])
        choice = self.choice(group)
        for number, table in enumerate(self.tables[1:], 1):
            assert choice is not None
            here = (choice == number).unsqueeze(1)
            codes = torch.where(here, nearest(steps, table), codes)
        return codes

    def units(self, group: Parameters, codes: Tensor) -> Tensor:
        """Return the values of `codes` of one column group, in units of its scales."""
        choice = self.choice(group)
        if choice is None:
            return levels(self.tables[0], codes.device)[codes]
        table = torch.cat([levels(values, codes.device) for values in self.tables])
        return table[codes + (choice.long() << self.index_bits).unsqueeze(1)]

    def decode_group(self, group: Parameters, codes: Tensor, offset: int = 0) -> Tensor:
        """Return values times scales."""
        return self.units(group, codes) * self.scales(group).unsqueeze(1)

    def adjoint(self, parameters: Parameters, codes: Tensor, gradient: Tensor) -> Parameters:
        """Return nothing: scales of a few bits do not follow a gradient."""
        return {}

    def check_codes(self, parameters: Parameters, codes: Tensor) -> None:
        """Refuse codes that stand for no value in their table."""
        none = [value is None for table in self.tables for value in table]
        if not any(none) or not codes.numel():
            return
        choice, places = self.choice(parameters), codes.to(torch.int32)
        if choice is not None:
            each = choice.T.to(torch.int32).repeat_interleave(self.span, 1)[:, : self.cells]
            places = places + (each << self.index_bits)
        bad = torch.tensor(none, device=codes.device)[places]
        if bad.any():
            code = int(codes[bad][0])
            raise UnsafeFileError(f"codes out of table: {code} stands for no value of this grid")

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse codes that stand for no value; subclasses add their scales."""
        if "codes" in tensors:
            codes = self.unpack(tensors["codes"])
            self.check_codes(self.restore(tensors), codes)

    def decode_stored(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return W (rows, columns) in a few look-ups, two codes at a time where they share a byte.

        The numbers are those of `decode`.
        """
        parameters = self.restore(tensors)
        choice, size = self.choice(parameters), 1 << self.index_bits
        tables = torch.stack([levels(values, tensors["codes"].device) for values in self.tables])
        looks, per_look = tensors["codes"], 1
        if self.index_bits == 4 and self.span % 2 == 0 and self.cells % 2 == 0:
            low, high = tables[:, None, :].expand(-1, size, -1), tables[:, :, None]
            tables = torch.stack([low, high.expand(-1, -1, size)], -1).flatten(1, 2)
            per_look = 2  # [byte] = values of (code & 15, code >> 4)
        else:
            looks = self.unpack(looks)
            tables = tables.unsqueeze(-1)
        places = looks.to(torch.int32)
        if choice is not None:
            wide = self.span // per_look
            each = choice.T.to(torch.int32).repeat_interleave(wide, 1)[:, : places.shape[1]]
            places = places + each * tables.shape[1]
        kind = torch.float32 if per_look == 1 else torch.float64  # two floats move as one number
        flat = tables.flatten(0, 1).contiguous().view(kind).flatten()
        units = flat.index_select(0, places.flatten()).view(torch.float32).view(self.rows, -1)
        scales = self.scales(parameters).T.repeat_interleave(self.span, 1)
        return (units * scales[:, : self.padded])[:, : self.columns]


@functools.lru_cache(maxsize=256)
def levels(table: Values, device: torch.device) -> Tensor:
    """Return the values by code, float32; a code that stands for nothing reads as NaN."""
    numbers = [float("nan") if value is None else value for value in table]
    return torch.tensor(numbers, device=device)


@functools.lru_cache(maxsize=256)
def _steps(table: Values, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return codes in the order of their values, and the bounds between them.

    Of two codes with one value (zero and minus zero) the lower is taken. A number half-way
    between two values goes to the even code, as IEEE 754 and posits have it.
    """
    first: dict[float, int] = {}
    for code, value in enumerate(table):
        if value is not None:
            first.setdefault(value + 0.0, code)
    order = sorted(first)
    codes = torch.tensor([first[value] for value in order], device=device)
    values = torch.tensor(order, dtype=torch.float64)
    middle = ((values[1:] + values[:-1]) / 2).to(torch.float32)
    below = torch.nextafter(middle, torch.tensor(-torch.inf))
    even = torch.tensor([first[value] % 2 == 0 for value in order[:-1]], dtype=torch.bool)
    return codes, torch.where(even, middle, below).to(device)


def nearest(numbers: Tensor, table: Values) -> Tensor:
    """Return the codes, int64, of the values of a table that are nearest to `numbers`."""
    codes, _ = _steps(table, numbers.device)
    return codes[_places(numbers, table)]


def rounded(numbers: Tensor, table: Values) -> Tensor:
    """Return the values of a table that are nearest to `numbers`."""
    codes, _ = _steps(table, numbers.device)
    values = levels(table, numbers.device)[codes]
    return values.index_select(0, _places(numbers, table).flatten()).view_as(numbers)


def _places(numbers: Tensor, table: Values) -> Tensor:
    """Return where the nearest values stand in their order, int32."""
    _, bounds = _steps(table, numbers.device)
    if len(bounds) > 16:
        return torch.bucketize(numbers, bounds, out_int32=True)
    # For few bounds, comparing with each is more than twice as fast as searching.
    count = torch.zeros(numbers.shape, dtype=torch.uint8, device=numbers.device)
    for bound in bounds.tolist():
        count += torch.gt(numbers, bound).view(torch.uint8)
    return count.to(torch.int32)


def symmetric(magnitudes: Values, zero: float | None = None) -> Values:
    """Return values in sign and magnitude; the code of minus zero reads as `zero`."""
    negative = [zero if value == 0 else None if value is None else -value for value in magnitudes]
    return (*magnitudes, *negative)


def signed(bits: int, unit: float = 1.0, least: int | None = None) -> Values:
    """Return the integers of `bits` bits in two's complement times `unit`, from `least` on."""
    half = 1 << (bits - 1)
    numbers = [code - 2 * half * (code >= half) for code in range(2 * half)]
    bound = -half if least is None else least
    return tuple(None if number < bound else number * unit for number in numbers)


def group_span(options: LayerOptions, columns: int, usual: int = 64) -> int:
    """Return the columns of a group: `group_size`, or `usual` if none is given.

    Raises:
        MismatchError: a size was given that does not divide the columns.

    """
    size = options.group_size
    if size and size < columns and columns % size:
        near = [n for n in range(1, columns + 1) if columns % n == 0]
        best = sorted(sorted(near, key=lambda n: abs(n - size))[:3])
        raise MismatchError(
            f"group_size {size} does not divide {columns} columns; sizes near it that do: "
            f"{', '.join(map(str, best))} (one layer alone: --override NAME:group_size=N)"
        )
    return min(size or usual, columns)


def block_span(options: LayerOptions, block: int) -> int:
    """Return the columns of a group of a format whose standard fixes them.

    Raises:
        MismatchError: another size was given.

    """
    if options.group_size not in (None, block):
        raise MismatchError(
            f"group_size is {options.group_size}; {options.grid} has blocks of {block}: leave "
            "group_size out"
        )
    return block
