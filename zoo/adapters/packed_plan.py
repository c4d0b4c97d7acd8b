"""What a switch does to a packed weight: S beside its codes, in place of another S or of none."""

from dataclasses import dataclass

from torch import Tensor, nn

from zoo.adapters.beside import Delta, refuse_adapted
from zoo.adapters.sparse import unwrapped
from zoo.quantization.packed import PackedLinear


class PackedMemory:
    """A packed weight; see `zoo.adapters.plan.TensorMemory`.

    Args:
        name: checkpoint name.
        model: where the layer is.
        layer: the layer.

    Raises:
        MismatchError: somebody else has put an adapter on.

    """

    trained = False  # nobody writes into codes

    def __init__(self, name: str, model: nn.Module, layer: PackedLinear) -> None:
        refuse_adapted(layer)
        self.name, self.layer = name, layer
        self.shape = (layer.out_features, layer.in_features)
        self.on: Delta | None = None
        self._model = unwrapped(model)
        self._place = next(n for n, m in self._model.named_modules() if m is layer)

    @property
    def tensor(self) -> Tensor:
        """W (rows, columns) in float32, decoded."""
        return self.layer.dequantize()

    @property
    def moved(self) -> bool:
        """Whether the layer is no longer in the model, as after `dequantize()`."""
        try:
            return self._model.get_submodule(self._place) is not self.layer
        except AttributeError:
            return True

    def put(self, delta: Delta | None) -> None:
        """Let this lie beside the codes, or nothing, in place of what the switcher has put there.

        Raises:
            MismatchError: somebody else has put an adapter on.

        """
        if self.layer.sidecar is not self.on:
            refuse_adapted(self.layer)
        self.layer.sidecar = self.on = delta

    def written(self) -> None:
        """Do nothing: no tensor has changed."""


@dataclass(frozen=True, eq=False)
class PackedEdit:
    """What a plan does to one packed weight.

    Attributes:
        memory: the weight.
        mask: digest of the positions.
        delta: what is added.

    """

    memory: PackedMemory
    mask: str
    delta: Delta

    @classmethod
    def of(cls, memory: PackedMemory, indices: Tensor, change: Tensor, mask: str) -> "PackedEdit":
        """Lay out the edit that adds `change` (nnz,) at flat `indices`."""
        device = memory.layer.get_buffer("codes").device
        delta = Delta(indices.to(device), change.to(device), memory.shape)
        return cls(memory, mask, delta)

    @property
    def new(self) -> Tensor:
        """What is added, (nnz,) in float32."""
        return self.delta.values

    @property
    def nbytes(self) -> int:
        """Size of positions and values."""
        return self.delta.indices.nbytes + self.delta.values.nbytes

    def apply(self) -> None:
        """Put it beside the codes."""
        self.memory.put(self.delta)

    def undo(self) -> None:
        """Leave the codes alone."""
        if self.memory.layer.sidecar is self.memory.on:
            self.memory.put(None)

    def holds(self) -> bool:
        """Whether it lies beside the codes."""
        return self.memory.layer.sidecar is self.delta
