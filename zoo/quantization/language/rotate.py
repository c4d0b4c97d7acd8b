"""A float model's weights rotated, written block by block before it is quantized.

The rotations of `zoo.quantization.language.incoherence` fold exactly: the model computes what it
did before, nothing is added at run time, and the file keeps its size unless a head is untied.

- `heads`: between the values of an attention head and the output projection. Query heads that
  share a value head share its rotation.
- `all`: the residual stream too. The gains of RMS norms move into the layers that read the
  stream; those that write to it, the embedding and the head are rotated. A head tied to the
  embedding absorbs the gain of the last norm and has to be stored separately: `all` refuses such
  models and says how many bytes that takes, `all-untied` takes them.

What reads and what writes is found by running each block, and each rotated block is compared
with the original on random hidden states before it is written.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.files import probe, read_json, replacing, write_json
from zoo.quantization.language import blocks
from zoo.quantization.language.incoherence import (
    attentions,
    generator,
    norms,
    orthogonal,
    rotate_heads,
    rotate_stream,
    unit_gain,
)
from zoo.quantization.language.source import CONFIG, INDEX, Source
from zoo.quantization.plan import ROTATIONS

STATE = "rotation.json"
TOKENS = 8  # length of the random hidden states that blocks are compared on
TOLERANCE = 1e-3  # limit of their difference, relative to the root mean square; float32 leaves 1e-5


class Rotation:
    """A model on disk, and how each of its parts is rotated.

    Args:
        source: the model.
        which: "heads", "all" or "all-untied".
        seed: seed of the rotations.

    Raises:
        MismatchError: the rotation does not fold into this model; the module is named.

    """

    def __init__(self, source: Source, which: str, seed: int) -> None:
        if which not in ROTATIONS:
            raise MismatchError(f"rotate is {which!r}; expected one of {', '.join(ROTATIONS)}")
        self.source, self.which, self.seed = source, which, seed
        self.model = source.skeleton()
        self.prefix, self.blocks = blocks.find_blocks(self.model)
        embedding = self.model.get_input_embeddings()
        self.width = int(embedding.weight.shape[1])
        names = {id(module): name for name, module in self.model.named_modules()}
        head = self.model.get_output_embeddings()
        self.embedding = f"{names[id(embedding)]}.weight"
        self.head = None if head is None else f"{names[id(head)]}.weight"
        self.tied = bool(self.model.config.tie_word_embeddings)
        self.stream = which != "heads"
        attentions(self.blocks[0], f"{self.prefix}.0")
        self.norm = self._last_norm() if self.stream else None
        self.calls = self._calls()
        self.turn = orthogonal(self.width, generator(seed, "residual stream"))

    def _last_norm(self) -> str:
        """Return the name of the norm after the blocks, once everything outside them is known."""
        if self.tied and self.which != "all-untied":
            values = self.source.tensors([self.embedding])[self.embedding]
            raise MismatchError(
                f"{self.source.folder} has its head tied to its embedding, which the rotation of "
                f"the residual stream unties: {values.numel() * values.element_size():,} bytes "
                "more in the file; take --rotate heads, or --rotate all-untied"
            )
        outside = {
            name: module
            for name, module in norms(self.model, self.width).items()
            if not name.startswith(f"{self.prefix}.")
        }
        for name, module in outside.items():
            unit_gain(module, name)
        known = {self.embedding, self.head, *(f"{name}.weight" for name in outside)}
        others = [
            name
            for name, _ in self.model.named_parameters()
            if name not in known and not name.startswith(f"{self.prefix}.")
            and name != f"{(self.head or '').removesuffix('weight')}bias"
        ]  # fmt: skip
        if others or len(outside) != 1 or self.head is None:
            culprit = (others or [*outside, "the model"])[-1]
            raise MismatchError(
                f"{culprit}: {type(self.model).__name__} has more around its blocks than an "
                "embedding, one RMS norm and a head, so that the rotation of the residual stream "
                "does not fold: take --rotate heads"
            )
        return next(iter(outside))

    def _calls(self) -> list[blocks.BlockCall]:
        """Return how the model calls its blocks, without keeping its embedding in memory."""
        hidden = self._random()
        embedding = iter([self.model.get_input_embeddings()])
        ids = torch.zeros(1, TOKENS, dtype=torch.long)
        with torch.no_grad(), blocks.replaced_forward(embedding, lambda _: lambda *_: hidden):
            return blocks.record_calls(self.model, self.blocks, ids)

    def _random(self) -> Tensor:
        return torch.randn(1, TOKENS, self.width, generator=generator(0, "hidden states"))

    @torch.no_grad()
    def block(self, index: int) -> dict[str, Tensor]:
        """Return all tensors of a block, rotated, in their stored types.

        Raises:
            MismatchError: the rotated block computes something else, or its weights are damaged.

        """
        where = f"{self.prefix}.{index}"
        block = copy.deepcopy(self.blocks[index])  # a copy of meta tensors costs nothing
        self.source.fill(block, f"{where}.", torch.float32, "cpu")
        for name, value in block.named_parameters():
            if not torch.isfinite(value).all():
                raise MismatchError(f"{where}.{name} holds NaN or infinity: the base is damaged")
        hidden = self._random()
        before = self.calls[index](block, hidden)
        rotate_heads(block, where, self.seed)
        after = hidden
        if self.stream:
            turn = self.turn.float()
            rotate_stream(block, where, self.turn, lambda: self.calls[index](block, hidden))
            before, after = before @ turn, hidden @ turn
        after = self.calls[index](block, after)
        off = float((after - before).abs().max() / before.square().mean().sqrt())
        if not off < TOLERANCE:
            raise MismatchError(
                f"{where} ({type(block).__name__}) gives other hidden states after the rotation "
                f"(off by {off:.1g}): it does more than this rotation folds into; "
                + ("take --rotate heads" if self.stream else "leave out --rotate")
            )
        return self.source.stored_as(block, f"{where}.")

    def before_blocks(self) -> dict[str, Tensor]:
        """Return the tensors outside the blocks, except the head."""
        names = [
            name
            for name in self.source.files
            if not name.startswith(f"{self.prefix}.") and not (self.stream and name == self.head)
        ]
        values = self.source.tensors(names)
        if self.stream:
            values[self.embedding] = _rotated_rows(values[self.embedding], self.turn)
            name = f"{self.norm}.weight"
            values[name] = torch.full_like(values[name], self._gain()[0])
        return values

    def head_rows(self) -> dict[str, Tensor]:
        """Return the head that reads the rotated stream, as a separate tensor."""
        assert self.head is not None
        name = self.embedding if self.tied else self.head
        rows = self.source.tensors([name])[name]
        return {self.head: _rotated_rows(rows, self._gain()[1].unsqueeze(1) * self.turn)}

    def _gain(self) -> tuple[float, Tensor]:
        assert self.norm is not None
        unit = unit_gain(self.model.get_submodule(self.norm), self.norm)
        weight = self.source.tensors([f"{self.norm}.weight"])[f"{self.norm}.weight"]
        return unit, weight.double() + (1 - unit)

    def parts(self) -> list[Callable[[], dict[str, Tensor]]]:
        """Return functions that make the tensors of each file, one in memory at a time."""
        every: list[Callable[[], dict[str, Tensor]]] = [self.before_blocks]
        every += [partial(self.block, index) for index in range(len(self.blocks))]
        return [*every, self.head_rows] if self.stream else every


def _rotated_rows(rows: Tensor, turn: Tensor) -> Tensor:
    """Return rows (n, width) times a matrix, in their type, without a copy in float64."""
    return torch.cat([(part.double() @ turn).to(rows.dtype) for part in rows.split(4096)])


def rotate_model(folder: Path, out: Path, which: str, *, seed: int = 0) -> None:
    """Write the model in `folder` to `out` with its weights rotated; it computes the same.

    One file per block is written, each when it is finished; repeat a call that was killed, and it
    continues with the missing files. The tensors keep their types.

    Args:
        folder: a model that transformers saved, in safetensors.
        out: a new folder, or the folder of a call that was killed.
        which: "heads", "all" or "all-untied": see the module.
        seed: seed of the rotations.

    Raises:
        MismatchError: the rotation does not fold into this model; `out` holds something else.
        MissingWeightsError, UnsafeFileError: see `Source`.

    """
    source = Source(folder)
    rotation = Rotation(source, which, seed)
    probe(out)
    key = {"rotate": which, "seed": seed, "model": source.facts()}
    if (out / STATE).is_file():
        _same(read_json(out / STATE), key, out)
    elif any(out.iterdir()):
        raise MismatchError(f"{out} holds something else; give a new folder")
    else:
        write_json(out / STATE, key)
    if not (out / CONFIG).is_file():
        with _kept(out):
            _write(rotation, out)


def _same(there: Mapping[str, Any], here: Mapping[str, Any], out: Path) -> None:
    for name, value in here.items():
        if there.get(name) != value:
            raise MismatchError(
                f"{out} holds another rotation: {name} was {there.get(name)!r} and is {value!r}; "
                "give what it was started with, or a new folder"
            )


@contextmanager
def _kept(out: Path) -> Iterator[None]:
    """If the disk is full, say that what is finished is kept."""
    try:
        yield
    except OSError as error:
        raise MismatchError(
            f"the rotated model could not be written: {error}. What is finished is kept in {out}: "
            "the same command continues"
        ) from error


def _write(rotation: Rotation, out: Path) -> None:
    """Write the files that are missing, then the index, and `config.json` last."""
    from safetensors.torch import save_file

    from zoo.quantization.language.shards import entries

    parts = rotation.parts()
    where: dict[str, str] = {}
    total = 0
    for number, make in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        if not (out / name).is_file():
            tensors = {key: value.contiguous() for key, value in make().items()}
            with replacing(out / name) as temporary:
                save_file(tensors, temporary, {"format": "pt"})
        for entry in entries(out / name):
            where[entry.name] = name
            total += entry.bytes
    write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    rotation.source.copy_companions(out)
    config = dict(rotation.source.raw_config)
    if rotation.stream:
        config["tie_word_embeddings"] = False
    write_json(out / CONFIG, config)
