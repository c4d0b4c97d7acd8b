"""Size of an adapter's file and time to load it: ours, peft's SHiRA, peft's LoRA r32.

    python -m benchmarks.adapters_files [--size 154M] [--runs 5]

The adapters change 1 % of a bf16 model. Goals: a file of at most 0.27 times peft's SHiRA (0.18
with a mask that is stored once for several adapters), and loading no slower than LoRA's. Loading
ends with a model that computes with the adapter: fused by us, checks included; next to the base's
weights by peft.
"""

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import adapters_common as common
from benchmarks.adapters_switch import SIZES
from benchmarks.common import alternate, ratio, report
from zoo.adapters import SparseAdapter, Switcher

GOALS = {"ours, bf16": 0.27, "ours, bf16, shared mask": 0.18}


def sizes(
    folder: Path, adapter: SparseAdapter, blocks: SparseAdapter, peft: dict[str, Path]
) -> dict[str, int]:
    """Write every form; return bytes."""
    small = adapter.cast(torch.bfloat16)
    found = {name: common.file_bytes(path) for name, path in peft.items()}
    found["ours, fp32"] = adapter.save(folder / "fp32").stat().st_size
    found["ours, bf16"] = small.save(folder / "bf16").stat().st_size
    shared = small.save(folder / "shared", shared_mask=True)
    found["ours, bf16, shared mask"] = shared.stat().st_size
    found["ours, bf16, block mask"] = blocks.cast(torch.bfloat16).save(folder / "b").stat().st_size
    return found


def exported(folder: Path, shape: tuple[int, int, int], rank: int) -> dict[str, Path]:
    """Let peft write its SHiRA (of the same budget) and LoRA r32."""
    found = {}
    for name, kind, r in (("peft SHiRA", "shira", rank), ("peft LoRA r32", "lora", 32)):
        wrapped = common.with_peft(common.llama(*shape, torch.bfloat16), kind, r)
        wrapped.unmerge_adapter()
        wrapped.save_pretrained(folder / kind, selected_adapters=["a"])
        found[name] = folder / kind / "a"
    return found


def loaders(
    shape: tuple[int, int, int], peft: dict[str, Path], file: Path
) -> dict[str, Callable[[], Any]]:
    """Return what loads each from its file, and takes it out again, untimed where that counts."""
    from peft import PeftModel

    def by_peft(path: Path) -> Callable[[], Any]:
        model: list[Any] = [common.llama(*shape, torch.bfloat16)]

        def load() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wrapped = PeftModel.from_pretrained(model[0], path)
            model[0] = wrapped.unload()  # a few milliseconds: modules are put back

        return load

    model = common.llama(*shape, torch.bfloat16)

    def ours() -> None:
        switcher = Switcher(model)
        switcher.register("a", file)
        switcher.activate("a")
        switcher.close()

    return {"ours, bf16": ours} | {name: by_peft(path) for name, path in peft.items()}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="154M")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = SIZES[args.size]
    model = common.llama(*shape, torch.bfloat16)
    weights = common.targets(model).values()
    rank = max(
        round(0.01 * sum(p.numel() for p in weights) / sum(sum(p.shape) for p in weights)), 1
    )
    budget = rank * sum(sum(p.shape) for p in weights)
    density = budget / sum(p.numel() for p in weights)
    adapter = common.sparse(model, density, 0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        peft = exported(folder, shape, rank)
        found = sizes(folder, adapter, common.sparse(model, density, 0, block=32), peft)
        times = alternate(
            loaders(shape, peft, folder / "bf16/sparse_adapter.safetensors"), args.runs
        )
    rows = [["file", "bytes", "of peft SHiRA", "a changed weight", "goal", "load s", "of LoRA r32"]]
    loads = {name: ratio(times, name, "peft LoRA r32") for name in times}
    for name, size in found.items():
        share = size / found["peft SHiRA"]
        goal = GOALS.get(name)
        verdict = "" if goal is None else f"{goal} {'met' if share <= goal else 'MISSED'}"
        each = "" if name == "peft LoRA r32" else f"{size / adapter.nnz:.2f} B"
        load = ["", ""]
        if name in times:
            load = [f"{statistics.median(times[name]):.3f}", f"{loads[name]['median']:.2f}x"]
        rows.append([name, f"{size:,}", f"{share:.3f}x", each, verdict, *load])
    result = {
        "parameters": sum(p.numel() for p in weights), "nnz": adapter.nnz, "peft_shira_nnz": budget,
        "bytes": found, "load_seconds": times, "load_ratio_to_lora": loads, "goals": GOALS,
    }  # fmt: skip
    report("adapters_files", 1, result, rows)


if __name__ == "__main__":
    main()
