"""Vector codebooks: `dim` neighbouring weights are one of 2^index_bits centroids (GPTVQ)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import MismatchError
from zoo.quantization.grids.contract import Grid, Layout, Parameters, finite, positive
from zoo.quantization.kmeans import fit_codebooks, nearest
from zoo.quantization.operands import Entries
from zoo.quantization.options import LayerOptions
from zoo.quantization.packing import from_half_bits, half_bits, pack, packed_bytes, unpack


@dataclass(frozen=True)
class Codebooks(Grid):
    """A codebook of k centroids for every `group_rows` rows of a column group.

    Parameters of a column group, G = ceil(rows / group_rows) row groups of it:
    `codebook` (G, k, dim), and with block scales `log_scale` (rows, blocks), integers of 4
    bits with `log_step` and `log_low` (blocks,): a scale is 2^(log_step * log_scale + log_low).
    """

    group_rows: int
    codebook_bits: int = 8
    scale_block: int = 0
    iterations: int = 30
    seeding: str = "normal"
    seed: int = 0

    @property
    def row_groups(self) -> int:
        """Return G, the row groups of a column group."""
        return -(-self.rows // self.group_rows)

    @property
    def row_unit(self) -> int:
        """Return the rows of a codebook; all if they share the steps of block scales."""
        return self.rows if self.scale_block else self.group_rows

    def pinned(self, options: LayerOptions) -> LayerOptions:
        """Return options whose codebooks span as many columns and rows as these do."""
        size = self.span * self.group_rows
        return replace(options, columns_per_group=self.span, group_size=size, target_bpv=None)

    @property
    def blocks(self) -> int:
        """Return the scale blocks of a row in one column group."""
        return self.span // self.scale_block if self.scale_block else 0

    def books(self, parameters: Parameters) -> Tensor:
        """Return the codebooks (..., k, dim) from the parameters."""
        return parameters["codebook"]

    def fit(self, values: Tensor, importance: Tensor) -> Parameters:
        """Run weighted k-means in every row group, on `values` divided by their scales."""
        group: Parameters = self._fit_scales(values) if self.scale_block else {}
        scale = self.scale(group, values.shape[1])
        points = self.split(values if scale is None else values / scale)
        if scale is None:
            weights = importance.view(1, -1, self.dim).repeat(1, self.group_rows, 1)
            if self.rows % self.group_rows:  # rows that pad the last group have no weight
                weights = self.split(importance.expand(self.rows, -1))
        else:
            weights = self.split(importance * scale * scale)  # an error is magnified by its scale
        codebook = fit_codebooks(
            points,
            weights,
            1 << self.index_bits,
            iterations=self.iterations,
            seeding=self.seeding,
            seed=self.seed,
        )
        return {"codebook": self.round(codebook), **group}

    def encode(self, group: Parameters, values: Tensor, metric: Tensor, offset: int = 0) -> Tensor:
        """Return the nearest centroids (equation 5 of the paper)."""
        scale = self.scale(group, values.shape[1], offset)
        live = values if scale is None else values / scale
        # A cell has one scale, so its distances grow with it but keep their order.
        books = self.books(group)
        metrics = (metric,) if metric.ndim == 2 else metric.split(self.dim)
        cells = [
            self.join(nearest(self.split(cell), weight, books))
            for cell, weight in zip(live.split(self.dim, 1), metrics, strict=True)
        ]
        return torch.cat(cells, 1)

    def decode_group(self, group: Parameters, codes: Tensor, offset: int = 0) -> Tensor:
        """Return centroids times scales."""
        codebook = self.books(group)
        rows = torch.arange(self.rows, device=codes.device) // self.group_rows
        places = codes + (rows * codebook.shape[1]).unsqueeze(1)
        values = look_up(codebook.reshape(-1, self.dim), places)
        scale = self.scale(group, values.shape[1], offset)
        return values if scale is None else values * scale

    def round(self, codebook: Tensor) -> Tensor:
        """Return (..., k, dim) as storage will return it: int8 times a half, or halves."""
        integers, scale = self._integers(codebook)
        return integers * scale

    def scale(self, group: Parameters, width: int, offset: int = 0) -> Tensor | None:
        """Return the scales (rows, width) starting at column `offset` of the group, or None."""
        if not self.scale_block:
            return None
        blocks = torch.exp2(group["log_step"] * group["log_scale"] + group["log_low"])
        columns = torch.arange(offset, offset + width, device=blocks.device) // self.scale_block
        return blocks[:, columns]

    def split(self, matrix: Tensor) -> Tensor:
        """Return (rows, width) as the cells (G, group_rows * width / dim, dim) of row groups."""
        missing = self.row_groups * self.group_rows - self.rows
        padded = F.pad(matrix, (0, 0, 0, missing)) if missing else matrix
        return padded.reshape(self.row_groups, -1, self.dim)

    def join(self, cells: Tensor) -> Tensor:
        """Return per-cell values (G, group_rows * n) as (rows, n)."""
        return cells.reshape(self.row_groups * self.group_rows, -1)[: self.rows]

    def decode(self, parameters: Parameters, codes: Tensor) -> Tensor:
        """Return the matrix (rows, padded) in one look-up."""
        codebook = self.books(parameters)
        values = look_up(codebook.reshape(-1, self.dim), self.places(codes))
        scales = self.scales(parameters)
        return values if scales is None else values * scales.to(values)

    def adjoint(self, parameters: Parameters, codes: Tensor, gradient: Tensor) -> Parameters:
        """Return the gradient of `codebook`."""
        scales, codebook = self.scales(parameters), self.books(parameters)
        values = gradient.to(torch.float32) if scales is None else gradient * scales
        table = values.new_zeros(codebook.numel() // self.dim, self.dim)
        table.index_add_(0, self.places(codes).reshape(-1), values.reshape(-1, self.dim))
        return {"codebook": table.view_as(codebook)}

    def scales(self, parameters: Parameters) -> Tensor | None:
        """Return the block scales of the whole matrix (rows, padded), or None."""
        if not self.scale_block:
            return None
        parts = [
            self.scale(self.group(parameters, index), end - start)
            for index, (start, end) in enumerate(self.groups)
        ]
        return torch.cat([part for part in parts if part is not None], 1)

    def layout(self) -> Layout:
        """Return `codebook` (C, G, k, dim) with `codebook_scale` (C, G), and the block scales."""
        books = (len(self.groups), self.row_groups)
        shape = (*books, 1 << self.index_bits, self.dim)
        fields: Layout = {"codebook": (shape, torch.int16)}
        if self.codebook_bits == 8:
            fields = {"codebook": (shape, torch.int8), "codebook_scale": (books, torch.int16)}
        if self.scale_block:
            count = self._stored_blocks()
            fields["log_scale"] = ((self.rows, packed_bytes(count, 4)), torch.uint8)
            fields |= {name: ((count,), torch.int16) for name in ("log_step", "log_low")}
        return fields

    def store(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return codebooks and block scales."""
        integers, scale = self._integers(parameters["codebook"])
        stored = {}
        if self.codebook_bits == 8:
            stored["codebook"] = integers.to(torch.int8)
            stored["codebook_scale"] = half_bits(scale.flatten(1))
        else:
            stored["codebook"] = half_bits(integers)
        if self.scale_block:
            logs = torch.cat(list(parameters["log_scale"]), 1)[:, : self._stored_blocks()]
            stored["log_scale"] = pack(logs.to(torch.int64), 4)
            for name in ("log_step", "log_low"):
                stored[name] = half_bits(parameters[name].flatten()[: self._stored_blocks()])
        return stored

    def restore(self, tensors: Mapping[str, Tensor]) -> Parameters:
        """Return codebooks and block scales."""
        stored = self.take(tensors, "codebook")
        if self.codebook_bits == 8:
            halves = self.take(tensors, "codebook_scale")
            scale = finite(from_half_bits(halves), "codebook_scale")
            codebook = stored.to(torch.float32) * scale[:, :, None, None]
        else:
            codebook = finite(from_half_bits(stored), "codebook")
        return {"codebook": codebook} | (self._restore_scales(tensors) if self.scale_block else {})

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse scales that are not above zero."""
        if "codebook_scale" in tensors:
            positive(tensors["codebook_scale"], "codebook_scale")

    def integers(self, tensors: Mapping[str, Tensor]) -> Entries:
        """Return codes and codebooks of 8 bits as they are stored."""
        shape = (self.padded, self.span, self.index_bits, self.group_rows)
        return Entries(*shape, tensors["codes"], tensors["codebook"], tensors["codebook_scale"])

    def as_stored(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the codebooks (C, G, k, dim) as integers with their scales (C, G).

        Or as the bits of halves, without scales.
        """
        return tensors["codebook"], tensors.get("codebook_scale")

    def places(self, codes: Tensor) -> Tensor:
        """Return (rows, cells): the row of each cell's centroid in `codebook` as (-1, dim)."""
        size = 1 << self.index_bits
        group = torch.arange(self.cells, device=codes.device) // (self.span // self.dim)
        rows = torch.arange(self.rows, device=codes.device) // self.group_rows
        return codes + (group * self.row_groups + rows.unsqueeze(1)) * size

    def _integers(self, codebook: Tensor) -> tuple[Tensor, Tensor]:
        """Return integers (as floats) and scales (..., 1, 1) whose product is the codebook."""
        codebook = codebook.clamp(-65504, 65504)
        if self.codebook_bits == 16:
            one = torch.ones((), device=codebook.device)
            return codebook.to(torch.float16).to(torch.float32), one
        largest = codebook.abs().amax((-2, -1), keepdim=True)
        # The smallest normal half, so that a codebook of tiny values keeps its scale's precision.
        scale = (largest / 127).clamp(min=6.104e-5).to(torch.float16).to(torch.float32)
        return torch.round(codebook / scale).clamp(-127, 127), scale

    def _stored_blocks(self) -> int:
        return -(-self.padded // self.scale_block)

    def _fit_scales(self, values: Tensor) -> Parameters:
        """Return 4-bit logarithmic scales of blocks of `scale_block` columns (appendix H)."""
        missing = self.span - values.shape[1]
        largest = F.pad(values, (0, missing)).view(self.rows, -1, self.scale_block).abs().amax(2)
        used = largest > 0
        logs = torch.log2(largest.clamp(min=1e-30))
        top = torch.where(used, logs, -torch.inf).amax(0)
        low = torch.where(used, logs, torch.inf).amin(0)
        some = used.any(0)
        top, low = top.where(some, torch.zeros_like(top)), low.where(some, torch.zeros_like(low))
        low = low.to(torch.float16).to(torch.float32)
        step = ((top - low) / 15).clamp(min=0).to(torch.float16).to(torch.float32)
        codes = torch.round((logs - low) / step.clamp(min=1e-6)).clamp(0, 15)
        return {"log_scale": codes.where(used, torch.zeros_like(codes)), "log_step": step,
                "log_low": low}  # fmt: skip

    def _restore_scales(self, tensors: Mapping[str, Tensor]) -> Parameters:
        count, groups = self._stored_blocks(), len(self.groups)
        stored = self.take(tensors, "log_scale")
        logs = F.pad(unpack(stored, 4, count).to(torch.float32), (0, groups * self.blocks - count))
        parts = {"log_scale": torch.stack(list(logs.split(self.blocks, 1)))}
        for name in ("log_step", "log_low"):
            values = from_half_bits(self.take(tensors, name))
            padded = F.pad(finite(values, name), (0, groups * self.blocks - count))
            parts[name] = padded.view(groups, -1)
        return parts


def look_up(table: Tensor, places: Tensor) -> Tensor:
    """Return rows of `table` (n, d) side by side: (rows, cells * d) for `places` (rows, cells).

    A centroid of 2 or 4 floats moves as one number of 8 or 16 bytes: five times as fast on CPU.
    """
    wide = {4: torch.float32, 8: torch.float64, 16: torch.complex128}.get(
        table.shape[1] * table.element_size()
    )
    if wide is None:
        return table.index_select(0, places.reshape(-1)).view(len(places), -1)
    whole = table.contiguous().view(wide).view(-1)
    return whole.index_select(0, places.reshape(-1)).view(table.dtype).view(len(places), -1)


def make(
    options: LayerOptions,
    rows: int,
    columns: int,
    kind: type[Codebooks] = Codebooks,
    **more: int,
) -> Codebooks:
    """Return the grid whose codebooks have `group_size` weights, or fit `target_bpv`.

    `kind`, built with `more`, counts the bits of its codebooks.

    Raises:
        MismatchError: a single codebook for the whole matrix takes more than `target_bpv`.

    """
    unit = math.lcm(options.dim, options.scale_block or 1)

    def build(span: int, group_rows: int) -> Codebooks:
        return _build(options, rows, columns, span, group_rows, kind=kind, **more)

    if options.target_bpv is None:
        size = options.group_size or 16 * (options.dim << options.index_bits) * 4
        wide = -(-size // rows)  # this many columns are needed if there are few rows
        span = options.columns_per_group or _span(columns, max(64, wide), unit)
        return build(span, max(1, min(size // span, rows)))
    budget = options.target_bpv * rows * columns
    spans = [options.columns_per_group] if options.columns_per_group else []
    for span in spans or [_span(columns, 64 << doubling, unit) for doubling in range(12)]:
        best = None
        for parts in range(1, rows + 1):
            grid = build(span, -(-rows // parts))
            if total_bytes(grid) * 8 > budget:
                break
            best = grid
        if best is not None:
            return best
    least = total_bytes(build(_span(columns, columns, unit), rows)) * 8 / (rows * columns)
    raise MismatchError(
        f"target_bpv is {options.target_bpv:g}; a {rows} x {columns} matrix with one codebook of "
        f"{options.dim << options.index_bits} numbers takes {least:.4f}: "
        "raise target_bpv, or lower bits or dim"
    )


def total_bytes(grid: Grid) -> int:
    """Return the bytes of codes and parameters of a matrix on `grid`."""
    return grid.rows * packed_bytes(grid.cells, grid.index_bits) + grid.parameter_bytes()


def _build(
    options: LayerOptions,
    rows: int,
    columns: int,
    span: int,
    group_rows: int,
    *,
    kind: type[Codebooks],
    **more: int,
) -> Codebooks:
    return kind(
        rows,
        columns,
        options.dim,
        options.index_bits,
        span,
        group_rows=group_rows,
        codebook_bits=options.codebook_bits,
        scale_block=options.scale_block,
        iterations=options.iterations,
        seeding=options.seeding,
        seed=options.seed,
        **more,
    )


def _span(columns: int, wanted: int, unit: int) -> int:
    """Return the width of equal column groups of about `wanted` columns, a multiple of `unit`."""
    groups = max(1, round(columns / wanted))
    return -(-columns // (groups * unit)) * unit
