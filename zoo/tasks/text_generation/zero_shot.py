"""Zero-shot tasks of a language model, measured with EleutherAI's lm-eval if it is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.errors import MismatchError, MissingExtraError, install


def require() -> None:
    """Refuse to begin without lm-eval.

    Raises:
        MissingExtraError: it is not installed.

    """
    try:
        import lm_eval.models.huggingface  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"zero-shot tasks need lm-eval; type: {install('lm-eval')}"
        ) from error


def zero_shot(
    model: Any, tokenizer: Any, tasks: Sequence[str], *, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Return the metrics of each task: `{"piqa": {"acc": 0.68, "acc_stderr": 0.01}}`.

    Args:
        model: as `zoo.load` or transformers returns it, packed or not.
        tokenizer: the model's tokenizer.
        tasks: names that lm-eval knows, with data that it fetches from the Hub; or paths of `.yaml`
            files that define a task.
        limit: at most this many examples of each task.

    Raises:
        MissingExtraError: lm-eval is not installed.
        MismatchError: lm-eval has no such task.

    """
    require()
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    names, folders = [], []
    for task in tasks:
        if task.endswith((".yaml", ".yml")):
            names.append(_name(Path(task)))
            folders.append(str(Path(task).resolve().parent))
        else:
            names.append(task)
    manager = TaskManager(include_path=folders or None)
    if unknown := sorted(set(names) - set(manager.all_tasks)):
        raise MismatchError(f"lm-eval has no task {unknown[0]!r}; type: lm-eval ls tasks")
    judged = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    report = lm_eval.simple_evaluate(
        model=judged, tasks=names, task_manager=manager, limit=limit, bootstrap_iters=0
    )
    return {
        task: {
            key.removesuffix(",none"): float(value)
            for key, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for task, metrics in report["results"].items()
    }


def _name(path: Path) -> str:
    import yaml

    try:
        name = yaml.safe_load(path.read_text(encoding="utf-8")).get("task")
    except (OSError, AttributeError, yaml.YAMLError) as error:
        raise MismatchError(f"{path} defines no task: {error}") from error
    if not isinstance(name, str):
        raise MismatchError(f"{path} defines no task: it has no `task: NAME`")
    return name
