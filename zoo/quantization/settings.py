"""`quantization_config` of a packed checkpoint: what a reader needs to know besides the tensors."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.errors import MismatchError
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import EXPOSED_VERSION, LAYOUT_VERSION, METHOD


def settings(
    layers: Mapping[str, LayerOptions],
    *,
    left: Iterable[str],
    bits_per_weight: float,
    blocks: str = "",
    exposed: Iterable[str] = (),
    embeddings: int = 0,
    tied: bool = False,
    base_tensors: Mapping[str, Mapping[str, str]] | None = None,
    digests: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the fields of `zoo.integrations.bridge.ZooQuantizationConfig`, as JSON types.

    Args:
        layers: options of each packed layer, by name.
        left: linear layers that are not packed.
        bits_per_weight: see there, as for the rest.
        blocks: see there.
        exposed: see there.
        embeddings: see there.
        tied: see there.
        base_tensors: see there.
        digests: see there.

    Raises:
        MismatchError: there are no layers.

    """
    full = {name: _in_full(options) for name, options in layers.items()}
    usual = _most_common(list(full.values()))
    return {
        "quant_method": METHOD,
        "format_version": EXPOSED_VERSION if exposed else LAYOUT_VERSION,
        "options": usual,
        "overrides": {name: options for name, options in full.items() if options != usual},
        "blocks": blocks,
        "modules_to_not_convert": list(left),
        "bits_per_weight": bits_per_weight,
        "embeddings": embeddings,
        "tied": tied,
        "base_tensors": dict(base_tensors or {}),
        "digests": dict(digests or {}),
        **({"exposed": list(exposed)} if exposed else {}),
    }


def _in_full(options: LayerOptions) -> dict[str, Any]:
    """Return all options, as the defaults of another version may differ.

    Only a grid that is the method's own goes without saying, as it did when there was no other.
    """
    values = dataclasses.asdict(options)
    if "grid" not in options.to_dict():
        del values["grid"]
    return values


def _most_common(options: list[dict[str, Any]]) -> dict[str, Any]:
    texts = [json.dumps(item, sort_keys=True) for item in options]
    if not texts:
        raise MismatchError("every layer is skipped: there is nothing to quantize")
    best: dict[str, Any] = json.loads(max(sorted(set(texts)), key=texts.count))
    return best
