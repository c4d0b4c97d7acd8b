"""The verb that shares bits out between the layers of a trained network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.resolution import Ref, checkpoint, resolve
from zoo.errors import MismatchError, UnknownNameError

if TYPE_CHECKING:
    from zoo.nas.bits.problem import BitProblem
    from zoo.nas.bits.ways import BitRow, Prices
    from zoo.registry.artifact import Artifact

FILE = "bits.json"
GROUP = 64  # columns of a language model's layers that share a scale
CHOICES = (2, 3, 4, 6, 8)
INPUTS, BATCH = 256, 64  # of a network; half of them are held out


@dataclass(frozen=True)
class Shares:
    """How bits were shared out.

    Attributes:
        path: the file with the bits of each layer.
        chosen: what was written, see `zoo.nas.bits.ways.BitRow`.
        ways: what every way found, `chosen` among them.
        unit: of the losses.

    """

    path: Path
    chosen: "BitRow"
    ways: "list[BitRow]"
    unit: str

    @property
    def rows(self) -> list[list[str]]:
        """Every way as a table, the header first."""
        table = [["WAY", "BITS PER WEIGHT", "LOSS", "HELD OUT", "EVALUATIONS"]]
        for row in self.ways:
            numbers = f"{row.bits_per_weight:.4f}", f"{row.loss:.5g}", f"{row.held_out:.5g}"
            table.append([row.way, *numbers, str(row.evaluations)])
        return table

    @property
    def text(self) -> str:
        """The last line that the command prints."""
        best = min(self.ways, key=lambda row: row.held_out)
        line = f"{self.path}  {self.chosen.way}: {self.chosen.held_out:.5g} {self.unit} held out"
        if best.held_out < self.chosen.held_out:
            line += f"; {best.way} has {best.held_out:.5g} (--by {best.way})"
        return line

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return {
            "path": str(self.path),
            "by": self.chosen.way,
            "unit": self.unit,
            "layers": dict(self.chosen.choice),
            "ways": [row.to_json() for row in self.ways],
        }


def search_bits(
    ref: "Ref | Artifact",
    out: Ref,
    *,
    data: Ref,
    bits: float = 4.0,
    choices: Sequence[int] = CHOICES,
    by: str = "allocate",
    trials: int = 24,
    windows: int = 8,
    length: int = 256,
    seed: int = 0,
    resume: bool = False,
) -> Shares:
    """Share bits out between the layers of a trained network, and write them to `out`/bits.json.

    Each layer's weights are rounded without training. A choice is judged by how far the outputs are
    from the float network's on one half of the inputs, and once more on the other half. Every way
    is tried, so that each stands beside its opponents: the allocator that also shares out
    `zoo compress --budget` (from what each layer loses alone; of a language model, from its
    gradients), the same bits for all layers, random search, TPE, NSGA-II and TPE between clusters.

    Args:
        ref: a network of the zoo with float weights, or the folder of a language model.
        out: a folder, for the result and for the trials of the searches.
        data: inputs, as for `compress` by int8; for a language model a text.
        bits: the budget: as much storage as so many bits for every layer take, scales included.
        choices: bits that a layer may have.
        by: whose choice is written: "allocate", "uniform", "random", "tpe", "nsga2", "clustered".
        trials: of each search.
        windows: of a language model: how many windows of text are read, half of them held out.
        length: tokens of a window.
        seed: of the searches and of the windows.
        resume: go on with the searches in `out`.

    Returns:
        What every way reached, and the choice that was written.

    Raises:
        UnknownNameError: there is no such recipe or way.
        MismatchError: the budget is none for these bits, the weights are integers already, the data
            cannot be used, or `out` holds something else.

    ```python
    import zoo

    shares = zoo.search_bits(
        "sesr-m3-x2", "runs/sesr-bits", data="docs/samples/photos", choices=(3, 4, 8), trials=2
    )
    print(shares.chosen.choice)
    ```

    """
    from zoo.files import probe, write_json
    from zoo.nas.bits.ways import WAYS, compared

    if by not in WAYS:
        raise UnknownNameError.near("way", by, WAYS, f"known: {', '.join(WAYS)}")
    folder = Path(out).expanduser()
    if (folder / FILE).is_file() and not resume:
        raise MismatchError(f"{folder} holds a result; choose another --out, or add --resume")
    artifact = resolve(ref)
    how = {"budget": bits, "bits": choices}
    if _is_language_model(artifact):
        made = _of_language_model(artifact, data, windows, length, seed, how)
    else:
        made = _of_network(artifact, data, how)
    problem, prices, unit = made
    probe(folder)
    rows = compared(
        problem, trials=trials, seed=seed, prices=prices, folder=folder / "searches", resume=resume
    )
    chosen = next(row for row in rows if row.way == by)
    shares = Shares(folder / FILE, chosen, rows, unit)
    write_json(shares.path, {key: v for key, v in shares.to_json().items() if key != "path"})
    return shares


def _is_language_model(artifact: "Artifact") -> bool:
    from zoo.artifacts.files import LanguageModel

    return isinstance(artifact, LanguageModel)


def _of_network(
    artifact: "Artifact", data: Ref, how: dict[str, Any]
) -> "tuple[BitProblem, Prices | None, str]":
    from zoo.nas.bits.problem import BitProblem, Inputs, distance, divergence
    from zoo.tasks import calibration

    if artifact.recipe is None:
        raise MismatchError(
            f"{artifact.ref} is neither a network of the zoo nor the folder of a language model"
        )
    source = checkpoint(artifact)
    if source.quantization is not None or source.recipe.of_transformers:
        raise MismatchError(f"{artifact.ref} has few bits already; give its float weights")
    rows = [row for batch in calibration(source.recipe, Path(data).expanduser()) for row in batch]
    some = rows[:: -(-len(rows) // INPUTS)]
    inputs = Inputs.halves([row[None] for row in some], BATCH)
    labelled = bool(source.recipe.preprocessing.get("labels"))
    compare, unit = (divergence, "nats") if labelled else (distance, "of the outputs' energy")
    return BitProblem(source.load().eval(), inputs, compare=compare, **how), None, unit


def _of_language_model(
    artifact: "Artifact", data: Ref, windows: int, length: int, seed: int, how: dict[str, Any]
) -> "tuple[BitProblem, Prices | None, str]":
    import torch

    from zoo.data.text import read_text, tokenize
    from zoo.data.texts import text_file
    from zoo.nas.bits.problem import BitProblem, Inputs
    from zoo.quantization.language import blocks, calibration, mixed
    from zoo.quantization.language.finetune import logits_of
    from zoo.quantization.language.opening import load
    from zoo.quantization.language.source import Source
    from zoo.quantization.options import LayerOptions

    if windows < 2 or length < 2:
        raise MismatchError(f"windows {windows}, length {length}; expected 2 or more of both")
    folder = artifact.path
    _ = Source(folder).config  # refuses what is quantized already
    stream = tokenize(folder, read_text(text_file(data)))
    ids = calibration.windows(stream, count=windows, length=length, seed=seed)
    model = load(folder, dtype=torch.float32)
    prefix, _ = blocks.find_blocks(model)
    layers = {n: x for n, x in blocks.linears(model).items() if n.startswith(f"{prefix}.")}
    inputs = Inputs.halves(ids.split(1), 1)
    problem = BitProblem(
        model, inputs, names=list(layers), group=GROUP,
        call=lambda network, batch: logits_of(network, batch).flatten(0, -2), **how,
    )  # fmt: skip
    offered = [LayerOptions(method="rtn", bits=b, group_size=GROUP) for b in problem.bits]
    kept = {name: layers[name] for name in problem.weights}
    prices = mixed.priced(model, kept, torch.cat(list(inputs.searched)), offered, seed=seed)
    return problem, prices, "nats per token"
