"""The verb that asks what faults, noise or attacks do to a network."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.resolution import Ref, checkpoint, resolve
from zoo.errors import MismatchError
from zoo.verbs import recording

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact
    from zoo.registry.recipe import Recipe
    from zoo.resilience.results import Reliability
    from zoo.resilience.specimen import Specimen

SAMPLES = 1000


def reliability(
    ref: "Ref | Recipe | Artifact",
    target: str | None = None,
    *,
    data: Ref | None = None,
    samples: int = SAMPLES,
    record: str | None = None,
    **options: Any,
) -> "Reliability":
    """Return what faults, noise or attacks do to a classifier, each number with its interval.

    Args:
        ref: what `load` takes; faults flip the device's integers, and so need int8 weights.
        target: name of the device, e.g. "ethos-u55-128", or its file.
        data: a folder of labelled inputs, laid out as for `evaluate`.
        samples: at most so many inputs, evenly spread over the data.
        record: also store the estimates in the checkpoint, and in its card, under this name.
        options: of the analysis, which they choose too: `noise`, `attack` or `protect`; without one
            of these, single faults. Those that are None count as not given.

    Returns:
        Estimates by name, tables, and the numbers that were assumed; `save` writes the picture.

    Raises:
        UnknownNameError: there is no such recipe, target or option.
        MissingWeightsError: the ref has no weights here.
        MismatchError: the network does not classify or the data cannot be used; an option's value
            is not possible; two analyses are meant; or `record` for a pulled checkpoint.
        HubError, UnsafeFileError: see `pull`.

    """
    from zoo.cards import resilience as card
    from zoo.registry.options import read
    from zoo.resilience import contract

    artifact = resolve(ref)
    if record is not None:
        recording.check_recordable(ref, artifact, record)
    given = {name: value for name, value in options.items() if value is not None}
    name = contract.chosen(given)
    analysis = contract.find(name)
    settings = read(analysis.Options, given, name)
    examined = specimen(artifact, target, data, samples)
    if record is not None:
        device = "" if examined.target is None else examined.target.name
        card.check_free(checkpoint(artifact).metrics, record, name, device)
    found = analysis.analyse(examined, settings)
    if record is not None:
        recording.record(artifact, card.PART, record, card.kept(found.to_json()))
    return found


def specimen(
    ref: "Ref | Recipe | Artifact", target: str | None, data: Ref | None, samples: int = SAMPLES
) -> "Specimen":
    """Return a network with labelled inputs, as analyses examine it.

    Raises:
        MismatchError: it does not classify, or the data cannot be used.

    """
    from zoo.cost.target import target as named
    from zoo.files import given
    from zoo.resilience.specimen import Specimen
    from zoo.tasks import task_of

    device = None if target is None else named(target)
    artifact = resolve(ref)
    if artifact.recipe is None:
        raise MismatchError(
            f"{artifact.ref} does not say what its outputs mean; import it first: zoo import "
            f"{artifact.ref} --out DIR, or name a checkpoint"
        )
    task = task_of(artifact.recipe)
    labelled = getattr(task, "labelled", None)
    if labelled is None:
        raise MismatchError(
            f"{artifact.ref} is for {artifact.recipe.subtask}, which has no right and wrong "
            "answers; reliability takes classifiers, e.g. mlperf-tiny-ic.cifar10-int8"
        )
    if data is None:
        raise MismatchError(
            f"right and wrong need labels: give --data DIR, laid out as for zoo evaluate "
            f"{artifact.ref}"
        )
    folder = Path(data).expanduser()
    given(folder, "folder")
    model = artifact.load()
    found = labelled(artifact.recipe, folder, samples)
    words = f"{len(found)} {task.FACTS.samples} of {folder.resolve().name}"
    return Specimen(
        artifact.ref, model, found.samples, found.labels, artifact.recipe, device, words
    )
