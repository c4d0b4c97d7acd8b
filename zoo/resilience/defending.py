"""What a defence of pictures is worth: the pipelines beside it, and how each does under attack."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.resilience.attacking import attacked, predicted
from zoo.resilience.attacks.contract import ChosenAttack
from zoo.resilience.pipelines import Pipeline, stage
from zoo.resilience.purifiers.contract import Stage

Z = 1.959964  # of a 95 % interval


class InFront(nn.Module):
    """A pipeline in front of a classifier, pictures brought to the classifier's size in between.

    Args:
        stages: the pipeline.
        classifier: pictures `(N, C, H, W)` in [0, 1] to logits.
        size: H and W that it takes.

    """

    def __init__(self, stages: Pipeline, classifier: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.stages, self.classifier, self.size = stages, classifier, size

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, labels)` of pictures of any size, in [0, 1]."""
        logits: Tensor = self.classifier(resized(self.stages(images), self.size))
        return logits


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures of another size, by bicubic with antialiasing, a = -0.5 as in Matlab."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)


def shrunk(images: Tensor, factor: int) -> Tensor:
    """Return pictures `factor` times smaller, on the grid of 8 bits.

    Raises:
        MismatchError: they do not divide.

    """
    if factor == 1:
        return images
    height, width = images.shape[2:]
    if height % factor or width % factor:
        raise MismatchError(f"pictures of {width}x{height} are not shrunk by {factor}; try 2")
    small = resized(images, (height // factor, width // factor))
    return (small * 255).round() / 255


def pipelines(defence: Pipeline) -> list[Pipeline]:
    """Return the pipelines to compare: nothing, parts of the defence, plain enlarging, and itself.

    Without them one does not see what super resolution adds to storing a picture as JPEG.
    """
    members = [member for member in defence.stages if isinstance(member, Stage)]
    pixels = [member for member in members if member.scale == 1]
    found = [Pipeline([])]
    found += [Pipeline([member]) for member in pixels if member.text.startswith("jpeg")]
    found.append(Pipeline(pixels))
    if defence.scale > 1:
        for name in ("nearest", "bicubic"):
            at = next(i for i, member in enumerate(members) if member.scale > 1)
            plain = [member for member in members if member.scale == 1]
            found.append(Pipeline([*plain[:at], stage(f"{name}:{defence.scale}"), *plain[at:]]))
    found.append(defence)
    unique: dict[str, Pipeline] = {}
    for pipeline in found:
        unique.setdefault(pipeline.text, pipeline)
    return list(unique.values())


@dataclass
class Defended:
    """How a pipeline does: for each picture, whether the answer is right, bool `(N,)`.

    Attributes:
        text: the pipeline.
        clean: of pictures as they are.
        grey_box: of pictures that were attacked without knowing of the pipeline.
        adaptive: of pictures that were attacked through it; None if that was not tried.

    """

    text: str
    clean: Tensor
    grey_box: Tensor
    adaptive: Tensor | None = None


@dataclass(frozen=True)
class AttackTrial:
    """Everything but the pipelines.

    Attributes:
        network: the classifier's float form, of which gradients are taken: pictures in [0, 1].
        device: the classifier as it is deployed, the same or in integers.
        size: height and width that it takes.
        images: `(N, C, H, W)` on the grid of 8 bits.
        labels: `(N,)`.
        attack: what is done to them.

    """

    network: nn.Module
    device: nn.Module
    size: tuple[int, int]
    images: Tensor
    labels: Tensor
    attack: ChosenAttack

    def outcomes(
        self,
        compared: Sequence[Pipeline],
        *,
        adaptive: bool,
        progress: Callable[[str], None] | None = None,
    ) -> tuple[list[Defended], Tensor]:
        """Return how each pipeline does, and the pictures of the attack that knows none of them."""

        def tell(text: str) -> None:
            if progress:
                progress(text)

        tell("attacking the classifier")
        plain = InFront(Pipeline([]), self.network, self.size)
        moved = attacked(self.attack, plain, self.images, self.labels)
        rows = []
        for pipeline in compared:
            tell(pipeline.text)
            deployed = InFront(pipeline, self.device, self.size)
            row = Defended(
                pipeline.text, self._right(deployed, self.images), self._right(deployed, moved)
            )
            if adaptive:
                through = Pipeline(
                    [m for m in pipeline.stages if isinstance(m, Stage)], backward=True
                )
                model = InFront(through, self.network, self.size)
                worse = attacked(self.attack, model, self.images, self.labels)
                row.adaptive = self._right(deployed, worse)
            rows.append(row)
        return rows, moved

    def _right(self, model: nn.Module, images: Tensor) -> Tensor:
        return predicted(model, images) == self.labels


def wilson(right: Tensor) -> tuple[float, float, float]:
    """Return a share and its 95 % interval, by Wilson's score."""
    n, share = len(right), float(right.double().mean())
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    wide = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return share, min(share, centre - wide), max(share, centre + wide)


def difference(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """Return how much more often a is right than b on the same pictures, with a 95 % interval.

    Only pictures on which they differ count (McNemar).
    """
    n = len(a)
    more, less = int((a & ~b).sum()), int((b & ~a).sum())
    value = (more - less) / n
    wide = Z * math.sqrt(max(more + less - (more - less) ** 2 / n, 0)) / n
    return value, value - wide, value + wide


def best_null(rows: Sequence[Defended], key: str) -> Defended:
    """Return the best of the pipelines beside the defence, which is the last."""
    return max(rows[:-1], key=lambda row: float(getattr(row, key).double().mean()))


def percentages(row: Defended) -> Mapping[str, str | float | None]:
    """Return a row of the table, in percent."""
    adaptive = None if row.adaptive is None else 100 * float(row.adaptive.double().mean())
    return {
        "pipeline": row.text,
        "clean": round(100 * float(row.clean.double().mean()), 2),
        "grey_box": round(100 * float(row.grey_box.double().mean()), 2),
        "adaptive": None if adaptive is None else round(adaptive, 2),
    }
