"""MicroNets (arXiv 2010.11267) for microcontrollers: keyword spotting."""

from zoo.registry.recipe import Recipe, Train

WORDS = (
    "down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown",
)  # fmt: skip

# The paper's table 5: outputs of the first convolution, then outputs and stride of each pair.
_SIZES = {
    "s": (84, [[112, 2], [84, 1], [84, 1], [84, 1], [196, 1]]),
    "m": (140, [[140, 2], [140, 1], [140, 1], [112, 1], [196, 1]]),
    "l": (276, [[248, 2], [276, 1], [276, 1], [248, 1], [248, 1], [248, 1], [248, 1]]),
}

TRAIN = Train(
    steps=1500,
    batch_size=64,
    optimizer="adamw",
    lr=3e-3,
    warmup_steps=100,
    weight_decay=0.01,
    ema_decay=0.998,
    clip_norm=5.0,
    precision="bf16",
    log_every=50,
    eval_every=150,
    save_every=150,
    options={"speed": 0.15, "shift": 0.1, "masked": 8, "label_smoothing": 0.1, "retakes": 0},
)

RECIPES = tuple(
    Recipe(
        name=f"micronet-kws-{size}",
        summary=f"Keyword spotting on a microcontroller: MicroNet-KWS-{size.upper()}, twelve words",
        task="audio-classification",
        subtask="keyword-spotting",
        model="zoo.models.micronets:DsCnn",
        args={
            "kernel": [10, 4], "width": width, "stride": 1, "blocks": blocks,
            "num_classes": len(WORDS), "act": "relu6",
        },
        input_shape=(1, 1, 49, 10),
        preprocessing={"front_end": "mfcc-micronets", "samples": 16000, "labels": list(WORDS)},
        make=TRAIN,
        default_tag="fsdd",
        paper="2010.11267",
        tiny={
            "args": {"width": 4, "blocks": [[4, 2], [4, 1]]},
            "train": {"batch_size": 4, "precision": "no"},
        },
    )
    for size, (width, blocks) in _SIZES.items()
)  # fmt: skip
