"""Networks of tokens: encoders, small vision transformers, mixers, with random weights."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.networks import Call, conv

WIDTH = 16


class Attention(nn.Module):
    """Attention written out, as timm does where it does not fuse it."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.inner = heads, WIDTH // heads
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        parts = self.qkv(x).reshape(batch, count, 3, self.heads, self.inner)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        shares = ((q * self.inner**-0.5) @ k.transpose(-2, -1)).softmax(-1)
        return self.project((shares @ v).transpose(1, 2).reshape(batch, count, WIDTH))


def mlp(width: int = WIDTH, activation: type[nn.Module] = nn.GELU) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), activation(), nn.Linear(2 * width, width))


def block(attention: nn.Module) -> nn.Module:
    def forward(x: Tensor, first: nn.Module, attend: nn.Module, second: nn.Module,
                mlp: nn.Module) -> Tensor:  # fmt: skip
        x = x + attend(first(x))
        return x + mlp(second(x))

    first, second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
    return Call(forward, first=first, attend=attention, second=second, mlp=mlp())


class Vit(nn.Module):
    """Patches, a class token, places, two blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.1)
        self.places = nn.Parameter(torch.randn(1, 17, WIDTH) * 0.1)
        self.blocks = nn.Sequential(block(Attention()), block(Attention(4)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


def mixer() -> nn.Module:
    """MLP-Mixer: rows of tokens, then columns."""

    def forward(x: Tensor, patches: nn.Module, norm: nn.Module, columns: nn.Module,
                rows: nn.Module, head: nn.Module) -> Tensor:  # fmt: skip
        x = patches(x).flatten(2).transpose(1, 2)
        x = x + columns(norm(x).transpose(1, 2)).transpose(1, 2)
        return head((x + rows(x)).mean(1))

    norm, head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)
    patches, columns = nn.Conv2d(3, WIDTH, 4, 4), mlp(16)
    return Call(forward, patches=patches, norm=norm, columns=columns, rows=mlp(), head=head)


def convnext() -> nn.Module:
    """Depthwise 7x7, then a norm and layers along the channels, last here."""

    def forward(x: Tensor, wide: nn.Module, norm: nn.Module, mlp: nn.Module) -> Tensor:
        y = mlp(norm(wide(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)

    wide = nn.Conv2d(8, 8, 7, padding=3, groups=8)
    body = Call(forward, wide=wide, norm=nn.LayerNorm(8), mlp=mlp(8))
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), body, conv(8, 8))


def decoder() -> nn.Module:
    """Down and up again, by transposed convolutions of several kinds."""
    return nn.Sequential(
        conv(3, 8, 3, 2),
        conv(8, 16, 3, 2),
        nn.ConvTranspose2d(16, 8, 2, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 3, 2, 1, 1),
        nn.ELU(),
        nn.ConvTranspose2d(8, 4, 4, 2, 1),
    )


def normed() -> nn.Module:
    """Norms over groups, instances and all of a picture."""
    first, second = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)
    layers = [nn.Conv2d(3, 8, 3), first, nn.ReLU(), nn.Conv2d(8, 8, 3), second, nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 8, 3), nn.GroupNorm(1, 8))


def stacked() -> nn.Module:
    """Two branches stacked, and weighed against each other (selective kernels)."""

    def forward(x: Tensor, first: nn.Module, second: nn.Module, weigh: nn.Module) -> Tensor:
        both = torch.stack([first(x), second(x)], 1)
        shares = weigh(both.flatten(1, 2).mean((2, 3)))
        shares = shares.view(len(x), 2, 8, 1, 1).softmax(1)
        return torch.cat((both * shares).tensor_split(2, 1), 1).flatten(1, 2)

    weigh = nn.Linear(16, 16)
    return Call(forward, first=conv(3, 8), second=conv(3, 8, dilation=2), weigh=weigh)


def signal_decoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(6, 8, 4, 2, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.ConvTranspose1d(8, 6, 4, 2, 1)
    )


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True, activation=F.relu)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def rms() -> nn.Module:
    gated = Call(lambda x, a, b: F.silu(a(x)) * b(x), a=nn.Linear(WIDTH, 8), b=nn.Linear(WIDTH, 8))
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.RMSNorm(WIDTH), gated)


def detector() -> nn.Module:
    """Boxes, and the probabilities of objects and classes, side by side (YOLO)."""

    def forward(x: Tensor, body: nn.Module, head: nn.Module) -> Tensor:
        y = head(body(x))
        return torch.cat([y[:, :4], y[:, 4:5].sigmoid(), y[:, 5:].sigmoid()], 1).flatten(2)

    return Call(forward, body=conv(3, 8, 3, 2), head=nn.Conv2d(8, 9, 1))


def recurrent(kind: Callable[..., nn.Module], **options: Any) -> nn.Module:
    """Frames through a recurrent layer; a layer of its last output."""
    width = 8 * (1 + options.get("bidirectional", False))

    def forward(x: Tensor, frames: nn.Module, head: nn.Module) -> tuple[Tensor, ...]:
        y, last = frames(x)
        return head(y[:, -1]), *(last if isinstance(last, tuple) else (last,))

    layer = kind(WIDTH, 8, batch_first=True, **options)
    return Call(forward, frames=layer, head=nn.Linear(width, 5))


PICTURES: dict[str, Callable[[], nn.Module]] = {
    "vit": Vit,
    "mlp-mixer": mixer,
    "convnext": convnext,
    "decoder": decoder,
    "group-norms": normed,
    "selective": stacked,
    "detector": detector,
}
ROWS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "encoder": encoder,
    "multi-head": lambda: Call(
        lambda x, inner: inner(x, x, x, need_weights=False)[0],
        inner=nn.MultiheadAttention(WIDTH, 4, batch_first=True),
    ),
    "rms-norm": rms,
    "lstm": lambda: recurrent(nn.LSTM, num_layers=2),
    "bidirectional-lstm": lambda: recurrent(nn.LSTM, bidirectional=True, bias=False),
    "gru": lambda: recurrent(nn.GRU, bidirectional=True),
    "gru-without-bias": lambda: recurrent(nn.GRU, bias=False),
    "rnn": lambda: recurrent(nn.RNN),
    "rnn-relu": lambda: recurrent(nn.RNN, nonlinearity="relu"),
}
