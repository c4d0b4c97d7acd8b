"""Keys and values of past tokens in 8 or 4 bits, as a cache of transformers.

The last tokens stay in full precision. Older ones are rounded once, `GROUP` tokens at a time: keys
with a scale per channel, values with one per token, as their outliers lie (KIVI, arXiv 2402.02750).
What transformers brings (`QuantizedCache`) needs a package for it, and rounds all that it holds
anew whenever the full-precision part is full.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from zoo.errors import MismatchError

BITS = (4, 8)
GROUP = 64  # tokens that are rounded together: a scale per channel of keys
WINDOW = 64  # tokens at the end that always stay as they are


@dataclass(frozen=True)
class Rounded:
    """Tensors (batch, heads, blocks, GROUP, channels) as integers: low + scale * code.

    Codes of 4 bits lie two in a byte, a token and the one GROUP / 2 later.
    """

    codes: Tensor
    scale: Tensor
    low: Tensor

    @classmethod
    def of(cls, values: Tensor, bits: int, axis: int) -> "Rounded":
        """Round values (batch, heads, tokens, channels), whole groups, with a scale along `axis`.

        Args:
            values: what is rounded.
            bits: 4 or 8.
            axis: -2 for a scale per channel, -1 for one per token.

        """
        blocks = values.unflatten(2, (-1, GROUP)).to(torch.float32)
        low = blocks.amin(axis, keepdim=True).to(torch.float16)
        width = blocks.amax(axis, keepdim=True) - low
        top = (1 << bits) - 1
        scale = (width / top).clamp(min=6.2e-5).to(torch.float16)  # no subnormal half
        codes = ((blocks - low) / scale).round().clamp(0, top).to(torch.uint8)
        if bits == 4:
            first, second = codes.split(GROUP // 2, 3)
            codes = first | second << 4
        return cls(codes, scale, low)

    def values(self, dtype: torch.dtype) -> Tensor:
        """Return the values (batch, heads, tokens, channels)."""
        codes = self.codes
        if codes.shape[3] < GROUP:
            codes = torch.cat([codes & 15, codes >> 4], 3)
        return (codes * self.scale.to(torch.float32) + self.low).flatten(2, 3).to(dtype)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Rounded":
        """Return the same with all tensors changed."""
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def joined(self, after: "Rounded") -> "Rounded":
        """Return these tokens, then those."""
        pairs = {f.name: (getattr(self, f.name), getattr(after, f.name)) for f in fields(self)}
        return Rounded(**{name: torch.cat(pair, 2) for name, pair in pairs.items()})

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(int(getattr(self, f.name).nbytes) for f in fields(self))


class RoundedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values: `keys` and `values` hold the last tokens, as they came.

    Args:
        bits: of older tokens, 4 or 8.

    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.old: tuple[Rounded, Rounded] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Add tokens; return all keys and values (batch, heads, tokens, channels)."""
        keys, values = super().update(key_states, value_states)
        whole = [keys, values]
        if self.old is not None:
            before = (part.values(keys.dtype) for part in self.old)
            whole = [torch.cat(pair, 2) for pair in zip(before, whole, strict=True)]
        spare = (keys.shape[2] - WINDOW) // GROUP * GROUP
        if spare > 0:
            new = (
                Rounded.of(keys[:, :, :spare], self.bits, -2),
                Rounded.of(values[:, :, :spare], self.bits, -1),
            )
            if self.old is not None:
                new = self.old[0].joined(new[0]), self.old[1].joined(new[1])
            self.old = new
            # Copies, so that the memory of what was rounded is free.
            self.keys, self.values = keys[:, :, spare:].clone(), values[:, :, spare:].clone()
        return whole[0], whole[1]

    def get_seq_length(self) -> int:
        """Return how many tokens there are."""
        old = 0 if self.old is None else self.old[0].codes.shape[2] * GROUP
        return old + int(super().get_seq_length())

    @property
    def nbytes(self) -> int:
        """The bytes of keys and values."""
        if not self.is_initialized:
            return 0
        old = 0 if self.old is None else sum(part.nbytes for part in self.old)
        return old + int(self.keys.nbytes + self.values.nbytes)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end, a negative number; of a group cut in two, a part stays."""
        if -tokens_to_remove > int(super().get_seq_length()) and self.old is not None:
            wanted = max(0, self.get_seq_length() + tokens_to_remove)
            dtype, first = self.keys.dtype, wanted // GROUP
            floats = [part.values(dtype)[:, :, first * GROUP : wanted] for part in self.old]
            kept = [part.each(lambda tensor: tensor[:, :, :first]) for part in self.old]
            self.old = (kept[0], kept[1]) if first else None
            self.keys, self.values = floats
            return
        super().crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        self.old = None

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.is_initialized:
            self.keys, self.values = change(self.keys), change(self.values)
        if self.old is not None:
            self.old = self.old[0].each(change), self.old[1].each(change)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Choose other texts of the batch, as a beam search does."""
        self._each(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each text of the batch."""
        self._each(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some texts of the batch."""
        self._each(lambda tensor: tensor[indices, ...])

    def offload(self) -> None:
        """Move everything to the CPU."""
        self._each(lambda tensor: tensor.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        """Move everything back to the device."""
        if self.is_initialized:
            self._each(lambda tensor: tensor.to(self.device, non_blocking=True))


class RoundedCache(Cache):  # type: ignore[misc]
    """A cache for `generate(past_key_values=...)` and for a model's own call.

    Layers whose attention slides over a window keep what they see, in full precision: it does not
    grow.

    Args:
        config: the model's.
        bits: of keys and values, 4 or 8.

    Raises:
        MismatchError: of other bits, or no layer of the model has keys and values that grow.

    """

    def __init__(self, config: Any, bits: int) -> None:
        if bits not in BITS:
            raise MismatchError(f"cache bits are {bits}; expected {' or '.join(map(str, BITS))}")
        layers = [
            RoundedLayer(bits) if type(layer) is DynamicLayer else layer
            for layer in DynamicCache(config=config).layers
        ]
        if not any(isinstance(layer, RoundedLayer) for layer in layers):
            raise MismatchError(
                f"the {config.model_type!r} has no layer with keys and values of all tokens, which "
                "is what cache bits are for: leave them out"
            )
        super().__init__(layers=layers)

    @property
    def nbytes(self) -> int:
        """The bytes of keys and values in all layers that attend to tokens."""
        return sum(_bytes(layer) for layer in self.layers)


def _bytes(layer: Any) -> int:
    if isinstance(layer, RoundedLayer):
        return layer.nbytes
    tensors = (getattr(layer, name, None) for name in ("keys", "values"))
    return sum(int(tensor.nbytes) for tensor in tensors if isinstance(tensor, Tensor))


def cache_for(model: Any, bits: int) -> RoundedCache:
    """Return an empty cache for a language model of transformers.

    Raises:
        MismatchError: see `RoundedCache`; or the model encodes one text and writes another.

    """
    if model.config.is_encoder_decoder:
        raise MismatchError(
            f"the {model.config.model_type!r} is no decoder: cache bits are for models that go on "
            "with a text"
        )
    return RoundedCache(model.config, bits)
