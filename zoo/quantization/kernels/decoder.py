"""One step of a decoder of Llama's kind in compiled code: `decoder.c` and what it is given."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.embeddings import PackedHead, TiedHead
from zoo.quantization.kernels import int8, matvec
from zoo.quantization.operands import Nibbles
from zoo.quantization.packed import PackedLinear

INT4, BOOKS, BOOKS8, ROWS8, FLOATS, BRAINS = range(6)  # kinds of weights, as decoder.c counts them
_POINTERS = ("codes", "zero", "table", "scale", "bias", "order")
_SIZES = ("kind", "rows", "columns", "span", "dim", "bits", "group_rows", "padding")


class Linear(ctypes.Structure):
    """A weight."""

    _fields_ = (
        *[(name, ctypes.c_int32) for name in _SIZES],
        *[(name, ctypes.c_void_p) for name in _POINTERS],
        ("unit", ctypes.c_float),
    )


class CLayer(ctypes.Structure):
    """A block: its norms and weights, and where its keys and values lie."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("norm", "inner_norm", "q_norm", "k_norm")],
        *[(name, Linear) for name in ("q", "k", "v", "o", "gate", "up", "down")],
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    )


class CModel(ctypes.Structure):
    """A decoder."""

    _fields_ = (
        *[
            (name, ctypes.c_int32)
            for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "capacity",
                         "cache_bytes", "threads", "level")
        ],
        ("epsilon", ctypes.c_float),
        ("attention_scale", ctypes.c_float),
        ("layer", ctypes.POINTER(CLayer)),
        ("norm", ctypes.c_void_p),
        ("head", Linear),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
    )  # fmt: skip


@dataclass
class Held:
    """What a step points at: tensors that must outlive it, and what may not change meanwhile.

    Attributes:
        kept: tensors whose addresses were taken.
        watched: tensors whose numbers are used, perhaps as copies.
        modules: (children of a module, name, child) of those whose work is done.

    """

    kept: list[Tensor] = field(default_factory=list)
    watched: list[Tensor] = field(default_factory=list)
    modules: list[tuple[dict[str, nn.Module | None], str, nn.Module]] = field(default_factory=list)

    def child(self, parent: nn.Module, name: str) -> nn.Module:
        """Return a child whose work is done, and watch it."""
        found: nn.Module = getattr(parent, name)
        self.modules.append((parent._modules, name, found))
        return found

    def parameter(self, parent: nn.Module, name: str) -> int:
        """Return the address of the weight of a child, a norm."""
        return self.floats(self.child(parent, name).get_parameter("weight"))

    def floats(self, tensor: Tensor) -> int:
        """Return the address of a parameter's numbers as float32."""
        self.watched.append(tensor)
        return self.address(tensor.detach().to(torch.float32).contiguous())

    def address(self, tensor: Tensor) -> int:
        """Return the address of a tensor that is kept."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def state(self) -> int:
        """Return a number that another one follows if a watched tensor is written to."""
        return sum(tensor._version for tensor in self.watched)

    def same(self) -> bool:
        """Whether the modules are those of before, with nothing beside, before or after them."""
        for children, name, module in self.modules:
            if children.get(name) is not module or "forward" in vars(module):
                return False
            if _hooked(module._forward_hooks) or _hooked(module._forward_pre_hooks):
                return False
            beside = isinstance(module, PackedLinear) and module.sidecar is not None
            if beside or getattr(module, "cache", "none") != "none":
                return False
        return True


def _hooked(hooks: Mapping[int, Any]) -> bool:
    """Whether there are hooks besides those that transformers leaves behind, idle."""
    return any(
        not str(getattr(hook, "__module__", "")).startswith("transformers.")
        for hook in hooks.values()
    )


def linear(module: nn.Module, held: Held) -> Linear:
    """Return the weight of a layer, or of a head.

    Raises:
        MismatchError: there is no compiled product for it.

    """
    bias = getattr(module, "bias", None)
    if isinstance(module, PackedLinear):
        made = _packed(module, held)
    elif isinstance(module, TiedHead | PackedHead):
        rows = module.rows if isinstance(module, TiedHead) else module
        held.watched += [rows.codes, rows.scale]
        made = Linear(ROWS8, *rows.codes.shape)
        made.codes, made.scale = held.address(rows.codes), held.address(rows.scale)
    elif type(module) is nn.Linear and module.weight.dtype in (torch.float32, torch.bfloat16):
        kind = FLOATS if module.weight.dtype == torch.float32 else BRAINS
        made = Linear(kind, *module.weight.shape)
        held.watched.append(module.weight)
        made.codes = held.address(module.weight.detach().contiguous())
    else:
        raise MismatchError(f"a step has no product for {type(module).__name__}")
    if bias is not None:
        made.bias = held.floats(bias)
    return made


def _packed(layer: PackedLinear, held: Held) -> Linear:
    grid = layer.grid
    held.watched += layer.stored().values()
    sizes = (grid.rows, grid.columns, grid.span, grid.dim, grid.index_bits)
    if layer.options.activations == "int8":
        weight = grid.integers(layer.stored())
        if not int8.has_kernel(weight):
            raise MismatchError("a group of columns begins within a byte")
        if isinstance(weight, Nibbles):
            made = Linear(INT4, *sizes)
            made.unit = weight.unit
            given = {"zero": weight.zero, "table": weight.table}
        elif grid.padded == grid.columns:
            made = Linear(BOOKS8, *sizes, weight.group_rows)
            given = {"table": weight.codebook}
        else:
            raise MismatchError("columns are no whole cells")
        for name, tensor in {"codes": weight.codes, "scale": weight.scale, **given}.items():
            if tensor is not None:
                setattr(made, name, held.address(tensor))
        if "order" in layer.names:
            made.order = held.address(layer.get_buffer("order"))
        return made
    if (books := layer.fused) is None or grid.padded != grid.columns:
        raise MismatchError(f"a step has no product for {layer.options.method} as it is stored")
    codebook, scale = layer.codebooks()
    assert scale is not None
    made = Linear(BOOKS, *sizes, books.group_rows)
    made.codes = held.address(layer.get_buffer("codes"))
    made.table, made.scale = held.address(codebook), held.address(scale)
    return made


class TokenStep:
    """A decoder that lies ready: weights, norms, and room for keys and values.

    Args:
        model: its sizes and weights, of the structures above, without a cache.
        layers: its blocks.
        held: what they point at.

    """

    def __init__(self, model: CModel, layers: "ctypes.Array[CLayer]", held: Held) -> None:
        self.model, self.layers, self.held = model, layers, held
        self.model.layer = layers
        self._state = held.state()
        self._angles: tuple[Tensor, Tensor] | None = None
        self._cache: tuple[int, ...] = ()

    def valid(self) -> bool:
        """Whether the weights are those of before."""
        return self.held.state() == self._state and self.held.same()

    def turn(self, cos: Tensor, sin: Tensor) -> None:
        """Take the angles (positions, head size) of rotary embeddings, float32."""
        self._angles = cos.contiguous(), sin.contiguous()
        self.model.cos, self.model.sin = (part.data_ptr() for part in self._angles)

    @property
    def positions(self) -> int:
        """How many positions there are angles for."""
        return 0 if self._angles is None else len(self._angles[0])

    def __call__(self, x: Tensor, position: int, keys: Tensor, values: Tensor) -> Tensor:
        """Return the logits (vocabulary,) of a token, and append its keys and values.

        Args:
            x: its embedding, float32 (hidden,).
            position: tokens before it, below `positions`.
            keys: (layers, kv heads, capacity, head size), float32 or bfloat16, contiguous.
            values: likewise.

        Raises:
            MismatchError: there is no memory for it.

        """
        kernels, model = matvec.library(), self.model
        assert kernels is not None
        lies = (keys.data_ptr(), values.data_ptr(), keys.shape[2], keys.element_size())
        if self._cache != lies:
            self._cache, (model.capacity, model.cache_bytes) = lies, lies[2:]
            for index, layer in enumerate(self.layers):
                layer.keys, layer.values = keys[index].data_ptr(), values[index].data_ptr()
        model.threads, model.level = max(1, torch.get_num_threads()), int8.level()
        logits = torch.empty(model.head.rows)
        if kernels.zoo_step(ctypes.byref(model), x.data_ptr(), position, logits.data_ptr()):
            raise MismatchError("there is no memory for a step of the model")
        return logits
