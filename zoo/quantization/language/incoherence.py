"""Random rotations of attention heads and of the residual stream, folded into a block's weights.

A rotation spreads outliers, which make weights hard to quantize, over all coordinates (QuIP#, arXiv
2402.04396; QuaRot, arXiv 2404.00456). Where one layer's output goes linearly into another's input,
a rotation in one and its inverse in the other cancel.
"""

import copy
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.language import blocks


def orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """Return a random orthogonal matrix (size, size) in float64.

    A Hadamard matrix, whose entries all have one magnitude, for the power of two in `size`; its
    Kronecker product with a random rotation of the odd part; random signs. So every width has one.
    """
    odd = size // (size & -size)
    draws = torch.randn(odd, odd, generator=generator, dtype=torch.float64)
    basis, triangle = torch.linalg.qr(draws)
    basis = basis * torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(basis)  # uniform
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    power = torch.ones(1, 1, dtype=torch.float64)
    while len(power) * odd < size:
        power = torch.kron(step, power)
    signs = torch.randint(0, 2, (size, 1), generator=generator) * 2 - 1
    return torch.kron(power, basis.contiguous()) * signs


def generator(seed: int, name: str) -> torch.Generator:
    """Return the random numbers of one rotation, independent of those of the others."""
    number = hashlib.sha256(f"{seed} {name}".encode()).digest()[:7]
    return torch.Generator().manual_seed(int.from_bytes(number, "little"))


# --- heads ----------------------------------------------------------------------------------------


def attentions(block: nn.Module, where: str) -> dict[str, tuple[nn.Linear, nn.Linear, int]]:
    """Return value projection, output projection and head width of each attention in a block.

    Raises:
        MismatchError: the block has no attention with its own projections, or its heads do not fit.

    """
    projections = {}
    for name, module in block.named_modules():
        value = getattr(module, "v_proj", None)
        out = getattr(module, "o_proj", getattr(module, "out_proj", None))
        if type(value) is not nn.Linear or type(out) is not nn.Linear:
            continue
        width = int(getattr(module, "head_dim", 0) or 0)
        groups = value.out_features // width if width else 0
        if not groups or value.out_features % width or out.in_features % (groups * width):
            raise MismatchError(
                f"{where}.{name} has {value.out_features} values and {out.in_features} inputs of "
                f"its output projection, which are not heads of {width}: nothing can be rotated"
            )
        projections[name] = (value, out, width)
    if not projections:
        raise MismatchError(
            f"{where} ({type(block).__name__}) has no attention with linear layers v_proj and "
            "o_proj of its own, so that the rotation of heads does not fold: leave out --rotate"
        )
    return projections


def rotate_heads(block: nn.Module, where: str, seed: int) -> None:
    """Rotate the values of every attention head of a block, and rotate them back afterwards."""
    for name, (value, out, width) in attentions(block, where).items():
        groups = value.out_features // width
        turns = torch.stack(
            [orthogonal(width, generator(seed, f"{where}.{name}.{g}")) for g in range(groups)]
        )
        rows = value.weight.double().unflatten(0, (groups, width))
        _set(value.weight, (turns.mT @ rows).flatten(0, 1))
        if value.bias is not None:
            heads = value.bias.double().view(groups, 1, width)
            _set(value.bias, (heads @ turns).flatten())
        # Query head h looks at value head h // (query heads per value head).
        shared = turns.repeat_interleave(out.in_features // value.out_features, 0)
        columns = out.weight.double().unflatten(1, (-1, width))
        _set(out.weight, torch.einsum("rhi,hij->rhj", columns, shared).flatten(1))


# --- the residual stream --------------------------------------------------------------------------


def unit_gain(norm: nn.Module, name: str) -> float:
    """Return the weight at which a norm only divides by the root mean square: 1, or 0.

    Raises:
        MismatchError: it does something else, e.g. it subtracts the mean.

    """
    trial = copy.deepcopy(norm).to_empty(device="cpu").float()
    parameters = dict(trial.named_parameters())
    if list(parameters) == ["weight"]:
        weight = parameters["weight"].detach()
        x = torch.randn(3, len(weight), generator=generator(0, name)) + 0.5
        wanted = x * x.square().mean(-1, keepdim=True).rsqrt()
        for value in (1.0, 0.0):
            weight.fill_(value)
            if torch.allclose(trial(x), wanted, rtol=1e-3, atol=1e-3):
                return value
    raise MismatchError(
        f"{name} is a {type(norm).__name__}, not an RMS norm (it subtracts a mean or adds a bias), "
        "so that the rotation of the residual stream does not fold: take --rotate heads"
    )


def norms(module: nn.Module, width: int) -> dict[str, nn.Module]:
    """Return the modules below (or at) `module` that have a gain for each of `width` channels."""
    return {
        name: part
        for name, part in module.named_modules()
        if not isinstance(part, nn.Linear | nn.Embedding)
        and not list(part.children())
        and any(value.shape == (width,) for value in part.parameters(recurse=False))
    }


def readers(
    block: nn.Module, where: str, width: int, run: Callable[[], object]
) -> dict[str, list[str]]:
    """Return, by norm, the linear layers that take its result when a block runs.

    Raises:
        MismatchError: a norm is not an RMS norm or feeds no linear layer, or a parameter belongs to
            neither a linear layer nor a norm.

    """
    by_norm: dict[str, list[str]] = {name: [] for name in norms(block, width)}
    for name in by_norm:
        unit_gain(block.get_submodule(name), f"{where}.{name}")
    for name, value in block.named_parameters():
        owner = block.get_submodule(name.rpartition(".")[0])
        if type(owner) is not nn.Linear and value.ndim != 1:
            raise MismatchError(
                f"{where}.{name} belongs to a {type(owner).__name__} and to no linear layer: the "
                "rotation of the residual stream does not fold into it: take --rotate heads"
            )
    results: list[tuple[str, Tensor]] = []  # kept alive, so that no memory is used twice in a run
    hooks = [
        block.get_submodule(name).register_forward_hook(
            lambda _, __, result, name=name: results.append((name, result))
        )
        for name in by_norm
    ]

    def see(layer: str, value: Tensor) -> None:
        for norm, result in results:
            if value.data_ptr() == result.data_ptr() and value.shape == result.shape:
                by_norm[norm].append(layer)

    try:
        with blocks.watched(blocks.linears(block), see):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    for norm, layers in by_norm.items():
        if not layers:
            raise MismatchError(
                f"{where}.{norm} feeds no linear layer, so that its gain has nowhere to go and the "
                "rotation of the residual stream does not fold: take --rotate heads"
            )
    return by_norm


def rotate_stream(block: nn.Module, where: str, turn: Tensor, run: Callable[[], object]) -> None:
    """Make a block read and write a residual stream h Q instead of h, where Q is `turn`."""
    reading = readers(block, where, len(turn), run)
    layers = blocks.linears(block)
    taken = {name for names in reading.values() for name in names}
    for norm, names in reading.items():
        gain = fold_gain(block.get_submodule(norm), f"{where}.{norm}")
        for name in names:
            _set(layers[name].weight, layers[name].weight.double() * gain @ turn)
    for name, layer in layers.items():
        if name in taken or layer.out_features != len(turn):
            continue
        _set(layer.weight, turn.T @ layer.weight.double())
        if layer.bias is not None:
            _set(layer.bias, layer.bias.double() @ turn)


def fold_gain(norm: nn.Module, name: str) -> Tensor:
    """Return the gain (width,) of an RMS norm, and reset it to no gain."""
    unit = unit_gain(norm, name)
    weight = norm.get_parameter("weight")
    gain = weight.double() + (1 - unit)
    _set(weight, torch.full_like(gain, unit))
    return gain


def _set(parameter: Tensor, value: Tensor) -> None:
    parameter.data = value.to(parameter.dtype).contiguous()
