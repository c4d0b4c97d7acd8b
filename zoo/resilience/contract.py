"""What an analysis is: a module with `SUMMARY`, `CHOSEN_BY`, `Options` and `analyse`.

A file of `zoo.resilience.analyses` is an analysis by being there; an installed package offers one
through the entry-point group "zoo.resilience.analyses". It is chosen by one of its options: that of
`noise` is called `noise`, so that `zoo reliability REF --noise gauss:0.03` means it. Flags,
defaults and checks come from `Options`, see `zoo.registry.options`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from zoo import extensions
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.options import options
from zoo.resilience.results import Reliability
from zoo.resilience.specimen import Specimen

POINT = "zoo.resilience.analyses"
DEFAULT = "faults"
PARTS = {"SUMMARY": str, "CHOSEN_BY": str, "Options": type, "analyse": Callable}


class Analysis(Protocol):
    """One way to look at a network's reliability.

    Attributes:
        SUMMARY: one line for people.
        CHOSEN_BY: the option whose presence chooses it; "" for the one that is taken if none is.
        Options: a frozen dataclass of its settings; every field has a default and a text.

    """

    SUMMARY: str
    CHOSEN_BY: str
    Options: type[Any]

    def analyse(self, specimen: Specimen, options: Any) -> Reliability:
        """Examine a network.

        Raises:
            MismatchError: the network, its data or its target cannot be used; says why.

        """
        ...


def names() -> list[str]:
    """Return the names of all analyses."""
    return extensions.names(POINT)


def find(name: str) -> Analysis:
    """Return an analysis by its name.

    Raises:
        UnknownNameError: there is no such analysis; the message lists near misses.
        MismatchError: it lacks a part of the contract.

    """
    found = extensions.member(POINT, name, "analysis")
    extensions.require(found, PARTS, f"analysis {name!r}", "zoo.resilience.contract")
    if not dataclasses.is_dataclass(found.Options):
        raise MismatchError(f"analysis {name!r} has Options that are not a dataclass")
    analysis: Analysis = found
    own = [option.name for option in options(analysis.Options)]
    if found.CHOSEN_BY and found.CHOSEN_BY not in own:
        raise MismatchError(f"analysis {name!r} is chosen by {found.CHOSEN_BY!r}, no option of it")
    return analysis


def choices() -> Mapping[str, str]:
    """Return the name of the analysis that each choosing option means."""
    by_option: dict[str, str] = {}
    for name in names():
        option = find(name).CHOSEN_BY
        if option and by_option.setdefault(option, name) != name:
            raise MismatchError(
                f"the option {option!r} chooses both {by_option[option]} and {name}; rename one"
            )
    return by_option


def chosen(given: Iterable[str]) -> str:
    """Return the name of the analysis that the given options mean.

    Raises:
        MismatchError: they mean two.
        UnknownNameError: no analysis has such an option.

    """
    known, typed = choices(), list(given)
    meant = {known[name]: name for name in typed if name in known}
    if len(meant) > 1:
        raise MismatchError(
            f"{' and '.join(meant.values())} are two analyses; run them one after the other"
        )
    name = next(iter(meant), DEFAULT)
    own = _own(name)
    for option in typed:
        if option not in own:
            raise _refusal(option, name, own)
    return name


def _own(name: str) -> set[str]:
    return {option.name for option in options(find(name).Options)}


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _refusal(option: str, name: str, own: set[str]) -> Exception:
    """Return the error for an option that the chosen analysis does not have."""
    owners = [other for other in names() if option in _own(other)]
    choosers = [find(other).CHOSEN_BY for other in owners]
    if DEFAULT in owners:
        return MismatchError(
            f"{_flag(option)} is an option of single faults and does not go with "
            f"{_flag(find(name).CHOSEN_BY)}: these are two analyses; run them one after the other"
        )
    if choosers:
        goes = f"{_flag(option)} goes with {' or '.join(map(_flag, choosers))}"
        if name == DEFAULT:
            return MismatchError(f"{goes}, which is not given")
        return MismatchError(
            f"{goes}, not with {_flag(find(name).CHOSEN_BY)}: these are two analyses; run them one "
            "after the other"
        )
    return UnknownNameError.near("option", option, own, f"of {name}: {', '.join(sorted(own))}")
