"""Small vision transformers: patches, depth, width, heads, inner widths, and the activation."""

from dataclasses import dataclass

from zoo.nas.spaces.contract import Choice, Decision
from zoo.recipes.mlperf_tiny import CIFAR10
from zoo.registry.checkpoint import OWN
from zoo.registry.recipe import Recipe, Train

SUMMARY = "small vision transformers: patches, depth, width, heads, and inner widths"
TRAIN = Train(
    steps=3000,
    batch_size=64,
    optimizer="adamw",
    lr=1e-3,
    warmup_steps=300,
    weight_decay=0.05,
    ema_decay=0.99,
    clip_norm=1.0,
    eval_every=300,
    save_every=300,
    options={"shift": 4, "flip": True, "label_smoothing": 0.1},
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the networks have in common, and what there is to choose from.

    Attributes:
        side: pixels of a picture's side.
        channels: "rgb" or "grey".
        patches: pixels of a patch's side to choose from.
        depths: numbers of blocks to choose from.
        widths: of a patch's features.
        heads: of a block's attention, each 16 wide.
        inner: widths between a block's linear layers.
        activations: what may come between these; TFLite Micro has no "gelu".

    """

    side: int = 32
    channels: str = "rgb"
    patches: tuple[int, ...] = (4, 8)
    depths: tuple[int, ...] = (2, 3, 4, 5, 6)
    widths: tuple[int, ...] = (16, 32, 48, 64, 96, 128, 160, 192)
    heads: tuple[int, ...] = (1, 2, 3, 4)
    inner: tuple[int, ...] = (32, 64, 96, 128, 192, 256, 384, 512, 768)
    activations: tuple[str, ...] = ("relu", "gelu")


def decisions(options: Options) -> tuple[Decision, ...]:
    """Return patch, depth, width, heads, and the inner width of each block."""
    most = max(options.depths, default=0)
    blocks = tuple(f"blocks.{n}" for n in range(most))
    return (
        Decision(name="patch", values=options.patches, kind="kernel"),
        Decision(name="depth", values=options.depths, kind="depth", layers=blocks),
        Decision(name="width", values=options.widths, kind="width"),
        Decision(name="heads", values=options.heads),
        Decision(name="activation", values=options.activations, kind="operator"),
        *(
            Decision(
                name=f"inner {n}", values=options.inner, kind="width", layers=(f"{block}.fc1",)
            )
            for n, block in enumerate(blocks)
        ),
    )


def recipe(options: Options, choice: Choice, name: str) -> Recipe:
    """Return the recipe of a choice."""
    inner = [choice[f"inner {n}"] for n in range(int(choice["depth"]))]
    return Recipe(
        name=name,
        summary=f"A vision transformer of {choice['depth']} blocks, {choice['width']} wide",
        task="image-classification",
        subtask="image-classification",
        model="zoo.models.vit:VisionTransformer",
        args={
            "num_classes": len(CIFAR10), "side": options.side, "patch": choice["patch"],
            "width": choice["width"], "heads": choice["heads"], "head": 16, "inner": inner,
            "act": choice["activation"], "in_chans": 3 if options.channels == "rgb" else 1,
        },
        input_shape=(1, 3 if options.channels == "rgb" else 1, options.side, options.side),
        preprocessing={
            "channels": options.channels, "range": [-1, 1], "resize": "whole, bicubic",
            "labels": list(CIFAR10),
        },
        make=TRAIN,
        default_tag=OWN,
        paper="2010.11929",
    )  # fmt: skip


def capacity(options: Options, choice: Choice) -> float:
    """Return NN-Mass (arXiv 1910.00780): twice the width of every block's two branches."""
    return 2 * 2 * float(choice["width"]) * float(choice["depth"])
