"""Looks: one base for restyling photographs, trained together with its sparse adapters."""

from zoo.registry.recipe import Recipe, Train

RECIPES = (
    Recipe(
        name="looks",
        summary="Restyling photographs: the base of the looks, which alone changes nothing",
        task="image-to-image",
        subtask="picture",
        model="zoo.models.looks:Looks",
        args={"channels": 32, "blocks": 5},
        input_shape=(1, 6, 512, 512),
        preprocessing={
            "channels": "r g b grain dots hatch", "range": [0, 1], "texture_period": 24,
        },
        # For `zoo adapter joint looks`: `alone` is the share of the steps before strengths and
        # mixtures are drawn (see `zoo.adapters.joint`).
        make=Train(
            steps=9000,
            batch_size=2,
            optimizer="soap",
            lr=3e-3,
            warmup_steps=50,
            ema_decay=0.995,
            clip_norm=1.0,
            precision="bf16",
            eval_every=600,
            save_every=200,
            options={"patch_size": 96, "filter": "", "alone": 0.35},
        ),
        default_tag="free",
        paper="2406.13175",
        tiny={
            "args": {"channels": 4, "blocks": 1},
            "train": {"precision": "no", "options.patch_size": 24},
        },
    ),
)  # fmt: skip
