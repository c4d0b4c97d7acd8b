"""What the graph room says about a kind of operator: one `OpKind`, a row of `zoo.graph.kinds`.

The rooms above have a `Column` each, with one entry per kind: a kernel, a file's operator, a cost.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Kind, Op

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer

T = TypeVar("T")
Shape = tuple[int, ...]
Trace = Callable[["Tracer", "fx.Node", dict[str, Any]], None]
Lower = Callable[["Lowering", Op], None]
Check = Callable[[Graph, Op, list[Shape]], Shape | list[Shape]]  # a list: of several outputs


def never(graph: Graph, op: Op) -> bool:
    """Return False: each sample of a batch is computed by itself."""
    return False


def along_dims(graph: Graph, op: Op) -> bool:
    """Whether the dimensions that an op works along include the batch."""
    dims, rank = op.attributes["dim"], len(graph.tensors[op.inputs[0]].shape)
    return 0 in {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}


@dataclass(frozen=True, kw_only=True)
class OpKind:
    """One kind of operator.

    Attributes:
        name: as in `Op.kind`.
        aten: the ATen operators that trace to it, each with the names of the arguments that become
            attributes, or with the function that reads them.
        lower: emits its form in the layout "channels_last".
        shape: refuses operands that do not fit, and returns the shape that they imply, or those of
            several outputs; channels last.
        mixes_samples: whether an op computes one sample of a batch from others.
        absent: of `aten`, `lower` and `shape`, those that are None, and why. A kind without a
            `shape` has no channels-last form, and so no entry in the columns of the rooms above.
        roles: what the parameters among its operands are, by place; "constant" elsewhere.
        macs: returns the multiply-accumulates of an op; None for kinds without any, as in the
            papers.
        moves: only moves elements; what acts on single elements commutes with it.
        elementwise: makes an output of an input's size from elements in the same place.
        scalar: elementwise on one operand, the same in every place.
        fuses: can apply an activation to its result.
        fusable: is such an activation, in every runtime of `.tflite` files.
        plain: files also have it on integers that are only numbers, without a scale.
        shares_quantization: runtimes do not rescale in it: output and inputs have one quantization.

    """

    name: str
    aten: Mapping[str, tuple[str, ...] | Trace] | None
    lower: Lower | None
    shape: Check | None
    mixes_samples: Callable[[Graph, Op], bool]
    absent: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[Kind, ...] = ()
    macs: Callable[[Graph, Op], int] | None = None
    moves: bool = False
    elementwise: bool = False
    scalar: bool = False
    fuses: bool = False
    fusable: bool = False
    plain: bool = False
    shares_quantization: bool = False


class Column(dict[str, T]):
    """What one room knows about each kind of operator, by the kind's name.

    Args:
        what: what an entry is, as errors call it: "float kernel".
        place: where to add an entry.
        groups: the entries, one mapping per file of a group.
        absent: why a kind that has a channels-last form has no entry, by its name.

    """

    def __init__(
        self, what: str, place: str, *groups: Mapping[str, T], absent: Mapping[str, str]
    ) -> None:
        super().__init__()
        self.what, self.place, self.absent = what, place, dict(absent)
        for group in groups:
            self.update(group)

    def of(self, op: Op) -> T:
        """Return the entry of an op's kind.

        Raises:
            MismatchError: the kind has no entry; the message names the op.

        """
        if op.kind in self:
            return self[op.kind]
        reason = self.absent.get(op.kind)
        raise MismatchError(
            f"{op.label} has no {self.what}{f' ({reason})' if reason else ''}: replace it with one "
            f"of {', '.join(sorted(self))}, or add it to {self.place}"
        )
