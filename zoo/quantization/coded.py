"""Layers whose bf16 weights are stored without loss, and decoded where they are used."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import MismatchError
from zoo.quantization import entropy

METHOD = "edge-zoo-dfloat11"  # its name in `quantization_config`
FORMAT_VERSION = 1
_FEW = 32  # different tokens; beyond that the whole table is decoded


class CodedWeight(nn.Module):
    """A bf16 matrix as `zoo.quantization.entropy` stores it.

    Args:
        rows: rows of the matrix.
        columns: its columns.
        stream_bytes: bytes of the stream of codes.
        dtype: type of the decoded floats; `Module.to` changes it, and nothing else.

    """

    like: Tensor

    def __init__(
        self, rows: int, columns: int, stream_bytes: int, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.shape = (rows, columns)
        self.names = tuple(entropy.layout(rows * columns, stream_bytes))
        for name, (shape, kind) in entropy.layout(rows * columns, stream_bytes).items():
            self.register_buffer(name, torch.zeros(shape, dtype=kind))
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    def stored(self) -> dict[str, Tensor]:
        """Return the parts of the weight."""
        return {name: self.get_buffer(name) for name in self.names}

    def check(self) -> None:
        """Refuse parts that belong to no weight.

        Raises:
            UnsafeFileError: see `zoo.quantization.entropy.check`.

        """
        entropy.check(self.stored(), self.shape[0] * self.shape[1])

    def exact(self) -> Tensor:
        """Return the weight (rows, columns) in bf16, every bit as it was."""
        return entropy.decode(self.stored(), self.shape)

    @property
    def weight(self) -> Tensor:
        """The weight, decoded, in the type of the model; writing to it changes nothing."""
        if self.get_buffer("rest").is_meta:
            return torch.empty(self.shape, dtype=self.like.dtype, device="meta")
        return self.exact().to(self.like.dtype)


class CodedLinear(CodedWeight):
    """y = x W^T + b with a coded W (out_features, in_features)."""

    def __init__(
        self, rows: int, columns: int, stream_bytes: int, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(rows, columns, stream_bytes, dtype)
        self.out_features, self.in_features = rows, columns
        self.bias: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., out_features) for x (..., in_features)."""
        return F.linear(x, self.exact().to(x.dtype), self.bias)


class CodedEmbedding(CodedWeight):
    """An embedding of coded rows; for few tokens only the chunks with their rows are decoded."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids (...): (..., columns)."""
        known, places = ids.unique(return_inverse=True)
        if len(known) > _FEW:
            return F.embedding(ids, self.exact()).to(self.like.dtype)
        rows = torch.stack([self._row(int(row)) for row in known])
        return rows[places].to(self.like.dtype)

    def times(self, x: Tensor) -> Tensor:
        """Return x W^T (..., rows): what a head that is tied to it computes."""
        return F.linear(x, self.exact().to(x.dtype))

    def _row(self, row: int) -> Tensor:
        columns, chunk = self.shape[1], entropy.CHUNK
        first, last = row * columns // chunk, -(-(row + 1) * columns // chunk)
        parts = self.stored()
        some = {
            **parts,
            "rest": parts["rest"][first * chunk : last * chunk],
            "starts": parts["starts"][first : last + 1],
        }
        begin = row * columns - first * chunk
        return entropy.decode(some, some["rest"].shape)[begin : begin + columns]


class TiedCodedHead(nn.Module):
    """A head with the embedding's rows and no tensors of its own."""

    def __init__(self, embedding: CodedEmbedding) -> None:
        super().__init__()
        # In a list, so that it is not a submodule, whose tensors would appear twice.
        self._embedding = [embedding]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (..., rows) of x (..., columns)."""
        return self._embedding[0].times(x)


def codable(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers whose weights can be coded: plain linear ones and the plain embedding."""
    table = model.get_input_embeddings()
    for name, module in model.named_modules():
        if type(module) is nn.Linear or (module is table and type(module) is nn.Embedding):
            yield name, module


def encode_model(model: Any, *, cast: bool = False) -> dict[str, int]:
    """Replace the layers of a transformers model by coded ones; return their streams' bytes.

    Args:
        model: changed in place.
        cast: round weights that are no bf16 numbers; without it they are refused.

    Raises:
        MismatchError: a weight is no bf16 matrix; it is named.

    """
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is table.weight
    layers = [(n, m) for n, m in codable(model) if not (tied and m is head)]
    values = {name: _brain(name, layer.get_parameter("weight"), cast) for name, layer in layers}
    sizes = {}
    for name, layer in layers:
        parts = entropy.encode(values.pop(name))
        sizes[name] = len(parts["stream"])
        coded = empty(layer, sizes[name])
        coded.load_state_dict(parts, strict=False, assign=True)
        model.set_submodule(name, coded)
    if tied:
        model.set_output_embeddings(TiedCodedHead(model.get_input_embeddings()))
        model.config.tie_word_embeddings = False  # by the head: transformers ties parameters
    return sizes


def empty(layer: nn.Module, stream_bytes: int) -> CodedWeight:
    """Return a coded layer on the meta device for a linear layer or an embedding; it keeps b."""
    weight = layer.get_parameter("weight")
    rows, columns = weight.shape
    coded: CodedWeight
    with torch.device("meta"):
        if isinstance(layer, nn.Linear):
            coded = CodedLinear(rows, columns, stream_bytes, weight.dtype)
            coded.bias = layer.bias
        else:
            coded = CodedEmbedding(rows, columns, stream_bytes, weight.dtype)
    coded.like = torch.empty(0, dtype=weight.dtype)
    return coded


def decode_model(model: Any, dtype: torch.dtype = torch.bfloat16) -> None:
    """Replace the coded layers of a model by ordinary ones; a tied head is tied again."""
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, CodedWeight):
            continue
        weight = nn.Parameter(layer.exact().to(dtype), requires_grad=False)
        rows, columns = layer.shape
        plain: nn.Linear | nn.Embedding
        with torch.device("meta"):
            if isinstance(layer, CodedLinear):
                plain = nn.Linear(columns, rows, bias=False)
                plain.register_parameter("bias", layer.bias)
            else:
                plain = nn.Embedding(rows, columns)
        plain.weight = weight
        model.set_submodule(name, plain)
    if isinstance(head, TiedCodedHead):
        table = model.get_input_embeddings()
        with torch.device("meta"):
            tied = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False)
        tied.weight = table.weight
        model.set_output_embeddings(tied)
        model.config.tie_word_embeddings = True
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _brain(name: str, weight: Tensor, cast: bool) -> Tensor:
    values = weight.detach().to(torch.bfloat16)
    if weight.dtype != torch.bfloat16 and not cast:
        back = values.to(weight.dtype)
        if not torch.equal(back, weight) or (back.signbit() != weight.signbit()).any():
            kind = str(weight.dtype).removeprefix("torch.")
            raise MismatchError(
                f"{name}.weight is {kind} and not made of bf16 numbers, which dfloat11 stores "
                "without loss: add --cast to round them first"
            )
    return values
