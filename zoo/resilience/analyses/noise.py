"""Noise of analog arrays: accuracy over several noisy chips, and which layer bears it worst."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from zoo.cost.chart import Series, chart
from zoo.errors import MismatchError
from zoo.models.blocks.noise import sites
from zoo.registry.options import check_seed
from zoo.resilience.noise import Borne, borne, limits_of, parse, standard_error
from zoo.resilience.results import Estimate, Reliability, Row
from zoo.resilience.specimen import Specimen

SUMMARY = "accuracy of a network whose layers are computed by noisy analog arrays"
CHOSEN_BY = "noise"
LEVELS = (0.0, 0.5, 1.0, 1.5)
_LAYER_CHIPS = 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of noise.

    Attributes:
        noise: what arrays add to a layer's outputs: gauss, factor or pattern, each with a size,
            e.g. "gauss:0.03,pattern:0.01"; a share of the layer's largest output.
        chips: how many devices are tried, each with numbers of its own.
        reads: how often every sum is computed and averaged.
        seed: of what is drawn.
        layers: whether each layer is also tried as the only noisy one.

    """

    noise: str = "gauss:0.03"
    chips: int = 10
    reads: int = 1
    seed: int = 0
    layers: bool = False

    def __post_init__(self) -> None:
        parse(self.noise)
        check_seed(self.seed)
        for name, least in (("chips", 2), ("reads", 1)):
            if getattr(self, name) < least:
                raise MismatchError(f"{name} is {getattr(self, name)}; expected {least} or more")


def analyse(specimen: Specimen, options: Options) -> Reliability:
    """Return the accuracy on noisy chips; an integer network is examined by its float weights."""
    network, x, y = specimen.network, specimen.inputs, specimen.labels
    noises, found = parse(options.noise), limits_of(network, x)
    run = partial(
        borne, network, x, y, noises, found,
        chips=options.chips, seed=options.seed, reads=options.reads,
    )  # fmt: skip
    results = {level: run(level=level) for level in LEVELS if level}
    results[0.0] = run(level=0.0, chips=1)
    if not results[0.0].right.any():
        raise MismatchError(
            f"{specimen.ref} is right on none of the inputs even without noise: wrong data?"
        )
    noisy, clean = results[1.0], results[0.0]
    tables: dict[str, Sequence[Row]] = {"level": [_level(k, results[k]) for k in LEVELS]}
    if options.layers:
        tables["layer"] = [
            {"layer": name, "accuracy": run(only=name, chips=_LAYER_CHIPS).accuracy}
            for name in sites(network)
        ]
    estimates = _estimates(clean, noisy, options)
    drop = estimates["drop"].value
    return Reliability(
        analysis="noise",
        ref=specimen.ref,
        target=specimen.target.name if specimen.target else "",
        summary=f"{specimen.ref} {_change(drop)} the noise {options.noise}",
        main="drop",
        estimates=estimates,
        tables=tables,
        facts={
            "data": specimen.data, "inputs": len(y), "noise": options.noise,
            "chips": options.chips, "reads": options.reads, "seed": options.seed,
            "limits": {name: round(value, 4) for name, value in found.items()},
        },
        assumed=(f"the noise {options.noise} itself: no array was measured",),
        notes=_notes(specimen),
        picture=partial(_draw, specimen.ref, options.noise, results),
    )  # fmt: skip


def _estimates(clean: Borne, noisy: Borne, options: Options) -> dict[str, Estimate]:
    plain, runs = clean.right.double(), noisy.right.numel()
    worst = min(range(len(noisy.right)), key=lambda chip: noisy.chips[chip])
    method = f"{options.chips} chips, normal interval over chips and inputs"

    def percent(values: Tensor, method: str, least: float = 0.0) -> Estimate:
        value, wide = 100 * float(values.mean()), 196 * standard_error(values)
        return Estimate(
            value=value, low=max(least, value - wide), high=min(100.0, value + wide),
            known="measured", unit="%", runs=runs, method=method,
        )  # fmt: skip

    return {
        "clean": percent(plain, "no noise"),
        "noisy": percent(noisy.right.double(), method),
        "worst_chip": percent(noisy.right[worst : worst + 1].double(), "of these chips"),
        "drop": percent(plain - noisy.right.double(), f"paired by input; {method}", -100.0),
    }


def _change(drop: float) -> str:
    points = f"{abs(drop):.1f} points of accuracy"
    return f"gains {points} under" if drop < 0 else f"loses {points} to"


def _level(level: float, result: Borne) -> Row:
    chips = result.chips
    return {
        "times_noise": level,
        "accuracy": result.accuracy,
        "worst_chip": min(chips),
        "best_chip": max(chips),
    }


def _notes(specimen: Specimen) -> tuple[str, ...]:
    notes = [
        "Noise comes before the activation; blocks that were put in by zoo compress --method "
        "denoise are digital and have none.",
        "Converters, drift and faulty cells are not modelled.",
    ]
    if specimen.is_integer:
        notes.append("The float weights were examined: analog arrays do not compute in integers.")
    return tuple(notes)


def _draw(ref: str, noise: str, results: dict[float, Borne], path: Path) -> None:
    """Draw the accuracy over the level of noise: mean and worst chip."""
    levels = sorted(results)
    mean = [(level, 100 * results[level].accuracy) for level in levels]
    worst = [(level, 100 * min(results[level].chips)) for level in levels]
    chart(
        path,
        [Series("mean of the chips", mean), Series("worst chip", worst)],
        title=f"{ref}: accuracy under noise",
        x=f"times {noise}",
        y="accuracy (%)",
    )
