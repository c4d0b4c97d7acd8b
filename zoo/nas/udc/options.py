"""The options of UDC, checked; the numbers of bits and sparsities."""

from typing import TYPE_CHECKING

from zoo.errors import MismatchError
from zoo.nas.limits import amount
from zoo.registry.options import check_seed

if TYPE_CHECKING:
    from zoo.nas.methods.udc import Options

BITS = (2, 3, 4, 5, 8)  # 6 and 7 have more levels than the code's palette, and gain nothing
SPARSITIES = (0.0, 0.25, 0.5, 0.65, 0.8, 0.9)


def check(options: "Options") -> None:
    """Raise a MismatchError unless the options can be meant."""
    if not 1 < options.ratio < float("inf"):
        raise MismatchError(f"ratio is {options.ratio:g}; expected more than 1, e.g. 2")
    if options.max_flash:
        amount(options.max_flash, "flash_bytes")
    uniform(options)
    if options.bits and options.max_flash:
        raise MismatchError("bits decide the size: give either --bits or --max-flash")
    if not 0 < options.lr < float("inf"):
        raise MismatchError(f"lr is {options.lr:g}; expected a positive number, e.g. 5e-4")
    check_seed(options.seed)
    for name, least in (("steps", 40), ("batch_size", 0)):
        if not least <= getattr(options, name) < float("inf"):
            raise MismatchError(f"{name} is {getattr(options, name):g}; expected {least} or more")


def uniform(options: "Options") -> tuple[int, int] | None:
    """Return the numbers of one choice for all layers, or None if there is a search."""
    if not options.bits:
        if options.sparsity:
            raise MismatchError("sparsity of all layers goes with their --bits; add these")
        return None
    if options.bits not in BITS:
        raise MismatchError(f"bits is {options.bits}; expected {', '.join(map(str, BITS))}")
    if options.sparsity not in SPARSITIES:
        known = ", ".join(f"{share:g}" for share in SPARSITIES)
        raise MismatchError(f"sparsity is {options.sparsity:g}; expected {known}")
    return BITS.index(options.bits), SPARSITIES.index(options.sparsity)
