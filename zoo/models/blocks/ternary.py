"""Ternary layers: weights of -1, 0 and 1 times a scale for each row, stored as digits.

A layer is trained in three phases (StrassenNets, arXiv 1712.03942):

- float: its weights as they are;
- ternary: rounded each time, with the gradient of what was rounded (straight through);
- frozen: the digits stay, the scales are absorbed into one number a row and learned on.

A run from random weights has the first two, see `Packed.advance`. One that starts from a deployed
network has the last. Deployed, each number is stored in the fewest bits that give it back exactly:
five digits a byte where a row has one magnitude, 16 bits where a half holds it, else 32.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from zoo.models.blocks.digits import (
    THRESHOLDS,
    Threshold,
    halved,
    pack,
    packed_bytes,
    parts_of,
    product,
    rounded,
    shortest,
    unpack,
)
from zoo.models.blocks.normed import Activation, Convolution, Foldable, Normed, absorb

Phase = Literal["stored", "float", "ternary", "frozen"]


class TernaryConv2d(nn.Conv2d):
    """A convolution whose weights become ternary; see above.

    Attributes:
        phase: what a pass computes with: what is stored, or one of the three phases.
        threshold: see `rounded`.
        scale: in the phase "frozen" the factor of each row, whose digits are the weight.

    """

    phase: Phase = "stored"
    threshold: Threshold = "twn"
    scale: nn.Parameter | None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.register_parameter("scale", None)

    def kernel(self) -> Tensor:
        """Return the weight that a pass computes with, of the phase."""
        if self.phase == "frozen":
            assert self.scale is not None
            return product(self.weight, self.scale)
        if self.phase == "ternary":
            weight = self.weight
            return product(*rounded(weight.detach(), self.threshold)) + (weight - weight.detach())
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, in_channels, H, W)` to `(N, out_channels, H', W')`."""
        return self._conv_forward(x, self.kernel(), self.bias)

    @torch.no_grad()
    def settle(self) -> None:
        """Become the layer of a deployed network: the weight is a product of digits and scales."""
        if self.phase in ("float", "ternary"):
            self.weight.copy_(product(*rounded(self.weight, self.threshold)))
        elif self.phase == "frozen":
            self.weight.copy_(self.kernel())
            self.scale = None
            self.weight.requires_grad_(True)
        self.phase = "stored"

    @torch.no_grad()
    def freeze(self) -> None:
        """Keep the digits of a ternary weight and learn its scales; round another weight."""
        found = parts_of(self.weight)
        if found is None:
            self.phase = "ternary"
            return
        digits, scale = found
        self.weight.copy_(digits)
        self.weight.requires_grad_(False)
        self.scale, self.phase = nn.Parameter(scale), "frozen"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        found = None
        if self.phase == "stored" and not self.weight.is_meta:
            found = parts_of(self.weight.detach())
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if found is not None:
            del destination[f"{prefix}weight"]
            destination[f"{prefix}digits"] = pack(found[0])
            destination[f"{prefix}scale"] = found[1]

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        names = [f"{prefix}{name}" for name in ("digits", "scale")]
        state = dict(state_dict)
        if self.phase == "stored" and all(name in state for name in names):
            stored, scale = (state.pop(name) for name in names)
            if f"{prefix}weight" in state:
                error_msgs.append(f"{prefix}weight is there twice, as numbers and as digits")
                return
            try:
                state[f"{prefix}weight"] = self._restored(stored, scale)
            except ValueError as error:
                error_msgs.append(f"{names[0]}: {error}")
                return
        super()._load_from_state_dict(
            state, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _restored(self, stored: Tensor, scale: Tensor) -> Tensor:
        shape = self.weight.shape
        digits = unpack(stored, shape.numel()).view(shape)
        if not scale.is_floating_point():
            raise ValueError(f"scales are {scale.dtype}; expected real numbers")
        if scale.shape != shape[:1] or not bool((scale.isfinite() & (scale >= 0)).all()):
            raise ValueError(f"expected {shape[0]} scales that are finite and not below 0")
        return product(digits, scale.float())


class TernaryConvolution(Convolution):
    """A `Convolution` whose layer is a `TernaryConv2d`; the arguments are the same."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        depthwise: bool = False,
        act: Activation = "relu",
        norm: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, stride, depthwise=depthwise, act=act, norm=norm, bias=bias
        )
        plain = self.layer
        conv = TernaryConv2d(
            inputs, outputs, plain.kernel_size, plain.stride, plain.padding, groups=plain.groups,
            bias=bias,
        )  # fmt: skip
        conv.load_state_dict(plain.state_dict())
        self.conv = conv


class _Factor(TernaryConvolution):
    """The first layer of a bank, whose bias the second one has when deployed."""

    def simplify(self) -> None:
        """Do nothing: it has no bias."""

    def fold(self) -> None:
        """Absorb the batch norm; `Bank.join` moves what it adds."""
        if self.norm is not None:
            self.layer.bias = nn.Parameter(torch.zeros_like(self.layer.weight[:, 0, 0, 0]))
            absorb(self.layer, self.norm)
            self.norm = None


class Bank(nn.Module):
    """Filters as sums and products: y = W_c (a * (W_b x)), W_b and W_c ternary, a real.

    Args:
        inputs: channels of the input `(N, inputs, H, W)`.
        outputs: channels of the output, `(N, outputs, ceil(H / stride), ceil(W / stride))`.
        products: how many products there are, the length of a.
        kernel: of W_b; W_c is 1x1.
        stride: of W_b.
        act: after W_c.
        norm: whether a batch norm follows each of the two.

    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        products: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        *,
        act: Activation = "relu",
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.first = _Factor(inputs, products, kernel, stride, act="", norm=norm, bias=False)
        self.second = TernaryConvolution(products, outputs, 1, act=act, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the filters' outputs."""
        y: Tensor = self.second(self.first(x))
        return y

    @torch.no_grad()
    def join(self) -> None:
        """Give the second layer what the first one's norm adds: nothing lies between them."""
        first, second = self.first.layer, self.second.layer
        if first.bias is not None:
            assert second.bias is not None
            moved = second.weight.double().flatten(1) @ first.bias.double()
            second.bias.copy_(second.bias.double() + moved)
            first.bias = None


# --- networks -------------------------------------------------------------------------------------


class Packed(Foldable):
    """A network with ternary layers, in its two forms.

    In eval mode the training form computes what would be deployed: its layers rounded.

    Attributes:
        head: names of the parts that start anew for other classes.
        float_share: share of a run's steps in the phase "float".

    """

    head: tuple[str, ...] = ("classifier.",)
    float_share = 0.0

    def trainable(self, threshold: Threshold = "twn", float_share: float = 0.4) -> Self:
        """Return the form with batch norms, freshly initialised.

        Args:
            threshold: see `rounded`.
            float_share: share of the steps in which weights are not rounded yet.

        """
        if threshold not in THRESHOLDS:
            raise ValueError(f"threshold is {threshold!r}; expected {' or '.join(THRESHOLDS)}")
        if not 0 <= float_share <= 1:
            raise ValueError(f"float_share is {float_share:g}; expected 0 to 1")
        form = super().trainable()
        form.float_share = float_share
        for layer in form.ternary_layers():
            layer.phase, layer.threshold = "float", threshold
        return form

    def ternary_layers(self) -> list[TernaryConv2d]:
        """Return the layers that are, or become, ternary."""
        return [layer for layer in self.modules() if isinstance(layer, TernaryConv2d)]

    def is_trained(self) -> bool:
        """Whether it is a training form: has norms, or weights that are not as they are stored."""
        return any(
            (isinstance(part, TernaryConv2d) and part.phase != "stored")
            or (isinstance(part, Normed) and part.norm is not None)
            for part in self.modules()
        )

    def advance(self, share: float) -> None:
        """Take the phase of a run of which a share, from 0 to 1, is done."""
        for layer in self.ternary_layers():
            if layer.phase in ("float", "ternary"):
                layer.phase = "float" if share < self.float_share else "ternary"

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs; in eval mode those of the deployed network."""
        if not self.training and self.is_trained():
            outputs: Tensor = self.deployed()(x)
            return outputs
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """Return the outputs in the layers' phase."""
        raise NotImplementedError

    @torch.no_grad()
    def deployed(self) -> Self:
        """Return the network without batch norms, in eval mode, as it is stored."""
        network = copy.deepcopy(self)
        layers = network.ternary_layers()
        if layers and all(layer.phase == "stored" for layer in layers):
            return network.eval()
        for layer in layers:
            layer.settle()
        network = super(Packed, network).deployed()
        for part in network.modules():
            if isinstance(part, Bank):
                part.join()
        network.finish()
        for parameter in network.parameters():
            parameter.copy_(halved(parameter))
        return network

    def finish(self) -> None:
        """Do what else makes the deployed network."""

    def load_deployed(self, network: nn.Module) -> None:
        """Start from a deployed network: ternary layers keep their digits, others learn on.

        Raises:
            RuntimeError: the weights do not fit.

        """
        self._check_shapes(network)
        for layer in self.ternary_layers():
            layer.phase = "stored"
        super().load_deployed(network)
        for layer in self.ternary_layers():
            layer.freeze()

    def _check_shapes(self, network: nn.Module) -> None:
        """Refuse ternary weights of other shapes, which packed digits do not tell: 4x10 and 10x4.

        Raises:
            RuntimeError: a layer has another shape.

        """
        others = dict(network.named_parameters())
        for name, own in self.named_parameters():
            other = others.get(name)
            if other is None or name.startswith(self.head):
                continue
            if other.numel() == own.numel() and other.shape != own.shape:
                raise RuntimeError(
                    f"{name} has the shape {tuple(other.shape)} there, and {tuple(own.shape)} here"
                )

    def adopted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a network's tensors; its head starts anew if it has other outputs."""
        own = self.state_dict()
        if self._outputs(own) == self._outputs(state):
            return state
        kept = {name: value for name, value in state.items() if not name.startswith(self.head)}
        return kept | {name: value for name, value in own.items() if name.startswith(self.head)}

    def _outputs(self, state: Mapping[str, Tensor]) -> set[int]:
        """Return how many rows the head's weights have, packed or not."""
        names = [n for n in state if n.startswith(self.head) and n.endswith((".weight", ".scale"))]
        return {len(state[name]) for name in names}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take the tensors of `state_dict`; assigned ones too have the precision of the others."""
        if assign:
            kinds = {name: value.dtype for name, value in self.named_parameters()}
            state_dict = {n: v.to(kinds[n]) if n in kinds else v for n, v in state_dict.items()}
        return super().load_state_dict(state_dict, strict, assign)

    def state_dict(self, *arguments: Any, **settings: Any) -> Any:
        """Return the tensors, of the deployed network each in its shortest exact form."""
        state = super().state_dict(*arguments, **settings)
        if all(layer.phase == "stored" for layer in self.ternary_layers()):
            prefix = settings.get("prefix", "")
            for name, value in state.items():
                if name.startswith(prefix) and not settings.get("keep_vars"):
                    state[name] = shortest(value)
        return state


def stored_bytes(network: nn.Module, per_byte: int = 5) -> int:
    """Return what the numbers of a deployed network take: ternary digits packed, others as halves.

    A file also says what they are called.
    """
    count = 0
    for part in network.modules():
        for name, value in part.named_parameters(recurse=False):
            if isinstance(part, TernaryConv2d) and name == "weight":
                count += packed_bytes(value.numel(), per_byte) + 2 * len(value)
            else:
                count += 2 * value.numel()
    return count
