"""What the hub reads in a README: its front matter, the tags it gives, and what is wrong with it.

Front matter comes from strangers. It is read without aliases (a few lines of which can stand for
gigabytes) and comes out as plain JSON values.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from zoo.hub.vocabulary import LICENSES, RELATIONS

_LIMIT = 128 * 1024  # characters of front matter; the largest cards of the public Hub stay below
_DEPTH = 50
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*$", re.DOTALL | re.MULTILINE)
_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases or deep nesting, and with dates left as text."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias, and deep nesting."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        if self._depth > _DEPTH:
            raise yaml.YAMLError(f"nested more than {_DEPTH} deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {
    key: [(tag, regexp) for tag, regexp in found if tag != "tag:yaml.org,2002:timestamp"]
    for key, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def front_matter(text: str) -> dict[str, Any]:
    """Return the data of a README.

    Raises:
        ValueError: the front matter is not a mapping in plain YAML.

    """
    match = _FRONT.match(text)
    if not match:
        return {}
    if len(match[1]) > _LIMIT:
        raise ValueError(f"the front matter is longer than {_LIMIT} characters")
    try:
        data = yaml.load(match[1], Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"the front matter is not YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError("the front matter must be a mapping")
    try:
        return dict(_plain(data))
    except RecursionError:
        raise ValueError("the front matter is nested too deeply") from None


def body(text: str) -> str:
    """Return a README without its front matter."""
    match = _FRONT.match(text)
    return text[match.end() :] if match else text


def _plain(value: Any) -> Any:
    """Return `value` as JSON holds it; infinity and NaN as text."""
    if isinstance(value, dict):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | None | str):
        return _text(value) if isinstance(value, str) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _text(value)


def _text(value: Any) -> str:
    return str(value).encode(errors="replace").decode()


def strings(value: Any) -> list[str]:
    """Return the texts of a field that may hold one or a list."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)]


def problems(data: Mapping[str, Any], kind: str) -> list[str]:
    """Return what is wrong with a card's data, one sentence each."""
    faults = _license_problems(data.get("license"), kind, data)
    for field in ("base_model", "datasets"):
        if field in data and not all(_ID.fullmatch(repo) for repo in strings(data[field])):
            faults.append(f'"{field}" must hold repository ids')
    for field in ("tags", "language", "datasets", "metrics"):
        value = data.get(field)
        if value is not None and len(strings(value)) != len(
            value if isinstance(value, list) else "1"
        ):
            faults.append(f'"{field}" must be text or a list of texts')
    for field in ("library_name", "pipeline_tag"):
        if data.get(field) is not None and not isinstance(data[field], str):
            faults.append(f'"{field}" must be text')
    if data.get("base_model_relation", "adapter") not in RELATIONS:
        faults.append(f'"base_model_relation" must be one of {", ".join(RELATIONS)}')
    return faults + _result_problems(data.get("model-index"))


def _license_problems(license_: Any, kind: str, data: Mapping[str, Any]) -> list[str]:
    wrong = [
        f'"license" must be an identifier that the Hub knows, not {identifier!r}'
        for identifier in strings(license_)
        if identifier not in LICENSES
    ]
    if license_ == "other" and kind == "models" and not data.get("license_name"):
        wrong.append('"license: other" needs "license_name" and "license_link"')
    return wrong


def _result_problems(models: Any) -> list[str]:
    """Return what is wrong with `model-index`: names, tasks, data sets, finite numbers."""
    if models is None:
        return []
    if not isinstance(models, list):
        return ['"model-index" must be a list']
    faults = []
    for i, model in enumerate(models):
        where = f'"model-index[{i}]'
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            faults.append(f'{where}.name" is required')
            continue
        results = model.get("results", [])
        for j, result in enumerate(results if isinstance(results, list) else [None]):
            at = f"{where}.results[{j}]"
            fields = result if isinstance(result, dict) else {}
            for field in ("task", "dataset"):
                inner = fields.get(field)
                if not isinstance(inner, dict) or not isinstance(inner.get("type"), str):
                    faults.append(f'{at}.{field}.type" is required')
            metrics = fields.get("metrics")
            for metric in metrics if isinstance(metrics, list) else [None]:
                value = metric.get("value") if isinstance(metric, dict) else None
                if value is None or value in ("nan", "inf", "-inf"):
                    faults.append(f'{at}.metrics" need a type and a finite value')
    return faults


def tags(data: Mapping[str, Any], files: list[str]) -> list[str]:
    """Return the tags of a repository, which the Hub's filters go by."""
    all_tags = strings(data.get("tags"))
    all_tags += [str(data[key]) for key in ("library_name", "pipeline_tag") if data.get(key)]
    if any(name.endswith(".safetensors") for name in files):
        all_tags.append("safetensors")
    all_tags += [f"dataset:{item}" for item in strings(data.get("datasets"))]
    all_tags += strings(data.get("language"))
    relation = data.get("base_model_relation")
    for item in strings(data.get("base_model")):
        all_tags.append(f"base_model:{item}")
        all_tags.append(f"base_model:{relation or 'finetune'}:{item}")
    all_tags += [f"license:{item}" for item in strings(data.get("license"))]
    return list(dict.fromkeys(all_tags))
