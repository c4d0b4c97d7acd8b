"""What cards of every kind are made of: licences, templates, and costs on devices."""

import functools
import json
import re
from typing import TYPE_CHECKING, Any

from zoo.content import content
from zoo.hub.vocabulary import LICENSES
from zoo.registry.layout import WEIGHTS
from zoo.registry.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.cost import Cost
    from zoo.registry.checkpoint import Checkpoint

TARGETS = ("ethos-u55-256", "stm32f746-216mhz-cmsisnn", "phone-npu-4tops")


def license_matter(license: str) -> dict[str, str]:
    """Return a licence in the Hub's terms: its id, or `other` with a name and the file it is in."""
    if license.lower() in LICENSES - {"other", "unknown"}:
        return {"license": license.lower()}
    words = re.findall(r"[a-z0-9]+", license.lower())
    name = "-".join(words[:6]) or "unknown"
    return {"license": "other", "license_name": name, "license_link": "LICENSE"}


def fill(template: str, matter: dict[str, Any], **facts: Any) -> str:
    """Return a template of `cards/` filled with front matter and facts; a missing fact raises."""
    import jinja2  # comes with torch
    import yaml

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    text = (content("cards") / template).read_text(encoding="utf-8")
    front = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    return environment.from_string(text).render(front_matter=front, **facts)


def costs(recipe: Recipe, weights: "Checkpoint | None") -> "tuple[Cost, ...]":
    """Return what the network of a recipe, with these weights, costs on each of `TARGETS`."""
    if weights is None or not (weights.path / WEIGHTS).is_file():
        return _costs(json.dumps(recipe.to_json()), None, "")
    sha256 = str(weights.config["files"][WEIGHTS]["sha256"])
    return _costs(json.dumps(recipe.to_json()), weights.path, sha256)


@functools.lru_cache(maxsize=8)
def _costs(recipe_json: str, folder: "Path | None", sha256: str) -> "tuple[Cost, ...]":
    """Keep them, because counting takes a second, and a push renders a card several times."""
    from zoo import cost
    from zoo.cost.stored import of_recipe
    from zoo.registry.checkpoint import Checkpoint

    weights = None if folder is None else Checkpoint.read(folder)
    subject = of_recipe(Recipe.from_json(json.loads(recipe_json)), weights)
    return tuple(
        # By the method that needs nothing installed: a card says the same on every machine.
        cost.estimate(subject, device, method=device.method)
        for device in map(cost.target, TARGETS)
    )


def cost_rows(recipe: Recipe, weights: "Checkpoint | None") -> list[dict[str, str]]:
    """Return what `costs` says, as a card's table has it."""
    return [_cost_row(cost) for cost in costs(recipe, weights)]


def _cost_row(cost: "Cost") -> dict[str, str]:
    tiled = cost.tiled if cost.runs_tiled else None
    peak = tiled.peak_activation_bytes if tiled else cost.peak_activation_bytes
    fits = "whole" if cost.fits else "no"
    if tiled:
        fits = f"in {tiled.count} tiles of {tiled.width}x{tiled.height}"
    return {
        "target": f"{cost.target} ({cost.dtype})",
        "latency": f"{cost.latency_ms:,.{0 if cost.latency_ms >= 100 else 1}f}",
        "memory": f"{peak:,} bytes",
        "fits": fits,
        "how": cost.obtained["latency_ms"],
    }
