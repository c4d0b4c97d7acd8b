"""The cheapest protection of a device's blocks: an exact front of area and what stays unsafe.

Every block takes one of a few measures. Each adds an area and leaves a share of the block's unsafe
faults. Fronts of blocks are joined one after the other, and what is worse than another in both is
dropped, so that nothing is lost: the front is that of all combinations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.errors import MismatchError

# ISO 26262-5, table 4: the least single-point fault metric.
SPFM = {"asil-b": 0.90, "asil-c": 0.97, "asil-d": 0.99}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One way to protect a block.

    Attributes:
        name: e.g. "hardened".
        area: that it adds, a share of the device's.
        left: the share of the block's unsafe faults that it leaves.

    """

    name: str
    area: float
    left: float


NONE = Measure(name="none", area=0.0, left=1.0)


@dataclass(frozen=True, kw_only=True)
class Protected:
    """A choice of one measure for each block.

    Attributes:
        area: that all add, a share of the device's.
        unsafe: what stays unsafe, in the unit of the blocks' weights.
        measures: by block.

    """

    area: float
    unsafe: float
    measures: tuple[str, ...]


def front(blocks: Sequence[tuple[float, Sequence[Measure]]]) -> list[Protected]:
    """Return every choice that none is better than, by rising area.

    Args:
        blocks: how unsafe each is without protection, and the measures it can take.

    """
    found = [Protected(area=0.0, unsafe=0.0, measures=())]
    for unsafe, measures in blocks:
        joined = [
            Protected(
                area=one.area + measure.area,
                unsafe=one.unsafe + unsafe * measure.left,
                measures=(*one.measures, measure.name),
            )
            for one in found
            for measure in measures
        ]
        joined.sort(key=lambda one: (one.area, one.unsafe))
        found = []
        for one in joined:
            if not found or one.unsafe < found[-1].unsafe:
                found.append(one)
    return found


def cheapest(choices: Sequence[Protected], most: float, what: str) -> Protected:
    """Return the choice of least area that leaves no more than `most` unsafe.

    Raises:
        MismatchError: there is none; the message names the best that can be reached.

    """
    fitting = [one for one in choices if one.unsafe <= most]
    if not fitting:
        best = min(one.unsafe for one in choices)
        raise MismatchError(
            f"no protection reaches {what}: the best leaves {best:.3g} unsafe, and {most:.3g} is "
            "allowed; give --areas with other measures, or a lower goal"
        )
    return min(fitting, key=lambda one: one.area)


def goal(text: str) -> tuple[str, float]:
    """Return the name of a goal and its least single-point fault metric.

    Raises:
        MismatchError: it is neither an ASIL nor a share.

    """
    if text.lower() in SPFM:
        return text.upper(), SPFM[text.lower()]
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        known = ", ".join(SPFM)
        raise MismatchError(
            f"--protect {text!r}; expected {known}, or the single-point fault metric to reach, "
            "above 0 and below 1, e.g. 0.99"
        )
    return f"SPFM {share:g}", share
