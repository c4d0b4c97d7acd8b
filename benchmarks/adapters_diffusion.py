"""The small diffusion model on Fashion-MNIST, its two adapters, and what each of them draws.

    python -m benchmarks.adapters_diffusion --train-base FOLDER --data FASHION_MNIST
    python -m benchmarks.adapters_diffusion --data FASHION_MNIST [--samples 100]

The first trains the base with diffusers on garments alone (no footwear, no bags), and resumes
after a kill. The second draws from the base and its adapters with DDIM, through a pipeline of
diffusers on which a `Switcher` works, and judges: by a classifier of real test pictures, and by
the error of the noise on real pictures of each kind.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from benchmarks.common import PICTURES, report
from zoo.adapters import Switcher
from zoo.artifacts import adapters as adapter_refs
from zoo.artifacts.base import load_base
from zoo.registry.recipe import Recipe, Train
from zoo.tasks import denoising

GARMENTS = "0,1,2,3,4,6"
FOOTWEAR = (5, 7, 9)
STEPS, BATCH, RATE, DECAY = 700, 64, 1e-3, 0.995
LAST = 1000  # where the rate would reach zero; the average of the weights makes up for the rest
SAVE_EVERY = 50
ADAPTERS = ("fashion-ddpm-footwear", "fashion-ddpm-outline")


def unet() -> nn.Module:
    """Return the untrained network: three levels of 24, 48 and 64 channels."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=28, in_channels=1, out_channels=1, layers_per_block=1,
        block_out_channels=(24, 48, 64), norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3,
    )  # fmt: skip


def recipe(classes: str, look: str = "plain") -> Recipe:
    """Return what the task reads: classes, look and the seed of its batches."""
    options = {"classes": classes, "look": look}
    return Recipe(
        name="fashion-ddpm", summary="", task="unconditional-image-generation", model="x:x",
        subtask="denoising", args={}, input_shape=(2, 28, 28), preprocessing={}, paper="2006.11239",
        train=Train(steps=STEPS, batch_size=BATCH, lr=RATE, options=options), default_tag="base",
    )  # fmt: skip


def train_base(out: Path, data: str) -> None:
    """Train the base and save it as a pipeline; a state every `SAVE_EVERY` steps."""
    item = recipe(GARMENTS)
    pictures = denoising.training_data(item, data)
    model = unet().train()
    average = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    state, first = out / "state.pt", 0
    out.mkdir(parents=True, exist_ok=True)
    if state.exists():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        average, first = kept["average"], kept["step"]
    for step in range(first, STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 100, 1.0) * (1 - step / LAST)
        inputs, noise = denoising.batch(pictures, item, step, range(BATCH), BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            found = denoising.forward(model, inputs)
        value = denoising.loss(found.float(), noise)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(DECAY, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            average[name].lerp_(tensor, 1 - decay)
        if (step + 1) % SAVE_EVERY == 0:
            kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                    "average": average, "step": step + 1}  # fmt: skip
            torch.save(kept, out / "state.new")
            (out / "state.new").replace(state)
            print(time.strftime("%H:%M:%S"), step + 1, f"{value.item():.4f}", flush=True)
    model.load_state_dict(average)
    pipeline(model.eval()).save_pretrained(out / "fashion-ddpm")
    print(denoising.validate(model, pictures, item))


def pipeline(model: nn.Module) -> Any:
    """Return a pipeline of diffusers around the network."""
    from diffusers import DDIMPipeline, DDIMScheduler

    scheduler = DDIMScheduler(denoising.STEPS, beta_schedule=denoising.SCHEDULE)
    return DDIMPipeline(unet=model, scheduler=scheduler)


def judge(data: Path) -> tuple[torch.Tensor, float]:
    """Return a ridge regression on pixels, and its accuracy on footwear or not."""
    sets = []
    for part in ("train", "t10k"):
        x = denoising._read(data, part, recipe("")).flatten(1)
        kind = denoising._idx(next(data.glob(f"{part}-labels*")))
        y = F.one_hot(torch.from_numpy(kind.copy()).long(), 10).float()
        sets.append((F.pad(x, (0, 1), value=1.0), y))
    (x, y), (test, wanted) = sets
    weights = torch.linalg.solve(x.T @ x + 100 * torch.eye(x.shape[1]), x.T @ y)
    shoes = torch.isin(wanted.argmax(1), torch.tensor(FOOTWEAR))
    found = torch.isin((test @ weights).argmax(1), torch.tensor(FOOTWEAR))
    return weights, float((shoes == found).float().mean())


def share_of_footwear(pictures: torch.Tensor, weights: torch.Tensor) -> float:
    """Return which share of pictures in [0, 1] the judge takes for footwear."""
    x = F.pad(pictures.flatten(1) * 2 - 1, (0, 1), value=1.0)
    found = torch.isin((x @ weights).argmax(1), torch.tensor(FOOTWEAR))
    return float(found.float().mean())


def examine(data: Path, samples: int) -> None:
    """Draw and judge; write the table and the picture."""
    pipe = pipeline(load_base("fashion-ddpm").model)
    pipe.set_progress_bar_config(disable=True)
    switcher = Switcher(pipe.unet)
    for name in ADAPTERS:
        switcher.register(name, adapter_refs.adapter(name))
    before = switcher.verify()
    weights, accuracy = judge(data)
    kinds = {"garments": (GARMENTS, "plain"), "footwear": ("5,7,9", "plain"),
             "outlines of garments": (GARMENTS, "outline")}  # fmt: skip
    states: list[dict[str, float]] = [
        {}, {ADAPTERS[0]: 1.0}, {ADAPTERS[1]: 1.0}, dict.fromkeys(ADAPTERS, 1.0),
    ]  # fmt: skip
    rows = [["active", *(f"noise error: {kind}" for kind in kinds), "drawn: footwear"]]
    results, strips = [], []
    for state in states:
        with switcher.using(state), torch.no_grad():
            errors = {
                kind: denoising.evaluate(pipe.unet, recipe(*what), data)["noise_error"]
                for kind, what in kinds.items()
            }
            drawn = pipe(
                batch_size=samples, num_inference_steps=20, output_type="np",
                generator=torch.Generator().manual_seed(0),
            ).images[..., 0]  # fmt: skip
        shoes = share_of_footwear(torch.from_numpy(drawn), weights)
        results.append({"active": state, "noise_error": errors, "drawn_footwear": shoes})
        label = " + ".join(name.rpartition("-")[2] for name in state) or "base"
        rows.append([label, *(f"{error:.4f}" for error in errors.values()), f"{shoes:.0%}"])
        strips.append(np.concatenate(list(drawn[:12]), axis=1))
    assert switcher.verify() == before
    sheet = Image.fromarray((np.concatenate(strips) * 255).round().astype(np.uint8))
    large = sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)
    large.save(PICTURES / "adapters_diffusion.png", optimize=True)
    found = {"samples": samples, "judge_accuracy": accuracy, "states": results}
    report("adapters_diffusion", torch.get_num_threads(), found, rows)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-base", type=Path, metavar="FOLDER")
    parser.add_argument("--data", required=True, help="the folder of Fashion-MNIST")
    parser.add_argument("--samples", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if args.train_base:
        train_base(args.train_base, args.data)
    else:
        examine(Path(args.data), args.samples)


if __name__ == "__main__":
    main()
