"""`PackedLinear`: a linear layer that keeps its weight as codes and decodes it where it is used."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from zoo.errors import MismatchError, UnsafeFileError
from zoo.quantization import activations
from zoo.quantization.core import QuantizedMatrix
from zoo.quantization.grids import make_grid
from zoo.quantization.grids.codebook import Codebooks
from zoo.quantization.grids.contract import Grid, Layout
from zoo.quantization.kernels.decode import from_steps, from_tables
from zoo.quantization.kernels.matvec import FEW, Matvec, in_order
from zoo.quantization.options import LayerOptions
from zoo.quantization.packing import from_half_bits, packed_bytes

METHOD = "edge-zoo"  # its name in `quantization_config`
LAYOUT_VERSION = 1  # of the stored tensors of a linear layer
EXPOSED_VERSION = 2  # ... where layers were something else before: `zoo.quantization.exposed`
FORMAT_VERSION = EXPOSED_VERSION  # the newest that is read

Cache = Literal["none", "decoded"]


class Beside(Protocol):
    """What is added to a packed weight without touching its codes.

    Attributes:
        anchor: while S is trained, a leaf that requires a gradient, by which a graph reaches
            `learn` even where the layer's input needs none; None for an S that is not trained.

    """

    anchor: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x S^T."""

    def add_to(self, weight: Tensor) -> Tensor:
        """Return W + S for W, which may be overwritten."""

    def learn(self, dy: Tensor, x: Tensor) -> None:
        """Take the gradient of W + S, dY^T X, for dY (tokens, rows) and X (tokens, columns)."""


class _Product(torch.autograd.Function):
    """y = x (W + S)^T + b whose graph keeps codes, not floats: W is decoded again, backwards."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, anchor: Tensor | None, layer: "PackedLinear"
    ) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x.detach() if anchor is not None else None)
        return F.linear(x, layer.floats(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        layer: PackedLinear = ctx.layer
        (x,) = ctx.saved_tensors
        flat = dy.reshape(-1, layer.out_features)
        dx = dy @ layer.floats(dy.dtype) if ctx.needs_input_grad[0] else None
        if x is None or layer.sidecar is None:
            return dx, flat.sum(0) if ctx.needs_input_grad[1] else None, None, None
        layer.sidecar.learn(flat, x.reshape(-1, layer.in_features))
        reached = dy.new_zeros((), dtype=torch.float32)
        return dx, flat.sum(0) if ctx.needs_input_grad[1] else None, reached, None


def layout(grid: Grid, options: LayerOptions) -> Layout:
    """Return name, shape and type of the tensors that a quantized matrix is stored as."""
    width = packed_bytes(grid.cells, grid.index_bits)
    fields: Layout = {"codes": ((grid.rows, width), torch.uint8), **grid.layout()}
    if options.act_order:
        fields["order"] = ((grid.columns,), torch.int32)
    return fields


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the integers that a layer is stored as; floats, cast freely, not."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach()
        if not value.is_floating_point():
            state.update(f"{name}{tuple(value.shape)}".encode())
            state.update(value.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return state.hexdigest()


class PackedLinear(nn.Module):
    """y = x W^T + b with W (out_features, in_features) stored as `QuantizedMatrix.tensors()`.

    Codes, codebooks and scales are integer buffers, so that loading or casting the model in
    another dtype leaves them as they are; W is decoded in float32 and rounded once to the type
    of x: the result has the bits of `F.linear(x, dequantize().to(x.dtype), b)`. The exception: with
    at most `matvec.FEW` tokens and no cache, codebooks are decoded where they are multiplied, in
    float32 and in an order of sums that is the same with and without the compiled kernel. With
    `activations="int8"` x is rounded to 8 bits: see `zoo.quantization.activations`.

    Args:
        in_features: columns of W.
        out_features: rows of W.
        options: how W was quantized.
        bias: whether there is a bias b; it stays a float parameter.

    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        options: LayerOptions,
        *,
        bias: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.options = in_features, out_features, options
        self.grid = make_grid(options, out_features, in_features)
        self.names = tuple(layout(self.grid, options))
        for name, (shape, kind) in layout(self.grid, options).items():
            self.register_buffer(name, torch.zeros(shape, dtype=kind))
        empty = torch.empty(out_features, dtype=dtype) if bias else None
        self.bias = None if empty is None else nn.Parameter(empty, requires_grad=False)
        self.cache: Cache = "none"
        self._decoded: tuple[Tensor, Beside | None] | None = None
        self.sidecar: Beside | None = None  # see zoo.adapters.beside
        self._dtype = dtype or torch.get_default_dtype()
        grid = self.grid
        self._books: tuple[Tensor, Tensor | None] | None = None  # factors are multiplied once
        fused = isinstance(grid, Codebooks) and self.names in (_PLAIN[0], _PRODUCT)
        self._matvec = Matvec(grid) if fused and isinstance(grid, Codebooks) else None

    @classmethod
    def of(cls, matrix: QuantizedMatrix, bias: Tensor | None = None) -> "PackedLinear":
        """Return the layer of a quantized matrix."""
        rows, columns = matrix.shape
        dtype = None if bias is None else bias.dtype
        layer = cls(columns, rows, matrix.options, bias=bias is not None, dtype=dtype)
        layer.load_state_dict(matrix.tensors(), strict=bias is None)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        return layer.to(matrix.codes.device)

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors of the weight."""
        return {name: self.get_buffer(name) for name in self.names}

    def matrix(self) -> QuantizedMatrix:
        """Return the weight as codes and grid, checked.

        Raises:
            UnsafeFileError: no quantization produces these tensors.

        """
        shape = (self.out_features, self.in_features)
        return QuantizedMatrix.from_tensors(self.stored(), shape, self.options)

    def check(self) -> None:
        """Refuse stored values that no quantization produces, without decoding the weight.

        Raises:
            UnsafeFileError: a scale or basis is zero, NaN or infinite, as when tensors were missing
                from the file; an order is not a permutation; or bits are set after the last code.

        """
        self.grid.check(self.stored())
        codes, bits = self.get_buffer("codes"), self.grid.index_bits
        spare = -self.grid.cells * bits % 8
        if spare and (codes[:, -1] >> (8 - spare)).any():
            raise UnsafeFileError("codes out of range: bits are set after the last code of a row")
        if "order" in self.names:
            order = self.get_buffer("order").long()
            if not torch.equal(order.sort().values, torch.arange(self.in_features).to(order)):
                raise UnsafeFileError("order is not a permutation of the columns")

    def codebooks(self) -> tuple[Tensor, Tensor | None]:
        """Return the codebooks (C, G, k, dim) and their scales as they are stored, or would be.

        8-bit integers with scales (C, G), or bits of halves without scales.
        """
        if self._books is not None:
            return self._books
        assert isinstance(self.grid, Codebooks)
        books = self.grid.as_stored(self.stored())
        if "codebook" not in self.names and not torch.compiler.is_compiling():
            self._books = books
        return books

    @property
    def fused(self) -> Codebooks | None:
        """The grid, if codebooks are decoded where they are multiplied with few tokens."""
        return None if self._matvec is None else self._matvec.grid

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return W (out_features, in_features)."""
        weight, names = None, tuple(name for name in self.names if name != "order")
        if isinstance(self.grid, Codebooks) and names in (*_PLAIN, _PRODUCT):
            weight = decode_codebooks(self, dtype)
        elif names == _STEPS:
            zero = unpacked(self.get_buffer("zero"), self.grid.index_bits, self.out_features)
            codes, scale = self.get_buffer("codes"), self.get_buffer("scale")
            weight = from_steps(self.grid, codes, scale, zero, dtype)
        else:
            weight = self.grid.decode_stored(self.stored())
        if weight is None:
            return self.matrix().dequantize().to(dtype)
        if "order" in self.names:
            places = self.get_buffer("order").long().argsort()
            weight = weight.index_select(1, places)
        return weight.to(dtype)

    @property
    def weight(self) -> Tensor:
        """W and what is added to it, in floats: for models whose code reads it.

        Mamba multiplies with one layer's weight itself, and others ask for its type or device.
        It is decoded each time; writing to it changes nothing.
        """
        if self.get_buffer("codes").is_meta:
            shape = (self.out_features, self.in_features)
            return torch.empty(shape, dtype=self._dtype, device="meta")
        return self.floats(self._dtype)

    def floats(self, dtype: torch.dtype) -> Tensor:
        """Return W and what is added to it, rounded once to `dtype`."""
        kept, beside = self._decoded, self.sidecar
        if kept is not None and kept[0].dtype == dtype and kept[1] is beside:
            return kept[0]
        weight = self.dequantize(dtype if beside is None else torch.float32)
        if beside is not None:
            weight = beside.add_to(weight).to(dtype)
        if self.cache == "decoded" and (beside is None or beside.anchor is None):
            self._decoded = weight, beside
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., out_features) for x (..., in_features)."""
        anchor = None if self.sidecar is None else self.sidecar.anchor
        training = torch.is_grad_enabled() and (x.requires_grad or anchor is not None)
        if self.options.activations == "int8":
            order = self.get_buffer("order") if "order" in self.names else None
            if activations.few(x) and not training and self.cache == "none":
                return self._int8(x, order)
            x = activations.rounded(x, self.grid.span, order)
        tokens = x.numel() // max(self.in_features, 1)
        if self._matvec is not None and 0 < tokens <= FEW and not training and self.cache == "none":
            y = self._few(x, self._matvec)
            return y if self.sidecar is None else y + self.sidecar(x).to(y.dtype)
        again = self.cache == "none" and not torch.compiler.is_compiling()
        if training and (again or anchor is not None):
            product: Tensor = _Product.apply(x, self.bias, anchor, self)  # type: ignore[no-untyped-call]
            return product
        return F.linear(x, self.floats(x.dtype), self.bias)

    def _int8(self, x: Tensor, order: Tensor | None) -> Tensor:
        y = activations.product(self.grid.integers(self.stored()), x, order)
        if self.sidecar is not None:
            y = y + self.sidecar(x).reshape(y.shape).to(y.dtype)
        y = y if self.bias is None else y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _few(self, x: Tensor, matvec: Matvec) -> Tensor:
        flat = x.reshape(-1, self.in_features).to(torch.float32)
        codebook, scale = self.codebooks()
        assert scale is not None, "half codebooks have no kernel"
        product = None
        if not torch.compiler.is_compiling():
            product = matvec(flat, self.get_buffer("codes"), codebook, scale)
        if product is None:
            product = in_order(matvec.grid, decode_codebooks(self, scaled=False), scale, flat)
        y = product if self.bias is None else product + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedLinear":
        self._decoded = self._books = None  # they have the old device or dtype
        self._dtype = fn(torch.empty(0, dtype=self._dtype, device="cpu")).dtype
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._decoded = self._books = None  # they belong to the old codes
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        """Return sizes and options, for printing."""
        options = ", ".join(f"{key}={value}" for key, value in self.options.to_dict().items())
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {options}"


_PLAIN = (("codes", "codebook", "codebook_scale"), ("codes", "codebook"))
_PRODUCT = ("codes", "factor", "basis")
_STEPS = ("codes", "scale", "zero")


def decode_codebooks(
    layer: PackedLinear, dtype: torch.dtype = torch.float32, *, scaled: bool = True
) -> Tensor:
    """Return W (rows, columns) of codebooks without block scales; columns are in stored order.

    It is of type `dtype` where there is a kernel, else in float32. Without `scaled` it is in units
    of the codebooks' scales: whole numbers.

    In torch, the d numbers of a centroid are moved as one integer of 4 d bytes: an order of
    magnitude faster than indexing d floats. Codes of 4 bits are looked up two at a time.
    """
    grid = layer.grid
    assert isinstance(grid, Codebooks)
    codebook, scale = layer.codebooks()
    if scale is not None:
        table = codebook.to(torch.float32)
        if scaled:
            table = table * from_half_bits(scale)[:, :, None, None]
    else:
        table = from_half_bits(codebook)
    codes, bits = layer.get_buffer("codes"), grid.index_bits
    wanted = dtype if dtype in (torch.bfloat16, torch.float16) else torch.float32
    if (weight := from_tables(grid, codes, table.to(wanted), grid.group_rows)) is not None:
        return weight
    width = grid.span // grid.dim  # codes of a row in one column group
    per_look = 2 if bits == 4 and width % 2 == 0 and grid.cells % 2 == 0 else 1
    if per_look == 2:
        count = table.shape[2]
        low = table.unsqueeze(2).expand(-1, -1, count, -1, -1)
        high = table.unsqueeze(3).expand(-1, -1, -1, count, -1)
        table = torch.cat([low, high], -1).flatten(2, 3)  # [byte] = [code & 15, code >> 4]
        looks = codes
    else:
        looks = unpacked(codes, bits, grid.cells)
    kind = {4: torch.int32, 8: torch.int64, 16: torch.complex128}.get(4 * grid.dim * per_look)
    rows = torch.arange(grid.rows, device=codes.device, dtype=torch.int32) // grid.group_rows
    base = (rows * table.shape[2]).unsqueeze(1)
    parts = []
    for index, (start, end) in enumerate(grid.groups):
        step = grid.dim * per_look
        places = looks[:, start // step : end // step] + base
        flat = table[index].flatten(0, 1)
        if kind is None:  # 8 dimensions: no integer is that wide
            codewords = flat.index_select(0, places.flatten())
        else:
            codewords = (
                flat.view(kind).flatten().index_select(0, places.flatten()).view(torch.float32)
            )
        parts.append(codewords.view(grid.rows, -1))
    return torch.cat(parts, 1)[:, : grid.columns]


def unpacked(codes: Tensor, bits: int, count: int) -> Tensor:
    """Return (rows, count) codes of `bits` bits: `packing.unpack` in fewer and smaller steps."""
    if bits == 8:
        return codes
    rows, have = codes.shape
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, device=codes.device, dtype=torch.uint8)
        values = (codes.unsqueeze(2) >> shifts) & ((1 << bits) - 1)
        return values.flatten(1)[:, :count]
    whole = -(-count // 8) * bits
    padded = F.pad(codes, (0, whole - have)).view(rows, -1, bits)
    values = torch.empty(rows, padded.shape[1], 8, dtype=torch.uint8, device=codes.device)
    for place in range(8):
        first, shift = divmod(place * bits, 8)
        value = padded[:, :, first] >> shift
        if shift + bits > 8:
            value = value | (padded[:, :, first + 1] << (8 - shift))
        values[:, :, place] = value & ((1 << bits) - 1)
    return values.flatten(1)[:, :count]


def set_cache(model: nn.Module, cache: Cache) -> int:
    """Choose between little memory ("none") and speed ("decoded"); return the number of layers.

    "decoded" keeps each weight as floats once it has been used: the model then takes the memory of
    the model it was made from, in addition to its own.
    """
    if cache not in ("none", "decoded"):
        raise MismatchError(f"cache is {cache!r}; expected none or decoded")
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    for layer in layers:
        layer.cache = cache
        layer._decoded = None
    return len(layers)
