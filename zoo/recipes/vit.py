"""Vision transformers (arXiv 2010.11929) that a small machine trains in minutes."""

from zoo.registry.recipe import Recipe, Train

CLOTHES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
# What one thread does in about a minute.
_TRAIN = Train(
    steps=1495,
    batch_size=128,
    lr=3e-3,
    warmup_steps=100,
    weight_decay=0.05,
    clip_norm=1.0,
    eval_every=299,
    save_every=299,
    options={"shift": 0, "flip": False, "label_smoothing": 0.0},
)

RECIPES = (
    Recipe(
        name="vit-tiny-fashion",
        summary="Image classification: a vision transformer of 80,000 parameters on 28x28 clothes",
        task="image-classification",
        subtask="image-classification",
        model="zoo.models.vit:VisionTransformer",
        args={
            "num_classes": len(CLOTHES), "side": 28, "patch": 7, "width": 48, "heads": 4,
            "head": 12, "inner": [96, 96, 96, 96], "in_chans": 1,
        },
        input_shape=(1, 1, 28, 28),
        preprocessing={
            "channels": "grey",
            "range": [-0.81, 2.02],  # what the data's mean and deviation make of black and white
            "resize": "whole, bicubic",
            "labels": list(CLOTHES),
        },
        make=_TRAIN,
        default_tag="fashion",
        paper="2010.11929",
        tiny={"args": {"inner": [32, 32]}, "train": {"batch_size": 4, "precision": "no"}},
    ),
)  # fmt: skip
