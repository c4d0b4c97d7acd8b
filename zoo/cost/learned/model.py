"""The predictor: each pass of the cycle model times factors that a small network gives.

Latency is the sum over passes of the largest of compute x exp(c), fast x exp(s) and slow x exp(d),
the cycles that the arithmetic, the fast and the slow memory are busy; so what a pass waits for may
change. Encoded bytes are the sum of encoded x exp(g). At a pass the SRAM holds live x exp(h) +
buffer x sigmoid(b), and at the peak, the largest over passes, following x sigmoid(n) more: the
weights of the next pass, that are loaded meanwhile. All factors are the outputs of one network on
the features of the pass. A pass is all it sees, so that networks unlike those it was taught on are
still sums of passes like those it was taught on.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.cost.learned.features import BUSY, NAMES, SIZES, SeenPasses
from zoo.cost.learned.layers import FLAGS, KINDS, UNITS
from zoo.errors import MismatchError
from zoo.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT_VERSION = 2
HIDDEN = 64
WEIGHTS = Path(__file__).parent / "weights"
_STEEPEST = 5.0  # factors lie between exp(-5) and exp(5)
_SHARP = 50.0
_BUSY = [NAMES.index(name) for name in BUSY]
_SUMMED = ("cycles", "encoded", "live", "buffer", "following")


@dataclass(frozen=True, kw_only=True)
class PassBatch:
    """The passes of several networks, one after the other.

    Attributes:
        features: (passes, features).
        cycles: (passes,); `encoded`, `live`, `buffer` and `following` likewise, see `SeenPasses`.
        network: (passes,) the network of each.
        count: networks.

    """

    features: Tensor
    cycles: Tensor
    encoded: Tensor
    live: Tensor
    buffer: Tensor
    following: Tensor
    network: Tensor
    count: int


def _largest(values: Tensor) -> Tensor:
    """Return the largest of each row, smooth where two are nearly alike."""
    return torch.logsumexp(_SHARP * values, 1) / _SHARP


def batch(networks: Sequence[SeenPasses]) -> PassBatch:
    """Return several networks as one batch."""
    sizes = [len(one.cycles) for one in networks]
    columns = {
        name: torch.from_numpy(np.concatenate([getattr(one, name) for one in networks]))
        for name in ("features", *_SUMMED)
    }
    network = torch.from_numpy(np.repeat(np.arange(len(networks)), sizes))
    return PassBatch(**columns, network=network, count=len(networks))


@dataclass(frozen=True)
class Prediction:
    """What is predicted of a batch.

    Attributes:
        cycles: (networks,) in all; `passes` of each pass.
        encoded_bytes: (networks,) of weights.
        sram_bytes: (networks,) at the peak; `held` (passes,) at each pass.

    """

    cycles: Tensor
    passes: Tensor
    encoded_bytes: Tensor
    sram_bytes: Tensor
    held: Tensor


class Predictor(nn.Module):
    """A network of three layers on the features of a pass, and the sums over passes."""

    mean: Tensor
    spread: Tensor
    least: Tensor
    most: Tensor
    lowest: Tensor
    highest: Tensor
    scale: Tensor

    def __init__(self, hidden: int = HIDDEN) -> None:
        """Make one whose factors are all 1."""
        super().__init__()
        count = len(NAMES)
        self.body = nn.Sequential(
            nn.Linear(count, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.head = nn.Linear(hidden, len(BUSY) + 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.register_buffer("least", torch.zeros(count))
        self.register_buffer("most", torch.ones(count))
        sizes = (len(UNITS), len(SIZES))
        self.register_buffer("lowest", torch.full(sizes, torch.inf))  # of each unit's passes
        self.register_buffer("highest", torch.full(sizes, -torch.inf))
        self.register_buffer("scale", torch.zeros(count, 1))  # of cycles, from few measurements

    def fit_ranges(self, features: Tensor) -> None:
        """Take the mean, spread and range of the features that it is taught on."""
        self.mean.copy_(features.mean(0))
        self.spread.copy_(features.std(0).clamp(min=1e-3))
        self.least.copy_(features.amin(0))
        self.most.copy_(features.amax(0))
        for place, name in enumerate(UNITS):
            own = features[features[:, NAMES.index(f"unit {name}")] > 0][:, : len(SIZES)]
            if len(own):
                self.lowest[place], self.highest[place] = own.amin(0), own.amax(0)

    def forward(self, given: PassBatch) -> Prediction:
        """Return what a batch costs."""
        inside = torch.minimum(torch.maximum(given.features, self.least), self.most)
        unit = (inside - self.mean) / self.spread
        found = self.head(self.body(unit)).clamp(-_STEEPEST, _STEEPEST)
        busy = given.features[:, _BUSY]  # logarithms
        more = _largest(busy + found[:, : len(BUSY)]) - _largest(busy)
        cycles = given.cycles * (more + (given.features @ self.scale).squeeze(1)).exp()
        g, h, b, n = found[:, len(BUSY) :].unbind(1)
        zero = cycles.new_zeros(given.count)
        # Twice as steep as a factor's: a buffer is most often there in whole, or not at all.
        held = given.live * h.exp() + given.buffer * torch.sigmoid(2 * b)
        most = held + given.following * torch.sigmoid(2 * n)
        return Prediction(
            cycles=zero.index_add(0, given.network, cycles),
            passes=cycles,
            encoded_bytes=zero.index_add(0, given.network, given.encoded * g.exp()),
            sram_bytes=zero.scatter_reduce(0, given.network, most, "amax"),
            held=held,
        )

    def outside(self, networks: SeenPasses) -> list[str]:
        """Return in words where a network leaves the range of what the predictor was taught on."""
        found, features = [], torch.from_numpy(networks.features)
        for place, name in enumerate(UNITS):
            own = features[features[:, NAMES.index(f"unit {name}")] > 0][:, : len(SIZES)]
            if len(own):
                found += _beyond(name, own, self.lowest[place], self.highest[place])
        for name in (*FLAGS, *KINDS):
            place = NAMES.index(name)
            if not name.startswith("unit") and float(features[:, place].max()) > self.most[place]:
                found.append(f"{name}, which none of them has")
        return found


def _beyond(unit: str, own: Tensor, lowest: Tensor, highest: Tensor) -> list[str]:
    """Return in words which sizes of a unit's passes no pass of that unit had."""
    if bool(lowest.isinf().any()):
        return [f"unit {unit}, which none of them has"]
    found = []
    for name, column, low, high in zip(SIZES, own.T, lowest, highest, strict=True):
        for value in (column.min(), column.max()):
            if not low - 1e-3 <= value <= high + 1e-3:
                texts = [f"{round(math.expm1(float(v))):,}" for v in (value, low, high)]
                found.append(f"{unit} {name} {texts[0]} ({texts[1]} to {texts[2]})")
    return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the weights of a predictor carry with them.

    Attributes:
        target: that it predicts.
        networks: it was taught on.
        interval: (low, high): nine in ten latencies are between these times the prediction.
        source: the data and the compiler.
        errors: mean absolute error in percent on networks that were held out, by quantity.
        format_version: of the file.

    """

    target: str
    networks: int
    interval: tuple[float, float]
    source: str
    errors: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def save(predictor: Predictor, facts: Facts, path: Path) -> None:
    """Write the weights of a predictor, as safetensors."""
    from safetensors.torch import save_file

    if path.suffix != ".safetensors":
        raise MismatchError(f"{path} is not a name that ends in .safetensors")
    with replacing(path) as temporary:
        save_file(
            {name: value.contiguous() for name, value in predictor.state_dict().items()},
            temporary,
            {"facts": json.dumps(asdict(facts)), "features": json.dumps(NAMES)},
        )


def load(path: Path) -> tuple[Predictor, Facts]:
    """Read the weights of a predictor.

    Raises:
        MismatchError: it is no such file, of a newer version, or of other features.

    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about: dict[str, str] = file.metadata() or {}
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise MismatchError(f"{path} cannot be read as weights of a predictor: {error}") from error
    facts: dict[str, Any] = json.loads(about.get("facts", "{}"))
    version = facts.get("format_version")
    if version != FORMAT_VERSION:
        raise MismatchError(
            f"{path} has format {version} of a predictor; this version of the zoo reads "
            f"{FORMAT_VERSION}: update it, or train one with zoo cost train"
        )
    values = _widened(values, json.loads(about.get("features", "[]")), path)
    predictor = Predictor(hidden=values["head.weight"].shape[1])
    predictor.load_state_dict(values)
    return predictor.eval(), Facts(**{**facts, "interval": tuple(facts["interval"])})


def _widened(values: dict[str, Tensor], names: list[str], path: Path) -> dict[str, Tensor]:
    """Return weights of some features as weights of all: those they did not see have no effect."""
    if names == list(NAMES):
        return values
    if not names or set(names) - set(NAMES):
        raise MismatchError(f"{path} sees other features than this version: zoo cost train")
    places = torch.tensor([NAMES.index(name) for name in names])
    empty = Predictor(hidden=values["head.weight"].shape[1]).state_dict()
    for name in ("mean", "spread", "least", "scale"):
        values[name] = empty[name].index_copy(0, places, values[name])
    values["most"] = torch.zeros(len(NAMES)).index_copy(0, places, values["most"])
    first = torch.zeros(len(values["body.0.weight"]), len(NAMES))
    values["body.0.weight"] = first.index_copy(1, places, values["body.0.weight"])
    return values


def shipped(target: str) -> Path | None:
    """Return the weights that come with the zoo for a target; None where there are none."""
    path = WEIGHTS / f"{target}.safetensors"
    return path if path.is_file() else None


def quantiles(ratios: "NDArray[np.float64]", share: float = 0.9) -> tuple[float, float]:
    """Return between what a share of some ratios lies, both sides alike."""
    rest = (1 - share) / 2
    low, high = np.quantile(ratios, [rest, 1 - rest])
    return float(low), float(high)
