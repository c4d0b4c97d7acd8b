"""`Target`: a device that networks run on; every number says where it comes from.

A target is a chip, its clock and its software stack, since the same chip differs four- to sixfold
between kernel libraries (MLPerf Tiny). It is a TOML file, of `zoo/cost/targets` or anywhere else;
its name is the file's, `<chip>-<detail>`.
"""

import dataclasses
import fnmatch
import functools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from zoo import extensions
from zoo.cost.ethos_u.array import Array, Array85, array
from zoo.cost.registers import Registers, registers
from zoo.errors import MismatchError, UnknownNameError, ZooError
from zoo.graph.kinds import KINDS

Confidence = Literal["published", "datasheet", "measured", "assumed"]
TARGETS = Path(__file__).parent / "targets"


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number about a device, and how it is known.

    Attributes:
        value: in the unit its name says.
        confidence: "published" (measured or defined in a public place, or derived from such),
            "datasheet" (the vendor's specification), "measured" (here, by `zoo target measure`) or
            "assumed" (nobody's measurement).
        source: the place, and how the value follows from it.

    """

    value: float
    confidence: Confidence
    source: str


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How an array of multipliers is filled; work is rounded up to whole steps.

    Attributes:
        conv: alternatives (kernel elements, input channels) that one step of a convolution
            consumes; a compiler takes the better one.
        depthwise_kernel: kernel elements one step of a depthwise convolution consumes.
        output_channels: output channels one step makes.

    """

    conv: tuple[tuple[int, int], ...] = ((1, 1),)
    depthwise_kernel: int = 1
    output_channels: int = 1
    confidence: Confidence = "assumed"
    source: str = "no rounding"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device.

    Attributes:
        name: "<chip>-<detail>".
        summary: one line for people.
        method: the estimator that "auto" takes: "roofline" (from the numbers here), "measured" (run
            here and timed), or another one.
        dtype: what the network is deployed in: "int8" or "float32".
        fuses: activations that are applied on the way out of another op, at no cost.
        host: op kinds that the device hands to its host CPU.
        scratch: op kinds that it lowers to several passes, with one more buffer of their
            output's size.
        notes: what a reader of any estimate for this device must know.
        numbers: `clock_hz`; `sram_bytes`, `flash_bytes` (sizes); `sram_bytes_per_s`,
            `flash_bytes_per_s` (weights), `dram_bytes_per_s` (weights, input, output and what
            does not fit SRAM: a target has flash or DRAM); `outputs_per_cycle` (of MAC ops);
            `cycles_per_output` (of `conv2d`, beside its MACs); `op_overhead_us`; `power_w`
            (while running); `least_float_operations_per_cycle` and
            `most_float_operations_per_cycle` of the C source of front ends. All but the clock may
            be missing: a missing bandwidth is part of the rates, a missing size means no limit. Of
            "llm": `bytes_per_s` that its weights are read at, `macs_per_s` of many tokens at once,
            `weights_per_s` that a codebook decodes.
        rates: work per cycle by op kind: MACs of "conv2d", "depthwise_conv2d",
            "fully_connected", and of "pointwise", convolutions of 1 x 1; window elements of
            pools; output elements of the rest. "default" stands for kinds not named; data movement
            without a rate costs only its traffic.
        steps: granularity of the multiplier array.
        array: of an Ethos-U: how its cycles follow from blocks; it takes the place of rates.
        reliability: of an NPU, its classes of registers, by name.
        interval: (low, high): nine in ten networks take between these times the estimate; see
            `interval_source`.

    """

    name: str
    summary: str
    method: str
    dtype: Literal["int8", "float32"]
    fuses: frozenset[str] = frozenset()
    host: frozenset[str] = frozenset()
    scratch: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, Number] = field(default_factory=dict)
    rates: Mapping[str, Number] = field(default_factory=dict)
    steps: Steps = Steps()
    array: Array | Array85 | None = None
    reliability: Mapping[str, Registers] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    interval_source: str = ""

    def __post_init__(self) -> None:
        known = extensions.names("zoo.cost.estimators")
        if self.method not in known or self.dtype not in ("int8", "float32"):
            raise MismatchError(f"method {self.method!r} or dtype {self.dtype!r} is not known")
        needed = _NEEDED.get(self.method, set())
        if unknown := sorted(set(self.numbers) - _NUMBERS):
            raise MismatchError(f"unknown number {unknown[0]!r}; known: {', '.join(_NUMBERS)}")
        if missing := sorted(needed - set(self.numbers)):
            raise MismatchError(f"{missing[0]} is missing")
        if self.method == "roofline" and self.array is None and "default" not in self.rates:
            raise MismatchError("rates.default is missing")
        self._check_memories()
        self._check_interval()

    def _check_memories(self) -> None:
        if {"flash_bytes_per_s", "dram_bytes_per_s"} <= set(self.numbers):
            raise MismatchError("weights come from flash or from DRAM: give one bandwidth")
        if self.array is None:
            return
        for names in (("sram_bytes_per_s",), ("flash_bytes_per_s", "dram_bytes_per_s")):
            if not set(names) & set(self.numbers):
                raise MismatchError(f"{' or '.join(names)} is missing; an array needs it")

    def _check_interval(self) -> None:
        if self.interval is None:
            return
        if len(self.interval) != 2 or not 0 < self.interval[0] <= self.interval[1]:
            raise MismatchError(f"interval is {self.interval}; expected [low, high], above 0")
        if not self.interval_source.strip():
            raise MismatchError("interval has no interval_source")

    def get(self, name: str) -> float | None:
        """Return a number's value, or None if the target has none."""
        number = self.numbers.get(name)
        return None if number is None else number.value

    @property
    def sram_bytes(self) -> int | None:
        """SRAM for activations, or None for no limit."""
        value = self.get("sram_bytes")
        return None if value is None else int(value)

    @property
    def flash_bytes(self) -> int | None:
        """Flash for weights, or None for no limit."""
        value = self.get("flash_bytes")
        return None if value is None else int(value)

    @property
    def spills(self) -> bool:
        """Whether activations that do not fit SRAM can live in DRAM."""
        return "dram_bytes_per_s" in self.numbers

    @property
    def assumed(self) -> list[str]:
        """Names of the numbers that are assumed, not measured."""
        rates = {f"rates.{name}": number for name, number in self.rates.items()}
        everything = {**self.numbers, **rates}
        return [name for name, item in everything.items() if item.confidence == "assumed"]


_NEEDED = {"roofline": {"clock_hz"}, "llm": {"bytes_per_s", "macs_per_s"}}
_NUMBERS = {"clock_hz", "sram_bytes", "flash_bytes", "sram_bytes_per_s", "flash_bytes_per_s"}
_NUMBERS |= {"dram_bytes_per_s", "outputs_per_cycle", "cycles_per_output", "op_overhead_us"}
_NUMBERS |= {"power_w", "bytes_per_s", "macs_per_s", "weights_per_s"}
FLOATS = ("least_float_operations_per_cycle", "most_float_operations_per_cycle")
_NUMBERS |= set(FLOATS)


def number(name: str, fields: Any) -> Number:
    """Return a number of a file, which must say how it is known; its name is for messages."""
    if not isinstance(fields, dict) or set(fields) != {"value", "confidence", "source"}:
        raise MismatchError(f"{name} is {fields!r}; expected value, confidence and source")
    value, confidence, source = fields["value"], fields["confidence"], fields["source"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise MismatchError(f"{name} has value {value!r}; expected a positive number")
    if confidence not in get_args(Confidence):
        words = ", ".join(get_args(Confidence))
        raise MismatchError(f"{name} has confidence {confidence!r}; expected one of {words}")
    if not isinstance(source, str) or not source.strip():
        raise MismatchError(f"{name} has no source")
    return Number(value=float(value), confidence=confidence, source=source)


def _checked(fields: Mapping[str, Any]) -> None:
    """Raise if there is a field, or a kind of operator, that a target does not know."""
    known = [field.name for field in dataclasses.fields(Target) if field.name != "name"]
    if unknown := sorted(set(fields) - set(known)):
        raise MismatchError(f"unknown field {unknown[0]!r}; known: {', '.join(known)}")
    if missing := [key for key in ("summary", "method", "dtype") if key not in fields]:
        raise MismatchError(f"{missing[0]} is missing")
    _check_types(fields)
    for group in ("rates", "fuses", "host", "scratch"):
        more = {"default", "pointwise"} if group == "rates" else set()
        if unknown := sorted(set(fields.get(group, ())) - set(KINDS) - more):
            listed = f"operators: {', '.join(sorted(KINDS))}"
            raise UnknownNameError.near(f"operator in {group}", unknown[0], KINDS, listed)


def _check_types(fields: Mapping[str, Any]) -> None:
    """Raise if a field of texts or tables holds something else."""
    for key in ("summary", "interval_source"):
        if not isinstance(fields.get(key, ""), str):
            raise MismatchError(f"{key} is {fields[key]!r}; expected a text")
    for key in ("fuses", "host", "scratch", "notes"):
        listed = fields.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise MismatchError(f"{key} is {listed!r}; expected a list of texts")
    for key in ("numbers", "rates", "steps", "array"):
        if not isinstance(fields.get(key, {}), dict):
            raise MismatchError(f"{key} is {fields[key]!r}; expected a table")


def _steps(fields: Mapping[str, Any]) -> Steps:
    known = [field.name for field in dataclasses.fields(Steps)]
    if unknown := sorted(set(fields) - set(known)):
        raise MismatchError(f"unknown field steps.{unknown[0]}; known: {', '.join(known)}")
    for key in {"depthwise_kernel", "output_channels"} & set(fields):
        _whole(f"steps.{key}", fields[key])
    if {"confidence", "source"} & set(fields):
        words = {key: fields.get(key, getattr(Steps, key)) for key in ("confidence", "source")}
        number("steps", {"value": 1, **words})
    if "conv" not in fields:
        return Steps(**fields)
    pairs = fields["conv"]
    if not isinstance(pairs, list) or not pairs or any(len(_listed(p)) != 2 for p in pairs):
        raise MismatchError(
            f"steps.conv is {pairs!r}; expected pairs of kernel elements and channels"
        )
    conv = tuple((_whole("steps.conv", p[0]), _whole("steps.conv", p[1])) for p in pairs)
    return Steps(**{**fields, "conv": conv})


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise MismatchError(f"{name} has {value!r}; expected a whole number, 1 or more")
    return value


def parse(name: str, text: str) -> Target:
    """Build a target from the text of its TOML file.

    Raises:
        MismatchError: it is not valid TOML, has an unknown or missing field, or a number without a
            value, a known confidence word or a source.

    """
    try:
        fields = tomllib.loads(text)
        _checked(fields)
        for group in ("numbers", "rates"):
            items = fields.get(group, {})
            fields[group] = {key: number(f"{group}.{key}", entry) for key, entry in items.items()}
        for key in ("fuses", "host", "scratch"):
            fields[key] = frozenset(fields.get(key, ()))
        fields["notes"] = tuple(fields.get("notes", ()))
        if "steps" in fields:
            fields["steps"] = _steps(fields["steps"])
        if "array" in fields:
            fields["array"] = array(fields["array"])
        if "reliability" in fields:
            fields["reliability"] = registers(fields["reliability"])
        if "interval" in fields:
            fields["interval"] = tuple(float(value) for value in fields["interval"])
        return Target(name=name, **fields)
    except (ZooError, tomllib.TOMLDecodeError, TypeError, ValueError, AttributeError) as error:
        raise MismatchError(f"target {name!r}: {error}") from error


def target_names() -> list[str]:
    """Return the names of all targets that ship."""
    return sorted(file.stem for file in TARGETS.glob("*.toml"))


def matching(pattern: str) -> list[str]:
    """Return the names of the targets that a pattern means, sorted.

    Args:
        pattern: "all"; a group, which is the beginning of names up to a dash, e.g. "ethos-u55" or
            "stm32f746"; a glob, e.g. "stm32*"; or what `target` takes, a name or a file.

    Raises:
        UnknownNameError: nothing is called so; the message lists similar names.

    ```python
    from zoo import cost

    print(cost.matching("ethos-*"))
    ```

    """
    known = target_names()
    if pattern in known or pattern.endswith(".toml"):
        return [pattern]
    if pattern == "all":
        return known
    if found := fnmatch.filter(known, pattern) or [n for n in known if n.startswith(f"{pattern}-")]:
        return found
    raise _unknown(pattern)


def target(name: str) -> Target:
    """Return a target by its name, or read it from a file of yours.

    Args:
        name: of `target_names()`; or the path of a file, which ends in ".toml".

    Raises:
        UnknownNameError: there is no such target; the message lists similar names.
        MismatchError: the file cannot be read, or is not a target; says why.

    """
    if not isinstance(name, str):
        raise MismatchError(f"target {name!r}; expected a name, e.g. 'ethos-u55-256', or a file")
    if "," in name and not Path(name).expanduser().exists():
        raise MismatchError(
            f"{name!r} is several targets, and one is expected: give one, or zoo.estimate a list"
        )
    if name.endswith(".toml"):
        return _of_file(Path(name).expanduser())
    if name not in target_names() and (found := matching(name)):
        raise MismatchError(
            f"{name!r} means {len(found)} targets ({', '.join(found)}); give one, or zoo.estimate "
            f"a list: [{name!r}]"
        )
    return _shipped(name)


def _of_file(path: Path) -> Target:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MismatchError(f"target {str(path)!r}: {reason}; expected a TOML file") from error
    return parse(path.stem, text)


def _unknown(name: str) -> UnknownNameError:
    known = target_names()
    groups = sorted({name.rpartition("-")[0] for name in known if "-" in name})
    listed = f"targets: {', '.join(known)}; all, groups and globs; or a file of yours: ./NAME.toml"
    return UnknownNameError.near("target", name, [*known, *groups], listed)


@functools.cache
def _shipped(name: str) -> Target:
    return parse(name, (TARGETS / f"{name}.toml").read_text(encoding="utf-8"))
