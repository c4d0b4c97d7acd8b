"""Claim: clustered TPE reaches random search's result for bits in a third of the evaluations.

Bits {2, 3, 4, 6, 8} of every layer within the storage of 4 bits for all, weights rounded without
training, judged by the divergence from the float network on half of the inputs, and once more on
the other half. Two networks: micronet-kws-s (12 layers) on recorded digits, and a language model of
260,000 parameters (35 layers) on text that it wrote itself. Five seeds, 60 evaluations of each
search. Beside them, without a search: the shared allocator and the same bits for all.
Run: python -m benchmarks.search_bits --digits DIR --stories stories260K.bin
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks.common import RESULTS, report
from benchmarks.stories import story_model
from zoo.nas.bits import ways
from zoo.nas.bits.problem import BitProblem, Inputs
from zoo.quantization.language import mixed
from zoo.quantization.language.finetune import logits_of
from zoo.quantization.options import LayerOptions
from zoo.tasks import calibration

TRIALS, SEEDS, BUDGET, GROUP = 60, 5, 4.0, 64


def digits(folder: Path) -> tuple[BitProblem, None]:
    """Return the problem of a network that hears digits."""
    source = zoo.checkpoint("micronet-kws-s.fsdd")
    batches = calibration(source.recipe, folder)
    inputs = Inputs.halves([batch[::2] for batch in batches])
    return BitProblem(source.load().eval(), inputs, BUDGET), None


def stories(file: Path) -> tuple[BitProblem, Any]:
    """Return the problem of a small language model, and the allocator's prices of its layers."""
    model = story_model(file)
    torch.manual_seed(0)
    begun = torch.ones(16, 1, dtype=torch.long)
    ids = model.generate(
        begun, attention_mask=torch.ones_like(begun), do_sample=True, top_k=0, max_length=96,
        min_length=96, pad_token_id=0,
    )  # fmt: skip
    inputs = Inputs.halves([ids])
    names = [n for n, _ in model.named_modules() if n.endswith("_proj")]
    problem = BitProblem(
        model, inputs, BUDGET, names=names, group=GROUP,
        call=lambda network, batch: logits_of(network, batch).flatten(0, -2),
    )  # fmt: skip
    layers: dict[str, Any] = {name: model.get_submodule(name) for name in names}
    offered = [LayerOptions(method="rtn", bits=b, group_size=GROUP) for b in problem.bits]
    return problem, mixed.priced(model, layers, torch.cat(list(inputs.searched)), offered)


def course(problem: BitProblem, way: str, seed: int) -> dict[str, Any]:
    """Return the best loss after each evaluation of a search, and the held-out loss of the last."""
    trials = ways.searched(problem, way, trials=TRIALS, seed=seed)
    best, kept = float("inf"), []
    for trial in trials:
        best = min(best, -trial.merit)
        kept.append(best)
    choice = max(trials, key=lambda t: (t.merit, -t.number)).choice
    return {"best": kept, "held_out": problem.loss(choice, held_out=True)}


def network(problem: BitProblem, prices: Any) -> dict[str, Any]:
    """Return the courses of every search, and what needs none."""
    found: dict[str, Any] = {"layers": len(problem.weights), "without": {}}
    plain = {"alone": problem.alone(), **({} if prices is None else {"gradients": prices})}
    choices = {f"allocate, {name}": problem.allocated(price) for name, price in plain.items()}
    for name, choice in {**choices, "uniform": problem.uniform()}.items():
        found["without"][name] = {
            "loss": problem.loss(choice), "held_out": problem.loss(choice, held_out=True),
            "bits_per_weight": problem.stored(choice) / problem.count,
        }  # fmt: skip
    found["searches"] = {
        way: [course(problem, way, seed) for seed in range(SEEDS)] for way in ways.SEARCHED
    }
    return found


def needed(course: Sequence[float], goal: float) -> int | None:
    """Return after how many evaluations a mean course is no worse than a goal; None if never."""
    return next((n for n, loss in enumerate(course, 1) if loss <= goal), None)


def main() -> None:
    """Search, print the table, say whether the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--stories", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = {"micronet-kws-s": digits(args.digits), "stories260k": stories(args.stories)}
    result = {name: network(*problem) for name, problem in made.items()}
    lines = [["network", "way", "loss", "held out", "evaluations to random's loss"]]
    failed = []
    for name, found in result.items():
        means = {
            way: [statistics.mean(c) for c in zip(*(s["best"] for s in seeds), strict=True)]
            for way, seeds in found["searches"].items()
        }
        for way, row in found["without"].items():
            lines.append([name, way, f"{row['loss']:.5f}", f"{row['held_out']:.5f}", "-"])
        for way, mean in means.items():
            held = statistics.mean(seed["held_out"] for seed in found["searches"][way])
            count = needed(mean, means["random"][-1])
            lines.append([name, way, f"{mean[-1]:.5f}", f"{held:.5f}", str(count or "never")])
            if way == "clustered" and not (count and count <= TRIALS // 3):
                failed.append(f"{name}: {count or 'never'} of {TRIALS}")
            if way == "clustered" and mean[-1] > means["tpe"][-1]:
                failed.append(f"{name}: behind TPE's one threshold")
    report("search_bits", 1, {"trials": TRIALS, "networks": result}, lines)
    if failed:
        raise SystemExit(f"claim not met: {'; '.join(failed)} (see {RESULTS.name})")


if __name__ == "__main__":
    main()
