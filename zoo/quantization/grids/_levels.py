"""A table of at most 16 values and a 16-bit scale per group: formats of 4 bits and fewer."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.quantization.grids._tables import TableGrid, Values, group_span, rounded
from zoo.quantization.grids.contract import Layout, Parameters, finite, positive
from zoo.quantization.operands import Nibbles
from zoo.quantization.options import LayerOptions
from zoo.quantization.packing import from_half_bits, half_bits, pack, packed_bytes, unpack

# Scales that are tried, as multiples of the one whose table just covers the group, and then of the
# best one. A table whose largest values are rare (posits) is best stretched beyond the group, a
# dense one clips a little. Twice as many gain less than 0.05 dB.
TRIED = tuple(0.5 * 2 ** (step / 3) for step in range(7))
NEAR = tuple(2**part for step in (1 / 6, 1 / 12) for part in (step, -step))


@dataclass(frozen=True)
class Levels(TableGrid):
    """w = value[code] * scale; with two tables, one bit per group and row names the table.

    Parameters of a column group: `scale` (rows,), and with two tables `table` (rows,), 0 or 1.
    """

    def scales(self, parameters: Parameters) -> Tensor:
        """Return the scales."""
        return parameters["scale"]

    def fit(self, values: Tensor, importance: Tensor) -> Parameters:
        """Return, of some scales and all tables, what has the least weighted squared error."""
        importance = importance / importance.mean().clamp(min=1e-30)
        fits = [_fitted(values, importance, table) for table in self.tables]
        errors = torch.stack([error for _, error in fits])
        choice = errors.argmin(0)
        scale = torch.stack([scale for scale, _ in fits]).gather(0, choice.unsqueeze(0))[0]
        if len(self.tables) == 1:
            return {"scale": scale}
        return {"scale": scale, "table": choice.to(torch.float32)}

    def adjoint(self, parameters: Parameters, codes: Tensor, gradient: Tensor) -> Parameters:
        """Return the gradient of `scale`."""
        parts = [
            (gradient[:, start:end] * self.units(self.group(parameters, index),
                                                 codes[:, start:end])).sum(1)
            for index, (start, end) in enumerate(self.groups)
        ]  # fmt: skip
        return {"scale": torch.stack(parts)}

    def layout(self) -> Layout:
        """Return `scale` (groups, rows) as half bits, and `table`, one bit a row."""
        groups = len(self.groups)
        fields: Layout = {"scale": ((groups, self.rows), torch.int16)}
        if len(self.tables) > 1:
            fields["table"] = ((groups, packed_bytes(self.rows, 1)), torch.uint8)
        return fields

    def store(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return scales, and tables where there is a choice."""
        scale = parameters["scale"].clamp(_LEAST, _MOST)
        stored = {"scale": half_bits(scale)}
        if len(self.tables) > 1:
            stored["table"] = pack(parameters["table"].to(torch.int64), 1)
        return stored

    def restore(self, tensors: Mapping[str, Tensor]) -> Parameters:
        """Return scales, and tables where there is a choice."""
        scale = finite(from_half_bits(self.take(tensors, "scale")), "scale")
        if len(self.tables) == 1:
            return {"scale": scale}
        table = unpack(self.take(tensors, "table"), 1, self.rows)
        return {"scale": scale, "table": table.to(torch.float32)}

    def integers(self, tensors: Mapping[str, Tensor]) -> Nibbles:
        """Return codes and scales as they are stored, and the table in whole numbers."""
        table, unit = _whole(self.tables[0])
        table = table.to(tensors["codes"].device)
        return Nibbles(
            self.columns, self.span, tensors["codes"], tensors["scale"], None, table, unit
        )

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse scales that are not above zero, and codes that stand for no value."""
        positive(tensors["scale"], "scale")
        super().check(tensors)


@functools.cache
def _whole(table: Values) -> tuple[Tensor, float]:
    """Return a table as int8 numbers and their unit, a power of two."""
    values = torch.tensor([value or 0.0 for value in table], dtype=torch.float64)
    unit = 1.0
    while not torch.equal((values / unit).round(), values / unit):
        unit /= 2
    whole = values / unit
    assert whole.abs().max() <= _WIDEST, "a table whose values are no whole numbers"
    return whole.to(torch.int8), unit


_WIDEST = 127
_LEAST, _MOST = 6.2e-5, 65504.0  # subnormal halves would lose the scale's precision


def _fitted(values: Tensor, importance: Tensor, table: Values) -> tuple[Tensor, Tensor]:
    """Return the scale (rows,) of a table and its weighted squared error."""
    numbers = [value for value in table if value is not None]
    top, bottom = max(numbers), -min(numbers)
    cover = torch.maximum(values.amax(1) / top, -values.amin(1) / bottom).clamp(min=0)
    best = torch.where(cover > 0, cover.clamp(_LEAST, _MOST), torch.ones_like(cover)).half().float()
    least = torch.full_like(best, torch.inf)

    def units_of(scale: Tensor) -> Tensor:
        return rounded(values / scale.unsqueeze(1), table)

    def better(scale: Tensor) -> None:
        nonlocal best, least
        scale = scale.clamp(_LEAST, _MOST).half().float()
        missed = values - units_of(scale) * scale.unsqueeze(1)
        error = (missed.square() * importance).sum(1)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)

    for factor in TRIED:
        better(torch.where(cover > 0, cover * factor, best))
    for factor in NEAR:
        better(best * factor)
    units = units_of(best)  # for these codes, the scale by least squares
    power = (units.square() * importance).sum(1)
    found = (units * values * importance).sum(1) / power.clamp(min=1e-30)
    better(torch.where(found > 0, found, best))
    return best, least


def make(options: LayerOptions, rows: int, columns: int, *tables: Values) -> Levels:
    """Return the grid of these tables with groups of `group_size` (64) columns."""
    span = group_span(options, columns)
    return Levels(rows, columns, 1, options.index_bits, span, tables=tables)
