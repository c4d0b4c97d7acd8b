"""What was measured of a checkpoint goes into it, and into its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.resolution import checkpoint
from zoo.errors import MismatchError
from zoo.registry import refs
from zoo.registry.layout import CARD

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact


def check_recordable(ref: Any, artifact: "Artifact") -> None:
    """Refuse what is not a checkpoint of the zoo, or lies in the cache.

    Args:
        ref: as it was given.
        artifact: what it is.

    """
    name = ref if isinstance(ref, str | Path) else artifact.ref
    if isinstance(refs.parse(name), refs.RepoRef):
        raise MismatchError(
            f"what was pulled is not changed; type: zoo pull {name} --out DIR, and record in ./DIR"
        )
    if artifact.recipe is None:
        raise MismatchError(
            f"{artifact.ref} is not a checkpoint of the zoo: nothing is recorded in it"
        )


def record(artifact: "Artifact", part: str, name: str, result: Mapping[str, Any]) -> None:
    """Store a result in a part of a checkpoint's metrics; a card that nobody edited follows."""
    from zoo.cards.model import render

    before = checkpoint(artifact)
    file = before.path / CARD
    unedited = file.is_file() and file.read_text(encoding="utf-8") == render(before)
    after = before.record(name, result, part)
    if unedited:
        after.write_card(render(after))
