"""The verb that takes over what another library published; see `zoo.verbs.make` for files."""

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.artifacts.resolution import Ref, resolve
from zoo.errors import MismatchError

if TYPE_CHECKING:
    from zoo.registry.checkpoint import Checkpoint

_TAG = "published"


def import_convnext(ref: Ref, out: Ref, *, license: str | None = None) -> "Checkpoint":
    """Turn a ConvNeXt that transformers saved into a checkpoint of the zoo; return it.

    The checkpoint, tagged "published", has the labels and the normalization of the pixels, and can
    be run, evaluated, exported and trained on. Pictures are resized whole, and not cut to their
    middle as its authors do for their accuracy.

    Args:
        ref: `org/repo[@revision]` on the Hub, e.g. "facebook/convnext-tiny-224", or a folder.
        out: the new folder.
        license: of the weights; None takes what the model's card says.

    Returns:
        The checkpoint in `out`, card included.

    Raises:
        MissingWeightsError: there is nothing there, or weights only as pickles.
        MismatchError: it is not a ConvNeXt for image classification, or `out` exists already.
        HubError, UnsafeFileError: see `pull`.

    ```python
    import zoo

    made = zoo.import_convnext("facebook/convnext-tiny-224", "runs/convnext")
    print(zoo.run(made.path, "photo.jpg").best[0])
    ```

    """
    from zoo.artifacts.files import TransformersModel
    from zoo.cards.model import render
    from zoo.integrations.convnext import read_convnext
    from zoo.registry.checkpoint import Checkpoint
    from zoo.verbs.compression import license_of

    if Path(out).exists():
        raise MismatchError(f"{out} already exists; choose another --out, or remove it")
    artifact = resolve(ref)
    if not isinstance(artifact, TransformersModel):
        raise MismatchError(f"{ref} is not a model that transformers saved, but {artifact.ref}")
    recipe, tensors = read_convnext(artifact.path)
    source = artifact.ref if "/" in str(ref) and not Path(ref).exists() else Path(ref).name
    made = Checkpoint.write(
        Path(out),
        recipe,
        tensors,
        {},
        tag=_TAG,
        license=license or license_of(artifact.path),
        data={"source": "data that its card names", "published": source},
    )
    made.write_card(render(made))
    return made
