"""EfficientNet-Lite (arXiv 1905.11946, without squeeze and excite): the baseline of RAN-explicit.

Padding is TensorFlow's, as in the published networks; the last layer returns logits, and the
deployed network has no batch norms.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor

from zoo.models.blocks import Activation, Convolution
from zoo.models.ran.explicit import Blocks, InvertedBottleneck

# EfficientNet-Lite-B0: inner width over inputs, kernel, outputs, stride of the first, how many.
_LITE = (
    (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 2, 3), (6, 5, 112, 1, 3),
    (6, 5, 192, 2, 4), (6, 3, 320, 1, 1),
)  # fmt: skip


class EfficientNetLite(Blocks):
    """EfficientNet-Lite-B0: RGB to logits `(N, num_classes)`.

    A 3x3 convolution of stride 2, inverted bottlenecks of which those that change neither size nor
    width add their input, and a 1x1 convolution, each with its batch norm and ReLU6 except where a
    bottleneck ends; a linear layer.

    Args:
        num_classes: outputs of the last layer.
        stages: rows of inner width over inputs, kernel, outputs, stride of the first block, and
            number of blocks.
        stem: outputs of the first convolution.
        top: channels of the map before the last layer.
        in_chans: channels of the input.
        act: the activation; RAN's authors also trained it with "hswish".
        norm: whether this is the form with batch norms; the deployed network has none.
        dropout: share of the last layer's inputs that are left out while it is trained.

    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        stages: Sequence[Sequence[int]] = _LITE,
        stem: int = 32,
        top: int = 1280,
        in_chans: int = 3,
        act: Activation = "relu6",
        norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            top, num_classes, stages=stages, stem=stem, top=top, in_chans=in_chans, act=act
        )
        if act not in ("relu6", "hswish"):
            raise ValueError(f"act is {act!r}; expected relu6 or hswish")
        form: dict[str, Any] = {"act": act, "norm": norm}
        self.stem = Convolution(in_chans, stem, 3, 2, bias=not norm, **form)
        inputs = stem
        for widen, kernel, outputs, first, count in stages:
            for number in range(count):
                stride = first if number == 0 else 1
                self.append(
                    InvertedBottleneck(inputs, widen * inputs, outputs, kernel, stride, **form),
                    adds=stride == 1 and outputs == inputs,
                )
                inputs = outputs
        self.top = Convolution(inputs, top, 1, bias=not norm, **form)
        self.dropout = dropout
        self.complete()

    def trainable(self, *, dropout: float = 0.0) -> Self:
        """Return the form with batch norms, freshly initialised."""
        return type(self)(**self.arguments, norm=True, dropout=dropout)

    @classmethod
    def of_timm(cls, state: Mapping[str, Tensor]) -> Self:
        """Return the deployed network with the tensors of timm's `tf_efficientnet_lite0`.

        Its padding and the epsilon of its norms are TensorFlow's, as here; those of timm's
        `efficientnet_lite0`, whose tensors have the same names, are not.

        Raises:
            RuntimeError: a tensor is missing, left over, or has another shape.
            KeyError: there is no classifier or first convolution.

        """
        classes, channels = len(state["classifier.weight"]), state["conv_stem.weight"].shape[1]
        form = cls(classes, in_chans=channels, norm=True)
        names = _timm_names()
        renamed = {}
        for name, value in state.items():
            layer, _, field = name.rpartition(".")
            renamed[f"{names.get(layer, layer)}.{field}"] = value
        form.load_state_dict(renamed)
        return form.deployed()


def _timm_names() -> dict[str, str]:
    """Return the layers of a trained EfficientNet-Lite-B0 by their names in timm."""
    names = {"conv_stem": "stem.conv", "bn1": "stem.norm"}
    names |= {"conv_head": "top.conv", "bn2": "top.norm"}
    number = 0
    for stage, (widen, _, _, _, count) in enumerate(_LITE):
        parts = ["conv_dw", "conv_pw"] if widen == 1 else ["conv_pw", "conv_dw", "conv_pwl"]
        ours = ["depthwise", "project"] if widen == 1 else ["expand", "depthwise", "project"]
        for place in range(count):
            for order, (theirs, own) in enumerate(zip(parts, ours, strict=True), 1):
                names[f"blocks.{stage}.{place}.{theirs}"] = f"blocks.{number}.{own}.conv"
                names[f"blocks.{stage}.{place}.bn{order}"] = f"blocks.{number}.{own}.norm"
            number += 1
    return names
