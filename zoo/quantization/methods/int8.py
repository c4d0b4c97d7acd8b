"""Post-training int8 of a convolutional network, as the device computes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import MismatchError
from zoo.quantization.int8.observer import Observer
from zoo.registry.compressed import Compressed

if TYPE_CHECKING:
    from zoo.quantization.int8.network import QuantizedNetwork
    from zoo.registry.checkpoint import Checkpoint

SUMMARY = "integers throughout, with ranges seen on a few inputs, no training"
PAPER = "1712.05877"
TAKES = "network"
DATA = "a folder of inputs, or a Hub data set, that ranges are learned from"
TRAINS = False
PRESETS: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Options(Observer):
    """The options of post-training int8.

    Attributes:
        scheme: "int8", or "int8-w4" for weights of 4 bits in int8 tensors.

    """

    scheme: Literal["int8", "int8-w4"] = "int8"

    @property
    def needs_data(self) -> bool:
        """Ranges are always learned from inputs."""
        return True

    @property
    def label(self) -> str:
        """What a result is named after."""
        return self.scheme

    @property
    def summary(self) -> str:
        """What was done, in a few words."""
        return f"{self.scheme} without training"


def compress(
    source: "Checkpoint",
    out: Path,
    options: Options,
    *,
    data: Path | None,
    test: Path | None,
    resume: bool,
    device: str | None,
) -> Compressed:
    """Learn ranges from inputs, and return what makes it an integer network.

    It takes a minute at most, so there is nothing to resume, and runs on the CPU.

    Raises:
        MismatchError: the network already computes in integers or has no integer form (the
            operator is named), or the inputs cannot be used.

    """
    from zoo.graph.lower import lower
    from zoo.quantization.int8.calibration import Options as Calibration
    from zoo.quantization.int8.network import QuantizedNetwork, by_label
    from zoo.quantization.int8.post_training import calibrate
    from zoo.tasks import calibration, task_of

    name = f"{source.recipe.name}.{source.tag}"
    if source.quantization is not None:
        raise MismatchError(f"{name} already computes in integers; give its float weights")
    if data is None:
        raise MismatchError("ranges are learned from inputs; add --data DIR, a folder of them")
    task, network = task_of(source.recipe), source.load()
    batches = calibration(source.recipe, data)
    chosen = Calibration(
        observer=options.observer, percentile=options.percentile, momentum=options.momentum
    )
    graph = lower(network, source.recipe.input_shape)
    ranges = by_label(graph, calibrate(network, batches, chosen))
    integers = QuantizedNetwork(network, ranges, options.scheme)
    facts = {
        **_sizes(integers, source.recipe.input_shape),
        "calibration": {"source": data.name, "inputs": sum(len(batch) for batch in batches)},
    }
    scores = {} if test is None else {test.name: task.evaluate(integers, source.recipe, test)}
    return Compressed(
        metrics={"compression": facts, **({"evaluations": scores} if scores else {})},
        tensors=network.state_dict(),
        quantization=integers.quantization(),
    )


def _sizes(network: "QuantizedNetwork", shape: tuple[int, ...]) -> dict[str, Any]:
    """Return how many weights there are, and what they take on the device."""
    graph = network.graph(shape)
    kinds = {name: graph.tensors[name].kind for name in graph.values}
    weights = [value for name, value in graph.values.items() if kinds[name] == "weight"]
    count = sum(value.size for value in weights)
    packed = sum(value.nbytes for value in weights)
    return {
        "weights": count,
        "bits_per_weight": 8 * packed / count if count else 0.0,
        "packed_bytes": packed,
        "tensor_bytes": sum(value.nbytes for value in graph.values.values()),
    }
