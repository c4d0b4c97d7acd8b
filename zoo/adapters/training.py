"""Training an adapter: the loop of `zoo.train`, with a few values of the network being trained.

A run folder holds `sparse_adapter.safetensors` (or, for LoRA and DoRA, PEFT's files),
`adapter.json` with recipe and measurements, `mask.safetensors`, `log.jsonl` and the state to
resume from.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.adapters import masks
from zoo.adapters.base import Base
from zoo.adapters.folder import CONFIG, FILE, write_folder
from zoo.adapters.masked_dora import MaskedDora
from zoo.adapters.recipe import AdapterRecipe
from zoo.adapters.routes import HookRoute, PeftRoute, peft_counts
from zoo.errors import MismatchError
from zoo.files import replacing
from zoo.registry.layout import UNSTATED
from zoo.training.accelerator import accelerator_for
from zoo.training.loop import Run
from zoo.training.optimizers import make_optimizer

if TYPE_CHECKING:
    from accelerate import Accelerator

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
    """Train an adapter; return its folder, which holds the one best on held-out data.

    Args:
        adapter: what to train and how.
        base: its base model; it has its own values again afterwards.
        out: the run folder.
        data: what the task trains on.
        source: what to call the data on the card; None: as the task does.
        data_license: licence of that data, hence of the adapter.
        resume: go on from the newest state; the result equals an uninterrupted run.
        tracker: of Accelerate, e.g. "tensorboard".
        device: "cpu" leaves an accelerator alone.
        custom: indices of a "custom" mask.
        avoid: indices that are not taken.

    Raises:
        MismatchError: settings, data or base do not fit, or a run is there and `resume` is off.
        ZooError: the loss became NaN or infinite.

    """
    accelerator = accelerator_for(adapter.name, adapter.train, out, tracker, device)
    run = AdapterRun(adapter, base, out, accelerator, data, data_license)
    run.given = {"custom": custom, "avoid": avoid}
    run.source = source
    try:
        run.execute(None, resume, tracker)
    finally:
        run.close()
    return out


class AdapterRun(Run):
    """A run of `zoo.train` in which only an adapter's values are trained."""

    RESULT = CONFIG

    def __init__(
        self,
        adapter: AdapterRecipe,
        base: Base,
        out: Path,
        accelerator: "Accelerator",
        data: str,
        license: str,
    ) -> None:
        self.adapter, self.base = adapter, base
        self.source: str | None = None
        self.given: dict[str, Mapping[str, Tensor] | None] = {}
        self.route: HookRoute | PeftRoute | None = None
        if adapter.train.compile:
            raise MismatchError("train.compile is for whole networks; an adapter trains without it")
        if adapter.train.teacher:
            raise MismatchError("train.teacher is for whole networks; an adapter learns from data")
        super().__init__(base.task_recipe(adapter), out, accelerator, data, license)

    # --- what is trained ----------------------------------------------------------------------

    def _training_data(self, data: str) -> Any:
        return self.task.training_data(self.recipe, data, self.base.tokenizer)

    def start(self, init: nn.Module | None) -> None:
        """Choose the mask, or take that of the run being resumed, and set up the route."""
        adapter, settings = self.adapter, self.settings
        network = self.base.model.to(self.accelerator.device).train()
        indices = self._indices(network)
        if adapter.method == "shira":
            self.route = HookRoute(network, indices)
        elif adapter.method == "shira-dora":
            self.route = MaskedDora(network, indices, adapter.rank, settings.seed)
        else:
            self.route = PeftRoute(network, adapter, indices)
        self.model = self.route.model
        optimizer = make_optimizer(settings, self.route.trained.parameters())
        self.optimizer = self.accelerator.prepare(optimizer)
        self.average = AveragedModel(
            self.route.trained, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay)
        )
        self.accelerator.register_for_checkpointing(self.route.trained, self.average)

    def _indices(self, network: nn.Module) -> masks.Indices:
        """Return the mask: the run's own, or a new one, the same in every process."""
        from accelerate.utils import broadcast_object_list

        adapter, file = self.adapter, self.out / MASK
        if adapter.method in ("lora", "dora"):
            return {}
        found: list[Any] = [None]
        if self.accelerator.is_main_process:
            found = [self._stored(file) or self._chosen(network)]
            if not file.exists():
                from safetensors.torch import save_file

                with replacing(file) as temporary:
                    save_file(found[0], temporary)
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        indices: masks.Indices = found[0]
        return {name: part.to(self.accelerator.device) for name, part in indices.items()}

    def _stored(self, file: Path) -> masks.Indices | None:
        if not (file.exists() and any(self.out.glob("state-*"))):
            file.unlink(missing_ok=True)
            return None
        from safetensors.torch import load_file

        stored = load_file(file)
        names = masks.targets(self.base.model, self.adapter.mask)
        return {name: stored[name] for name in names if name in stored}

    def _chosen(self, network: nn.Module) -> masks.Indices:
        options = self.adapter.mask
        counts = None
        if self.adapter.method == "peft-shira":
            counts = peft_counts(network, options, self.adapter.rank)
        found = masks.choose(
            network,
            options,
            backward=self._calibration(network) if options.needs_gradients else None,
            custom=self.given.get("custom"),
            avoid=self.given.get("avoid"),
            counts=counts,
        )
        return {name: part.cpu() for name, part in found.items()}

    def _calibration(self, network: nn.Module) -> Callable[[], None]:
        """Return what runs the next calibration batch backwards, in the main process alone."""
        done = 0

        def backward() -> None:
            nonlocal done
            size = self.settings.batch_size
            inputs, targets = (
                x.to(self.accelerator.device)
                for x in self.task.batch(
                    self.data, self.recipe, _CALIBRATION_STEP + done, range(size), size
                )
            )
            done += 1
            with self.accelerator.autocast():
                outputs = self._apply(network, inputs)
            self.task.loss(outputs.float(), targets).backward()

        return backward

    def _apply(self, network: nn.Module, inputs: Tensor) -> Tensor:
        forward = getattr(self.task, "forward", None)
        return network(inputs) if forward is None else forward(network, inputs)

    def _trained(self) -> nn.Module:
        assert self.route is not None
        return self.route.trained

    def _forward(self, inputs: Tensor) -> Tensor:
        return self._apply(self.model, inputs)

    def _update(self) -> None:
        accelerator, trained = self.accelerator, self._trained()
        if accelerator.sync_gradients:
            if isinstance(self.route, HookRoute):
                self.route.collect()
            if accelerator.num_processes > 1:  # the network is no DDP module: only nnz travel
                for parameter in trained.parameters():
                    if parameter.grad is not None:
                        parameter.grad = accelerator.reduce(parameter.grad, "mean")
            if self.settings.clip_norm:
                accelerator.clip_grad_norm_(trained.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if accelerator.sync_gradients and isinstance(self.route, HookRoute):
            self.route.use()

    @contextmanager
    def _candidate(self) -> Iterator[tuple[nn.Module, Mapping[str, Tensor], None]]:
        assert self.route is not None
        averaged = self.average.module if self.settings.ema_decay else self.route.trained
        values = {name: value.detach() for name, value in averaged.state_dict().items()}
        self.model.eval()
        self.route.use(values)
        try:
            yield self.model, values, None
        finally:
            self.route.use()
            self.model.train()

    def close(self) -> None:
        """Give the base its own values back."""
        if self.route is not None:
            self.route.close()
            self.base.model.eval()

    # --- what is written ----------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        adapter = self.adapter.to_json()
        for key in ("weights", "facts", "summary", "data"):  # say nothing about the training
            adapter.pop(key)
        data, processes = self.data.fingerprint, self.accelerator.num_processes
        return {"recipe": adapter, "data": data, "processes": processes}

    def load_state(self, state: Path) -> None:
        """Take up a run where `state` left it."""
        assert self.route is not None
        facts = json.loads((state / "run.json").read_text(encoding="utf-8")).get("start")
        if facts is not None and facts != self.route.facts:
            key = next(k for k in facts if facts[k] != self.route.facts.get(k))
            raise MismatchError(
                f"{self.out} was trained on another {key}; resume with the same base model and "
                "mask, or start in another folder"
            )
        super().load_state(state)
        if isinstance(self.route, HookRoute):
            self.route.use()

    def _state_facts(self) -> dict[str, Any]:
        assert self.route is not None
        return {"start": self.route.facts}

    def _is_complete(self) -> bool:
        try:
            config = json.loads((self.out / CONFIG).read_text(encoding="utf-8"))
            return config["metrics"]["training"]["complete"] is True
        except (OSError, ValueError, KeyError):
            return False

    def _write_checkpoint(self, last: bool) -> None:
        route, best = self.route, self.progress.best
        if not best or route is None:
            return
        trained = sum(p.numel() for p in route.trained.parameters())
        metrics = {**self._metrics(last), "trained_values": trained}
        recipe = dataclasses.replace(
            self.adapter,
            data={
                **self.data.facts,
                **({"source": self.source} if self.source else {}),
                "license": self.license,
            },
        )
        if self.adapter.method in ("lora", "dora"):
            assert isinstance(route, PeftRoute)
            route.save(best, self.out)
            write_folder(self.out, recipe, None, metrics)
            return
        if isinstance(route, HookRoute):
            route.compact.restore(route.model)  # digests are those of the pristine base
        write_folder(self.out, recipe, (route.deltas(best), self._pristine()), metrics)
        route.use()

    def _pristine(self) -> dict[str, Tensor]:
        """Return the base's tensors under their own names, also while PEFT's layers are in."""
        if isinstance(self.route, HookRoute):
            return dict(self.base.model.named_parameters())
        return {
            name.replace(".base_layer.", "."): parameter
            for name, parameter in self.base.model.named_parameters()
            if "shira_" not in name
        }


__all__ = ["FILE", "MASK", "AdapterRun", "train"]
