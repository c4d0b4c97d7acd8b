"""Quantizing a language model block by block: the memory of one block, and resume after a kill.

A job keeps its state in `OUT/work`: `state.json`, one file per finished block, and two files of
hidden states (what enters the next block, and what leaves it). `state.json` is replaced when a
block is finished, and nothing it refers to is touched afterwards; so a process that is killed at
any time resumes from there with the same result.
"""

import copy
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError, ZooError
from zoo.files import probe, replacing, write_json
from zoo.quantization.bits import digests
from zoo.quantization.core import QuantizedMatrix
from zoo.quantization.embeddings import check_plain
from zoo.quantization.language import blocks
from zoo.quantization.language.announcer import Announcer, peak_bytes
from zoo.quantization.language.calibration import HiddenStates
from zoo.quantization.language.source import Source
from zoo.quantization.layers import quantize_layers
from zoo.quantization.passes import CalibrationRuns
from zoo.quantization.plan import QuantizationPlan
from zoo.quantization.team import Team

log = logging.getLogger("zoo")

STATE_VERSION = 1


class Job:
    """One run of the pipeline, from an opened source to a folder of finished blocks.

    Args:
        source: the model.
        plan: how to quantize it.
        work: the folder of the job's state.
        ids: calibration windows (windows, length), or None for plans that need none.
        team: the processes that share the work.
        resume: continue from the state in `work`.

    Raises:
        MismatchError: `work` holds a state and `resume` is off, or the state of another model, plan
            or calibration (the first field that differs is named); or no blocks are found.

    """

    def __init__(
        self,
        source: Source,
        plan: QuantizationPlan,
        work: Path,
        ids: Tensor | None,
        *,
        team: Team,
        resume: bool = False,
    ) -> None:
        self.source, self.plan, self.work, self.team = source, plan, work, team
        self.ids = ids if self.reads else None
        if self.reads and ids is None:
            raise MismatchError(
                f"method {plan.options.method!r} learns from a text what counts in each layer; "
                "give one with --data TEXT (only rtn works without, if not with --awq)"
            )
        self.model = source.skeleton()
        self.prefix, self.blocks = blocks.find_blocks(self.model)
        if plan.embeddings:
            check_plain(self.model)
        self.fingerprint = self._fingerprint()
        if team.is_main:
            probe(work)
        team.wait()
        self.state = self._open(resume)
        self.calls: list[blocks.BlockCall] = []
        self.announce = Announcer()

    @property
    def reads(self) -> bool:
        """Whether blocks are run on the calibration windows."""
        return self.plan.learns

    @property
    def count(self) -> int:
        """The number of blocks."""
        return len(self.blocks)

    def block_file(self, index: int) -> Path:
        """Return the file of a finished block."""
        return self.work / f"block_{index:04d}.safetensors"

    def tuned_file(self, index: int) -> Path:
        """Return the file of a finished block after tuning."""
        return self.work / f"tuned_{index:04d}.safetensors"

    @property
    def tables(self) -> dict[str, str]:
        """The names of the weights of "embedding" and, if it has its own weight, "head"."""
        names = {id(module): name for name, module in self.model.named_modules()}
        weights = {"embedding": f"{names[id(self.model.get_input_embeddings())]}.weight"}
        head = self.model.get_output_embeddings()
        if head is not None and f"{names[id(head)]}.weight" in self.source.files:
            weights["head"] = f"{names[id(head)]}.weight"
        return weights

    @property
    def tuned_outside(self) -> Path:
        """The file of what tuning changed outside the blocks."""
        return self.work / "tuned_outside.safetensors"

    # --- state ------------------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, Any]:
        ids = None if self.ids is None else tensor_digest(self.ids)
        return json.loads(
            json.dumps(
                {
                    "version": STATE_VERSION,
                    "model": self.source.facts(),
                    "plan": self.plan.to_json(),
                    "calibration": ids,
                }
            )
        )

    def _open(self, resume: bool) -> dict[str, Any]:
        path = self.work / "state.json"
        if not path.is_file():
            return {"fingerprint": self.fingerprint, "next": 0, "hidden": 0, "layers": {}}
        if not resume:
            raise MismatchError(
                f"{self.work} holds an unfinished job; add --resume to go on with it, or remove it"
            )
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            there = state["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise MismatchError(f"{path} is not the state of a job: {error}") from error
        if difference := _difference(there, self.fingerprint):
            raise MismatchError(
                f"the job in {self.work} cannot go on: {difference}; give what it was started "
                "with, or another --out"
            )
        return state

    def _save(self, **changes: Any) -> None:
        self.state |= changes
        if self.team.is_main:
            write_json(self.work / "state.json", self.state)
        self.team.wait()

    # --- the run ----------------------------------------------------------------------------------

    @torch.no_grad()
    def run(self) -> None:
        """Quantize the blocks that are not finished yet.

        Raises:
            ZooError: the disk is full, or weights or activations are not finite; finished blocks
                are kept.

        """
        began = self.state["next"]
        if began == self.count:
            return
        try:
            if self.ids is not None:
                self._prepare_hidden()
            for index in range(self.state["next"], self.count):
                self._block(index)
        except (OSError, MismatchError) as error:
            done = self.state["next"]
            kind = type(error) if isinstance(error, ZooError) else MismatchError
            advice = f"What is done is in {self.work}: the same command with --resume continues"
            if isinstance(error, MismatchError):  # the same weights and text lead to it again
                advice = f"--resume would fail here too: mend that, remove {self.work}, begin again"
            raise kind(f"block {done} of {self.count} failed: {error}. {advice}") from error

    def _hidden(self, which: int) -> HiddenStates:
        assert self.ids is not None
        width = self.model.get_input_embeddings().weight.shape[1]
        shape = (*self.ids.shape, int(width))
        dtype = getattr(torch, self.plan.hidden_dtype)
        return HiddenStates(self.work / f"hidden_{which}.bin", shape, dtype)

    def _prepare_hidden(self) -> None:
        """Record how blocks are called, and make sure that the next block's inputs exist."""
        assert self.ids is not None
        self._fill_outside()
        device = self.team.device
        ids = self.ids.to(device)
        self.calls = blocks.record_calls(self.model, self.blocks, ids[:1])
        current = self._hidden(self.state["hidden"])
        lost = self.state["next"] > 0 and not current.is_whole
        if lost:
            log.warning("the hidden states are gone: the finished blocks are run again")
            self.state["hidden"] = 0
            current = self._hidden(0)
        if self.team.is_main:
            for which in (0, 1):
                if lost or not self._hidden(which).is_whole:
                    self._hidden(which).create()
        self.team.wait()
        if lost or self.state["next"] == 0:
            states = current.map()
            for window in self._mine():
                hidden = blocks.first_hidden(self.model, self.blocks, ids[window : window + 1])
                states[window] = hidden[0].to(states.dtype).cpu()
            current.flush()
            self.team.wait()
        if lost:
            self._replay()
        self._empty_outside()

    def _mine(self) -> range:
        """Return the windows that this process runs."""
        assert self.ids is not None
        return range(self.team.rank, len(self.ids), self.team.size)

    def _outside(self) -> Iterator[tuple[nn.Module, str, str]]:
        """Yield module, name and full name of each parameter that comes before the blocks."""
        head = self.model.get_output_embeddings()
        for name, module in self.model.named_modules():
            if module is head or f"{name}.".startswith(f"{self.prefix}."):
                continue
            for key, _ in list(module.named_parameters(recurse=False)):
                yield module, key, f"{name}.{key}" if name else key

    def _fill_outside(self) -> None:
        """Load the embedding, and whatever else is neither block nor head."""
        for module, key, name in self._outside():
            value = self.source.tensors([name])[name].to(self.team.device, torch.float32)
            module.register_parameter(key, nn.Parameter(value, requires_grad=False))
        for module in self.model.modules():  # rotary frequencies, computed in place
            for key, value in list(module.named_buffers(recurse=False)):
                module.register_buffer(key, value.to(self.team.device), persistent=False)

    def _empty_outside(self) -> None:
        """Free the memory of the embedding."""
        for module, key, _ in self._outside():
            empty = module.get_parameter(key).to("meta")
            module.register_parameter(key, nn.Parameter(empty, requires_grad=False))

    def _replay(self) -> None:
        """Run the finished blocks on the hidden states, as they were quantized."""
        from safetensors.torch import load_file

        for index in range(self.state["next"]):
            block = self.load_block(index, self.team.device)
            stored = load_file(self.block_file(index))
            name = f"{self.prefix}.{index}."
            for layer_name, layer in blocks.linears(block).items():
                options = self.plan.of(f"{name}{layer_name}")
                if options is None or f"{name}{layer_name}" not in self.state["layers"]:
                    continue
                whole = f"{name}{layer_name}."
                tensors = {
                    key.removeprefix(whole): value
                    for key, value in stored.items()
                    if key.startswith(whole) and key != f"{whole}bias"
                }
                shape = (layer.out_features, layer.in_features)
                matrix = QuantizedMatrix.from_tensors(tensors, shape, options)
                layer.weight.data = matrix.dequantize().to(layer.weight)
            self._forward(self._passes(block, index))
            self.state["hidden"] ^= 1

    def load_block(self, index: int, device: str) -> nn.Module:
        """Return a block with the source's weights in float32."""
        block = copy.deepcopy(self.blocks[index])  # a copy of meta tensors costs nothing
        self.source.fill(block, f"{self.prefix}.{index}.", torch.float32, device)
        return block

    def _passes(self, block: nn.Module, index: int) -> CalibrationRuns:
        """Return the runs of a block on every window, empty for plans without calibration."""
        if self.ids is None:
            return CalibrationRuns(block, [])
        states = self._hidden(self.state["hidden"]).map()
        run = partial(self._one, block, index, states)
        return CalibrationRuns(block, [partial(run, window) for window in range(len(self.ids))])

    def _forward(self, passes: CalibrationRuns) -> None:
        """Run a block on every window; the results become the other file."""
        then = self._hidden(self.state["hidden"] ^ 1)
        after = then.map()
        for window in self._mine():
            after[window] = passes[window]()[0].to(after.dtype).cpu()
        then.flush()
        self.team.wait()

    def _one(self, block: nn.Module, index: int, states: Tensor, window: int) -> Tensor:
        hidden = states[window : window + 1].to(self.team.device, torch.float32)
        return self.calls[index](block, hidden)

    def _block(self, index: int) -> None:
        began = time.perf_counter()
        block = self.load_block(index, self.team.device)
        prefix = f"{self.prefix}.{index}."
        passes = self._passes(block, index)
        matrices = quantize_layers(block, prefix, passes, self.plan, self.team)
        if self.team.is_main:
            self._write(index, block, matrices)
        hidden = self.state["hidden"]
        if self.ids is not None and index + 1 < self.count:
            self._forward(passes)
            hidden ^= 1
        seconds = time.perf_counter() - began
        layers = {f"{prefix}{name}": _facts(matrix) for name, matrix in matrices.items()}
        if self.team.is_main and not self.plan.rewrites:  # other weights are not a base
            for name, facts in layers.items():
                facts["base"] = digests(self.source.tensors([key := f"{name}.weight"])[key])
        self._save(next=index + 1, hidden=hidden, layers={**self.state["layers"], **layers})
        self._say(index, layers, seconds)

    def _write(self, index: int, block: nn.Module, matrices: Mapping[str, QuantizedMatrix]) -> None:
        """Write what the finished checkpoint will hold of a block."""
        from safetensors.torch import save_file

        prefix = f"{self.prefix}.{index}."
        replaced = {f"{prefix}{name}.weight" for name in matrices}
        names = [name for name in self.source.files if name.startswith(prefix)]
        rest = self.source.tensors(name for name in names if name not in replaced)
        tensors = {name: convert(value, self.plan.rest_dtype) for name, value in rest.items()}
        for name, matrix in matrices.items():
            packed = matrix.tensors()
            tensors |= {f"{prefix}{name}.{key}": value.cpu() for key, value in packed.items()}
        with replacing(self.block_file(index)) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)

    def _say(self, index: int, layers: Mapping[str, Any], seconds: float) -> None:
        """Say where the job is."""
        worst = max((facts["relative_error"] for facts in layers.values()), default=0.0)
        damp = max((facts["damp"] for facts in layers.values()), default=0.0)
        if self.team.is_main:
            self.announce(
                f"block {index + 1}/{self.count}  error {worst:.5f}  damp {damp:g}  "
                f"{seconds:.1f} s  {peak_bytes() / 1e9:.2f} GB"
            )

    def remove(self) -> None:
        """Remove the state once the result is written."""
        if self.team.is_main:
            shutil.rmtree(self.work)
        self.team.wait()


def tensor_digest(values: Tensor) -> str:
    """Return the SHA-256 of a tensor's numbers."""
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def convert(value: Tensor, dtype: str | None) -> Tensor:
    """Return a float tensor in the type of that name; None and integers stay as they are."""
    return value.to(getattr(torch, dtype)) if dtype and value.is_floating_point() else value


def _facts(matrix: QuantizedMatrix) -> dict[str, Any]:
    report = matrix.report
    assert report is not None
    return {
        "relative_error": report.relative_error,
        "damp": report.damp,
        "seconds": round(report.seconds, 3),
        "notes": list(report.fallbacks),
        "options": matrix.options.to_dict(),
        "shape": list(matrix.shape),
        "bits": matrix.bits,
    }


def _difference(there: Any, here: Any, where: str = "") -> str:
    """Return the first difference of two fingerprints in words, or ""."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(set(there) | set(here)):
            part = f"{where}.{key}" if where else key
            if text := _difference(there.get(key), here.get(key), part):
                return text
        return ""
    return "" if there == here else f"{where} was {there!r} and is {here!r}"
