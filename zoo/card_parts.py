"""What cards of every kind are made of: licences, templates, and costs on devices."""

import functools
import json
import re
from typing import TYPE_CHECKING, Any

from zoo.content import content
from zoo.recipe import Recipe

if TYPE_CHECKING:
    from zoo.cost import Cost

# The licence ids that the Hub knows.
_LICENSES = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0
    epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl
    gpl gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0
    lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa
    odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
    unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSES.split())
RELATIONS = ("adapter", "finetune", "merge", "quantized")
TARGETS = ("ethos-u55-256", "stm32f746-216mhz-cmsisnn", "phone-npu-4tops")


def license_matter(license: str) -> dict[str, str]:
    """Return a licence in the Hub's terms: its id, or `other` with a name and the file it is in."""
    if license.lower() in LICENSES - {"other", "unknown"}:
        return {"license": license.lower()}
    words = re.findall(r"[a-z0-9]+", license.lower())
    name = "-".join(words[:6]) or "unknown"
    return {"license": "other", "license_name": name, "license_link": "LICENSE"}


def fill(template: str, matter: dict[str, Any], **facts: Any) -> str:
    """Return a template of `cards/` filled with front matter and facts; a missing one raises."""
    import jinja2  # comes with torch
    import yaml

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    text = (content("cards") / template).read_text(encoding="utf-8")
    front = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    return environment.from_string(text).render(front_matter=front, **facts)


def costs(recipe: Recipe) -> "tuple[Cost, ...]":
    """Return what the network of a recipe costs on each of `TARGETS`."""
    return _costs(json.dumps(recipe.to_json()))


@functools.lru_cache(maxsize=8)
def _costs(recipe_json: str) -> "tuple[Cost, ...]":
    """Keep them, because counting takes a second, and a push renders a card several times."""
    from zoo import cost
    from zoo.checkpoint import build

    recipe = Recipe.from_json(json.loads(recipe_json))
    model = build(recipe)
    return tuple(
        cost.estimate(model, cost.target(name), input_shape=recipe.input_shape) for name in TARGETS
    )


def cost_rows(recipe: Recipe) -> list[dict[str, str]]:
    """Return what the network of a recipe costs on each target, as a card's table has it."""
    return [_cost_row(item) for item in costs(recipe)]


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
