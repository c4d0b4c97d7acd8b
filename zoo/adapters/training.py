"""Training an adapter: a few values of a network, by the loop of `zoo.training`.

A run folder holds `sparse_adapter.safetensors` (or, for LoRA and DoRA, PEFT's files),
`adapter.json` with recipe and measurements, `mask.safetensors`, `log.jsonl` and the state to
resume from.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.adapters import masks
from zoo.adapters.base import Base
from zoo.adapters.folder import CONFIG, write_folder
from zoo.adapters.methods.contract import AdapterMethod, Attachment, Options, method, options_of
from zoo.adapters.recipe import AdapterRecipe
from zoo.errors import MismatchError
from zoo.files import replacing
from zoo.registry.layout import UNSTATED
from zoo.tasks.contract import Data, Task
from zoo.training.accelerator import accelerator_for
from zoo.training.contract import Candidate, Hook, Setup
from zoo.training.loop import Run
from zoo.training.progress import Progress

MASK = "mask.safetensors"
_CALIBRATION_STEP = 2**40  # no step of a run: its batches are not trained on in this order


def train(
    adapter: AdapterRecipe,
    base: Base,
    out: Path,
    *,
    data: str,
    source: str | None = None,
    data_license: str = UNSTATED,
    resume: bool = False,
    tracker: str | None = None,
    device: str | None = None,
    custom: Mapping[str, Tensor] | None = None,
    avoid: Mapping[str, Tensor] | None = None,
) -> Path:
    """Train an adapter; return its folder, which holds the best one on held-out data.

    Args:
        adapter: what to train and how.
        base: its base model; it has its own values again afterwards.
        out: the run folder.
        data: what the task trains on.
        source: what to call the data on the card; None: as the task does.
        data_license: licence of that data, hence of the adapter.
        resume: go on from the newest state; the result equals an uninterrupted run.
        tracker: name of a tracker of Accelerate, e.g. "tensorboard".
        device: "cpu" leaves an accelerator alone.
        custom: indices of a "custom" mask.
        avoid: indices not to take.

    Raises:
        MismatchError: settings, data or base do not fit, or a run is there and `resume` is off.
        ZooError: the loss became NaN or infinite.

    """
    accelerator = accelerator_for(adapter.name, adapter.train, out, tracker, device)
    trainee = AdapterValues(adapter, base, source=source, custom=custom, avoid=avoid)
    run = Run(trainee, out, accelerator, data, data_license, hooks=[StepsOf(trainee)])
    run.execute(resume=resume, tracker=tracker)
    return out


class StepsOf(Hook):
    """Tells an attachment that wants to know which step begins."""

    def __init__(self, trainee: "AdapterValues") -> None:
        self.trainee = trainee

    def starting(self, step: int) -> None:
        """Let values be frozen, or freed."""
        tell: Callable[[int], None] | None = getattr(self.trainee.attachment, "starting", None)
        if tell is not None:
            tell(step)


class AdapterValues:
    """The values of an adapter, attached to its base; see `zoo.training.contract.Trainee`.

    Args:
        adapter: what to train and how.
        base: its base model.
        source: what to call the data on the card; None: as the task does.
        custom: indices of a "custom" mask.
        avoid: indices that are not taken.

    """

    result = CONFIG
    setup: Setup

    def __init__(
        self,
        adapter: AdapterRecipe,
        base: Base,
        *,
        source: str | None = None,
        custom: Mapping[str, Tensor] | None = None,
        avoid: Mapping[str, Tensor] | None = None,
    ) -> None:
        if adapter.train.compile:
            raise MismatchError("train.compile is for whole networks; an adapter trains without it")
        if adapter.train.sharpness:
            raise MismatchError("train.sharpness is for whole networks; leave it out")
        if adapter.train.teacher:
            raise MismatchError("train.teacher is for whole networks; an adapter learns from data")
        self.base, self.source, self.custom, self.avoid = base, source, custom, avoid
        self.recipe, self.options = base.task_recipe(adapter), options_of(adapter)
        own = {name: getattr(self.options, name) for name in adapter.options}  # no longer texts
        self.adapter = dataclasses.replace(adapter, options=own)
        self._attachment: Attachment | None = None

    # --- what is trained ----------------------------------------------------------------------

    def training_data(self, task: Task, source: str) -> Data:
        """Return the task's training data; tasks of text take the base's tokenizer."""
        return task.training_data(self.recipe, source, self.base.tokenizer)

    @property
    def attachment(self) -> Attachment:
        """The values at work in the base, from `build` to `close`."""
        assert self._attachment is not None
        return self._attachment

    @property
    def module(self) -> nn.Module:
        """The base, or what its method has wrapped around it."""
        return self.attachment.model

    def build(self, setup: Setup) -> nn.Module:
        """Choose the mask, or take that of the run being resumed, and attach the values."""
        self.setup = setup
        network = self.base.model.to(setup.accelerator.device).train()
        way, options = method(self.adapter.method), self.options
        self._attachment = way.attach(network, self._indices(network, way, options), options)
        return self._attachment.trained

    def prepare(self, optimizer: Optimizer) -> Optimizer:
        """Prepare only the optimizer: the network needs no DDP, because only nnz values travel."""
        prepared: Optimizer = self.setup.accelerator.prepare(optimizer)
        self.setup.accelerator.register_for_checkpointing(self.attachment.trained)
        return prepared

    def _indices(self, network: nn.Module, way: AdapterMethod, options: Options) -> masks.Indices:
        """Return the mask: the run's own, or a new one, the same in every process."""
        from accelerate.utils import broadcast_object_list

        accelerator, file = self.setup.accelerator, self.setup.out / MASK
        counts = way.budget(network, options)
        if counts is not None and not counts:
            return {}
        shared: list[Any] = [None]
        if accelerator.is_main_process:
            shared = [self._stored(file) or self._chosen(network, counts)]
            if not file.exists():
                from safetensors.torch import save_file

                with replacing(file) as temporary:
                    save_file(shared[0], temporary)
        if accelerator.num_processes > 1:
            broadcast_object_list(shared)
        indices: masks.Indices = shared[0]
        return {name: part.to(accelerator.device) for name, part in indices.items()}

    def _stored(self, file: Path) -> masks.Indices | None:
        if not (file.exists() and any(self.setup.out.glob("state-*"))):
            file.unlink(missing_ok=True)
            return None
        from safetensors.torch import load_file

        stored = load_file(file)
        names = masks.targets(self.base.model, self.adapter.mask)
        return {name: stored[name] for name in names if name in stored}

    def _chosen(self, network: nn.Module, counts: Mapping[str, int] | None) -> masks.Indices:
        options = self.adapter.mask
        chosen = masks.choose(
            network,
            options,
            backward=self._calibration(network) if options.needs_gradients else None,
            custom=self.custom,
            avoid=self.avoid,
            counts=counts,
        )
        return {name: part.cpu() for name, part in chosen.items()}

    def _calibration(self, network: nn.Module) -> Callable[[], None]:
        """Return a function that runs the next calibration batch backwards, in the main process."""
        setup, done = self.setup, 0

        def backward() -> None:
            nonlocal done
            size = self.recipe.train.batch_size
            inputs, targets = (
                x.to(setup.accelerator.device)
                for x in setup.task.batch(
                    setup.data, self.recipe, _CALIBRATION_STEP + done, range(size), size
                )
            )
            done += 1
            with setup.accelerator.autocast():
                outputs = self._apply(network, inputs)
            setup.task.loss(outputs.float(), targets).backward()

        return backward

    def _apply(self, network: nn.Module, inputs: Tensor) -> Tensor:
        if self.base.recipe is not None and inputs.is_floating_point():
            inputs = inputs.to(next(self.base.model.parameters()).dtype)  # a base held in bfloat16
        forward = getattr(self.setup.task, "forward", None)
        return network(inputs) if forward is None else forward(network, inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the base with the values."""
        return self._apply(self.module, inputs)

    def collect(self) -> None:
        """Bring the gradients to the values, and those of all processes together."""
        self.attachment.collect()
        accelerator = self.setup.accelerator
        if accelerator.num_processes > 1:
            for parameter in self.attachment.trained.parameters():
                if parameter.grad is not None:
                    parameter.grad = accelerator.reduce(parameter.grad, "mean")

    def use(self) -> None:
        """Let the base compute with the values as they are now."""
        self.attachment.use()

    @contextmanager
    def candidate(self, averaged: nn.Module | None) -> Iterator[Candidate]:
        """Lend the base with the values, or with averaged ones."""
        trained = self.attachment.trained if averaged is None else averaged
        values = {name: value.detach() for name, value in trained.state_dict().items()}
        self.module.eval()
        self.attachment.use(values)
        try:
            yield Candidate(self.module, values)
        finally:
            self.attachment.use()
            self.module.train()

    def close(self) -> None:
        """Give the base its own values back."""
        if self._attachment is not None:
            self._attachment.close()
            self.base.model.eval()

    # --- what is written ----------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """Return the recipe without what says nothing about the training."""
        adapter = self.adapter.to_json()
        for key in ("weights", "facts", "summary", "data"):
            adapter.pop(key)
        return adapter

    def start(self) -> Mapping[str, Any]:
        """Return the digests of mask and base, if the method uses them."""
        return self.attachment.facts

    def check(self, start: Mapping[str, Any]) -> None:
        """Refuse to go on with another mask or base."""
        ours = self.attachment.facts
        if start != ours:
            key = next(k for k in start if start[k] != ours.get(k))
            raise MismatchError(
                f"{self.setup.out} was trained on another {key}; resume with the same base model "
                "and mask, or start in another folder"
            )

    def is_complete(self) -> bool:
        """Say whether the adapter is that of the last step."""
        try:
            config = json.loads((self.setup.out / CONFIG).read_text(encoding="utf-8"))
            return config["metrics"]["training"]["complete"] is True
        except (OSError, ValueError, KeyError):
            return False

    def write(self, progress: Progress, metrics: dict[str, Any]) -> None:
        """Write the adapter's folder."""
        attachment, setup = self.attachment, self.setup
        count = sum(p.numel() for p in attachment.trained.parameters())
        source = {"source": self.source} if self.source else {}
        recipe = dataclasses.replace(
            self.adapter, data={**setup.data.facts, **source, "license": setup.license}
        )
        sparse = attachment.result(progress.best, setup.out)
        write_folder(setup.out, recipe, sparse, {**metrics, "trained_values": count})
        attachment.use()
