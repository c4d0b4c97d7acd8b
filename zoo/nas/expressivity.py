"""What the shape of a ConvNeXt-like network says about it, untrained (RAN, arXiv 2208.08562).

A residual network of D blocks is a sum over 2^D paths: each block is gone through, or around
(Veit et al., arXiv 1605.06431). With stages of d_i blocks, w_i wide, of p_i places:

    MACs      M = sum_i d_i p_i (2 r w_i^2 + k^2 w_i), and what is between the stages
    NN-Mass   m = sum_i 2 d_i w_i
    units     u = sum_i d_i p_i r w_i / 2

A block has r w non-linear units at each place (r = 4, k = 7), and half of all paths go through it:
u is the expected number of non-linear units on a path, over the whole picture, and m is the same
at one place, since r / 2 = 2. NN-Mass (Bhardwaj et al., arXiv 1910.00780, for ConvNeXt as RAN's
code counts it) was published; u, which weighs a unit by how often it works, is the zoo's reading of
the paper's "expected number of non-linear units".

With one stage, m = 2 d w and M = 2 r p d w^2, so m = 2 sqrt(d M / (2 r p)): at equal MACs NN-Mass
rises with the root of depth and never says stop. What limits depth is training, or the kernels of a
device; hence `zoo.nas.scaling.scale` asks for a range of depths.
"""

from dataclasses import dataclass
from typing import Any

from zoo.errors import MismatchError
from zoo.models.convnext import ConvNeXt

KERNEL, EXPANSION = 7, 4


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The shape of a ConvNeXt-like network, and what follows from it.

    Attributes:
        depths: blocks of each stage.
        dims: width of each stage.
        patch: pixels, each way, that the first layer takes together.
        in_chans: channels of a picture.
        num_classes: outputs; 0 for none.
        size: rows and columns of a picture.

    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    patch: int = 4
    in_chans: int = 3
    num_classes: int = 1000
    size: tuple[int, int] = (224, 224)

    def __post_init__(self) -> None:
        if min(self.places) < 1:
            raise MismatchError(
                f"pictures of {self.size[0]}x{self.size[1]} pixels are too small for "
                f"{len(self.dims)} stages after patches of {self.patch}x{self.patch}; expected at "
                f"least {self.patch * 2 ** (len(self.dims) - 1)} each way"
            )

    @property
    def places(self) -> tuple[int, ...]:
        """Places of each stage's map: rows times columns."""
        rows, columns = (side // self.patch for side in self.size)
        return tuple((rows >> stage) * (columns >> stage) for stage in range(len(self.dims)))

    @property
    def macs(self) -> int:
        """Multiplications with additions, for one picture."""
        places, dims = self.places, self.dims
        total = places[0] * self.patch**2 * self.in_chans * dims[0] + dims[-1] * self.num_classes
        for stage, (depth, width) in enumerate(zip(self.depths, dims, strict=True)):
            total += depth * places[stage] * width * (2 * EXPANSION * width + KERNEL**2)
            if stage:
                total += places[stage] * 4 * dims[stage - 1] * width
        return total

    @property
    def nn_mass(self) -> int:
        """NN-Mass, the sum of 2w over all blocks."""
        return sum(2 * depth * width for depth, width in zip(self.depths, self.dims, strict=True))

    @property
    def nonlinear_units(self) -> float:
        """The expected number of non-linear units on a path, over the whole picture."""
        stages = zip(self.depths, self.dims, self.places, strict=True)
        return sum(depth * width * places * EXPANSION / 2 for depth, width, places in stages)

    def network(self) -> ConvNeXt:
        """Return the network, with random weights."""
        return ConvNeXt(
            self.depths, self.dims, self.num_classes, in_chans=self.in_chans, patch=self.patch
        )

    def to_json(self) -> dict[str, Any]:
        """Return the shape and what follows from it, as JSON types."""
        return {
            "depths": list(self.depths),
            "dims": list(self.dims),
            "macs": self.macs,
            "nn_mass": self.nn_mass,
            "nonlinear_units": self.nonlinear_units,
        }
