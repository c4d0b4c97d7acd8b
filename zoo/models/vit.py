"""Vision transformers (Dosovitskiy et al., arXiv 2010.11929), small, each block with own widths.

As DeiT-Tiny has it (arXiv 2012.12877), norms come before each branch; the logits are those of the
mean over the patches instead of a class token, which is as good (arXiv 2205.01580) and one row less
in memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPSILON = 1e-6  # in the layer norms


class AttentionBlock(nn.Module):
    """Attention and two linear layers, each added to its input `(N, patches, width)`.

    Args:
        width: of a patch's features.
        heads: of the attention, each `head` wide.
        head: width of a head.
        inner: width between the linear layers.
        act: what follows the first of these: "gelu", or "relu", which every runtime has.

    """

    def __init__(self, width: int, heads: int, head: int, inner: int, act: str) -> None:
        super().__init__()
        if act not in ("gelu", "relu"):
            raise ValueError(f"act is {act!r}; expected gelu or relu")
        self.heads, self.head = heads, head
        self.act = nn.GELU() if act == "gelu" else nn.ReLU()
        self.softmax = nn.Softmax(3)
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.query, self.key, self.value = (nn.Linear(width, heads * head) for _ in range(3))
        self.project = nn.Linear(heads * head, width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, patches, width)` to the same shape."""
        x = x + self.attended(self.norm1(x))
        y: Tensor = self.fc2(self.act(self.fc1(self.norm2(x))))
        return x + y

    def attended(self, x: Tensor) -> Tensor:
        """Return softmax(q k / sqrt(head)) v, over all heads."""
        q, k, v = (self._by_head(part(x)) for part in (self.query, self.key, self.value))
        weights = self.softmax(q @ k.transpose(2, 3) * self.head**-0.5)
        mixed: Tensor = self.project((weights @ v).transpose(1, 2).flatten(2))
        return mixed

    def _by_head(self, x: Tensor) -> Tensor:
        """Map `(N, patches, heads * head)` to `(N, heads, patches, head)`."""
        return x.unflatten(2, (self.heads, self.head)).transpose(1, 2)


class VisionTransformer(nn.Module):
    """A classifier of pictures: `(N, in_chans, H, W)` to logits `(N, num_classes)`.

    Args:
        num_classes: outputs of the last layer.
        side: rows and columns of a picture, multiples of `patch`.
        patch: pixels, each way, that the first layer takes together.
        width: features of a patch.
        heads: of each block's attention.
        head: width of a head.
        inner: of each block, the width between its linear layers.
        in_chans: channels of the pictures.
        act: after the first of these layers, "gelu" or "relu".

    """

    def __init__(
        self,
        num_classes: int,
        *,
        side: int,
        patch: int,
        width: int,
        heads: int,
        head: int,
        inner: Sequence[int],
        in_chans: int = 3,
        act: str = "gelu",
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; expected at least 2")
        if side % patch:
            raise ValueError(f"side is {side}; expected a multiple of patch, which is {patch}")
        self.embed = nn.Conv2d(in_chans, width, patch, patch)
        self.places = nn.Parameter(torch.zeros(1, (side // patch) ** 2, width))
        self.blocks = nn.Sequential(
            *(AttentionBlock(width, heads, head, one, act) for one in inner)
        )
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.classifier = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.places, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of pictures `(N, in_chans, side, side)`."""
        patches = self.embed(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.classifier(self.norm(self.blocks(patches)).mean(1))
        return logits
