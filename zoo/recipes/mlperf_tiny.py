"""The benchmarks of MLPerf Tiny (arXiv 2106.07597): pictures, keywords, anomalies."""

from zoo.recipes.micronets import PERSON, PICTURES, WORDS
from zoo.recipes.micronets import TRAIN as KEYWORDS
from zoo.registry.recipe import Recipe, Train

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def _recipe(
    name: str,
    summary: str,
    subtask: str,
    model: str,
    size: int,
    span: tuple[int, int],
    labels: tuple[str, ...],
    tag: str,
) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        task="image-classification",
        subtask=subtask,
        model=f"zoo.models.mlperf_tiny:{model}",
        args={"num_classes": len(labels)},
        input_shape=(1, 3, size, size),
        preprocessing={
            "channels": "rgb",
            "range": list(span),
            "resize": "whole, bicubic",
            "labels": list(labels),
        },
        make=PICTURES,
        default_tag=tag,
        paper="2106.07597",
        tiny={"train": {"batch_size": 4, "precision": "no"}},  # the networks have only one width
    )


RECIPES = (
    _recipe(
        "mlperf-tiny-ic",
        "Image classification of MLPerf Tiny: ResNet-8 on 32x32 pixels",
        "image-classification",
        "ResNet8",
        32,
        (-1, 1),  # published: 0 to 255; this way zero padding continues mid grey
        CIFAR10,
        "cifar10",
    ),
    _recipe(
        "mlperf-tiny-vww",
        "Visual wake words of MLPerf Tiny, person or none: MobileNetV1 x0.25 on 96x96 pixels",
        "visual-wake-words",
        "MobileNetV1",
        96,
        (0, 1),  # as published
        PERSON,
        "coco",
    ),
    Recipe(
        name="mlperf-tiny-kws",
        summary="Keyword spotting of MLPerf Tiny: DS-CNN, twelve words",
        task="audio-classification",
        subtask="keyword-spotting",
        model="zoo.models.mlperf_tiny:DsCnn",
        args={
            "kernel": [10, 4],
            "width": 64,
            "stride": 2,
            "blocks": [[64, 1]] * 4,
            "num_classes": len(WORDS),
            "act": "relu",
        },
        input_shape=(1, 1, 49, 10),
        preprocessing={"front_end": "mfcc-mlperf", "samples": 16000, "labels": list(WORDS)},
        make=KEYWORDS,
        default_tag="fsdd",
        paper="2106.07597",
        tiny={
            "args": {"width": 4, "blocks": [[4, 1]]},
            "train": {"batch_size": 4, "precision": "no"},
        },
    ),
    Recipe(
        name="mlperf-tiny-sww",
        summary="Streaming wake word of MLPerf Tiny: one word in a sound without end",
        task="audio-classification",
        subtask="wake-word",
        model="zoo.models.mlperf_tiny:StreamingWakeWord",
        args={"num_classes": 3},
        input_shape=(1, 40, 30, 1),
        preprocessing={
            "front_end": "log-mel-wake-word",
            "samples": 15872,  # of 30 frames
            "level": "as recorded",
            "labels": ["marvin", "silence", "unknown"],
            "smoothing": 1,
            "threshold": 0.95,
            "refractory_s": 1.0,
        },
        make=KEYWORDS,
        default_tag="speech-commands",
        paper="2106.07597",
        tiny={"train": {"batch_size": 4, "precision": "no"}},  # the network has only one width
    ),
    Recipe(
        name="mlperf-tiny-ad",
        summary="Anomaly detection of MLPerf Tiny: an autoencoder of spectrograms",
        task="audio-classification",
        subtask="anomaly-detection",
        model="zoo.models.mlperf_tiny:AutoEncoder",
        args={"inputs": 640, "width": 128, "code": 8},
        input_shape=(1, 640),
        preprocessing={
            "front_end": "log-mel-mlperf",
            "frames": 5,
            "hop": 1,
            "mean_db": -30.0,  # published: energies in dB as they are; so it learns sooner
            "deviation_db": 12.0,
            "residual": "clip",  # published: "window"
        },
        make=Train(
            steps=2000,
            batch_size=512,
            lr=3e-3,
            warmup_steps=100,
            ema_decay=0.995,
            eval_every=500,
            save_every=500,
            options={"mixup": 0.4},
        ),
        default_tag="toycar",
        paper="2106.07597",
        tiny={"args": {"width": 8, "code": 4}, "train": {"batch_size": 4, "precision": "no"}},
    ),
)
