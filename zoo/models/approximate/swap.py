"""Operators exchanged in a trained network: what divides and takes roots, for what does not.

A checkpoint says so in its recipe's structure: the setting of each operator, the form and the root.

```json
{"version": 3, "forms": {}, "ops": {"layernorm": 4, "softmax": 4, "form": "float"}}
```
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import MismatchError, UnknownNameError
from zoo.models.approximate.layers import Bent, Form, ShiftSoftmax, Standardized
from zoo.models.approximate.tables import Root

OPS = ("layernorm", "rmsnorm", "softmax", "gelu", "silu")
_CURVES = ("gelu", "silu")
_APPROXIMATE = (Bent, ShiftSoftmax, Standardized)
_BITS, _SEGMENTS = range(1, 13), range(2, 1025)


def swap_ops(
    model: nn.Module,
    ops: Mapping[str, int],
    *,
    form: Form = "float",
    root: Root = "mitchell",
) -> dict[str, int]:
    """Put approximations without division and root (PEANO-ViT) in the places of operators.

    ```python
    import zoo
    from zoo.models.approximate.swap import swap_ops

    network = zoo.load("vit-tiny-fashion", pretrained=False)
    swap_ops(network, {"layernorm": 4, "softmax": 4, "gelu": 16})
    ```

    Norms, curves and `nn.Softmax` are found as modules; in models of transformers the softmax is
    inside the attention function, which is exchanged instead. Weights stay where they are.

    Args:
        model: changed in place.
        ops: bits of the table's index for "layernorm", "rmsnorm" and "softmax"; straight pieces for
            "gelu" and "silu".
        form: "float", which rounds only the places of tables and can be tuned further; or "fixed",
            the whole numbers of a device, bit for bit, between two casts.
        root: table of the norms: "mitchell", the paper's, with an error of 3 % however large it is;
            or "mantissa", twice as many entries, without it.

    Returns:
        How many places each operator was exchanged in.

    Raises:
        UnknownNameError: there is no such operator.
        MismatchError: a setting is out of range, or the model has nothing to exchange.

    """
    for op, setting in ops.items():
        _check(op, setting, form)
    if root not in ("mitchell", "mantissa"):
        raise MismatchError(f"root is {root!r}; expected mitchell or mantissa")
    done = {op: _exchange(model, op, setting, form, root) for op, setting in ops.items()}
    for op, count in done.items():
        if not count:
            raise MismatchError(
                f"{type(model).__name__} has no {op} that can be exchanged (or it was before)"
            )
    return done


def places_of(model: nn.Module) -> dict[str, int]:
    """Return in how many modules each operator could be exchanged."""
    usual = {op: 16 if op in _CURVES else 4 for op in OPS}
    return {
        op: sum(
            _replacement(module, op, setting, "float", "mitchell") is not None
            for module in model.modules()
        )
        for op, setting in usual.items()
    }


def swap_as(model: nn.Module, ops: Mapping[str, Any]) -> dict[str, int]:
    """Exchange operators as a structure says; see `swap_ops`.

    Raises:
        MismatchError, UnknownNameError: see `swap_ops`.

    """
    if not isinstance(ops, Mapping) or not ops:
        raise MismatchError(f"structure.ops is {ops!r:.80}; expected settings by operators' names")
    kinds = {"form": ops.get("form", "float"), "root": ops.get("root", "mitchell")}
    return swap_ops(model, {op: s for op, s in ops.items() if op not in kinds}, **kinds)


def is_swapped(model: nn.Module) -> bool:
    """Whether any operator was exchanged."""
    return any(isinstance(module, _APPROXIMATE) for module in model.modules())


def exact(model: nn.Module) -> nn.Module:
    """Return a network with the operators that were exchanged back in their places.

    Its multiply-accumulates and sizes are those of the other. Nothing is copied where nothing was
    exchanged.
    """
    if not is_swapped(model):
        return model
    restored = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, _APPROXIMATE):
            parent, _, own = name.rpartition(".")
            setattr(restored.get_submodule(parent), own, module.exact().train(module.training))
    return restored


def _check(op: str, setting: int, form: Form) -> None:
    if op not in OPS:
        raise UnknownNameError.near("operator", op, OPS, f"known: {', '.join(OPS)}")
    if form not in ("float", "fixed"):
        raise MismatchError(f"form is {form!r}; expected float or fixed")
    curve = op in _CURVES
    known = _SEGMENTS if curve else _BITS
    whole = isinstance(setting, int) and not isinstance(setting, bool) and setting in known
    if not whole or (curve and setting % 2):
        what = "an even number of straight pieces" if curve else "bits"
        raise MismatchError(f"{op} is {setting!r}; expected {what}, {known[0]} to {known[-1]}")
    if curve and form == "fixed" and setting & (setting - 1):
        raise MismatchError(f"{op} is {setting}; the fixed form takes a power of two")


def _exchange(model: nn.Module, op: str, setting: int, form: Form, root: Root) -> int:
    made = {
        name: new
        for name, module in model.named_modules()
        if (new := _replacement(module, op, setting, form, root)) is not None
    }
    for name, module in made.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, module.train(model.training))
    if op == "softmax" and _of_transformers(model):
        return len(made) + _in_attention(model, ShiftSoftmax(setting, form=form))
    return len(made)


def _replacement(
    module: nn.Module, op: str, setting: int, form: Form, root: Root
) -> nn.Module | None:
    """Return the approximation of a module; None if it is no such operator."""
    kind = type(module).__name__.lower()
    if isinstance(module, _APPROXIMATE):
        return None
    if op == "softmax" and type(module) is nn.Softmax:
        return ShiftSoftmax(setting, -1 if module.dim is None else module.dim, form)
    if op in ("layernorm", "rmsnorm") and op in kind and hasattr(module, "weight"):
        eps = _epsilon(module, op)
        if eps is not None:
            centred = op == "layernorm"
            return Standardized(module, eps, setting, centred=centred, form=form, root=root)
    if op == "gelu" and "gelu" in kind and _is(module, F.gelu):
        return Bent("gelu", setting, form)
    if op == "silu" and ("silu" in kind or "swish" in kind) and _is(module, F.silu):
        return Bent("silu", setting, form)
    return None


@torch.no_grad()
def _is(module: nn.Module, function: Callable[[Tensor], Tensor]) -> bool:
    """Whether a module computes a function of single elements, about."""
    x = torch.linspace(-6, 6, 97)
    try:
        return bool(torch.allclose(module(x), function(x), atol=2e-3))
    except (TypeError, ValueError, RuntimeError):  # it wants something else
        return False


@torch.no_grad()
def _epsilon(module: Any, op: str) -> float | None:
    """Return a norm's epsilon; None if it is not the usual norm over the last dimension."""
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    if module.weight is None or module.weight.dim() != 1:
        return None
    if eps is None:
        eps = torch.finfo(module.weight.dtype).eps if isinstance(module, nn.RMSNorm) else 0.0
    shape, weight, bias = module.weight.shape, module.weight, getattr(module, "bias", None)
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(3, *shape, generator=dice).to(weight)
    if op == "layernorm":
        known = F.layer_norm(x, shape, weight, bias, eps)
    else:
        known = F.rms_norm(x, shape, weight, eps)
    tolerance = 1e-4 if weight.dtype == torch.float32 else 0.05
    same = torch.allclose(module(x).float(), known.float(), atol=tolerance, rtol=tolerance)
    return float(eps) if same else None  # Gemma's, for one, multiplies by 1 + weight


def _of_transformers(model: nn.Module) -> bool:
    return hasattr(model, "set_attn_implementation") and hasattr(model, "config")


def _in_attention(model: Any, softmax: ShiftSoftmax) -> int:
    """Let the attention of a model of transformers take this softmax; return its layers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    name = f"zoo-softmax-{softmax.bits}-{softmax.form}"
    if model.config._attn_implementation == name:
        return 0

    def attend(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **given: Any
    ) -> tuple[Tensor, Tensor]:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        if given.get("s_aux") is not None:
            raise MismatchError("a softmax with sinks (s_aux) cannot be exchanged; leave it out")
        scores = q @ k.transpose(2, 3) * given.get("scaling", q.shape[-1] ** -0.5)
        if given.get("softcap"):  # Gemma 2
            scores = given["softcap"] * torch.tanh(scores / given["softcap"])
        if mask is not None:
            scores = scores + mask[..., : k.shape[-2]]
        weights = softmax(scores.float()).to(q.dtype)
        weights = F.dropout(weights, given.get("dropout", 0.0), module.training)
        return (weights @ v).transpose(1, 2).contiguous(), weights

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, eager_mask)
    model.set_attn_implementation(name)
    return int(getattr(model.config, "num_hidden_layers", 1))
