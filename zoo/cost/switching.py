"""What it costs a device to switch an adapter: memory traffic alone, from the target's numbers."""

from dataclasses import dataclass
from typing import Any

from zoo.cost.target import Target
from zoo.errors import MismatchError

_FROM = ("flash_bytes_per_s", "dram_bytes_per_s")


@dataclass(frozen=True, kw_only=True)
class SwitchCost:
    """An estimate of one switch on a device whose weights lie in SRAM.

    Weights in flash cannot be patched: flash is erased by whole sectors. So a switch reads a
    patch from where the device keeps it and stores its integers in SRAM, one cycle each, however
    few of a bus's bytes an integer fills.

    Attributes:
        target: the device.
        read_us: to read the patch's file once.
        write_us: to store its integers.
        whole_us: to read all weights of the file instead, for comparison.

    """

    target: str
    read_us: float
    write_us: float
    whole_us: float

    @property
    def switch_us(self) -> float:
        """Reading and storing, one after the other."""
        return self.read_us + self.write_us

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, and how they were obtained."""
        return {
            "target": self.target,
            "read_us": self.read_us,
            "write_us": self.write_us,
            "switch_us": self.switch_us,
            "whole_us": self.whole_us,
            "obtained": "estimated: bytes over the target's bandwidths, a cycle per store; what "
            "the processor does to decode positions is left out",
        }


def switch_cost(
    target: Target, *, patch_bytes: int, integers: int, weight_bytes: int
) -> SwitchCost:
    """Return the estimate for a patch of `integers` in a file of `patch_bytes`.

    Args:
        target: a device with a bandwidth of flash or DRAM.
        patch_bytes: size of the patch.
        integers: that it stores; both ways where another adapter has to be taken out first.
        weight_bytes: of all constants, which a switch without patches would load.

    Raises:
        MismatchError: the target has no clock, or no bandwidth of what holds its weights.

    """
    bandwidth = next((value for name in _FROM if (value := target.get(name))), None)
    clock = target.get("clock_hz")
    if bandwidth is None or clock is None:
        raise MismatchError(
            f"{target.name} has no {' or '.join(_FROM)} to estimate a switch by; take "
            "ethos-u55-256, or add the number to the target"
        )
    return SwitchCost(
        target=target.name,
        read_us=1e6 * patch_bytes / bandwidth,
        write_us=1e6 * integers / clock,
        whole_us=1e6 * weight_bytes / bandwidth,
    )
