"""SESR recipes: five sizes at two scales, and M5 as the authors quantized it (2103.09404)."""

from dataclasses import dataclass

from zoo.recipe import Recipe, Train


@dataclass(frozen=True)
class _Size:
    label: str
    channels: int
    blocks: int
    expansion: int  # the authors' own: 256 for the three small ones, 64 for the two large
    steps: int
    grown_from: str | None = None  # the shallower network that x2 starts from


_SIZES = (
    _Size("m3", 16, 3, 256, 80_000),
    _Size("m5", 16, 5, 256, 100_000),
    _Size("m7", 16, 7, 256, 60_000, grown_from="m5"),
    _Size("m11", 16, 11, 64, 60_000, grown_from="m7"),
    _Size("xl", 32, 11, 64, 100_000),
)


def _recipe(size: _Size, scale: int, activation: str = "prelu") -> Recipe:
    form = "" if activation == "prelu" else f"-{activation}"
    # The paper starts x4 from the trained x2 network (all but the output block).
    parent = size.grown_from if scale == 2 else size.label
    return Recipe(
        name=f"sesr-{size.label}{form}-x{scale}",
        summary=f"Super resolution x{scale}, SESR-{size.label.upper()}: "
        f"{size.blocks} 3x3 layers of {size.channels} channels"
        + (f", {activation.upper()} for int8" if form else ""),
        task="image-to-image",
        subtask="super-resolution",
        model="zoo.models.sesr:SESR",
        args={"channels": size.channels, "blocks": size.blocks, "scale": scale}
        | ({"activation": activation} if form else {}),
        input_shape=(1, 1, 720 // scale, 1280 // scale),
        preprocessing={"scale": scale, "channel": "y", "color": "bt601-studio", "range": [0, 1]},
        train=Train(
            # Many small steps: after 30 million pixels, 4 patches of 48 pixels reach 31.59 dB held
            # out where 8 of 64 reach 29.64 (benchmarks/sesr_ablation.py). Much smaller patches
            # would mostly see the zero padding of their own borders, as whole pictures hardly do.
            steps=size.steps,
            batch_size=4,
            lr=5e-4,
            warmup_steps=500,
            ema_decay=0.999,
            clip_norm=1.0,
            init=parent and f"sesr-{parent}-x2",
            eval_every=5000,
            # Shrunk copies are sharper than the pictures, and JPEG has left nothing in them: after
            # 500 steps of fine-tuning on them M5 x2 gained 0.04 dB on Set5.
            options={"expansion": size.expansion, "patch_size": 48, "shrunk_copies": 3},
        ),
        default_tag="bsds",
        paper="2103.09404",
    )


RECIPES = (
    *(_recipe(size, scale) for size in _SIZES for scale in (2, 4)),
    # What the authors published in int8: train it in float, then with `--set quant=int8`.
    _recipe(_SIZES[1], 2, "relu"),
)
