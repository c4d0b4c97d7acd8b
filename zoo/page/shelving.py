"""What the page's Zoo tab shows, without the page: all networks, language models and adapters."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from zoo import registry
from zoo.adapters import registry as adapters
from zoo.adapters.recipe import AdapterRecipe
from zoo.artifacts.resolution import checkpoint
from zoo.page.given import choice, text
from zoo.registry.licences import commercial
from zoo.registry.recipe import Recipe

ANY = "any"
KINDS = (ANY, "network", "language model", "adapter")


@dataclass(frozen=True)
class Entry:
    """A model or an adapter of the zoo.

    Attributes:
        name: of its recipe.
        kind: one of `KINDS`.
        task: its subtask.
        summary: one line for people.
        parameters: a count, or None where nobody counted.
        weights: the tags of the weights that ship, or "shipped" for an adapter.
        sold: whether a company may ship one of these weights.

    """

    name: str
    kind: str
    task: str
    summary: str
    parameters: int | None
    weights: tuple[str, ...]
    sold: bool


def entries() -> list[Entry]:
    """Return everything, networks first."""
    models = [_model(registry.find(name)) for name in registry.names()]
    models.sort(key=lambda entry: KINDS.index(entry.kind))
    return models + [_adapter(adapters.find(name)) for name in adapters.names()]


def _model(recipe: Recipe) -> Entry:
    licences = registry.shipped_licences(recipe.name)
    return Entry(
        name=recipe.name,
        kind="language model" if recipe.of_transformers else "network",
        task=recipe.subtask,
        summary=recipe.summary,
        parameters=registry.counts().get(recipe.name, {}).get("parameters"),
        weights=tuple(registry.shipped_tags(recipe.name)),
        sold=any(commercial(licence) for licence in licences.values()),
    )


def _adapter(recipe: AdapterRecipe) -> Entry:
    return Entry(
        name=recipe.name,
        kind="adapter",
        task=recipe.task,
        summary=recipe.summary,
        parameters=None,
        weights=("shipped",) if recipe.weights else (),
        sold=adapters.may_ship(recipe),
    )


def matching(
    found: Sequence[Entry], words: str, kind: str, task: str, sold: bool, here: bool
) -> list[Entry]:
    """Return the entries that hold all words, of a kind and task.

    Args:
        found: where to look.
        words: each must be in the name, the summary or the task; case does not matter.
        kind: one of `KINDS`.
        task: a subtask, or `ANY`.
        sold: only what a company may ship.
        here: only what has weights in this package.

    Raises:
        MismatchError: the words are no text, or nothing is of that kind or that task.

    """
    choice(kind, "kind", KINDS)
    choice(task, "task", (ANY, *dict.fromkeys(entry.task for entry in found)))
    wanted = text(words, "search").lower().split()
    return [
        entry
        for entry in found
        if kind in (ANY, entry.kind)
        and task in (ANY, entry.task)
        and (entry.sold or not sold)
        and (entry.weights or not here)
        and all(word in f"{entry.name} {entry.summary} {entry.task}".lower() for word in wanted)
    ]


def table(found: Sequence[Entry], total: int) -> str:
    """Return entries as a table, each name a button whose `data-ref` it is."""
    if not found:
        return (
            "<p class='zoo-note'>Nothing in the zoo is like that; take a word or a tick away.</p>"
        )
    rows = "".join(_row(entry) for entry in found)
    heads = "".join(
        f"<th scope='col'>{word}</th>" for word in ("Name", "What", "Task", "Parameters", "Weights")
    )
    return (
        f"<table class='zoo-table'><caption>{len(found)} of {total}; choose one to read its card"
        f"</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(entry: Entry) -> str:
    name = html.escape(entry.name, quote=True)
    cells = {
        "What": entry.summary,
        "Task": entry.task.replace("-", " "),
        "Parameters": f"{entry.parameters:,}" if entry.parameters else "-",
        "Weights": ", ".join(entry.weights) or "-",
    }
    body = "".join(f"<td data-label='{k}'>{html.escape(v)}</td>" for k, v in cells.items())
    return (
        f"<tr><th scope='row'><button type='button' data-ref='{name}'>{name}</button></th>"
        f"{body}</tr>"
    )


def card(name: str) -> str:
    """Return the card of a model or an adapter as Markdown, without its front matter.

    Raises:
        UnknownNameError: there is neither.

    """
    if name in adapters.names():
        return _card_of_adapter(adapters.find(name))
    recipe = registry.find(name)
    tags = registry.shipped_tags(name)
    if not tags:
        return f"# {name}\n\n{recipe.summary}.\n\n{_unshipped(recipe)}"
    tag = recipe.default_tag if recipe.default_tag in tags else tags[0]
    text = (checkpoint(f"{name}.{tag}").path / "README.md").read_text(encoding="utf-8")
    return text.split("\n---\n", 1)[-1].strip()


def _unshipped(recipe: Recipe) -> str:
    if recipe.of_transformers:
        return f"No weights ship. Make them:\n\n```sh\nzoo train {recipe.name} --out runs/mine\n```"
    return (
        "No weights ship. Train them:\n\n"
        f"```sh\nzoo train {recipe.name} --data DIR --out runs/mine\n```"
    )


def _card_of_adapter(recipe: AdapterRecipe) -> str:
    return (
        f"# {recipe.name}\n\n{recipe.summary}. A sparse adapter of `{recipe.base}`, by the method "
        f"{recipe.method}; licence: {adapters.licence(recipe)}.\n\n"
        f'```python\nimport zoo\n\nmodel = zoo.load("{recipe.base}", adapter="{recipe.name}")\n```'
    )
