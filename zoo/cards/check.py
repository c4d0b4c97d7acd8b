"""Checking a card before anybody else sees it: its metadata, its numbers, and secrets in it.

No network is needed. Every number must be a fact of the checkpoint: in its `metrics.json` or
`config.json`, or computed again from its network, up to the digits that the card shows.
"""

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from zoo.hub.vocabulary import LICENSES, RELATIONS

if TYPE_CHECKING:
    from zoo.adapters.folder import AdapterFolder
    from zoo.registry.checkpoint import Checkpoint

_FRONT = re.compile(r"\A---\n(.*?)^---$", re.DOTALL | re.MULTILINE)
_REPO_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_LONGEST = 400_000
SECRET = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{16,}")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?!\d))?")
_DIGEST = re.compile(r"[0-9a-f]{16,}")
_LIST_ITEM = re.compile(r"^\s*\d+\.\s", re.MULTILINE)


def problems(text: str, source: "Checkpoint | AdapterFolder | None" = None) -> list[str]:
    """Return what is wrong with a card, one sentence each.

    Args:
        text: the whole README.md.
        source: whose numbers the card must show; None looks at the metadata alone.

    """
    faults = []
    if SECRET.search(text):
        faults.append("it holds what looks like a token of the Hub; revoke that token")
    try:
        matter = front_matter(text)
    except ValueError as error:
        return [*faults, str(error)]
    faults += metadata_problems(matter)
    if source is not None:
        faults += [
            f"the number {number} is neither in the checkpoint's metrics nor computed from it"
            for number in unknown_numbers(text, source)
        ]
    return faults


def front_matter(text: str) -> dict[str, Any]:
    """Return the metadata of a card.

    Raises:
        ValueError: the card has no metadata, or they are not a YAML mapping.

    """
    import yaml

    match = _FRONT.match(text.replace("\r\n", "\n"))
    if match is None or len(text) > _LONGEST:
        raise ValueError("a card starts with metadata between two lines of three hyphens")
    if re.search(r"(^|[\s\[,{])[&*][\w-]", match[1]):  # a few lines of them can mean gigabytes
        raise ValueError("the metadata has a YAML anchor or alias")
    try:
        value = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the metadata is not valid YAML: {reason}") from None
    if not isinstance(value, dict):
        raise ValueError("the metadata is not a YAML mapping")
    return value


def metadata_problems(matter: Mapping[str, Any]) -> list[str]:
    """Return what the Hub would refuse, or quietly not understand, in a card's metadata."""
    wrong = [*_license_problems(matter), *_relation_problems(matter)]
    for key in ("base_model", "datasets"):
        for item in _items(matter.get(key)):
            if not (isinstance(item, str) and _REPO_ID.fullmatch(item)):
                wrong.append(f"{key} holds {item!r}, which is not a repository id")
    for key in ("tags", "metrics", "language"):
        if not all(isinstance(item, str) for item in _items(matter.get(key))):
            wrong.append(f"{key} holds something other than text")
    for key in ("library_name", "pipeline_tag", "license_name"):
        if key in matter and not isinstance(matter[key], str):
            wrong.append(f"{key} is not text")
    if not all(math.isfinite(number) for number in _numbers(matter)):
        wrong.append("a number in the metadata is not finite")
    return wrong + _index_problems(matter.get("model-index", []))


def _license_problems(matter: Mapping[str, Any]) -> Iterator[str]:
    license_ = matter.get("license")
    for identifier in _items(license_):
        if identifier not in LICENSES:
            yield f"license {identifier!r} is not an id of the Hub; use other, with license_name"
    if license_ == "other" and not (matter.get("license_name") and matter.get("license_link")):
        yield "license other needs license_name and license_link"


def _relation_problems(matter: Mapping[str, Any]) -> Iterator[str]:
    relation = matter.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        yield f"base_model_relation is {relation!r}; expected {', '.join(RELATIONS)}"
    if relation is not None and "base_model" not in matter:
        yield "base_model_relation without base_model"


def _index_problems(models: Any) -> list[str]:
    """Check the shape of `model-index`: names, results, and metrics with a type and a number."""
    if not isinstance(models, list):
        return ["model-index is not a list"]
    faults: list[str] = []
    for model in models:
        results = model.get("results") if isinstance(model, dict) else None
        if not isinstance(results, list) or not isinstance(model.get("name"), str):
            return [*faults, "a model of model-index needs a name and a list of results"]
        for result in results:
            kinds = [
                part.get("type") if isinstance(part, dict) else None
                for part in (
                    (result.get("task"), result.get("dataset")) if isinstance(result, dict) else ()
                )
            ]
            if len(kinds) != 2 or not all(isinstance(kind, str) for kind in kinds):
                faults.append("a result of model-index needs task.type and dataset.type")
                continue
            metrics = result.get("metrics")
            if not isinstance(metrics, list) or not all(map(_is_metric, metrics)):
                faults.append("a result of model-index needs metrics with a type and a number")
    return faults


def _is_metric(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("type"), str)
        and isinstance(value.get("value"), int | float)
        and not isinstance(value["value"], bool)
    )


def unknown_numbers(text: str, source: "Checkpoint | AdapterFolder") -> list[str]:
    """Return the numbers of a card that are not facts of its checkpoint or adapter, in order."""
    rendered, recorded = _facts(source)
    words = set(_words(rendered))
    words |= {word for fact in _texts(recorded) for word in _words(fact)}
    facts = set(map(_decimal, _numbers(recorded)))
    facts |= {value for word in words if _is_figure(word) for _, value in _figures(word)}
    unknown = []
    for word in _words(_LIST_ITEM.sub("", text)):
        if word in words:
            continue
        if _DIGEST.fullmatch(word):
            unknown.append(word)
        elif _is_figure(word):
            unknown += [number for number, value in _figures(word) if not _is_known(value, facts)]
    return list(dict.fromkeys(unknown))


def _facts(source: "Checkpoint | AdapterFolder") -> tuple[str, Any]:
    """Return the text of a card rendered now, and everything that was recorded."""
    from zoo.registry.checkpoint import Checkpoint

    if isinstance(source, Checkpoint):
        from zoo.cards.model import render

        return render(source), (source.config, source.metrics)
    from zoo.cards import adapter as card

    return card.render(source), (source.recipe.to_json(), source.metrics)


def _is_figure(word: str) -> bool:
    """Say whether a word is neither a name (sesr-m5-x2, stm32f746) nor a digest."""
    return not word[0].isalpha() and _DIGEST.fullmatch(word) is None


def _figures(word: str) -> list[tuple[str, Decimal]]:
    return [(number, Decimal(number.replace(",", ""))) for number in _NUMBER.findall(word)]


def _is_known(value: Decimal, facts: set[Decimal]) -> bool:
    """Say whether a fact, rounded to the digits that are shown, is this number."""
    step = Decimal((0, (1,), int(value.as_tuple().exponent)))
    return any(abs(fact - value) * 2 <= step for fact in facts)


def _words(text: str) -> list[str]:
    """Return the parts of a text that hold a digit; addresses, which are references, left out."""
    plain = re.sub(r"https?://[^\s)>\]]+", " ", text)
    words = (
        word.strip(".-+*_\"'") for word in re.split(r"[\s|`()\[\]{};:=<>~/]+|,(?!\d{3})", plain)
    )
    return [word for word in words if any(c.isdigit() for c in word)]


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number)) if math.isfinite(number) else Decimal(0)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
