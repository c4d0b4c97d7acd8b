"""Looks as patches of an int8 file: accuracy, bytes per switch, and its cost on a device.

    python -m benchmarks.adapters_patch RUN --data CALIBRATION --photos HELD_OUT [--pictures 8]

RUN is a folder of `zoo adapter joint looks`; ranges are learned from CALIBRATION. PSNR is against
each look's filter on the middle 240 x 240 pixels of the photographs of HELD_OUT, and again
("lost there") on the pictures of CALIBRATION that chose the checkpoint, if it was trained on that
folder. "own scales" are chosen for that look alone, as in a file of its own. Goal: int8 in the
common scales at most 1 dB below float for each look.
"""

import argparse
import copy
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import report
from zoo.adapters import SparseAdapter
from zoo.adapters.joint import ADAPTERS
from zoo.cost.switching import switch_cost
from zoo.cost.target import target
from zoo.data import filters
from zoo.deploy.family import Family, label_of
from zoo.deploy.patch import PatchedFile
from zoo.deploy.vela import compile_file
from zoo.graph.ir import Graph
from zoo.quantization.int8.post_training import quantize
from zoo.registry.checkpoint import Checkpoint
from zoo.runtime.values import channels_first, computed
from zoo.tasks import picture
from zoo.tasks.picture.material import rgb, unit
from zoo.tasks.picture.restyling import to_tensor

GOAL_DB, SIDE, DEVICE = 1.0, 240, "ethos-u55-256"
SHAPE = (1, 6, SIDE, SIDE)
MIXES = (("film", "night"), ("oil", "night"), ("film", "pencil"), ("cartoon", "night"))
Strengths = Mapping[str, float]


def psnr(output: Tensor, wanted: Tensor) -> float:
    """Return the PSNR in dB of colours in [0, 1]."""
    return float(-10 * math.log10(float((output - wanted).double().square().mean())))


def middles(paths: Iterable[Path], count: int) -> list[Any]:
    """Return the middle of each photograph, (240, 240, 3) in [0, 1], on a period of the texture."""
    found: list[Any] = []
    for path in sorted(paths):
        if path.suffix.lower() in (".jpg", ".png") and len(found) < count:
            pixels = rgb(path)
            top, left = ((n - SIDE) // 2 // filters.PERIOD * filters.PERIOD
                         for n in pixels.shape[:2])  # fmt: skip
            if min(top, left) >= 0:
                found.append(unit(pixels[top : top + SIDE, left : left + SIDE]))
    return found


def means(family: Family, strengths: Strengths, pictures: list[Any]) -> dict[str, float]:
    """Return mean PSNR in dB: float, int8 in the common scales, int8 in scales of its own."""
    shared: Graph = family.graph(strengths)
    with family.switcher.using(dict(strengths)):
        alone = copy.deepcopy(family.floating(family.state(strengths), SHAPE))
        own = quantize(family.live, family.calibration, SHAPE)
    by_filter = {name.removeprefix("looks-"): value for name, value in strengths.items()}
    rows = []
    for pixels in pictures:
        before = to_tensor((255 * pixels + 0.5).astype(np.uint8))
        target_there = filters.mixed(pixels, by_filter).transpose(2, 0, 1)
        wanted, x = torch.from_numpy(target_there.copy())[None], picture.with_texture(before)
        made = [channels_first(computed(graph, x)[0]) for graph in (alone, shared, own)]
        rows.append([*(psnr(y, wanted) for y in made), psnr(made[1], made[0])])
    keys = ("float_db", "int8_db", "own_int8_db", "int8_against_float_db")
    return dict(zip(keys, map(float, np.mean(rows, 0)), strict=True))


def cut_off(family: Family, strengths: Strengths) -> int:
    """Return how many weights and slopes of a mixture lie beyond the common scales."""
    values = family.floating(family.state(strengths), SHAPE).values
    tensors, count = family.base.tensors, 0
    for name, value in values.items():
        meaning = tensors[name].quantization
        if tensors[name].kind not in ("weight", "slope") or meaning is None:
            continue
        scales = np.asarray(meaning.scales).reshape(-1, *(1,) * (value.ndim - 1))
        count += int((np.abs(value) > 127.5 * scales).sum())
    return count


def one(
    family: Family, file: PatchedFile, strengths: Strengths, pictures: Any, others: Any
) -> dict[str, Any]:
    """Return all about one state; check that its patch is the file of that state."""
    patch, device = family.patch(strengths), target(DEVICE)
    file.apply(patch)
    content = bytes(file.content)
    same = content == family.file(strengths)
    file.restore()
    restored = bytes(file.content) == family.content
    if not (same and restored):
        raise SystemExit(f"{patch.label}: same file {same}, restored {restored}")
    size = len(patch.serialized())
    weights = sum(t.bytes() for t in family.base.tensors.values() if t.is_parameter)
    compiled = compile_file(content, DEVICE)
    facts: dict[str, Any] = {
        **means(family, strengths, pictures),
        "integers": patch.count,
        "written_bytes": patch.written_bytes,
        "patch_bytes": size,
        "cut_off": cut_off(family, strengths),
        "switch": switch_cost(
            device, patch_bytes=size, integers=patch.count, weight_bytes=weights
        ).to_json(),
        "vela_cpu_operators": len(compiled.cpu_ops),
        "vela_encoded_bytes": compiled.encoded_bytes,
    }
    facts["lost_db"] = facts["float_db"] - facts["int8_db"]
    if others:
        again = means(family, strengths, others)
        facts["chosen_on"] = again | {"lost_db": again["float_db"] - again["int8_db"]}
    return facts


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = Checkpoint.read(args.run)
    folders = sorted((args.run / ADAPTERS).iterdir())
    adapters = {folder.name: SparseAdapter.load(folder) for folder in folders}
    inputs = picture.calibration(checkpoint.recipe, args.data)
    family = Family(checkpoint.load(), adapters, inputs, SHAPE, npu=True)
    pictures, file = middles(args.photos.iterdir(), args.pictures), PatchedFile(family.content)
    chosen_on = [args.data / name for name in checkpoint.config["data"]["held_out"]]
    others = middles((path for path in chosen_on if path.is_file()), args.pictures)
    states: list[dict[str, float]] = [{}, *({name: 1.0} for name in adapters)]
    states += [{f"looks-{name}": 1.0 for name in names} for names in MIXES]
    states += [{"looks-pencil": 0.5}]
    scores = ["float dB", "int8", "lost", "own scales", "lost there"]
    rows = [["look", *scores, "integers", "written B", "file B", "switch us, est.", "cut off"]]
    result: dict[str, Any] = {}
    for strengths in states:
        name = label_of(strengths) or "base"
        facts = result[name] = one(family, file, strengths, pictures, others)
        psnrs = [f"{facts[k]:.2f}" for k in ("float_db", "int8_db", "lost_db", "own_int8_db")]
        sizes = [f"{facts[k]:,}" for k in ("integers", "written_bytes", "patch_bytes")]
        switch = f"{facts['switch']['switch_us']:.0f}"
        there = f"{facts['chosen_on']['lost_db']:.2f}" if others else ""
        rows.append([name, *psnrs, there, *sizes, switch, str(facts["cut_off"])])
    measured = [result[name] for name in adapters]
    measured += [facts["chosen_on"] for facts in measured if others]
    worst = max(facts["lost_db"] for facts in measured)
    verdict = "met" if worst <= GOAL_DB else "MISSED"
    rows.append(["worst look", "", "", f"{worst:.2f} {verdict}", *[""] * 7])
    weights = checkpoint.config["files"]["model.safetensors"]["sha256"]
    facts = {
        "weights_sha256": weights, "trained_on": dict(checkpoint.config["data"]),
        "calibration": args.data.resolve().name, "pictures": len(pictures), "side": SIDE,
        "pictures_chosen_on": len(others),
        "device": DEVICE, "file_bytes": len(family.content), "goal_db": GOAL_DB,
        "worst_lost_db": worst, "states": result,
    }  # fmt: skip
    report("adapters_patch", 1, facts, rows)


if __name__ == "__main__":
    main()
