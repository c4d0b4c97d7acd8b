"""What an attack is: a module with `SUMMARY`, `PAPER`, `Options` and `perturb`.

A file of `zoo.resilience.attacks` is an attack by being there; an installed package offers one
through the entry-point group "zoo.resilience.attacks". All work in pixel space: pictures are
`(N, C, H, W)` in [0, 1], changed by at most `eps` each (L-infinity), and the model takes them so.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo import extensions
from zoo.errors import MismatchError
from zoo.registry.options import check_seed, read

POINT = "zoo.resilience.attacks"
PARTS = {"SUMMARY": str, "PAPER": str, "Options": type, "perturb": Callable}
Model = Callable[[Tensor], Tensor]  # pictures `(N, C, H, W)` in [0, 1] to logits `(N, labels)`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounded:
    """What all attacks have.

    Attributes:
        eps: how far a pixel may move, pictures being 0 to 1, e.g. 2/255.
        restarts: how often it is tried, from other starts; the first that fools the model counts.
        seed: of its draws.

    """

    eps: float = 2 / 255
    restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1:  # NaN, too
            raise MismatchError(
                f"eps is {self.eps:g}; pictures are 0 to 1: expected more than 0 and at most 1"
                + (f", e.g. eps={self.eps:g}/255" if self.eps > 1 else "")
            )
        if round(self.eps * 255, 6) < 1:
            raise MismatchError(
                f"eps is {self.eps:g}, less than one step of 8 bits, 1/255: no pixel could move"
            )
        check_seed(self.seed)
        for name in ("restarts", "steps"):
            if getattr(self, name, 1) < 1:
                raise MismatchError(f"{name} is {getattr(self, name)}; expected 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stepped(Bounded):
    """What attacks of several steps have.

    Attributes:
        steps: how often the gradient is taken.
        alpha: how far a step goes, in the unit of eps; 0 takes a quarter of eps.

    """

    steps: int = 20
    alpha: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < math.inf:
            raise MismatchError(f"alpha is {self.alpha:g}; expected 0 or more")

    @property
    def stride(self) -> float:
        """How far a step goes."""
        return self.alpha or self.eps / 4


class Attack(Protocol):
    """A way to change pictures so that a model errs.

    Attributes:
        SUMMARY: one line for people.
        PAPER: arXiv id of its paper.
        Options: a frozen dataclass, `Bounded` or one that extends it.

    """

    SUMMARY: str
    PAPER: str
    Options: type[Any]

    def perturb(
        self, model: Model, images: Tensor, labels: Tensor, options: Any, dice: torch.Generator
    ) -> Tensor:
        """Return pictures within `options.eps` of `images` and within [0, 1], not yet rounded.

        Args:
            model: what is attacked; gradients pass through it.
            images: `(N, C, H, W)` in [0, 1].
            labels: `(N,)`, whose loss is to grow.
            options: an instance of `Options`.
            dice: for everything that is drawn.

        """
        ...


@dataclasses.dataclass(frozen=True)
class ChosenAttack:
    """An attack with its options.

    Attributes:
        name: of the attack.
        attack: its module.
        options: an instance of its `Options`.

    """

    name: str
    attack: Attack
    options: Any

    @property
    def text(self) -> str:
        """The attack as it is typed: eps, steps, and what is not as usual, "pgd:eps=2/255"."""
        said = {"eps": in_255(self.options.eps)}
        if hasattr(self.options, "steps"):
            said["steps"] = str(self.options.steps)
        for field in dataclasses.fields(self.options):
            value = getattr(self.options, field.name)
            if field.name not in said and value != field.default:
                said[field.name] = in_255(value) if field.name == "alpha" else _typed(value)
        return f"{self.name}:{','.join(f'{name}={value}' for name, value in said.items())}"


def _typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def in_255(eps: float) -> str:
    """Return a distance in steps of 8 bits: "2/255"."""
    return f"{eps * 255:.6g}/255"


def find(name: str) -> Attack:
    """Return an attack by its name.

    Raises:
        UnknownNameError: there is no such attack; the message lists near misses.
        MismatchError: it lacks a part of the contract.

    """
    found: Attack = extensions.member(POINT, name, "attack")
    extensions.require(found, PARTS, f"attack {name!r}", "zoo.resilience.attacks.contract")
    return found


def parse(text: str) -> ChosenAttack:
    """Return the attack that a text names, e.g. "pgd:eps=2/255,steps=20".

    Raises:
        UnknownNameError: there is no such attack or option.
        MismatchError: a value cannot be used.

    """
    name, _, rest = text.partition(":")
    attack = find(name.strip())
    options = read(attack.Options, settings(rest, "attack"), f"attack {name}")
    return ChosenAttack(name.strip(), attack, options)


def settings(text: str, what: str) -> Mapping[str, Any]:
    """Return the values of "key=value,key=value"; a value may be a fraction, "2/255".

    Raises:
        MismatchError: a part has no "=", a key is given twice, or a fraction has no value.

    """
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not key or not value or key in values:
            raise MismatchError(
                f"{part!r} in the {what} is not a setting; expected key=value, each key once, "
                "with commas between them"
            )
        fraction = re.fullmatch(r"([\d.]+)\s*/\s*([\d.]+)", value)
        if fraction:
            try:
                values[key] = float(fraction[1]) / float(fraction[2])
            except (ValueError, ZeroDivisionError):
                raise MismatchError(f"{key} of the {what} is {value!r}, not a number") from None
        else:
            values[key] = value
    return values
