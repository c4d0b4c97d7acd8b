"""What an adapter method offers: a file here, or one in a package, through an entry point.

A method attaches trained values to a base model. From then on the loop of `zoo.training` knows only
the `Attachment`, so that a new method is one file and nothing else. A method with options of its
own defines a subclass of `Options`, called `Options` too; users give them as `options.NAME`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, Self, cast

from torch import Tensor, nn

from zoo import extensions
from zoo.adapters.masks import Indices
from zoo.adapters.recipe import METHODS, AdapterRecipe, MaskOptions
from zoo.errors import UnknownNameError
from zoo.registry.options import read

Values = Mapping[str, Tensor]
# (indices, deltas) by tensor name, and the tensors of the pristine base by name.
Sparse = tuple[Mapping[str, tuple[Tensor, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a recipe says to its method.

    Attributes:
        rank: rank of factors, or the basis of a budget.
        mask: which tensors, and how their entries were chosen.
        seed: seed of what is drawn at random.
        steps: optimizer steps of the run.

    """

    rank: int = 8
    mask: MaskOptions = field(default_factory=MaskOptions)
    seed: int = 0
    steps: int = 1

    @classmethod
    def of(cls, recipe: AdapterRecipe) -> Self:
        """Return the options of a recipe.

        Raises:
            UnknownNameError: the method has no such option.
            MismatchError: an option has another type, or a value that the method refuses.

        """
        common = {f.name for f in fields(Options)}
        own = [f.name for f in fields(cls) if f.name not in common]
        for name in recipe.options:
            if name not in own:
                hint = f"of {recipe.method}: {', '.join(own) or 'none'}"
                raise UnknownNameError.near("option", name, own, hint)
        train = recipe.train
        shared = {"rank": recipe.rank, "mask": recipe.mask, "seed": train.seed}
        return read(cls, {**recipe.options, **shared, "steps": train.steps}, recipe.method)


class Attachment(Protocol):
    """Trained values at work in a base model.

    It may also have a function `starting(step)`, called before each optimizer step, from 0: what it
    then freezes or frees is a function of the step alone, so that a resumed run does the same.

    Attributes:
        model: the module that computes: the base, or a wrapper around it.

    """

    model: nn.Module

    @property
    def trained(self) -> nn.Module:
        """A small module with every trained value and nothing else: what the optimizer, the
        average and a saved state hold."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What identifies the start of a run, as JSON types: a resumed run must find it again."""

    def collect(self) -> None:
        """Bring the gradients of a backward pass to `trained`."""

    def use(self, values: Values | None = None) -> None:
        """Let the model compute with these values, or with those being trained if None."""

    def result(self, values: Values, folder: Path) -> Sparse | None:
        """Return what a sparse adapter is made of, or write the method's own files into `folder`
        and return None. The model has the base's values until the next `use`."""

    def close(self) -> None:
        """Give the base its own values back, bit for bit, and leave nothing in it."""


class AdapterMethod(Protocol):
    """A method: a module with these two functions, and `Options` if it has some of its own."""

    def budget(self, model: nn.Module, options: Options) -> Mapping[str, int] | None:
        """Return how many entries of each tensor the mask takes: {} for a method without a mask,
        None for as many as `options.mask` says."""

    def attach(self, model: nn.Module, indices: Indices, options: Options) -> Attachment:
        """Attach values to the entries of `model` that `indices` name; sorted, by tensor name.

        Raises:
            MismatchError: the model or the options do not suit the method.
            MissingExtraError: a package that the method needs is not installed.

        """


def options_of(recipe: AdapterRecipe) -> Options:
    """Return the options of a recipe, as its method wants them; errors are those of `Options.of`.

    Raises:
        UnknownNameError: there is no such method, or option.

    """
    kind: type[Options] = getattr(method(recipe.method), "Options", Options)
    return kind.of(recipe)


def method(name: str) -> AdapterMethod:
    """Return a method by name.

    Raises:
        UnknownNameError: there is no such method.
        MismatchError: it lacks a function.

    """
    found = extensions.member(METHODS, name, "method")
    parts = {"budget": Callable, "attach": Callable}
    extensions.require(found, parts, f"adapter method {name!r}", __name__)
    return cast(AdapterMethod, found)
