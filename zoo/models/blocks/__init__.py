"""Layers that several families share.

`linear` has the linear block that collapses, of SESR and RAN. `normed` has layers with batch norms
to be folded away, and classifiers of them: trained with norms, deployed without.
"""

from zoo.models.blocks.linear import (
    CollapsibleConv2d,
    DirectConv2d,
    identity_kernel,
    linear_block,
    padded,
)
from zoo.models.blocks.normed import (
    EPSILON,
    Activation,
    Classifier,
    Convolution,
    DsCnn,
    Foldable,
    Normed,
    absorb,
    activated,
)

__all__ = [
    "EPSILON",
    "Activation",
    "Classifier",
    "CollapsibleConv2d",
    "Convolution",
    "DirectConv2d",
    "DsCnn",
    "Foldable",
    "Normed",
    "absorb",
    "activated",
    "identity_kernel",
    "linear_block",
    "padded",
]
