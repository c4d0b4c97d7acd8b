"""The verb `zoo compare`: models of one task side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.resolution import Ref, resolve
from zoo.errors import MismatchError

if TYPE_CHECKING:
    from zoo.cost import Cost
    from zoo.cost.comparison import Contest, Quality
    from zoo.registry.artifact import Artifact
    from zoo.tasks.contract import TaskFacts

TARGET, LANGUAGE_TARGET = "ethos-u55-256", "galaxy-s24-executorch"
_LANGUAGE = "text-generation"


def compare(
    refs: "Sequence[Ref | Artifact]",
    *,
    target: str | None = None,
    method: str = "auto",
    metric: str | None = None,
    data: Ref | None = None,
    out: Ref | None = None,
) -> "Contest":
    """Return models of one task side by side, and which of them no other beats.

    Args:
        refs: two or more of what `load` takes: names with or without tags, checkpoints in folders,
            repositories, language models.
        target: the device whose times are compared; None takes "ethos-u55-256", and of language
            models "galaxy-s24-executorch".
        method: how times are found, see `estimate`.
        metric: key of the metric, e.g. "accuracy"; None takes the first that all have.
        data: measure all on this now, as `evaluate` does; None takes what their checkpoints have
            recorded of the same data.
        out: also draw a picture: the name of a `.png` file.

    Returns:
        What the models store, compute and reach, with the 95 % interval where it is known.

    Raises:
        UnknownNameError: there is no such recipe, tag, target or method.
        MissingWeightsError: a model has no weights here.
        MismatchError: fewer than two models, different tasks, nothing measured of all of them, or
            the method does not go with the target.
        HubError, UnsafeFileError: see `pull`.

    ```python
    import zoo

    print(zoo.compare(["sesr-m3-x2.bsds", "sesr-m5-x2.bsds", "sesr-m7-x2.bsds"]).rows)
    ```

    """
    from zoo.cost.comparison import Contender, Contest
    from zoo.verbs.use import estimate

    if isinstance(refs, str | Path) or len(refs) < 2:
        raise MismatchError("a comparison takes two models or more: zoo compare A B")
    if out is not None and Path(out).suffix.lower() != ".png":
        raise MismatchError(f"{out} is to be a picture; expected a name that ends in .png")
    artifacts = [resolve(ref) for ref in refs]
    facts = _task(artifacts)
    language = facts.name == _LANGUAGE
    found = _measured(artifacts, facts, metric, data)
    device = target or (LANGUAGE_TARGET if language else TARGET)
    contenders = []
    for artifact, quality in zip(artifacts, found, strict=True):
        if language:
            macs, cost = _of_language(artifact, device)
        else:
            cost = estimate(artifact, device, method=method)
            macs = cost.macs
        size = _bytes(artifact)
        contenders.append(
            Contender(name=artifact.ref, stored_bytes=size, macs=macs, quality=quality, cost=cost)
        )
    comparison = Contest(contenders=tuple(contenders))
    if out is not None:
        comparison.picture(Path(out).expanduser())
    return comparison


def _task(artifacts: "Sequence[Artifact]") -> "TaskFacts":
    """Return the task that all artifacts are for."""
    from zoo.tasks import named

    tasks = {artifact.ref: _subtask(artifact) for artifact in artifacts}
    if len(set(tasks.values())) > 1:
        said = ", ".join(f"{ref} for {task}" for ref, task in tasks.items())
        raise MismatchError(f"models of different tasks are not compared: {said}")
    return named(tasks[artifacts[0].ref]).FACTS


def _subtask(artifact: "Artifact") -> str:
    from zoo.artifacts.files import LanguageModel

    if artifact.recipe is not None:
        return artifact.recipe.subtask
    if isinstance(artifact, LanguageModel):
        return _LANGUAGE
    raise MismatchError(
        f"{artifact.ref} does not say what it is for; compare the checkpoint it was made from"
    )


def _measured(
    artifacts: "Sequence[Artifact]", facts: "TaskFacts", wanted: str | None, data: Ref | None
) -> "list[Quality]":
    """Return one metric of all artifacts on the same data: measured now, or recorded."""
    from zoo.artifacts.networks import Network
    from zoo.cost.comparison import qualities
    from zoo.verbs.use import evaluate

    if wanted is not None and facts.metric(wanted) is None:
        known = ", ".join(one.key for one in facts.metrics)
        raise MismatchError(f"{facts.name} has no metric {wanted!r}; it has {known}")
    recorded: list[dict[str, Any]] = []
    for artifact in artifacts:
        if data is not None:
            recorded.append({"evaluations": {Path(data).name: evaluate(artifact, data)}})
        else:
            seen = isinstance(artifact, Network)
            recorded.append(dict(artifact.facts.metrics) if seen else {})  # type: ignore[attr-defined]
    found = [qualities(metrics, facts) for metrics in recorded]
    for artifact, its in zip(artifacts, found, strict=True):
        if not its:
            raise MismatchError(
                f"nothing was measured of {artifact.ref}: add --data DIR to measure all now, or "
                f"type: zoo evaluate {artifact.ref} --data DIR --record NAME"
            )
    for place in found[0]:
        if wanted in (None, place[1]) and all(place in its for its in found):
            return [its[place] for its in found]
    said = "; ".join(
        f"{artifact.ref} on {', '.join(dict.fromkeys(data for data, _ in its))}"
        for artifact, its in zip(artifacts, found, strict=True)
    )
    raise MismatchError(
        f"no {wanted or 'metric'} was measured of all on the same data ({said}): add --data DIR"
    )


def _bytes(artifact: "Artifact") -> int:
    """Return the bytes of a model's tensors."""
    from zoo.artifacts.networks import Network
    from zoo.cost.comparison import bytes_of
    from zoo.cost.language import tensor_bytes

    if isinstance(artifact, Network):
        return bytes_of(artifact.checkpoint)
    files = sorted(artifact.path.glob("model*.safetensors"))
    return sum(sum(tensor_bytes(file).values()) for file in files)


def _of_language(artifact: "Artifact", target: str) -> "tuple[int, Cost]":
    """Return the multiply-accumulates of a language model's layers for a token, and its cost.

    By the sizes in its folder; that of a request.
    """
    from zoo import cost
    from zoo.artifacts.networks import Network
    from zoo.cost.language import Decoder

    model = Decoder.of_folder(artifact.ref, artifact.path)
    seen = artifact.facts.metrics if isinstance(artifact, Network) else {}
    plain = model.layer_weights + model.vocabulary * model.hidden
    macs = int(seen.get("compression", {}).get("macs", plain))
    return macs, cost.estimate(model, cost.target(target))
