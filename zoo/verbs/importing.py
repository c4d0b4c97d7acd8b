"""The verb that makes a checkpoint of a file of timm."""

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.artifacts.resolution import Ref

if TYPE_CHECKING:
    from zoo.registry.checkpoint import Checkpoint


def import_timm(file: Ref, out: Ref) -> "Checkpoint":
    """Turn timm's weights of EfficientNet-Lite-B0 into a checkpoint; return it.

    Args:
        file: a `.safetensors` file of timm's `tf_efficientnet_lite0`, with any number of classes.
        out: the new folder.

    Returns:
        The checkpoint in `out`, of `efficientnet-lite-b0`, card included; its labels are numbered,
        and what the licence of the weights is, their file does not say.

    Raises:
        MissingWeightsError: there is no such file.
        UnsafeFileError: it is not a safetensors file.
        MismatchError: it has other tensors, or `out` exists already.

    ```python
    import zoo

    made = zoo.import_timm("tf_efficientnet_lite0.safetensors", "runs/lite")
    print(zoo.run(made.path, "photo.jpg").best[0])
    ```

    """
    from zoo.cards.model import render
    from zoo.deploy.timm import convert

    made = convert(Path(file).expanduser(), Path(out).expanduser())
    made.write_card(render(made))
    return made
