"""What the page's On-device cost tab shows, without the page: what networks cost on devices."""

import html
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import cost as costs
from zoo import registry
from zoo.artifacts.resolution import resolve
from zoo.cost.pictures import Dot
from zoo.cost.pricing import estimator
from zoo.cost.result import Cost, milliseconds, readable
from zoo.errors import MismatchError, ZooError
from zoo.page import charts
from zoo.page.given import choice, choices
from zoo.registry.recipe import Recipe
from zoo.verbs.fitting import Fitting, fitting
from zoo.verbs.use import estimate

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

DEFAULT, DEVICES = "micronet-kws-s", ("stm32f746-216mhz-cmsisnn", "ethos-u55-128")
MOST_DEVICES = 6  # at once; each may take a compiler's seconds
# "measured" and "simulated" are about the machine that serves the page, not about a device.
HERE = ("measured", "simulated")
VELA_SECONDS = 30.0  # of one visitor's network


@dataclass
class Prices:
    """What is known so far of a network's costs.

    Attributes:
        ref: what the network is called.
        found: a cost for each device and method.
        refused: a line for each device and method that does not price it.
        left: how many are still to come.

    """

    ref: str
    found: list[Cost] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    left: int = 0


class Pricelist:
    """What all visitors share: the networks, and prices that are known. One is priced at a time.

    Args:
        given: checkpoints besides those that ship.

    """

    def __init__(self, given: "Iterable[Artifact]" = ()) -> None:
        own = {artifact.ref: artifact for artifact in given if artifact.recipe is not None}
        named = {recipe.name: recipe for recipe in networks()}
        self.labels = {ref: f"{ref}, yours" for ref in own}
        self.labels |= {name: f"{name}: {recipe.summary}" for name, recipe in named.items()}
        self._own = own
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], Cost | str] = {}
        self._fitting: dict[tuple[str, str], list[Fitting]] = {}

    def price(self, source: str | Path, devices: Sequence[str]) -> Iterator[Prices]:
        """Price a network on devices by every method, and yield what is known after each.

        Args:
            source: a ref that `labels` holds, or the path of a visitor's `.tflite` file.
            devices: names of targets.

        Raises:
            MismatchError: there is no such network or device, or none or too many are named.
            UnsafeFileError: the file is not a `.tflite` file.

        """
        ways = _ways(devices)
        if isinstance(source, Path):
            artifact: Artifact = resolve(str(source.absolute()))
            artifact.graph()  # a file that cannot be read is refused once, not by each method
            name = source.name
        else:
            name = choice(source, "network", self.labels)
            artifact = self._own.get(name) or resolve(name, weights=False)
        priced = Prices(name, left=len(ways))
        yield priced
        for device, way in ways:
            try:
                priced.found.append(self._one(artifact, source, device, way))
            except ZooError as error:
                said = str(error).replace(str(source), name)
                priced.refused.append(f"{device}, {way}: {said}")
            priced.left -= 1
            yield priced

    def _one(self, artifact: "Artifact", source: str | Path, device: str, way: str) -> Cost:
        """Return a cost; those of refs are kept."""
        key = (str(source), device, way)
        with self._lock:
            if key not in self._known:
                options: dict[str, Any] = {"time_limit_s": VELA_SECONDS} if way == "vela" else {}
                try:
                    found: Cost | str = estimate(artifact, device, method=way, **options)
                except ZooError as error:
                    found = str(error)
                if isinstance(source, Path):
                    return _or_refusal(found)
                self._known[key] = found
            return _or_refusal(self._known[key])

    def fits(self, device: str, task: str) -> list[Fitting]:
        """Return the networks of a subtask that fit a device, the fastest first.

        Raises:
            MismatchError: there is no such device or task.

        """
        choice(device, "device", devices())
        choice(task, "task", tasks())
        with self._lock:
            if (device, task) not in self._fitting:
                recipes = [recipe for recipe in networks() if recipe.subtask == task]
                self._fitting[device, task] = fitting(device, recipes)
            return self._fitting[device, task]


def networks() -> list[Recipe]:
    """Return the recipes of networks that can be priced without their weights."""
    recipes = (registry.find(name) for name in registry.names())
    return [r for r in recipes if not r.of_transformers and r.input_shape is not None]


def tasks() -> list[str]:
    """Return the subtasks of `networks`."""
    return list(dict.fromkeys(recipe.subtask for recipe in networks()))


def devices() -> list[str]:
    """Return the names of the devices that networks run on, the machine at hand left out."""
    found = [costs.target(name) for name in costs.target_names()]
    return [device.name for device in found if device.method not in (*HERE, "llm")]


def _ways(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the devices with each of their methods, quick ones first."""
    names = choices(names, "device", devices(), MOST_DEVICES)
    methods = [way for way in costs.methods() if way not in HERE]
    methods = [way for way in methods if not getattr(estimator(way), "AGAIN", False)]
    methods.sort(key=lambda way: way == "vela")
    return [
        (name, way)
        for way in methods
        for name in names
        if estimator(way).refusal(costs.target(name)) is None
    ]


def _or_refusal(found: Cost | str) -> Cost:
    if isinstance(found, str):
        raise MismatchError(found)
    return found


COLUMNS = ("Device", "Method", "Time", "9 of 10 within", "Energy", "Memory", "Storage", "Fits")


def table(priced: Prices) -> str:
    """Return what a network costs, a row for each device and method, as HTML."""
    rows = []
    for cost in sorted(priced.found, key=lambda c: c.target):
        cells = _cells(cost)
        body = "".join(
            f"<td data-label='{label}'>{html.escape(cell)}</td>"
            for label, cell in zip(COLUMNS[1:], cells, strict=True)
        )
        rows.append(
            f"<tr class='{'' if cost.fits or cost.runs_tiled else 'zoo-over'}'>"
            f"<th scope='row' title='{html.escape(costs.target(cost.target).summary)}'>"
            f"{html.escape(cost.target)}</th>{body}</tr>"
        )
    head = "".join(f"<th scope='col'>{label}</th>" for label in COLUMNS)
    waiting = (
        f"<p class='zoo-note'>{priced.left} more to come…</p>" if priced.left else _apart(priced)
    )
    return (
        f"<table class='zoo-table'><caption>{html.escape(priced.ref)}, one inference</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{waiting}"
    )


def _cells(cost: Cost) -> list[str]:
    least = "at least " if cost.host else ""
    between = "-"
    if cost.interval_ms:
        between = " to ".join(map(milliseconds, cost.interval_ms)) + " ms"
    fits = "yes" if cost.fits else "in tiles" if cost.runs_tiled else "no"
    return [
        cost.method, f"{least}{milliseconds(cost.latency_ms)} ms", between,
        "-" if cost.energy_mj is None else f"{cost.energy_mj:.3g} mJ",
        readable(cost.peak_activation_bytes), readable(cost.stored_bytes), fits,
    ]  # fmt: skip


def _apart(priced: Prices) -> str:
    """Return how far methods are apart, what does not fit, and what nobody could price."""
    lines = []
    for name in dict.fromkeys(cost.target for cost in priced.found):
        times = [cost.latency_ms for cost in priced.found if cost.target == name]
        if len(times) > 1 and min(times):
            lines.append(f"{name}: the methods are {max(times) / min(times):.2f} times apart.")
    lines += [f"{c.target}: {line}" for c in priced.found for line in c.details]
    lines += [f"Not priced: {line}" for line in priced.refused]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in dict.fromkeys(lines))
    return f"<ul class='zoo-note'>{items}</ul>" if items else ""


def operators(priced: Prices, device: str) -> str:
    """Return where the time goes on a device: its roofline and its slowest operators."""
    here = [cost for cost in priced.found if cost.target == device and cost.ops]
    if not here:
        said = "still to come" if priced.left else "no method gives single operators here"
        return f"<p class='zoo-note'>{html.escape(device)}: {said}.</p>"
    cost = next((cost for cost in here if cost.moved_bytes), here[0])
    return (
        f"<h4>{html.escape(device)}, {html.escape(cost.method)}: where the time goes</h4>"
        f"{charts.roofline(cost, costs.target(device))}{charts.bars(cost)}"
    )


def chart(found: Sequence[Fitting], device: str) -> str:
    """Return the networks that fit a device by time and quality, and all of them as a table."""
    if not found:
        return f"<p class='zoo-note'>Nothing of this task fits {html.escape(device)}.</p>"
    measured = [one for one in found if one.quality is not None]
    scales = {(one.metric, one.data, one.unit) for one in measured}
    drawn = ""
    for metric, data, unit in sorted(scales):
        same = [one for one in measured if (one.metric, one.data, one.unit) == (metric, data, unit)]
        dots = [Dot(one.recipe.name, one.cost.latency_ms, one.quality or 0.0) for one in same]
        drawn += charts.pareto(dots, f"{metric} on {data}{f' in {unit}' if unit else ''}")
    rows = "".join(_fit_row(one) for one in found)
    return (
        f"{drawn}<table class='zoo-table'><caption>What fits {html.escape(device)}, the fastest "
        "first; choose one to read its card</caption><thead><tr><th scope='col'>Network</th>"
        "<th scope='col'>Time</th><th scope='col'>Memory</th><th scope='col'>Storage</th>"
        f"<th scope='col'>Quality</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _fit_row(one: Fitting) -> str:
    cost, name = one.cost, html.escape(one.recipe.name, quote=True)
    quality = "not measured"
    if one.quality is not None:
        value = f"{one.quality:.2f} {one.unit}" if one.unit else f"{one.quality:.4f}"
        quality = f"{value} {one.metric} on {one.data}"
    tiles = f" in {cost.tiled.count} tiles" if cost.runs_tiled and cost.tiled else ""
    cells = {
        "Time": f"{milliseconds(cost.latency_ms)} ms{tiles}",
        "Memory": readable(cost.peak_activation_bytes),
        "Storage": readable(cost.stored_bytes), "Quality": quality,
    }  # fmt: skip
    body = "".join(f"<td data-label='{k}'>{html.escape(v)}</td>" for k, v in cells.items())
    return (
        f"<tr><th scope='row'><button type='button' data-ref='{name}'>{name}</button></th>"
        f"{body}</tr>"
    )


def code(ref: str, names: Sequence[str]) -> str:
    """Return the lines of Python that do the same."""
    listed = ", ".join(f'"{name}"' for name in names)
    return (
        f'import zoo\n\nfor cost in zoo.estimate("{ref}", [{listed}], method="all"):\n'
        "    print(cost)"
    )
