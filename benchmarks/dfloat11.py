"""Claim: bf16 weights take at most 72 % of their bytes without loss, and decode at a copy's pace.

SmolLM2-135M-Instruct in bf16: the bytes of its file, every bit of every tensor, and the decoding of
the seven matrices of one block against eight copies of them (medians of alternated runs; the claim
is at most 1.5 times). Run: python -m benchmarks.dfloat11 --model DIR --work DIR
"""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.common import alternate, ratio, report
from zoo.quantization import entropy
from zoo.quantization.coded import CodedWeight
from zoo.quantization.language.lossless import compress_lossless
from zoo.quantization.language.opening import load

BLOCK, COPIES, BAR, SHARE = "model.layers.14.", 8, 1.5, 0.72


def timed(layers: Mapping[str, CodedWeight], runs: int) -> dict[str, float]:
    """Return how long decoding some layers takes, over copying them `COPIES` times."""
    block = [(layer.stored(), layer.shape) for layer in layers.values()]
    floats = [entropy.decode(*each) for each in block]
    targets = [torch.empty_like(value) for value in floats]

    def decode() -> None:
        for each in block:
            entropy.decode(*each)

    def copy() -> None:
        for _ in range(COPIES):
            for target, value in zip(targets, floats, strict=True):
                target.copy_(value)

    return ratio(alternate({"decode": decode, "copy": copy}, runs, 3), "decode", "copy")


def main() -> None:
    """Make the folder, compare bits, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    plain, coded = args.work / "bf16", args.work / "dfloat11"
    shutil.rmtree(coded, ignore_errors=True)
    before = load(args.model, dtype=torch.bfloat16)
    before.save_pretrained(plain)
    facts = compress_lossless(plain, coded)
    after = load(coded)
    layers = {n: m for n, m in after.named_modules() if isinstance(m, CodedWeight)}
    equal = all(
        torch.equal(before.get_submodule(n).weight.view(torch.int16), m.exact().view(torch.int16))
        for n, m in layers.items()
    )
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (plain, coded)]
    found = timed({n: m for n, m in layers.items() if n.startswith(BLOCK)}, args.runs)
    share = sizes[1] / sizes[0]
    report(
        "dfloat11",
        args.threads,
        {
            "bytes_bf16": sizes[0],
            "bytes_coded": sizes[1],
            "share": share,
            "bits_per_weight": facts["bits_per_weight"],
            "seconds_to_make": facts["seconds"],
            "every_bit_equal": equal,
            "decode_over_8_copies": found,
        },
        [
            ["file", "bits per weight", "decode / 8 copies"],
            [f"{share:.3f}", f"{facts['bits_per_weight']:.3f}", f"{found['median']:.3f}"],
        ],
    )
    shutil.rmtree(plain)
    shutil.rmtree(coded)
    if not equal or share > SHARE or found["median"] > BAR:
        raise SystemExit("claim not met")


if __name__ == "__main__":
    main()
