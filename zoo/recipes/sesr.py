"""SESR recipes: ten networks, five sizes at two scales (arXiv 2103.09404)."""

from dataclasses import dataclass

from zoo.recipe import Recipe, Train


@dataclass(frozen=True)
class _Size:
    label: str
    channels: int
    blocks: int
    expansion: int  # the authors' own: 256 for the three small ones, 64 for the two large


_SIZES = (
    _Size("m3", 16, 3, 256),
    _Size("m5", 16, 5, 256),
    _Size("m7", 16, 7, 256),
    _Size("m11", 16, 11, 64),
    _Size("xl", 32, 11, 64),
)


def _recipe(size: _Size, scale: int) -> Recipe:
    return Recipe(
        name=f"sesr-{size.label}-x{scale}",
        summary=f"Super resolution x{scale}, SESR-{size.label.upper()}: "
        f"{size.blocks} 3x3 layers of {size.channels} channels",
        task="image-to-image",
        subtask="super-resolution",
        model="zoo.models.sesr:SESR",
        args={"channels": size.channels, "blocks": size.blocks, "scale": scale},
        input_shape=(1, 1, 720 // scale, 1280 // scale),
        preprocessing={"scale": scale, "channel": "y", "color": "bt601-studio", "range": [0, 1]},
        train=Train(
            steps=20_000,
            batch_size=8,
            lr=5e-4,
            warmup_steps=500,
            ema_decay=0.999,
            clip_norm=1.0,
            # The paper starts x4 from the trained x2 network (all but the output block).
            init=None if scale == 2 else f"sesr-{size.label}-x2",
            # Few large patches, not many small ones: at 32 pixels four outputs of five would see
            # the zero padding of a patch's border, which whole pictures hardly have.
            options={"expansion": size.expansion, "patch_size": 64},
        ),
        default_tag="bsds",
        paper="2103.09404",
    )


RECIPES = tuple(_recipe(size, scale) for size in _SIZES for scale in (2, 4))
