"""What was measured of a checkpoint goes into it, and into its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.resolution import checkpoint
from zoo.errors import MismatchError
from zoo.files import probe
from zoo.registry import refs
from zoo.registry.layout import CARD

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact


def check_recordable(ref: Any, artifact: "Artifact", name: str) -> None:
    """Refuse, before the work, what could not be recorded after it.

    Args:
        ref: as it was given.
        artifact: what it is: a checkpoint of the zoo, not in the cache, that can be written.
        name: of the result, as the card shows it: a line of text.

    """
    if not name.strip() or not name.isprintable() or "|" in name:  # of a table in Markdown
        raise MismatchError(
            f'--record {name!r}; expected a name for the card, without |, e.g. "my test set"'
        )
    _check_place(ref, artifact)
    probe(artifact.path)


def _check_place(ref: Any, artifact: "Artifact") -> None:
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
