"""Claim: what each shipped SESR reaches on Set5, against its MACs, the paper and bicubic.

Evaluated here from the shipped files: the best float weights, and those of the tag `free`, which a
product may ship. Run: python -m benchmarks.sesr_quality --data SET5, a folder with the published
pairs in 2x/ and 4x/; docs/images/sesr_quality_x*.png are the pictures.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks.common import PICTURES, report
from zoo import registry
from zoo.cost.chart import Series, chart

# Set5, Y-PSNR in dB: the issue that asked for these weights quotes the paper's tables 1 and 2.
PAPER = {
    2: {"m3": 37.21, "m5": 37.39, "m7": 37.47, "m11": 37.58, "xl": 37.77},
    4: {"m3": 30.75, "m5": 30.99, "m7": 31.14, "m11": 31.27, "xl": 31.54},
}
WANTED = {
    2: {"m3": 37.10, "m5": 37.30, "m7": 37.40, "m11": 37.50, "xl": 37.65},
    4: {"m3": 30.65, "m5": 30.90, "m7": 31.00, "m11": 31.10, "xl": 31.35},
}
# FSRCNN(56, 12, 4) in the same tables; its 9x9 deconvolution is counted at the output's 1280 x 720.
FSRCNN = {2: (6.00, 36.98), 4: (4.64, 30.70)}  # billions of MACs, dB


BEST, FREE = "photos", "free"


def measure(scale: int, folder: Path) -> list[dict[str, Any]]:
    """Return one row per size: PSNR and SSIM of the best weights, PSNR of free ones, MACs."""
    rows = []
    for size, paper in PAPER[scale].items():
        name = f"sesr-{size}-x{scale}"
        cost = zoo.estimate(name, "ethos-u55-256").to_json()
        row = {"name": name, "macs": cost["macs"], "paper_db": paper, "bar_db": WANTED[scale][size]}
        tags = registry.shipped_tags(name)
        if BEST in tags:
            found = zoo.evaluate(f"{name}.{BEST}", folder / f"{scale}x")
            row |= {key: found[key] for key in ("psnr_y_db", "ssim_y", "bicubic_psnr_y_db")}
            row["held_out_db"] = held_out_bsds(zoo.checkpoint(f"{name}.{BEST}").metrics)
        if FREE in tags:
            row["free_db"] = zoo.evaluate(f"{name}.{FREE}", folder / f"{scale}x")["psnr_y_db"]
        rows.append(row)
    return rows


def held_out_bsds(metrics: Mapping[str, Any]) -> float:
    """Return Y-PSNR in dB on the 20 pictures of BSDS500 that were never trained on.

    Where wallpapers were held out as well, the 20 were evaluated by themselves.
    """
    alone = metrics["evaluations"].get("BSDS500 held out", metrics["held_out"])
    return float(alone["psnr_y_db"])


def picture(scale: int, rows: list[dict[str, Any]]) -> None:
    """Draw PSNR against MACs: the best weights, the free ones, the paper's; bicubic in words."""
    ours = [row for row in rows if "psnr_y_db" in row]
    size = [row["name"].split("-")[1].upper() for row in rows]
    series = [
        Series("paper (twice the images)", [(r["macs"] / 1e9, r["paper_db"]) for r in rows], size),
        Series("this zoo", [(r["macs"] / 1e9, r["psnr_y_db"]) for r in ours]),
        Series("FSRCNN, as the paper gives it", [FSRCNN[scale]], ["FSRCNN"]),
    ]
    if free := [(r["macs"] / 1e9, r["free_db"]) for r in rows if "free_db" in r]:
        series.append(Series("this zoo, for any use", free))
    chart(
        PICTURES / f"sesr_quality_x{scale}.png",
        series,
        title=f"SESR x{scale} on Set5 (bicubic: {ours[0]['bicubic_psnr_y_db']:.2f} dB)",
        x="billions of MACs for a 1280 x 720 output",
        y="Y-PSNR, dB",
        log_x=True,
    )


def main() -> None:
    """Evaluate every shipped network at both scales."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Set5, with 2x/ and 4x/ in it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = [["model", "Set5 dB", "free", "bar", "against bar", "paper", "BSDS500 held out"]]
    records = {}
    for scale in PAPER:
        rows = measure(scale, args.data)
        if any("psnr_y_db" in row for row in rows):
            picture(scale, rows)
        records[f"x{scale}"] = rows
        for row in rows:
            known = [f"{row[key]:.3f}" if key in row else "-" for key in ("psnr_y_db", "free_db")]
            gap = f"{row['psnr_y_db'] - row['bar_db']:+.3f}" if "psnr_y_db" in row else "-"
            held = f"{row['held_out_db']:.2f}" if "held_out_db" in row else "-"
            bars = [f"{row['bar_db']:.2f}", gap, f"{row['paper_db']:.2f}", held]
            table.append([row["name"], *known, *bars])
    report("sesr_quality", 1, records, table)


if __name__ == "__main__":
    main()
