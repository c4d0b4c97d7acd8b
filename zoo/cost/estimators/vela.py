"""The method "vela": Arm's compiler estimates the int8 file that `zoo export` would write."""

import importlib.metadata
from typing import TYPE_CHECKING, Any

from zoo.cost.target import Target
from zoo.deploy import vela
from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph

if TYPE_CHECKING:
    from torch import nn

_MEMORIES = {"sram": "Sram", "flash": "OffChipFlash"}


def compiled(
    item: "nn.Module | Graph", target: str, input_shape: tuple[int, ...] | None
) -> tuple[Graph, vela.Report]:
    """Return the int8 graph of a module or graph, and Vela's report on it.

    A module is quantized with nominal ranges: scales change what a network computes, hardly what
    it costs.

    Raises:
        MismatchError: Vela knows no such target, or the graph is not an int8 one.

    """
    if target not in vela.NPUS:
        raise MismatchError(
            f"target {target!r} is no Ethos-U with a configuration in Vela; "
            f"there are: {', '.join(vela.NPUS)}"
        )
    if isinstance(item, Graph):
        if item.layout != "channels_last" or item.tensors[item.inputs[0]].dtype not in LIMITS:
            raise MismatchError("Vela takes an integer graph: quantize the module first")
        return item, vela.compile_graph(item, target)
    from zoo.graph.lower import lower
    from zoo.quantization.int8.post_training import quantize_graph

    if input_shape is None:
        raise MismatchError("a module's cost depends on its input; give input_shape")
    graph = lower(item, input_shape)
    names = [tensor.name for tensor in graph.tensors.values() if not tensor.is_parameter]
    int8 = quantize_graph(graph, dict.fromkeys(names, (-1.0, 1.0)))
    return int8, vela.compile_graph(int8, target)


def route(report: vela.Report) -> str:
    """Return what an estimate must name, since routes differ by 20 % and more."""
    text = f"Vela {importlib.metadata.version('ethos-u-vela')} on the zoo's int8 file"
    if count := len(report.cpu_ops):
        text += f", without {count} operator{'s' * (count > 1)} on the host CPU"
    return text


def fit(report: vela.Report, target: Target) -> dict[str, Any]:
    """Return whether what Vela allocates fits the target's memories, as fields of `Fit`."""
    sizes = {"sram": target.sram_bytes, "flash": target.flash_bytes}
    used = {name: report.peak_bytes.get(memory, 0) for name, memory in _MEMORIES.items()}
    over = [name for name, size in sizes.items() if size is not None and used[name] > size]
    reasons = [f"{used[name]} bytes exceed {sizes[name]} of {name.upper()}" for name in over]
    return {"sram": "sram" not in over, "flash": "flash" not in over, "reasons": tuple(reasons)}
