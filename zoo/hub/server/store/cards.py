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
_EVENTS = 40_000  # of the parser: values, and the beginnings and ends of lists and mappings
_NUMBER = 100  # characters; more are text, for a sum of a thousand parts takes its time
_BEGIN = re.compile(r"\ufeff?\s{0,1000}---[ \t]*(?:\r\n?|\n)")
_END = re.compile(r"(?:\r\n?|\n|\A)---[ \t]*(?=[\r\n]|\Z)")
_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")
# The parser in C takes a tenth of the time, which is what lets strangers have it. PyYAML's wheels
# all have it; without it, less is read.
_IN_C = yaml.__with_libyaml__
_Base: Any = yaml.CSafeLoader if _IN_C else yaml.SafeLoader
_SLOW_LIMIT = 16 * 1024


class _Loader(_Base):  # type: ignore[misc]
    """The safe loader, with dates and endless numbers left as text."""


_Loader.yaml_implicit_resolvers = {
    key: [(tag, regexp) for tag, regexp in found if tag != "tag:yaml.org,2002:timestamp"]
    for key, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _number(loader: Any, node: yaml.Node) -> Any:
    name = node.tag.rpartition(":")[2]
    if isinstance(node, yaml.ScalarNode) and len(node.value) > _NUMBER:
        return node.value
    return getattr(yaml.SafeLoader, f"construct_yaml_{name}")(loader, node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)


def _check_events(text: str) -> None:
    """Refuse an alias, and deep nesting, before anything is made of the text."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Base)):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEPTH:
            raise yaml.YAMLError(f"nested more than {_DEPTH} deep")
        if count > _EVENTS:
            raise yaml.YAMLError("it holds too many values")


def front_matter(text: str) -> dict[str, Any]:
    """Return the data of a README.

    Raises:
        ValueError: the front matter is not a mapping in plain YAML.

    """
    begin, end = _bounds(text)
    limit = _LIMIT if _IN_C else _SLOW_LIMIT
    if end - begin > limit:
        raise ValueError(f"the front matter is longer than {limit} characters")
    try:
        block = text[begin:end]
        _check_events(block)
        data = yaml.load(block, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"the front matter is not YAML: {' '.join(str(error).split())}") from None
    except (LookupError, TypeError, AttributeError, ArithmeticError):  # as of `!!bool x`
        raise ValueError("the front matter is not YAML: a value is not what its tag says") from None
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
    end = _bounds(text)[1]
    match = _END.match(text, end) if end else None
    return text[match.end() :] if match else text


def of_space(name: str, sdk: str) -> str:
    """Return the README that a new Space begins with."""
    lines = [f"title: {name}", "emoji: 🚀", "colorFrom: green", "colorTo: gray", f"sdk: {sdk}"]
    if sdk in ("gradio", "streamlit"):
        lines.append("app_file: app.py")
    return "\n".join(["---", *lines, "pinned: false", "---", ""])


def _bounds(text: str) -> tuple[int, int]:
    """Return where the front matter begins and where its end is marked; (0, 0) for none.

    As the Hub's own client reads it: blank lines may stand before it, and lines may end in CRLF.
    """
    begin = _BEGIN.match(text)
    if begin is None:
        return 0, 0
    # From the line end before it on, for a front matter may be empty.
    end = _END.search(text, begin.end() - 1)
    return (min(begin.end(), end.start()), end.start()) if end else (0, 0)


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
