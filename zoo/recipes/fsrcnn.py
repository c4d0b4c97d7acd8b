"""FSRCNN, the network that SESR is measured by (1608.00367)."""

from zoo.registry.recipe import Recipe, Train

RECIPES = (
    Recipe(
        name="fsrcnn-x2",
        summary="Super resolution x2, FSRCNN(56, 12, 4): a 9x9 transposed convolution at the end",
        task="image-to-image",
        subtask="super-resolution",
        model="zoo.models.fsrcnn:FSRCNN",
        args={"scale": 2},
        input_shape=(1, 1, 360, 640),
        preprocessing={"scale": 2, "channel": "y", "color": "bt601-studio", "range": [0, 1]},
        make=Train(
            # As SESR is trained here, so that the two can be compared.
            steps=40_000,
            batch_size=4,
            optimizer="soap",
            lr=5e-3,
            warmup_steps=500,
            ema_decay=0.999,
            clip_norm=1.0,
            eval_every=5000,
            options={"patch_size": 48, "shrunk_copies": 3},
        ),
        # "free" took 8,000 steps on free pictures: 0.15 dB less on Set5 than published.
        default_tag="free",
        paper="1608.00367",
        tiny={
            "args": {"channels": 6, "shrunk": 3, "mappings": 1},
            "train": {"batch_size": 2, "options.patch_size": 16},
        },
    ),
)
