"""Embeddings and heads, most of a small model's file, as rows of 8-bit integers.

A row is its integers times one 16-bit scale, rounded to nearest: an error of at most half a
step of 1/127 of the row's largest number. Integers stay integers whatever dtype the model is loaded
or cast to.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import MismatchError, UnsafeFileError
from zoo.quantization.kernels.matvec import FEW, rows_matvec
from zoo.quantization.packing import from_half_bits, half_bits

STEPS = 127
_CHUNK = 4096  # rows decoded at a time: they stay in the processor's cache


def quantize_rows(weight: Tensor) -> dict[str, Tensor]:
    """Return `codes` int8 (rows, columns) and `scale` (rows,), bits of a half, of a float matrix.

    A row of zeros has codes of zero, and the scale 1.
    """
    values = weight.detach().to(torch.float32)
    largest = values.abs().amax(1)
    # The smallest normal half, so that a row of tiny values keeps its scale's precision.
    scale = (largest / STEPS).clamp(6.104e-5, 65504).where(largest > 0, torch.ones_like(largest))
    scale = scale.to(torch.float16).to(torch.float32)
    codes = torch.round(values / scale.unsqueeze(1)).clamp(-STEPS, STEPS)
    return {"codes": codes.to(torch.int8), "scale": half_bits(scale)}


class Rows(nn.Module):
    """Rows of 8-bit integers.

    Args:
        count: number of rows.
        width: numbers per row.
        dtype: type of the decoded floats; `Module.to` changes it, and nothing else.

    """

    codes: Tensor
    scale: Tensor
    like: Tensor

    def __init__(self, count: int, width: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(count, width, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(count, dtype=torch.int16))
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the rows (count, width) as floats."""
        return torch.cat([part.to(dtype) for part in self._parts()])

    def check(self) -> None:
        """Refuse stored values that no quantization produces.

        Raises:
            UnsafeFileError: a scale is zero, negative, NaN or infinite.

        """
        values = from_half_bits(self.scale)
        if not (torch.isfinite(values).all() and (values > 0).all()):
            raise UnsafeFileError("scale holds zero, a negative number, NaN or infinity")

    def look_up(self, ids: Tensor) -> Tensor:
        """Return the rows of ids (...): (..., width)."""
        scale = from_half_bits(self.scale[ids]).unsqueeze(-1)
        return (self.codes[ids] * scale).to(self.like.dtype)

    def times(self, x: Tensor) -> Tensor:
        """Return x W^T (..., count) for x (..., width) and these rows W."""
        flat, product = x.reshape(-1, x.shape[-1]), None
        if torch.compiler.is_compiling():
            return F.linear(x, self.dequantize(x.dtype))
        if 0 < len(flat) <= FEW and not (x.requires_grad and torch.is_grad_enabled()):
            product = rows_matvec(flat.to(torch.float32), self.codes, self.scale)
        if product is None:
            product = torch.cat([F.linear(flat, part.to(x.dtype)) for part in self._parts()], 1)
        return product.to(x.dtype).view(*x.shape[:-1], len(self.codes))

    def _parts(self) -> Iterator[Tensor]:
        scales = from_half_bits(self.scale).split(_CHUNK)
        for codes, scale in zip(self.codes.split(_CHUNK), scales, strict=True):
            yield codes * scale.unsqueeze(1)


class PackedEmbedding(Rows):
    """An embedding of 8-bit rows."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids (...): (..., width)."""
        return self.look_up(ids)


class PackedHead(Rows):
    """A head of 8-bit rows and a bias, if there is one."""

    def __init__(self, count: int, width: int, dtype: torch.dtype | None = None) -> None:
        super().__init__(count, width, dtype)
        self.bias: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (..., count) of x (..., width)."""
        y = self.times(x)
        return y if self.bias is None else y + self.bias


class TiedHead(nn.Module):
    """A head with the embedding's rows and no tensors of its own."""

    def __init__(self, embedding: PackedEmbedding) -> None:
        super().__init__()
        # In a list, so that it is not a submodule, whose tensors would appear twice.
        self._embedding = [embedding]

    @property
    def rows(self) -> PackedEmbedding:
        """The embedding."""
        return self._embedding[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (..., count) of x (..., width)."""
        return self.rows.times(x)


def check_plain(model: Any) -> None:
    """Refuse models whose embedding or head does more than look up and multiply.

    Raises:
        MismatchError: one is of a special kind (scaled, sharded, with several tables).

    """
    parts = (model.get_input_embeddings(), nn.Embedding), (model.get_output_embeddings(), nn.Linear)
    for part, kind in parts:
        if part is not None and type(part) is not kind:
            raise MismatchError(
                f"{type(model).__name__} has a {type(part).__name__} where a plain "
                f"{kind.__name__} can be packed: leave out --embeddings"
            )


def pack(model: Any, *, tied: bool) -> None:
    """Replace the embedding and the head of a language model with empty packed ones.

    Args:
        model: a transformers model; without a head only its embedding is replaced.
        tied: the head has the embedding's rows.

    """
    old, head = model.get_input_embeddings(), model.get_output_embeddings()
    with torch.device("meta"):
        table = PackedEmbedding(old.num_embeddings, old.embedding_dim, old.weight.dtype)
    model.set_input_embeddings(table)
    if head is None:
        return
    if tied:
        model.set_output_embeddings(TiedHead(table))
        return
    with torch.device("meta"):
        packed = PackedHead(head.out_features, head.in_features, head.weight.dtype)
    packed.bias = head.bias
    model.set_output_embeddings(packed)


def unpack(model: Any, dtype: torch.dtype) -> None:
    """Replace them with ordinary ones holding the decoded weights; tied ones are tied again."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(table, PackedEmbedding):
        return
    plain = nn.Embedding.from_pretrained(table.dequantize(dtype))
    plain.weight.requires_grad_(False)
    model.set_input_embeddings(plain)
    if isinstance(head, TiedHead | PackedHead):
        rows, columns = table.codes.shape if isinstance(head, TiedHead) else head.codes.shape
        bias = None if isinstance(head, TiedHead) else head.bias
        with torch.device("meta"):
            layer = nn.Linear(columns, rows, bias=bias is not None)
        layer.weight = (
            plain.weight
            if isinstance(head, TiedHead)
            else nn.Parameter(head.dequantize(dtype), requires_grad=False)
        )
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        model.set_output_embeddings(layer)
    if isinstance(head, TiedHead):
        model.config.tie_word_embeddings = True
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
