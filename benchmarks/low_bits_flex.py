"""Claim: inputs of 8 bits cost at most 0.5 % of perplexity; a few layers at 16 bits, most of that.

SmolLM2-135M-Instruct, weights as they are, the inputs of its 210 linear layers rounded to 8 bits
with a scale per token and 64 columns: in none, in all, in all but the layers that `flex` keeps
within 5 % of the multiplications, and in all but as many layers of the last blocks. Sensitivities
from 4 windows of 512 tokens of the WikiText-2 validation text; perplexity on its test text and on
Shakespeare's plays, first 2 windows of 1024 tokens of each, float32.
Run: python -m benchmarks.low_bits_flex --model DIR --calibration TEXT --test TEXT --plays TEXT
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import report
from zoo.data.text import read_text, tokenize
from zoo.quantization.activations import rounded
from zoo.quantization.language import blocks, calibration
from zoo.quantization.language.flex import Activations, choose, losses
from zoo.quantization.language.opening import load
from zoo.tasks.text_generation.perplexity import perplexity

LENGTH, WINDOWS, SPAN = 1024, 2, 64
SHARES = (0.05,)
BAR = 1.005


@contextmanager
def inputs_of(model: nn.Module, kinds: Mapping[str, Activations]) -> Iterator[None]:
    """Round the inputs of the layers that are "int8" while the block lasts."""
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args: (rounded(args[0], SPAN, None),)
        )
        for name, kind in kinds.items()
        if kind == "int8"
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last(model: nn.Module, names: list[str], share: float) -> dict[str, Activations]:
    """Return the layers of the end at 16 bits, as far as a share of the weights allows."""
    sizes = {name: model.get_submodule(name).weight.numel() for name in names}
    left, kinds = share * sum(sizes.values()), dict[str, Activations]()
    for name in reversed(names):
        left -= sizes[name]
        kinds[name] = "float" if left >= 0 else "int8"
    return kinds


def main() -> None:
    """Measure every choice on both texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "calibration", "test", "plays"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model: Any = load(args.model, dtype=torch.float32)
    names = [name for name in blocks.linears(model) if name.startswith("model.layers.")]
    stream = tokenize(args.model, read_text(args.calibration))
    expected = losses(
        model, dict.fromkeys(names, SPAN), calibration.windows(stream, count=4, length=512, seed=0)
    )
    chosen: dict[str, Mapping[str, Activations]] = {
        "none": dict.fromkeys(names, "float"),
        "all": dict.fromkeys(names, "int8"),
        **{f"flex {share:.0%}": choose(model, expected, share) for share in SHARES},
        f"last {SHARES[0]:.0%}": last(model, names, SHARES[0]),
    }
    found: dict[str, dict[str, float]] = {name: {} for name in chosen}
    for text in ("test", "plays"):
        ids = tokenize(args.model, read_text(getattr(args, text)))
        for name, kinds in chosen.items():
            with inputs_of(model, kinds):
                score = perplexity(model, ids, length=LENGTH, windows=WINDOWS)
            found[name][text] = score["perplexity"]
            print(name, text, score["perplexity"], flush=True)
    lines = [["8 bits in", "at 16 bits", *("test", "plays"), "of exact, mean"]]
    ratio = {}
    for name, scores in found.items():
        ratio[name] = statistics.mean(scores[t] / found["none"][t] for t in scores)
        kept = str(sum(kind == "float" for kind in chosen[name].values()))
        numbers = (f"{scores[text]:.3f}" for text in scores)
        lines.append([name, kept, *numbers, f"{ratio[name]:.5f}"])
    kept_names = [name for name, kind in chosen["flex 5%"].items() if kind == "float"]
    result = {"expected": expected, "kept": kept_names, "perplexity": found}
    report("low_bits_flex", 1, result, lines)
    if ratio["all"] > BAR:
        raise SystemExit(f"claim not met: all inputs in 8 bits cost {ratio['all']:.5f}")
    if not ratio["flex 5%"] < ratio["all"]:
        raise SystemExit("claim not met: flex is no better than 8 bits everywhere")


if __name__ == "__main__":
    main()
