"""More networks of tokens: windows, masks, gates and products that devices lack."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.networks import Call, conv
from tests.parity.tokens import WIDTH, mlp

SIDE, WINDOW = 8, 4


class Windows(nn.Module):
    """Swin: attention within windows of a shifted picture, with relative places and a mask."""

    mask: Tensor
    index: Tensor

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift, self.norm = shift, nn.LayerNorm(WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.places = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, 2) * 0.1)
        y, x = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
        cells = torch.stack([y.flatten(), x.flatten()])
        apart = cells[:, :, None] - cells[:, None] + WINDOW - 1
        self.register_buffer("index", apart[0] * (2 * WINDOW - 1) + apart[1])
        edge = (torch.arange(SIDE) >= SIDE - WINDOW).int() + (torch.arange(SIDE) >= SIDE - shift)
        regions = self.cut((edge[:, None] * 3 + edge)[None, :, :, None])[..., 0]
        other = regions[:, None] != regions[:, :, None]
        self.register_buffer("mask", other[:, None] * -100.0)

    def cut(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        x = x.view(n, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW**2, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cut(torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2)))
        count = WINDOW**2
        q, k, v = self.qkv(y).view(-1, count, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
        scores = (q * (WIDTH // 2) ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.places[self.index.view(-1)].view(count, count, 2).permute(2, 0, 1)
        windows = (SIDE // WINDOW) ** 2
        scores = scores.view(-1, windows, 2, count, count) + self.mask
        y = scores.view(-1, 2, count, count).softmax(-1) @ v
        y = self.project(y.transpose(1, 2).reshape(-1, count, WIDTH))
        side = SIDE // WINDOW
        y = y.view(-1, side, side, WINDOW, WINDOW, WIDTH).permute(0, 1, 3, 2, 4, 5)
        return x + torch.roll(y.reshape(x.shape), (self.shift, self.shift), (1, 2))


def swin() -> nn.Module:
    def forward(x: Tensor, patches: nn.Module, first: nn.Module, second: nn.Module,
                merge: nn.Module, head: nn.Module) -> Tensor:  # fmt: skip
        x = second(first(patches(x).permute(0, 2, 3, 1)))
        x = merge(torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1))
        return head(x.mean((1, 2)))

    merge = nn.Sequential(nn.LayerNorm(4 * WIDTH), nn.Linear(4 * WIDTH, 2 * WIDTH, bias=False))
    first, second, head = Windows(0), Windows(2), nn.Linear(2 * WIDTH, 5)
    patches = nn.Conv2d(3, WIDTH, 2, 2)
    return Call(forward, patches=patches, first=first, second=second, merge=merge, head=head)


class Masked(nn.Module):
    """A small language decoder: scores of what comes later are filled."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.second = how, nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.last, self.mlp = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 5), mlp()

    def forward(self, x: Tensor) -> Tensor:
        n, count, _ = x.shape
        parts = self.qkv(self.first(x)).chunk(3, -1)
        q, k, v = (part.view(n, count, 2, -1).transpose(1, 2) for part in parts)
        if self.how == "causal":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = torch.einsum("bhid,bhjd->bhij", q, k) / (WIDTH // 2) ** 0.5
            later = torch.ones(count, count, dtype=torch.bool).triu(1)
            shares = scores.masked_fill(later, torch.finfo(x.dtype).min).softmax(-1)
            y = torch.einsum("bhij,bhjd->bhid", shares, v)
        x = x + y.transpose(1, 2).reshape(x.shape)
        return self.last(x + self.mlp(self.second(x)))


class SpatialGate(nn.Module):
    """gMLP, and a product that begins with a stored matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.wide, self.last = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 5)
        self.tokens, self.matrix = nn.Conv1d(6, 6, 1), nn.Parameter(torch.randn(6, 6) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.wide(self.norm(x))).chunk(2, -1)
        y = x + u * self.tokens(self.inner(v))
        return self.last((y * (self.matrix @ y)).mean(1))


class Conformer(nn.Module):
    """Attention, a gated depthwise convolution between norms, half steps."""

    def __init__(self) -> None:
        super().__init__()
        self.feed = nn.Sequential(nn.LayerNorm(WIDTH), mlp(activation=nn.SiLU))
        self.attend = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.norm, self.both = nn.LayerNorm(WIDTH), nn.Conv1d(WIDTH, 2 * WIDTH, 1)
        self.wide = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.batch, self.last = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.feed(x)
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        y = F.glu(self.both(self.norm(x).transpose(1, 2)), dim=1)
        x = x + F.silu(self.batch(self.wide(y))).transpose(1, 2)
        return self.last(x + 0.5 * self.feed(x)).softmax(-1)


def unet() -> nn.Module:
    """Transposed convolutions of odd sizes, cut and padded to what they join."""

    def forward(x: Tensor, **p: nn.Module) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1), mode="reflect")
        high = p["first"](x)
        low = p["second"](high)
        up = p["up"](p["third"](low))[:, :, : low.shape[2], : low.shape[3]]
        up = p["again"](torch.cat([up, low], 1))
        rest = [high.shape[dim] - up.shape[dim] for dim in (3, 2)]
        up = F.pad(up, (0, rest[0], 0, rest[1]))
        return torch.sigmoid(p["last"](torch.cat([high, up], 1)))

    return Call(
        forward,
        first=conv(3, 8),
        second=conv(8, 8, 3, 2),
        third=conv(8, 12, 3, 2),
        up=nn.ConvTranspose2d(12, 8, 3, 2),
        again=nn.ConvTranspose2d(16, 8, 2, 2, 1, bias=False),
        last=nn.Conv2d(16, 2, 1),
    )


PICTURES: dict[str, Callable[[], nn.Module]] = {"swin": swin, "odd-unet": unet}
ROWS: dict[str, Callable[[], nn.Module]] = {
    "causal": lambda: Masked("causal"),
    "masked": lambda: Masked("filled"),
    "gmlp": SpatialGate,
    "conformer": Conformer,
}
