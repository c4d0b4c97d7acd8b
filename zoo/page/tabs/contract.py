"""What a tab of the page is: a module with `TITLE`, `ORDER`, `REQUIRES`, `CSS` and `build`.

A file in this folder is a tab by being here; an installed package offers one through the
entry-point group "zoo.page.tabs". What is computed belongs in a module without Gradio
(`zoo.page.restyling`, `zoo.page.enlarging`, `zoo.page.switching`), so that it can be tried
without a page.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zoo.errors import MissingExtraError, install

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact


@dataclass(frozen=True)
class Context:
    """What the page lends a tab.

    Attributes:
        folder: for files of its own; deleted when the page ends. What belongs to one visitor the
            tab deletes sooner.
        models: checkpoints that the page was given, of any task.
        opened: the event of a visitor who opens the tab; None for a tab alone. What takes long
            waits for it (`zoo.page.parts.once`), so that the page is served soon.

    """

    folder: Path
    models: "tuple[Artifact, ...]" = ()
    opened: Callable[..., Any] | None = None


class Tab(Protocol):
    """One tab of the page.

    Attributes:
        TITLE: what visitors read on it.
        ORDER: tabs stand from the lowest to the highest; ours are 5 to 30.
        REQUIRES: the packages that it needs besides Gradio, each with the extra of edge-zoo that
            installs it, or "" for a package of no extra. Without them the tab shows what to type;
            so the module itself imports them in functions alone.
        CSS: of its own elements; "" for none.

    A tab that shows checkpoints the page was given has `TASKS`, their subtasks, too.
    """

    TITLE: str
    ORDER: int
    REQUIRES: Mapping[str, str]
    CSS: str

    def build(self, context: Context) -> None:
        """Lay the tab out and connect its events, inside a `gr.Tab`.

        An event that visitors may call through the API has an `api_name` of its own; all others
        are `api_visibility="private"`. Language models know it by its function's name, which is
        the same.
        """


def missing(requires: Mapping[str, str]) -> str:
    """Return what to install, and the line to type; empty if every package is installed."""
    for package, extra in requires.items():
        if not _is_installed(package):
            if extra:
                return str(MissingExtraError.of(package, extra))
            return f"{package} is not installed; type: {install(package)}"
    return ""


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is not installed
        return False
