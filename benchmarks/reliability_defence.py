"""Claim: small super resolution defends a classifier as well as large, in three geometries.

Three classifiers of 32x32 pixels and three geometries: "sharp", pictures of 16x16 that the defence
enlarges to what the classifier was trained on; "down", pictures of 32x32 that are enlarged and
shrunk back; "soft", as sharp, but the classifier was tuned on pictures enlarged by bicubic. PGD on
the classifier alone, and for two rows through the pipeline (BPDA). Beside it, what pipelines of
five networks take on an Ethos-U55 by Vela, FSRCNN in both its forms.

Run: python -m benchmarks.reliability_defence --data CIFAR500 --runs DIR [--tune CIFAR]

CIFAR500 has a folder of pictures for each label, and so has CIFAR; without it "soft" is left out. A
killed run goes on where it was.
"""

import argparse
import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoo
from benchmarks.common import report
from zoo.files import write_json
from zoo.resilience.attacking import PixelModel
from zoo.resilience.attacks.contract import parse
from zoo.resilience.defending import AttackTrial, Defended, difference, resized, shrunk
from zoo.resilience.pipelines import pipeline
from zoo.tasks import calibration
from zoo.verbs.reliability import specimen

CLASSIFIERS = ("mlperf-tiny-ic.cifar10", "ran-e-32.cifar10", "ran-i-micro.cifar10")
GEOMETRIES = {"sharp": 2, "down": 1, "soft": 2}  # and how many times smaller pictures come
PIXELS = "jpeg:75,wavelet:0.02"
NULLS = ("none", PIXELS, f"{PIXELS},nearest:2", f"{PIXELS},bicubic:2", "bicubic:2")
SIZES = (
    "sesr-m2-x2.free", "sesr-m3-x2.bsds", "sesr-m5-x2.bsds", "sesr-m11-x2.bsds", "sesr-xl-x2.bsds",
)  # fmt: skip
MIDDLE = "sesr-m5-x2.bsds"
EPS = (1, 2, 4)  # of 255
ADAPTIVE = (f"{PIXELS},bicubic:2", f"{PIXELS},sesr-m5-x2.bsds")
STEPS, TUNING = 10, 150
PRESSED, EVERY = "steps=50,restarts=3", 5  # a stronger attack, on every fifth picture
PICTURES = {"sharp": 150, "down": 50, "soft": 50}  # for each classifier; larger ones take longer
APART, OVER, MAIN = 2.0, 3.0, "2"  # the bars: points
NPUS, SIDES, PUBLISHED = ("ethos-u55-128", "ethos-u55-256"), (96, 299), 3.0


def softened(ref: str, data: Path) -> nn.Module:
    """Return a classifier tuned on pictures of half its size, enlarged by bicubic."""
    checkpoint = zoo.checkpoint(ref)
    torch.manual_seed(0)
    network, teacher = zoo.load(ref), zoo.load(ref)
    images = torch.cat(calibration(checkpoint.recipe, data))
    low, high = checkpoint.recipe.preprocessing["range"]
    pixels = (images - low) / (high - low)
    size = (pixels.shape[2], pixels.shape[3])
    soft = resized(resized(pixels, (size[0] // 2, size[1] // 2)), size) * (high - low) + low
    optimizer = torch.optim.AdamW(network.parameters(), 3e-4)
    for _ in range(TUNING):
        chosen = torch.randint(len(images), (32,))
        with torch.no_grad():
            truth = teacher(images[chosen]).softmax(1)
        loss = nn.functional.cross_entropy(network(soft[chosen]), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def prepared(ref: str, geometry: str, data: Path, tune: Path | None) -> AttackTrial:
    """Return a classifier and its pictures as a geometry has them."""
    given = specimen(ref, None, data, PICTURES[geometry])
    low, high = given.recipe.preprocessing["range"]
    pixels = ((given.inputs - low) / (high - low) * 255).round().clamp(0, 255) / 255
    network = given.network if geometry != "soft" or tune is None else softened(ref, tune)
    model = PixelModel(network, (low, high)).requires_grad_(False)
    size = (pixels.shape[2], pixels.shape[3])
    images = shrunk(pixels, GEOMETRIES[geometry])
    return AttackTrial(model, model, size, images, given.labels, parse(f"pgd:steps={STEPS}"))


def pressed(ref: str, data: Path) -> dict[str, dict[str, str]]:
    """Return how two pipelines do in the geometry "sharp" under more steps and restarts."""
    given = prepared(ref, "sharp", data, None)
    attack = parse(f"pgd:eps={MAIN}/255,{PRESSED}")
    trial = dataclasses.replace(
        given, images=given.images[::EVERY], labels=given.labels[::EVERY], attack=attack
    )
    kept: dict[str, dict[str, str]] = {}
    for row in trial.outcomes([pipeline(text) for text in ADAPTIVE], adaptive=True)[0]:
        _take(kept.setdefault(row.text, {}), row, MAIN)
    return kept


def measured(
    ref: str, geometry: str, data: Path, tune: Path | None, found: dict[str, Any]
) -> dict[str, Any]:
    """Return what every pipeline keeps right: clean, at each eps, against an adaptive attack.

    Those in `found` are not measured again.
    """
    texts = [*NULLS, *(f"{PIXELS},{name}" for name in SIZES)]
    if all(text in found for text in texts):
        return found
    given = prepared(ref, geometry, data, tune)
    lines = [pipeline(text) for text in texts if text not in found]
    new: dict[str, Any] = {}
    for eps in EPS:
        attack = parse(f"pgd:eps={eps}/255,steps={STEPS}")
        trial = dataclasses.replace(given, attack=attack)
        rows, _ = trial.outcomes(lines, adaptive=False)
        if str(eps) == MAIN:
            through = [line for line in lines if line.text in ADAPTIVE]
            known = {row.text: row for row in trial.outcomes(through, adaptive=True)[0]}
            for row in rows:
                row.adaptive = known[row.text].adaptive if row.text in known else None
        for row in rows:
            _take(new.setdefault(row.text, {}), row, str(eps))
    both = found | new
    return {text: both[text] for text in texts}


def _take(kept: dict[str, Any], row: Defended, eps: str) -> None:
    """Keep a row's answers as texts of 0 and 1, one a picture."""
    kept["clean"] = _bits(row.clean)
    kept[eps] = _bits(row.grey_box)
    if row.adaptive is not None:
        kept["adaptive"] = _bits(row.adaptive)


def _bits(right: torch.Tensor) -> str:
    return "".join("1" if value else "0" for value in right.tolist())


def _right(bits: str) -> torch.Tensor:
    return torch.tensor([bit == "1" for bit in bits])


def share(bits: str) -> float:
    """Return how many are right, in percent."""
    return 100 * bits.count("1") / len(bits)


def with_relu(network: nn.Module) -> nn.Module:
    """Return a network with ReLU for PReLU, which an Ethos-U55 computes in four steps."""
    other = copy.deepcopy(network)
    for module in list(other.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.PReLU):
                setattr(module, name, nn.ReLU())
    return other


def frames() -> dict[str, Any]:
    """Return what the pipelines take on an NPU, in ms by Vela, without JPEG and wavelets."""
    fsrcnn = zoo.load("fsrcnn-x2", pretrained=False)
    enlargers = {
        "fsrcnn transposed": fsrcnn,
        "fsrcnn sub-pixel": fsrcnn.sub_pixel(),  # type: ignore[operator]
        "sesr-m2": zoo.load("sesr-m2-x2", pretrained=False),
        "sesr-m3": zoo.load("sesr-m3-x2", pretrained=False),
        "sesr-m5": zoo.load("sesr-m5-x2", pretrained=False),
    }
    enlargers |= {f"{name}, relu": with_relu(network) for name, network in enlargers.items()}
    classifier = zoo.load("mlperf-tiny-vww", pretrained=False)
    found: dict[str, Any] = {}
    for npu in NPUS:
        for side in SIDES:
            sharp = (1, 3, 2 * side, 2 * side)
            behind = zoo.estimate(classifier, npu, method="vela", input_shape=sharp)
            row = {"classifier": behind.latency_ms}
            for name, network in enlargers.items():
                cost = zoo.estimate(network, npu, method="vela", input_shape=(1, 1, side, side))
                row[name] = cost.latency_ms
            found[f"{npu} {side}x{side}"] = row
    return found


def main() -> None:
    """Measure, store, and say which bars are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--tune", type=Path)
    parser.add_argument("--geometry", action="append", choices=GEOMETRIES, help="all without")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.runs.mkdir(parents=True, exist_ok=True)
    kept = args.runs / "defence.json"
    found = json.loads(kept.read_text()) if kept.is_file() else {"trials": {}}
    if "frames" not in found:
        found["frames"] = frames()
        write_json(kept, found)
    for geometry in GEOMETRIES:
        for ref in CLASSIFIERS:
            name = f"{geometry} {ref}"
            wanted = geometry in (args.geometry or GEOMETRIES)
            if not wanted or (geometry == "soft" and args.tune is None):
                continue
            known = found["trials"].get(name, {})
            found["trials"][name] = measured(ref, geometry, args.data, args.tune, known)
            write_json(kept, found)
    for ref in CLASSIFIERS:
        if ref not in found.setdefault("pressed", {}):
            found["pressed"][ref] = pressed(ref, args.data)
            write_json(kept, found)
    _report(found)


def _under_pressure(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return what stays right under the stronger attack, and under the other, same pictures."""
    made: dict[str, dict[str, float]] = {}
    for text in ADAPTIVE:
        new = [found["pressed"][ref][text] for ref in CLASSIFIERS]
        old = [found["trials"][f"sharp {ref}"][text] for ref in CLASSIFIERS]
        bits = {
            "clean": [row["clean"] for row in new],
            f"grey box, {STEPS} steps": [row[MAIN][::EVERY] for row in old],
            f"grey box, {PRESSED}": [row[MAIN] for row in new],
            f"adaptive, {STEPS} steps": [row["adaptive"][::EVERY] for row in old],
            f"adaptive, {PRESSED}": [row["adaptive"] for row in new],
        }
        made[text] = {key: share("".join(parts)) for key, parts in bits.items()}
        made[text]["pictures"] = len("".join(bits["clean"]))
    return made


def _compared(trials: dict[str, Any], one: str, two: str, key: str) -> list[float]:
    """Return by how many points one row is better than another over trials, with its interval."""
    a, b = ("".join(rows[text][key] for rows in trials.values()) for text in (one, two))
    return [100 * value for value in difference(_right(a), _right(b))]


def _report(found: dict[str, Any]) -> None:
    """Print the table, store it, and say which bars are met."""
    rows = [["geometry", "pipeline", "clean", *(f"eps {eps}" for eps in EPS), "adaptive"]]
    tables: dict[str, Any] = {}
    bars: dict[str, bool] = {}
    differences: dict[str, Any] = {}
    largest = f"{PIXELS},{SIZES[-1]}"
    for geometry in GEOMETRIES:
        trials = {k: v for k, v in found["trials"].items() if k.startswith(f"{geometry} ")}
        if len(trials) < len(CLASSIFIERS):
            continue
        table = tables.setdefault(geometry, {})
        for text in next(iter(trials.values())):
            keys = ("clean", *map(str, EPS), "adaptive")
            table[text] = {
                key: sum(share(t[text][key]) for t in trials.values()) / len(trials)
                for key in keys
                if all(key in t[text] for t in trials.values())
            }
            shown = [f"{table[text][k]:.1f}" if k in table[text] else "-" for k in keys]
            rows.append([geometry, text, *shown])
        for name in SIZES[:-1]:
            apart = _compared(trials, f"{PIXELS},{name}", largest, MAIN)
            differences[f"{geometry}: {name} less {SIZES[-1]}"] = apart
            bars[f"{geometry}: {name} within {APART:g} points of XL"] = abs(apart[0]) <= APART
        best = max(NULLS, key=lambda text: table[text][MAIN])
        over = _compared(trials, f"{PIXELS},{MIDDLE}", best, MAIN)
        differences[f"{geometry}: sesr-m5-x2 less the best null, {best}"] = over
        if geometry == "sharp":
            bars[f"sharp: SESR-M5 {OVER:g} points over the best null"] = over[0] >= OVER
    ratios = {
        f"{place}, {form}{act}": (row[f"fsrcnn {form}{act}"] + row["classifier"])
        / (row[f"sesr-m2{act}"] + row["classifier"])
        for place, row in found["frames"].items()
        for form in ("transposed", "sub-pixel")
        for act in ("", ", relu")
    }
    result = {
        "pictures": PICTURES, "steps": STEPS, "classifiers": CLASSIFIERS, "tables": tables,
        "differences": differences, "pressed": _under_pressure(found), "frames_ms": found["frames"],
        "frame_ratios_to_sesr_m2": ratios, "published_ratio": PUBLISHED, "bars": bars,
    }  # fmt: skip
    report("reliability_defence", 1, result, rows)
    for text, ratio in ratios.items():
        print(f"{ratio:.2f} times the frames of FSRCNN (published: nearly {PUBLISHED:g}): {text}")
    for text, met in bars.items():
        print(f"{'met' if met else 'missed'}: {text}")


if __name__ == "__main__":
    main()
