"""SESR recipes: five sizes at two scales, and M5 as the authors quantized it (2103.09404).

M2, at x2 only, is the smallest of their study of adversarial defence (2112.14340).
"""

from dataclasses import dataclass

from zoo.registry.recipe import Recipe, Train


@dataclass(frozen=True)
class _Size:
    label: str
    channels: int
    blocks: int
    steps: int = 40_000


_SIZES = (
    _Size("m3", 16, 3),
    _Size("m5", 16, 5),
    _Size("m7", 16, 7),
    _Size("m11", 16, 11),
    _Size("xl", 32, 11, 50_000),
)
_STEPS_X4 = 30_000
# Where the weights that a product may ship are within 0.10 dB of the best, on Set5 and on BSDS500's
# held-out pictures, or where there are no others, the bare name means them.
_FREE = frozenset({"sesr-m2-x2", "sesr-m5-x2", "sesr-m5-relu-x2", "sesr-m7-x2"})


def _recipe(size: _Size, scale: int, activation: str = "prelu") -> Recipe:
    form = "" if activation == "prelu" else f"-{activation}"
    name = f"sesr-{size.label}{form}-x{scale}"
    return Recipe(
        name=name,
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
        make=Train(
            # Many small steps: after 30 million pixels, 4 patches of 48 pixels reach 31.74 dB held
            # out where 8 of 64 reach 29.58 (benchmarks/sesr_ablation.py). Much smaller patches
            # would mostly see the zero padding of their own borders, as whole pictures hardly do.
            steps=size.steps if scale == 2 else _STEPS_X4,
            batch_size=4,
            # On the small kernels themselves, 12,000 steps of SOAP reach what the authors' wide
            # factors reach with AdamW at 5e-4 in 100,000: 31.99 dB held out (M5 x2). Past that M5
            # gains nothing more; the larger ones do.
            optimizer="soap",
            lr=5e-3,
            warmup_steps=500,
            ema_decay=0.999,
            clip_norm=1.0,
            # The paper starts x4 from the trained x2 network (all but the output block).
            init=f"sesr-{size.label}-x2" if scale == 4 else None,
            eval_every=5000,
            # Shrunk copies are sharper than the pictures, and JPEG has left nothing in them: after
            # 500 steps of fine-tuning on them M5 x2 gained 0.04 dB on Set5.
            options={"expansion": 0, "patch_size": 48, "shrunk_copies": 3},
        ),
        # "bsds" started from random weights, as `train` above has it (but by the mean absolute
        # error, and every image drawn alike); "photos" from those, with more pictures and, except
        # for the XL itself, the XL as teacher; "free" from random weights, x4 from x2's, on free
        # pictures, M5 x2 with the XL of that tag as teacher (M2 too, in 5,000 of its 7,000 steps):
        # see the cards, and benchmarks/data/sesr_photos.py.
        default_tag="free" if name in _FREE else "bsds" if form else "photos",
        paper="2103.09404",
        tiny={
            "args": {"channels": 4, "blocks": 1},
            "train": {"batch_size": 2, "init": None, "options.patch_size": 16},
        },
    )


RECIPES = (
    _recipe(_Size("m2", 16, 2), 2),
    *(_recipe(size, scale) for size in _SIZES for scale in (2, 4)),
    # What the authors published in int8: train it in float, then with `--set quant=int8`.
    _recipe(_SIZES[1], 2, "relu"),
)
