"""Models of one task side by side: bytes, MACs, a metric, a time, and which of them none beats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cost.result import Cost, milliseconds

if TYPE_CHECKING:
    from zoo.registry.checkpoint import Checkpoint
    from zoo.registry.recipe import Recipe
    from zoo.tasks.contract import Metric, TaskFacts

_Z = 1.959964  # of a normal distribution, 95 % lie within so many deviations
_LEAST = 3  # samples with values of their own, for an interval


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One metric of a model on some data.

    Attributes:
        metric: which.
        data: the name of the data; the clips, pictures, ... that every model was measured on.
        value: of the metric.
        samples: how many there were, or None.
        interval: (low, high) that holds the value in 95 of 100 draws of such data, or None where
            neither a count nor the samples' own values are known. Of an accuracy it is Wilson's,
            of a mean over samples Student's.

    """

    metric: "Metric"
    data: str
    value: float
    samples: int | None = None
    interval: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """The value with its interval, for people."""
        digits = 2 if self.metric.unit or abs(self.value) >= 10 else 4
        shown = f"{self.value:.{digits}f}"
        if self.interval is None:
            return shown
        return f"{shown} ({' to '.join(f'{end:.{digits}f}' for end in self.interval)})"


def qualities(metrics: Mapping[str, Any], task: "TaskFacts") -> dict[tuple[str, str], Quality]:
    """Return what was measured of a model, by data and key of the metric, first things first."""
    return {
        (data, metric.key): quality_of(result, metric, task, data)
        for data, result in metrics.get("evaluations", {}).items()
        for metric in task.metrics
        if isinstance(result.get(metric.key), int | float)
    }


def quality_of(
    result: Mapping[str, Any], metric: "Metric", task: "TaskFacts", data: str
) -> Quality:
    """Return a metric of what a task's `evaluate` returned, with its interval where it has one."""
    value, count = float(result[metric.key]), result.get(task.samples)
    samples = count if type(count) is int and count > 0 else None
    interval = None
    each = [one[metric.key] for one in result.get(f"per_{task.sample}", ()) if metric.key in one]
    if len(each) >= _LEAST:
        interval = _of_mean(each, value)
    elif samples is not None and metric.hub_type == "accuracy":
        interval = _of_share(value, samples)
    return Quality(metric=metric, data=data, value=value, samples=samples, interval=interval)


def _of_share(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's interval of a share of so many samples."""
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    return max(middle - _Z * half, 0.0), min(middle + _Z * half, 1.0)


def _of_mean(each: Sequence[float], mean: float) -> tuple[float, float]:
    """Return Student's interval of a mean of these values.

    The quantile is Cornish and Fisher's series, 3 % too small for three values.
    """
    n, z = len(each), _Z
    own = math.fsum(each) / n
    free = n - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    half = t * math.sqrt(math.fsum((x - own) ** 2 for x in each) / free / n)
    return mean - half, mean + half


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model that is compared.

    Attributes:
        name: how it was named.
        stored_bytes: of its tensors, in the type of number that they have: a float network's 4
            each, an integer network's as the device gets them. A pruned network's are those of the
            whole matrices, unless they are encoded.
        macs: multiply-accumulates of one inference; of a language model of its layers, for each
            token.
        quality: the metric.
        cost: on the target.

    """

    name: str
    stored_bytes: int
    macs: int
    quality: Quality
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types, with how each number is known."""
        quality = self.quality
        return {
            "name": self.name,
            "bytes": self.stored_bytes,
            "macs": self.macs,
            "metric": quality.value,
            "interval": None if quality.interval is None else list(quality.interval),
            "samples": quality.samples,
            "latency_ms": self.cost.latency_ms,
            "latency_interval_ms": self.cost.interval_ms and list(self.cost.interval_ms),
            "obtained": {
                "bytes": "exact", "macs": "exact", "metric": "measured",
                "latency_ms": self.cost.obtained["latency_ms"],
            },
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Models of one task side by side.

    Attributes:
        contenders: in the order in which they were named.

    """

    contenders: tuple[Contender, ...]

    @property
    def metric(self) -> "Metric":
        """What all were measured by."""
        return self.contenders[0].quality.metric

    @property
    def data(self) -> str:
        """What all were measured on."""
        return self.contenders[0].quality.data

    @property
    def target(self) -> str:
        """The device that all times are of."""
        return self.contenders[0].cost.target

    @property
    def front(self) -> tuple[Contender, ...]:
        """Those that no other beats: as good in bytes, MACs, time and metric, and better in one."""
        points = [self._point(one) for one in self.contenders]
        return tuple(
            one
            for one, point in zip(self.contenders, points, strict=True)
            if not any(_beats(other, point) for other in points)
        )

    def _point(self, one: Contender) -> tuple[float, ...]:
        """Return numbers of which less is better."""
        sign = -1 if self.metric.better == "higher" else 1
        return one.stored_bytes, one.macs, one.cost.latency_ms, sign * one.quality.value

    @property
    def rows(self) -> list[list[str]]:
        """The table, its head first."""
        metric = f"{self.metric.label}, {self.data}"
        best = self.front
        head = ["model", "bytes", "MACs", metric, f"ms, {self.target}", "time is", "beaten"]
        return [head] + [
            [
                one.name, f"{one.stored_bytes:,}", f"{one.macs:,}", one.quality.text, _time(one),
                one.cost.obtained["latency_ms"].split(" ")[0], "no" if one in best else "yes",
            ]
            for one in self.contenders
        ]  # fmt: skip

    @property
    def notes(self) -> list[str]:
        """What a reader must know before trusting the numbers, each once."""
        known = "bytes and MACs are exact, the metric is measured"
        if self.contenders[0].cost.method == "llm":
            known += "; MACs are those of the layers for one token, times those of a request"
        if any(one.quality.interval for one in self.contenders):
            known += "; in brackets 95 % intervals, of each model alone"
        whose: dict[str, list[str]] = {}
        for one in self.contenders:
            for note in one.cost.notes:
                whose.setdefault(note, []).append(one.name)
        every = len(self.contenders)
        return [known] + [
            note if len(names) == every else f"{', '.join(names)}: {note}"
            for note, names in whose.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        best = self.front
        return {
            "metric": self.metric.key,
            "better": self.metric.better,
            "data": self.data,
            "target": self.target,
            "models": [{**one.to_json(), "beaten": one not in best} for one in self.contenders],
        }

    def picture(self, path: Path) -> None:
        """Draw metric against time, a dot for each model, as large as its bytes.

        Raises:
            MismatchError: the name does not end in .png.

        """
        from zoo.cost.pictures import Dot, pareto

        dots = [
            Dot(o.name, o.cost.latency_ms, o.quality.value, o.quality.interval, o.stored_bytes)
            for o in self.contenders
        ]
        title = f"On {self.target}; the larger a dot, the more bytes"
        axis = f"{self.metric.label} on {self.data}, {self.metric.better} is better"
        pareto(dots, title, axis, path, better=self.metric.better)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from html import escape

        head, *body = self.rows
        lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
        lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body]
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _time(one: Contender) -> str:
    least = ">= " if one.cost.host else ""
    return f"{least}{milliseconds(one.cost.latency_ms)}"


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def about(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Return what a model that is made from a checkpoint keeps of it, to be compared with it."""
    return {
        "name": checkpoint.label,
        "bytes": bytes_of(checkpoint),
        "recipe": checkpoint.recipe.to_json(),
        "evaluations": checkpoint.metrics.get("evaluations", {}),
    }


def shared(
    first: Mapping[str, Any], second: Mapping[str, Any], task: "TaskFacts"
) -> tuple[Quality, Quality] | None:
    """Return the first thing that was measured of two models on the same data, or None."""
    one, other = qualities(first, task), qualities(second, task)
    return next(((one[place], other[place]) for place in one if place in other), None)


def bytes_of(checkpoint: "Checkpoint") -> int:
    """Return the bytes of a checkpoint's tensors, in the type of number that they have.

    Raises:
        MissingWeightsError, UnsafeFileError: its weights are missing, or others.

    """
    from zoo.cost.language import tensor_bytes

    facts = checkpoint.metrics.get("compression", {})
    if "encoded_by" in facts:  # what a device's own code makes of them
        return int(facts["packed_bytes"])
    if checkpoint.recipe.of_transformers:
        names = [name for name in checkpoint.config["files"] if name.endswith(".safetensors")]
        return sum(sum(tensor_bytes(checkpoint.path / name).values()) for name in names)
    if checkpoint.quantization is None:
        return sum(value.nbytes for value in checkpoint.state_dict().values())
    from zoo.deploy.file_network import integer_network

    network: Any = integer_network(checkpoint)
    graph = network.graph(_shape(checkpoint.recipe))
    return sum(value.nbytes for value in graph.values.values())


def _shape(recipe: "Recipe") -> tuple[int, ...]:
    return tuple(recipe.input_shape)
