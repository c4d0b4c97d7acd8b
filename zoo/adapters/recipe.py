"""`AdapterRecipe`: how an adapter is made, as plain data: TOML in the registry, JSON in files.

Free of torch: `zoo adapter list` reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Self

from zoo import extensions
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.codec import from_json
from zoo.registry.recipe import NAME, Train

KINDS = ("struct", "rand", "wm", "grad", "snip", "block", "custom")
SCORES = ("wm", "grad", "snip", "rand")
METHODS = "zoo.adapters.methods"  # the extension point


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How a mask is chosen.

    Attributes:
        kind: one of `KINDS`.
        density: share of the entries of the target tensors, in (0, 1].
        shares: densities of tensors that have their own, by pattern of their names; the first
            pattern that fits counts, e.g. {"*.bias": 1.0}.
        band: take the slice after `band` slices of that density (tasks that must not overlap).
        seed: seed of `rand`; every tensor derives its own from it.
        score: what `block` sums: one of `SCORES`.
        block: entries of a block; 32 of bf16 or 16 of fp32 are a 64-byte cache line.
        axis: what `struct` takes: "rows" or "columns".
        scope: "layer" gives each tensor its share, "global" lets them compete by score.
        batches: calibration batches of `grad` and `snip`.
        source: an adapter whose mask `custom` takes: a name, `org/repo` or a path.
        avoid: adapters whose entries are not taken.
        include: patterns of tensor names (`*` matches dots); if empty, every weight of two or more
            dimensions except tied embeddings.
        exclude: patterns of tensor names to leave out.

    """

    kind: str = "wm"
    density: float = 0.01
    shares: Mapping[str, float] = field(default_factory=dict)
    band: int = 0
    seed: int = 0
    score: str = "wm"
    block: int = 32
    axis: str = "rows"
    scope: str = "layer"
    batches: int = 1
    source: str = ""
    avoid: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (
            ("kind", KINDS),
            ("score", SCORES),
            ("axis", ("rows", "columns")),
            ("scope", ("layer", "global")),
        ):
            if getattr(self, name) not in known:
                raise UnknownNameError.near(
                    f"mask.{name}", getattr(self, name), known, f"known: {', '.join(known)}"
                )
        for name, share in (("density", self.density), *self.shares.items()):
            if not 0 < share <= 1:
                raise MismatchError(f"mask.{name} is {share}; expected 0 < density <= 1")
        if self.band < 0 or not 0 <= self.seed < 2**63:
            raise MismatchError(
                f"mask.band is {self.band} and mask.seed {self.seed}; expected 0 or more"
            )
        if min(self.block, self.batches) < 1:
            raise MismatchError(
                f"mask.block is {self.block} and mask.batches {self.batches}; expected 1 or more"
            )
        if self.scope == "global" and self.kind in ("struct", "rand", "custom"):
            raise MismatchError(f"mask.scope 'global' has no meaning for {self.kind!r} masks")

    def share(self, tensor: str) -> float:
        """Return the density of a tensor, by its name."""
        fitting = (share for name, share in self.shares.items() if fnmatchcase(tensor, name))
        return next(fitting, self.density)

    @property
    def needs_gradients(self) -> bool:
        """Whether a calibration set is needed."""
        return (self.score if self.kind == "block" else self.kind) in ("grad", "snip")


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe:
    """How an adapter is made.

    Attributes:
        name: what users type, e.g. "sesr-m5-x2-text".
        summary: one line for people.
        base: ref of the base model: `name.tag`, `org/repo[@revision]`, or a package's name.
        task: the module of `zoo.tasks` that feeds and judges it, e.g. "causal-lm".
        method: one of `zoo.adapters.methods`: "shira" (the hook route), "shira-dora" (a masked
            DoRA), "lamda" (a small core between frozen factors), "paca" and "s2ft" (whole columns);
            or through PEFT: "peft-shira", "lora", "dora".
        mask: which entries; for methods that choose their own, only the names count.
        rank: rank of "lora", "dora", "shira-dora", "lamda" and "peft-shira", whose budget is rank *
            (rows + columns); columns of "paca".
        options: the method's own, by name; `zoo.adapters.methods` has them.
        train: how it is trained.
        data: `source` (a folder, a file or a generator of the task) and its `license`.
        weights: where the trained adapter is: `file` next to the TOML, its `sha256`, `license`;
            or `repo` on the Hub at a `revision`.
        facts: what was measured, and how; for `zoo adapter info` and the card.

    """

    name: str
    summary: str
    base: str
    task: str
    train: Train
    method: str = "shira"
    mask: MaskOptions = field(default_factory=MaskOptions)
    rank: int = 8
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise MismatchError(
                f"{self.name!r} is not a name; expected lower-case letters, digits, single hyphens"
            )
        if self.method not in (known := extensions.names(METHODS)):
            raise UnknownNameError.near("method", self.method, known, f"known: {', '.join(known)}")
        if self.rank < 1:
            raise MismatchError(f"rank is {self.rank}; expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON types; `from_json` returns an equal one."""
        value: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        if not self.mask.shares:  # as adapters that are older than these fields have it
            del value["mask"]["shares"]
        if not self.options:
            del value["options"]
        if not self.train.sharpness:
            del value["train"]["sharpness"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a recipe; unknown fields and wrong types are a MismatchError."""
        return from_json(cls, value, "adapter")

    def override(self, settings: Mapping[str, Any]) -> Self:
        """Return a copy with other settings: {"train.lr": "1e-3", "mask.density": 0.02}."""
        value = self.to_json()
        for key, setting in settings.items():
            *path, last = key.split(".")
            target: Any = value
            for part in path:
                target = target.get(part) if isinstance(target, dict) else None
            if path == ["options"]:
                target = value.setdefault("options", {})
            free = path[:1] == ["data"] or path[-1:] == ["options"]
            if not isinstance(target, dict) or (last not in target and not free):
                known = ["method", "rank", "options.NAME"] + [
                    f"{group}.{name}" for group in ("mask", "train") for name in value[group]
                ]
                raise MismatchError(f"no setting {key!r}; known: {', '.join(known)}")
            old = target.get(last)
            if isinstance(old, list) and isinstance(setting, str):
                setting = [entry for entry in setting.split(",") if entry]
            elif path[-1:] == ["options"] and isinstance(setting, str):
                setting = _like(old, setting, key)
            target[last] = setting
        return self.from_json(value)


def _like(old: Any, text: str, key: str) -> Any:
    """Read the text of an option as the type of its old value."""
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[text]
        return type(old)(text) if isinstance(old, int | float) else text
    except (ValueError, KeyError):
        raise MismatchError(f"{key} is {text!r}; expected {type(old).__name__}") from None
