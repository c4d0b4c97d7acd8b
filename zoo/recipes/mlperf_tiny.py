"""The pictures' benchmarks of MLPerf Tiny (arXiv 2106.07597): image classification, wake words."""

from zoo.recipe import Recipe, Train

_CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def _recipe(
    name: str, summary: str, model: str, size: int, labels: tuple[str, ...], tag: str, train: Train
) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        task="image-classification",
        subtask="image-classification",
        model=f"zoo.models.mlperf_tiny:{model}",
        args={"num_classes": len(labels)},
        input_shape=(1, 3, size, size),
        # Zero padding continues mid grey, and int8 inputs are the bytes less 128.
        preprocessing={
            "channels": "rgb",
            "range": [-1, 1],
            "resize": "whole, bicubic",
            "labels": list(labels),
        },
        train=train,
        default_tag=tag,
        paper="2106.07597",
    )


_OPTIONS = {"shift": 4, "flip": True, "label_smoothing": 0.0}

RECIPES = (
    _recipe(
        "mlperf-tiny-ic",
        "Image classification of MLPerf Tiny: ResNet-8 on 32x32 pixels",
        "ResNet8",
        32,
        _CIFAR10,
        "cifar10",
        Train(
            steps=30_000,
            batch_size=128,
            optimizer="soap",
            lr=5e-3,
            warmup_steps=500,
            weight_decay=0.0,
            ema_decay=0.999,
            clip_norm=0.0,
            precision="bf16",
            options=_OPTIONS,
        ),
    ),
    _recipe(
        "mlperf-tiny-vww",
        "Visual wake words of MLPerf Tiny, person or none: MobileNetV1 x0.25 on 96x96 pixels",
        "MobileNetV1",
        96,
        ("none", "person"),
        "coco",
        Train(
            steps=30_000,
            batch_size=128,
            optimizer="soap",
            lr=5e-3,
            warmup_steps=500,
            ema_decay=0.999,
            precision="bf16",
            options=_OPTIONS,
        ),
    ),
)
