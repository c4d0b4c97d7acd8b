"""Ternary networks: a tree that hears words, and a MobileNet with hybrid filter banks.

Ternary hybrid neural-tree networks (Gope et al., arXiv 1903.01531): the later blocks of a DS-CNN
are replaced by a Bonsai tree (Kumar et al., ICML 2017). Ternary MobileNets via per-layer hybrid
filter banks (Gope et al., arXiv 1911.01028): of each pointwise layer some filters are as they were,
the others sums and products of ternary weights. The papers' exact configurations are not known;
those here come closest to their sizes.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.blocks import Convolution, DsCnn
from zoo.models.blocks.normed import two, whole
from zoo.models.blocks.ternary import Bank, Packed, TernaryConv2d, TernaryConvolution

__all__ = ["DsCnn", "HybridMobileNetV1", "StTree"]

DEEPEST = 10  # 2,047 nodes; each further level doubles them
SOFT, SHARP = 0.25, 32.0  # sharpness of the routing, from a run's first to its last step
_HARD = 2.0**15  # of the deployed routing, whose tanh is then -1 or 1; a half holds it


class Tree(nn.Module):
    """A Bonsai tree: from features `(N, features, 1, 1)` to logits `(N, classes)`.

    The nodes 0 ... 2^(depth + 1) - 2 are numbered level by level, the children of k are 2k + 1 and
    2k + 2. With W_k and V_k ternary,

        logits = sum over k of p_k (W_k z) * tanh(V_k z)
        p_0 = 1, p_child = p_parent (1 + s_k) / 2 of the first, (1 - s_k) / 2 of the second
        s_k = tanh(sharpness theta_k z / max |theta_k|)

    Deployed, s_k is -1 or 1, so that the nodes of one path count: p = relu(sum of the signs that
    lead to a node, less all but one of them), which is a 1x1 convolution.

    Args:
        features: length of z.
        classes: number of logits.
        depth: levels of nodes that have children.
        soft: whether routing is soft, as it is trained.

    """

    signs: Tensor
    sharpness: Tensor
    route: Tensor
    route_bias: Tensor
    total: Tensor

    def __init__(self, features: int, classes: int, depth: int, *, soft: bool) -> None:
        super().__init__()
        whole("depth", depth)
        if depth > DEEPEST:
            raise ValueError(f"depth is {depth}; expected at most {DEEPEST}")
        self.classes, self.soft = classes, soft
        signs = path_signs(depth)
        nodes, inner = signs.shape
        self.theta = nn.Conv2d(features, inner, 1, bias=False)
        self.weight = TernaryConv2d(features, nodes * classes, 1, bias=False)
        self.gate = TernaryConv2d(features, nodes * classes, 1, bias=False)
        for layer in (self.theta, self.weight, self.gate):
            nn.init.kaiming_normal_(layer.weight)
        route = signs.repeat_interleave(classes, 0)
        fixed = {
            "signs": signs,
            "sharpness": torch.tensor(SOFT),
            "route": route[..., None, None],
            "route_bias": 1 - route.abs().sum(1),
            "total": torch.eye(classes).repeat(1, nodes)[..., None, None],
        }
        for name, value in fixed.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits, with the routing that `soft` says."""
        scores = self.weight(z) * torch.tanh(self.gate(z))
        if self.soft:
            shares = self.shares(z).repeat_interleave(self.classes, 1)[..., None, None]
        else:
            signs = torch.tanh(self.theta(z))
            shares = F.relu(F.conv2d(signs, self.route, self.route_bias))
        return F.conv2d(scores * shares, self.total).flatten(1)

    def shares(self, z: Tensor) -> Tensor:
        """Return how much each node counts, `(N, nodes)`, with soft routing."""
        theta = self.theta.weight
        theta = theta / theta.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        turns = torch.tanh(self.sharpness * F.conv2d(z, theta)).flatten(1)[:, None]
        passed = torch.where(self.signs == 0, torch.ones_like(turns), (1 + self.signs * turns) / 2)
        return passed.prod(2)

    @torch.no_grad()
    def harden(self) -> None:
        """Route each input along one path."""
        theta = self.theta.weight
        theta.mul_(_HARD / theta.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12))
        self.soft = False


def path_signs(depth: int) -> Tensor:
    """Return for each node and each node with children the turn that leads to it.

    Returns:
        `(2^(depth + 1) - 1, 2^depth - 1)`: 1 where the node lies below the first child, -1 below
        the second, 0 elsewhere.

    """
    signs = torch.zeros(2 ** (depth + 1) - 1, 2**depth - 1)
    for node in range(1, len(signs)):
        parent = (node - 1) // 2
        signs[node] = signs[parent]
        signs[node, parent] = 1 if node % 2 else -1
    return signs


class StTree(Packed):
    """A ternary convolution, ternary depthwise-separable blocks, and a Bonsai tree on their mean.

    Maps features of sound `(N, 1, H, W)` to logits `(N, num_classes)`.

    Args:
        kernel: rows and columns of the first convolution.
        width: channels of all maps.
        stride: of the first convolution.
        blocks: pairs of a 3x3 depthwise and a 1x1 convolution.
        products: of each sum-product bank, see `zoo.models.blocks.ternary.Bank`.
        depth: of the tree.
        num_classes: outputs of the tree.
        norm: whether batch norms follow the convolutions, and routing is soft; the deployed network
            has neither.

    """

    head = ("tree.weight.", "tree.gate.")

    def __init__(
        self,
        kernel: Sequence[int],
        width: int,
        stride: int,
        blocks: int,
        products: int,
        depth: int,
        num_classes: int,
        *,
        norm: bool = False,
    ) -> None:
        super().__init__(
            kernel=kernel, width=width, stride=stride, blocks=blocks, products=products,
            depth=depth, num_classes=num_classes,
        )  # fmt: skip
        whole("width", width)
        whole("blocks", blocks, 0)
        whole("products", products)
        whole("num_classes", num_classes, 2)
        if products > width:
            raise ValueError(
                f"products is {products}, for a layer of {width} filters; expected 1 to {width}"
            )
        layers: list[nn.Module] = [Bank(1, width, products, two(kernel), stride, norm=norm)]
        for _ in range(blocks):
            layers += [
                TernaryConvolution(width, width, 3, depthwise=True, norm=norm),
                Bank(width, width, products, norm=norm),
            ]
        self.layers = nn.Sequential(*layers)
        self.tree = Tree(width, num_classes, depth, soft=norm)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compute(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of maps `(N, 1, H, W)`."""
        logits: Tensor = self.tree(F.adaptive_avg_pool2d(self.layers(x), 1))
        return logits

    def advance(self, share: float) -> None:
        """Take the phase, and a sharper routing with each step; at last, as when frozen."""
        super().advance(share)
        frozen = any(layer.phase == "frozen" for layer in self.ternary_layers())
        self.tree.sharpness.fill_(SHARP if frozen else SOFT * (SHARP / SOFT) ** share)

    def finish(self) -> None:
        """Route each input along one path."""
        self.tree.harden()


class Hybrid(nn.Module):
    """A 1x1 convolution of which some filters are real, and the others a ternary bank.

    Args:
        inputs: channels of the input `(N, inputs, H, W)`.
        outputs: channels of the output `(N, outputs, H, W)`: first the real ones.
        alpha: share of the filters that are real.
        bank: products of the bank for each of the layer's filters; 0: its filters are ternary
            themselves.
        norm: whether batch norms follow the layers.

    Attributes:
        outputs: how many filters there are.
        dense: how many of them are real.

    """

    def __init__(
        self, inputs: int, outputs: int, alpha: float, bank: float, *, norm: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha:g}; expected 0 to 1")
        if not 0 <= bank <= 1:
            raise ValueError(
                f"a bank of {bank:g} products a filter is wider than the layer; expected 0 to 1"
            )
        self.outputs, self.dense = outputs, (dense := round(alpha * outputs))
        parts: list[nn.Module] = []
        if dense:
            parts.append(Convolution(inputs, dense, 1, norm=norm))
        if dense < outputs and bank:
            products = max(1, round(bank * outputs))
            parts.append(Bank(inputs, outputs - dense, products, norm=norm))
        elif dense < outputs:
            parts.append(TernaryConvolution(inputs, outputs - dense, 1, norm=norm))
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, inputs, H, W)` to `(N, outputs, H, W)`."""
        found = [part(x) for part in self.parts]
        return found[0] if len(found) == 1 else torch.cat(found, 1)


class HybridMobileNetV1(Packed):
    """MobileNetV1 (arXiv 1704.04861) with hybrid filter banks in its 1x1 convolutions.

    Maps RGB `(N, 3, H, W)` to logits `(N, num_classes)`: a 3x3 convolution, thirteen pairs of a 3x3
    depthwise and a 1x1 convolution, a mean, and a linear layer.

    Args:
        width: factor of all widths, of 32 to 1024 channels.
        num_classes: outputs of the last layer.
        stride: of the first convolution; four more have a stride of 2.
        alpha: share of real filters in the 1x1 convolutions, one for all thirteen or one for each;
            with 1 everywhere nothing is ternary.
        bank: products of each bank for each filter of its layer; 0: filters are ternary themselves.
        norm: whether batch norms follow the convolutions; the deployed network has none.

    """

    def __init__(
        self,
        width: float,
        num_classes: int,
        *,
        stride: int = 2,
        alpha: float | Sequence[float] = 1.0,
        bank: float = 1.0,
        norm: bool = False,
    ) -> None:
        super().__init__(
            width=width, num_classes=num_classes, stride=stride, alpha=alpha, bank=bank
        )
        whole("num_classes", num_classes, 2)
        if not 0 < width < math.inf:
            raise ValueError(f"width is {width:g}; expected a positive number")
        widths = [max(1, round(width * n)) for n in (32, 64, 128, 128, 256, 256, *(512,) * 6)]
        widths += [max(1, round(width * 1024))] * 2
        strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
        alphas = list(alpha) if isinstance(alpha, Sequence) else [alpha] * len(strides)
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in (*alphas, bank)):
            raise ValueError(
                f"alpha is {alpha!r} and bank {bank!r}; expected numbers from 0 to 1, of alpha one "
                f"or {len(strides)}"
            )
        if len(alphas) != len(strides):
            raise ValueError(f"there are {len(alphas)} alphas; expected one, or {len(strides)}")
        layers: list[nn.Module] = [Convolution(3, widths[0], 3, stride, norm=norm)]
        for place, (step, share) in enumerate(zip(strides, alphas, strict=True)):
            inputs, outputs = widths[place : place + 2]
            layers += [
                Convolution(inputs, inputs, 3, step, depthwise=True, norm=norm),
                Hybrid(inputs, outputs, share, bank, norm=norm),
            ]
        self.layers = nn.Sequential(*layers)
        ternary = any(share < 1 for share in alphas)
        kind = TernaryConvolution if ternary else Convolution
        self.classifier = kind(widths[-1], num_classes, 1, act="")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compute(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of pictures `(N, 3, H, W)`."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.layers(x), 1)).flatten(1)
        return logits
