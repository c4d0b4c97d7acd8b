"""Claim: training the weights from the post-training start lowers the loss on held-out text.

A small language model whose linear layers are rounded to nearest, then tuned towards the float
model's predictions on text that the float model wrote: scales and norms alone, and the weights too
(quantization-aware training, straight through the rounding). The loss is that of other text it
wrote, in nats per token; three seeds draw the training text. Made for stories260K, the TinyStories
model of 260 thousand parameters. Run: python -m benchmarks.low_bits_training --model DIR
"""

import argparse
import copy
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import report
from zoo.quantization.core import QuantizedMatrix, quantize_matrix
from zoo.quantization.language import blocks
from zoo.quantization.language.finetune import FinetuneOptions, finetune, logits_of
from zoo.quantization.language.opening import load
from zoo.quantization.options import LayerOptions

FORMATS: dict[str, dict[str, Any]] = {
    "ternary": {"grid": "ternary", "group_size": None},
    "posit4": {"grid": "posit4"},
    "nf4": {"grid": "nf4"},
    "mxfp4": {"grid": "mxfp4"},
}
SEEDS, STEPS, LENGTH, WINDOWS, RATE = (0, 1, 2), 80, 128, 48, 0.003


@torch.no_grad()
def written(model: Any, count: int, seed: int) -> Tensor:
    """Return windows (count, LENGTH) of tokens that the model draws, each from its first token."""
    dice = torch.Generator().manual_seed(seed)
    ids = torch.full((count, 1), model.config.bos_token_id)
    for _ in range(LENGTH - 1):
        odds = logits_of(model, ids)[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(odds, 1, generator=dice)], 1)
    return ids


@torch.no_grad()
def loss(model: Any, ids: Tensor) -> float:
    """Return the loss of windows, in nats per token."""
    logits = logits_of(model, ids)[:, :-1]
    return float(F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


def with_weights(
    model: Any, matrices: dict[str, QuantizedMatrix], others: dict[str, Tensor]
) -> Any:
    """Return a copy of the model with these weights."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for name, matrix in matrices.items():
            made.get_parameter(f"{name}.weight").copy_(matrix.dequantize())
        for name, value in others.items():
            made.get_parameter(name).copy_(value)
    return made


def measure(model: Any, name: str, drawn: dict[int, Tensor], held: Tensor) -> dict[str, Any]:
    """Return the losses of one format, per seed where it is trained."""
    prefix, _ = blocks.find_blocks(model)
    options = LayerOptions(method="rtn", **FORMATS[name])
    matrices = {
        layer: quantize_matrix(module.weight.detach(), None, options)
        for layer, module in blocks.linears(model).items()
        if layer.startswith(f"{prefix}.")
    }
    bits = sum(matrix.bits for matrix in matrices.values())
    count = sum(matrix.shape[0] * matrix.shape[1] for matrix in matrices.values())
    found: dict[str, Any] = {
        "bits_per_weight": bits / count,
        "rounded": loss(with_weights(model, matrices, {}), held),
    }
    for way, rate in (("scales", 0.0), ("weights", RATE)):
        losses = []
        for seed in SEEDS:
            how = FinetuneOptions(
                steps=STEPS, batch=2, weights=rate, dtype="float32", seed=seed, lr=0.005
            )
            tuned = finetune(model, matrices, drawn[seed], how)
            losses.append(loss(with_weights(model, tuned.matrices, tuned.tensors), held))
        found[way] = losses
    return found


def main() -> None:
    """Measure every format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load(args.model, dtype=torch.float32)
    held = written(model, 64, 1000)
    base = loss(model, held)
    drawn = {seed: written(model, WINDOWS + 2, seed + 1) for seed in SEEDS}
    rows = {name: measure(model, name, drawn, held) for name in FORMATS}
    table = [["format", "bits", "rounded", "scales tuned", "weights trained"]]
    table += [["float", "32", f"{base:.4f}", "", ""]]
    table += [
        [name, f"{row['bits_per_weight']:.3f}", f"{row['rounded']:.4f}",
         *(f"{statistics.mean(row[way]):.4f} ({min(row[way]):.4f} to {max(row[way]):.4f})"
           for way in ("scales", "weights"))]
        for name, row in rows.items()
    ]  # fmt: skip
    report("low_bits_training", 1, {"float": base, "rows": rows}, table)
    lost = [name for name, row in rows.items() if max(row["weights"]) >= row["rounded"]]
    if lost:
        raise SystemExit(f"claim not met: training loses for {lost}")


if __name__ == "__main__":
    main()
