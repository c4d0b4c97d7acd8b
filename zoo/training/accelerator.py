"""Accelerate, set up as the training settings ask."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from zoo.errors import MismatchError, MissingExtraError, install
from zoo.registry.recipe import Train

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator_for(
    name: str, settings: Train, out: Path, tracker: str | None, device: str | None
) -> "Accelerator":
    """Return the Accelerator that the settings ask for.

    Raises:
        MissingExtraError: accelerate is not installed, or the tracker's package.
        MismatchError: there is no such tracker, or this device lacks the precision.

    """
    try:
        from accelerate import Accelerator
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
        from accelerate.utils import ProjectConfiguration
    except ImportError:
        raise MissingExtraError.of("accelerate", "train") from None
    if tracker in set(LOGGER_TYPE_TO_CLASS) - {str(name) for name in get_available_trackers()}:
        if tracker == "tensorboard":
            raise MissingExtraError.of(tracker, "train")
        raise MissingExtraError(f"{tracker} is not installed; type: {install(str(tracker))}")
    _forget_the_last()
    folders = ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "tracking"))
    try:
        return Accelerator(
            mixed_precision=settings.precision,
            gradient_accumulation_steps=settings.accumulation_steps,
            # Also on a machine without an accelerator: otherwise every process would train alone.
            cpu=device == "cpu" or not torch.accelerator.is_available(),
            log_with=tracker,
            project_config=folders,
        )
    except (ValueError, ImportError) as error:
        raise MismatchError(f"Accelerate cannot train {name}: {error}") from error


def _forget_the_last() -> None:
    """Let a process that trains alone do so with other settings than the time before.

    Accelerate keeps the precision and the device of its first Accelerator for good.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    if PartialState._shared_state and PartialState().num_processes == 1:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()


def is_main_process() -> bool:
    """Say whether this process, of those that train together, is the one that writes."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
