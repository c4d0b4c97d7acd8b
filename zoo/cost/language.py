"""`Decoder`: a decoder by its sizes, and the work and bytes of its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import MismatchError


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A decoder-only transformer, as its `config.json` describes it.

    Attributes:
        name: for messages.
        layers: how many blocks.
        hidden: width of a token; `intermediate`: of the feed-forward layers between.
        heads: of attention; `kv_heads` keys and values; `head_dim` the width of one.
        vocabulary: tokens there are.
        gated: the feed-forward layers are three matrices, not two.
        tied: the output layer is the embedding.
        bits_per_weight: of the layers as they are packed, scales and codebooks included.
        output_bits: of the output layer's weights.
        codebook: weights are indices into one, which takes time to decode.
        adapter_bytes: of an adapter that is read beside the weights for every token.

    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    gated: bool = True
    tied: bool = False
    bits_per_weight: float = 16.0
    output_bits: float = 16.0
    codebook: bool = False
    adapter_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise MismatchError(f"{self.name}: {name} is {getattr(self, name)}; expected >= 1")
        for name in ("bits_per_weight", "output_bits"):
            if not 0 < getattr(self, name) <= 64:
                raise MismatchError(f"{self.name}: {name} is {getattr(self, name)}; expected bits")

    @classmethod
    def of_config(cls, name: str, config: Mapping[str, Any], **changes: Any) -> "Decoder":
        """Return a model by the `config.json` of transformers.

        Raises:
            MismatchError: a size is missing: it is not the config of a decoder.

        """
        try:
            heads, hidden = config["num_attention_heads"], config["hidden_size"]
            sizes = {
                "layers": config["num_hidden_layers"],
                "hidden": hidden,
                "intermediate": config["intermediate_size"],
                "heads": heads,
                "kv_heads": config.get("num_key_value_heads") or heads,
                "head_dim": config.get("head_dim") or hidden // heads,
                "vocabulary": config["vocab_size"],
                "tied": bool(config.get("tie_word_embeddings", False)),
            }
        except KeyError as error:
            raise MismatchError(
                f"{name} has no {error}; expected the config.json of a decoder"
            ) from error
        return cls(name=name, **{**sizes, **changes})

    @property
    def layer_weights(self) -> int:
        """Weights of all blocks."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + (2 + self.gated) * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """Weights of blocks, embedding and output layer."""
        return self.layer_weights + (2 - self.tied) * self.vocabulary * self.hidden

    @property
    def packed_bytes(self) -> int:
        """Bytes of everything as it is stored; the embedding as the output layer is."""
        outputs = (2 - self.tied) * self.vocabulary * self.hidden * self.output_bits
        return round((self.layer_weights * self.bits_per_weight + outputs) / 8)

    @property
    def read_bytes(self) -> int:
        """Bytes that each new token reads: the blocks, the output layer, an adapter."""
        output = self.vocabulary * self.hidden * self.output_bits
        packed = (self.layer_weights * self.bits_per_weight + output) / 8
        return round(packed) + self.adapter_bytes

    def cache_bytes(self, tokens: int, bits: float = 16.0) -> int:
        """Return the bytes of keys and values of so many tokens."""
        return round(2 * self.layers * self.kv_heads * self.head_dim * tokens * bits / 8)

    def prefill_macs(self, tokens: int) -> int:
        """Return the multiply-accumulates of a prompt: one output, causal attention."""
        attention = self.layers * self.heads * self.head_dim * tokens * (tokens + 1)
        return self.layer_weights * tokens + attention + self.vocabulary * self.hidden
