"""Claim: packed at 2D 3 bit, a language model writes at least as fast as in bf16, in a fifth.

The model in --model, batch 1, greedy, with its key-value cache: in bfloat16 and in float32 through
transformers, packed with the rest in bfloat16 (weights decoded where they are multiplied, at every
step), also with embedding and head in 8 bits, and packed with the decoded weights kept. Codes are
drawn at random: the time does not depend on their values. In turn, medians. With --llama, an
interpreter with llama-cpp-python, and --gguf, a GGUF file of the model, llama.cpp takes its turn on
the same threads.
Run: python -m benchmarks.gptvq_decode --model DIR [--llama PYTHON --gguf FILE]
"""

import argparse
import statistics
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import report
from zoo.quantization.embeddings import pack as pack_rows
from zoo.quantization.embeddings import quantize_rows
from zoo.quantization.kernels.matvec import library
from zoo.quantization.language import blocks
from zoo.quantization.language.opening import load
from zoo.quantization.language.speed import tokens_per_second
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear, set_cache

OPTIONS = LayerOptions(bits=3, dim=2, group_size=8192)
LLAMA = """
import statistics, sys, time
from llama_cpp import Llama

file, tokens, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = Llama(file, n_ctx=256, n_threads=threads, n_threads_batch=threads, verbose=False)
model.eval(list(range(1, 9)))
times = []
for _ in range(tokens + 1):
    start = time.perf_counter()
    model.eval([42])
    times.append(time.perf_counter() - start)
print(1 / statistics.median(times[1:]))
"""


def packed(
    folder: Path, options: LayerOptions = OPTIONS, *, rows: bool = False
) -> tuple[Any, int, int]:
    """Return the model with packed layers, their bytes, and the bytes that stay in memory.

    With `rows`, embedding and head are packed in 8 bits as well, and count nowhere.
    """
    model = load(folder, dtype=torch.bfloat16)
    name, found = blocks.find_blocks(model)
    random = torch.Generator().manual_seed(0)
    stored = 0
    for inner, layer in list(blocks.linears(found).items()):
        codes = PackedLinear(layer.in_features, layer.out_features, options)
        codes.codes.random_(0, 256, generator=random)
        codes.codebook.random_(-127, 128, generator=random)
        codes.codebook_scale.copy_(
            torch.full_like(codes.codebook_scale, 2.4e-4, dtype=torch.half).view(torch.int16)
        )
        stored += sum(t.numel() * t.element_size() for t in codes.stored().values())
        model.set_submodule(f"{name}.{inner}", codes)
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    resident = sum(
        value.untyped_storage().nbytes()
        for layer in layers
        for value in vars(layer)["_buffers"].values()
    )
    if rows:
        stored_rows = quantize_rows(model.get_input_embeddings().weight)
        pack_rows(model, tied=True)
        model.get_input_embeddings().load_state_dict(stored_rows, assign=True)
        model.get_input_embeddings().like = torch.empty(0, dtype=torch.bfloat16)
    return model, stored, resident


def llama(args: argparse.Namespace) -> float:
    """Return the tokens per second of llama.cpp."""
    words = [str(w) for w in (args.llama, "-c", LLAMA, args.gguf, args.tokens, args.threads)]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(answer.stdout.split()[-1])


def main() -> None:
    """Time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4, help="timed per round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--llama", type=Path, help="an interpreter that has llama-cpp-python")
    parser.add_argument("--gguf", type=Path, help="the model's file for llama.cpp")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours, stored, resident = packed(args.model)
    theirs: dict[str, nn.Module] = {
        "packed, embeddings in 8 bits": packed(args.model, rows=True)[0],
        "bfloat16": load(args.model, dtype=torch.bfloat16),
        "float32": load(args.model, dtype=torch.float32),
    }
    speeds: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name, model in theirs.items():
            speeds.setdefault(name, []).append(tokens_per_second(model, tokens=args.tokens))
        for cache in ("none", "decoded"):
            set_cache(ours, cache)
            speeds.setdefault(f"packed, cache {cache}", []).append(
                tokens_per_second(ours, tokens=args.tokens)
            )
        set_cache(ours, "none")
        if args.llama and args.gguf:
            speeds.setdefault(f"llama.cpp, {args.gguf.name}", []).append(llama(args))
    if not (args.llama and args.gguf):
        print("llama.cpp: skipped, no --llama PYTHON and --gguf FILE given")
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    best = middle["packed, cache none"] / middle["bfloat16"]
    rows8 = middle["packed, embeddings in 8 bits"] / middle["bfloat16"]
    rows = [
        ["packed / bfloat16", f"{best:.2f}x", "tokens per second"],
        ["packed, embeddings in 8 bits / bfloat16", f"{rows8:.2f}x", ""],
        ["packed / float32", f"{middle['packed, cache none'] / middle['float32']:.2f}x", ""],
        ["resident / packed bytes", f"{resident / stored:.3f}x", f"{stored:,} bytes packed"],
    ]
    rows += [[name, f"{value:.2f}", "tokens per second"] for name, value in middle.items()]
    sizes = {"packed_bytes": stored, "resident_bytes": resident}
    if args.gguf:
        sizes["gguf_bytes"] = args.gguf.stat().st_size
    result = {"tokens_per_s": speeds, "kernel": library() is not None, **sizes}
    report("gptvq_decode", args.threads, result, rows)
    if best < 1 or resident > 1.3 * stored:
        raise SystemExit("claim not met: expected the speed of bfloat16, and 1.3x the bytes")


if __name__ == "__main__":
    main()
