"""MicroNets (arXiv 2010.11267) for microcontrollers: keywords, anomalies, visual wake words."""

from zoo.registry.recipe import Recipe, Train

WORDS = (
    "down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown",
)  # fmt: skip

PERSON = ("none", "person")

MACHINES = ("00", "02", "04", "06")  # the paper's: four slide rails of MIMII

# The paper's table 5: outputs of the first convolution, then outputs and stride of each pair.
_WORDS = {
    "s": (84, [[112, 2], [84, 1], [84, 1], [84, 1], [196, 1]]),
    "m": (140, [[140, 2], [140, 1], [140, 1], [112, 1], [196, 1]]),
    "l": (276, [[248, 2], [276, 1], [276, 1], [248, 1], [248, 1], [248, 1], [248, 1]]),
}
_MACHINES = {
    "s": (72, [[164, 2], [220, 1], [276, 2], [276, 2]]),
    "m": (192, [[276, 2], [276, 1], [276, 1], [276, 2], [276, 2]]),
    "l": (276, [[248, 2], [276, 1], [276, 1], [248, 2], [248, 2]]),
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
    options={"speed": 0.15, "shift": 0.1, "masked": 8, "label_smoothing": 0.1},
)

PICTURES = Train(
    steps=10_000,  # 27 times each of the 48,000 pictures of CIFAR-10 used for training
    batch_size=128,
    optimizer="soap",
    lr=3e-3,
    warmup_steps=300,
    weight_decay=0.02,
    ema_decay=0.999,
    precision="bf16",  # on CPUs that have it, half the time of float32
    options={"shift": 4, "flip": True, "label_smoothing": 0.0},
)

_NOTICE = Train(
    steps=400,
    batch_size=64,
    optimizer="adamw",
    lr=3e-3,
    warmup_steps=50,
    weight_decay=0.01,
    ema_decay=0.99,
    clip_norm=5.0,
    log_every=50,
    eval_every=200,
    save_every=200,
    options={"mixup": 0.3},
)

_KEYWORDS = tuple(
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
    for size, (width, blocks) in _WORDS.items()
)  # fmt: skip

_ANOMALIES = tuple(
    Recipe(
        name=f"micronet-ad-{size}",
        summary=f"Anomaly detection on a microcontroller: MicroNet-AD-{size.upper()}, which tells "
        "machines apart",
        task="audio-classification",
        subtask="anomaly-detection",
        model="zoo.models.micronets:DsCnn",
        args={
            "kernel": [3, 3], "width": width, "stride": 1, "blocks": blocks,
            "num_classes": len(MACHINES), "act": "relu6",
        },
        input_shape=(1, 1, 32, 32),
        preprocessing={
            "front_end": "log-mel-micronets", "frames": 64, "hop": 20, "mean_db": -30.0,
            "deviation_db": 1.0, "labels": list(MACHINES),
        },
        make=_NOTICE,
        default_tag="toycar",
        paper="2010.11267",
        tiny={
            "args": {"width": 4, "blocks": [[4, 2], [4, 1]]},
            "train": {"batch_size": 4, "precision": "no"},
        },
    )
    for size, (width, blocks) in _MACHINES.items()
)  # fmt: skip

_VISUAL = Recipe(
    name="micronet-vww-4",
    summary="Person or none in grey 128x128 pixels, on a microcontroller: MicroNet-VWW-4",
    task="image-classification",
    subtask="visual-wake-words",
    model="zoo.models.micronets:VisualWakeWords",
    args={"num_classes": len(PERSON)},
    input_shape=(1, 1, 128, 128),
    preprocessing={
        "channels": "grey",
        "range": [0, 1],
        "resize": "whole, bicubic",
        "labels": list(PERSON),
    },
    make=PICTURES,
    default_tag="coco",
    paper="2010.11267",
    tiny={"train": {"batch_size": 4, "precision": "no"}},  # the network has only one width
)

RECIPES = (*_KEYWORDS, *_ANOMALIES, _VISUAL)
