"""RAN-implicit (arXiv 2208.08562): ConvNeXt, scaled by its topology to be deeper and thinner."""

from collections.abc import Sequence
from dataclasses import replace

from zoo.recipes.convnext import PUBLISHED, dropping, of_cifar10, of_imagenet
from zoo.registry.recipe import Recipe

_MODEL, _PAPER = "zoo.models.ran.implicit:RanImplicit", "2208.08562"
# As published, for 8 processes of 80 pictures, 4 micro-batches each: 300 epochs of 2560.
_TRAIN = replace(
    PUBLISHED,
    steps=PUBLISHED.steps * 4096 // 2560,
    warmup_steps=PUBLISHED.warmup_steps * 4096 // 2560,
    batch_size=80,
)
_SIZES = {  # ConvNeXt-T deeper and thinner: depths, widths as published, drop path
    "tiny": ([5, 5, 15, 5], [64, 128, 256, 511], 0.1),
    "small": ([5, 5, 15, 5], [76, 151, 303, 606], 0.2),
    "base": ([7, 7, 21, 7], [87, 175, 350, 699], 0.4),
}


def _recipe(
    size: str, depths: Sequence[int], dims: Sequence[int], drop_path: float, suffix: str, what: str
) -> Recipe:
    return of_imagenet(
        f"ran-i-{size}{suffix}",
        f"Image classification: RAN-i-{size.capitalize()}, a deeper, thinner ConvNeXt{what}",
        _MODEL,
        depths,
        dims,
        dropping(drop_path, _TRAIN),
        _PAPER,
    )


RECIPES = (
    *(_recipe(size, *shape, "", "") for size, shape in _SIZES.items()),
    *(
        _recipe(
            size,
            depths,
            [(width + 4) // 8 * 8 for width in dims],
            rate,
            "-r8",
            " of widths in eights",
        )
        for size, (depths, dims, rate) in _SIZES.items()
    ),
    of_cifar10(
        "ran-i-micro",
        "Image classification: a small RAN-i on 32x32 pixels",
        _MODEL,
        [2, 5, 2],
        [12, 24, 44],
        _PAPER,
    ),
)
